"""The benchmarks that train networks, at a tiny size and on made-up images."""

import csv
import importlib
import io
import os
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("scipy")
Image = pytest.importorskip("PIL.Image")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = ("coordinates_or_directions", "network_training", "resnet_training")


@pytest.fixture
def load(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in NAMES:
        module = importlib.import_module(name)
        monkeypatch.setattr(module, "RESULTS", tmp_path)
        monkeypatch.setattr(module, "GENERATED", tmp_path)
        monkeypatch.setattr(module, "BATCH", 20)
    monkeypatch.setattr(importlib.import_module(NAMES[1]), "EPOCHS", 1)
    module = importlib.import_module(NAMES[0])
    monkeypatch.setattr(module, "EPOCHS", dict.fromkeys(module.EPOCHS, 1))
    monkeypatch.setattr(module, "STATIC", tmp_path)
    monkeypatch.setattr(module, "IMAGES", 40)
    monkeypatch.setattr(module, "TESTS", 20)
    content = {}
    for split, count in (("train", 40), ("test", 20)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        files = []
        for picture in pixels:
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "JPEG")
            files.append(buffer.getvalue())
        content[f"{split}_jpeg"] = np.frombuffer(b"".join(files), np.uint8)
        content[f"{split}_end"] = np.cumsum([len(file) for file in files])
        content[f"{split}_label"] = np.arange(count, dtype=np.uint8) % 10
    np.savez(tmp_path / "cifar10-jpeg.npz", **content)
    yield importlib.import_module
    for name in ("_machine", "_resnet20", "_runner", "_style", *NAMES):
        sys.modules.pop(name, None)


def run(module, monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    module.main()


def test_random_estimates_have_the_moments_of_random_directions(load, generator):
    module = load("coordinates_or_directions")
    gradient = torch.tensor([3.0, 0.0, -4.0, 0.0, 0.0])
    found = torch.stack([module.random_estimate(gradient, 5, generator) for _ in range(8000)])
    directions = torch.randn(8000, 5, 5, generator=generator)
    right = torch.einsum("nqd,nq->nd", directions, directions @ gradient) / 5
    # 8000 draws of deviations up to 7: a standard error of 0.08, and of a few per cent of the squares
    assert (found.mean(0) - gradient).abs().max() < 0.4
    assert (found.std(0) / right.std(0) - 1).abs().max() < 0.15
    assert (torch.corrcoef(found.T) - torch.corrcoef(right.T)).abs().max() < 0.15


def test_the_paper_s_networks_have_its_sizes(load):
    module = load("coordinates_or_directions")
    sizes = [sum(p.numel() for p in module.cnn(depth).parameters()) for depth in (1, 2, 3, 4, 5)]
    assert sizes == [730, 3700, 6670, 9640, 12610]


def test_coordinates_or_directions(load, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    module = load("coordinates_or_directions")
    run(module, monkeypatch, "--data", str(tmp_path), "--seeds", "1", "--depths", "1", "--methods", "FO", "CGE", "RGE")
    lines = (tmp_path / "coordinates_or_directions.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 3  # MNIST is not there
    text = (tmp_path / "coordinates_or_directions.md").read_text()
    assert "| CIFAR-10 | 1 | 730 | 1 |" in text
    assert "| digits | 1 | 730 | 1 |" in text
    assert (tmp_path / "coordinates_or_directions.svg").stat().st_size > 5000
    run(module, monkeypatch, "--data", str(tmp_path / "none"), "--sets", "CIFAR-10")


def test_random_directions_with_real_queries(load, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    module = load("coordinates_or_directions")
    monkeypatch.setattr(module, "WIDTH", 2)
    monkeypatch.setattr(module, "cnn", partial(module.cnn, width=2))
    monkeypatch.setattr(module, "BATCH", 360)
    run(module, monkeypatch, "--sets", "digits", "--seeds", "1", "--methods", "RGE", module.QUERIED, "--depths", "1")
    text = (tmp_path / "random_directions_queried.md").read_text()
    assert "| RGE, queried | 1 |" in text
    length, cosine = (float(cell) for cell in text.splitlines()[-1].split("|")[-3:-1])
    # 4 steps with as many directions as parameters: 1.41 and 0.71, deviations of 0.1 and 0.05 at this size
    assert length == pytest.approx(2**0.5, abs=0.3)
    assert cosine == pytest.approx(0.5**0.5, abs=0.2)


def test_mnist_is_read_and_given_three_times(load, monkeypatch, tmp_path):
    module = load("coordinates_or_directions")
    (tmp_path / "mnist").mkdir()
    for part, count in (("train", 40), ("t10k", 20)):
        head = b"".join(number.to_bytes(4, "big") for number in (0x803, count, 28, 28))
        pixels = np.random.default_rng(0).integers(0, 256, count * 28 * 28, dtype=np.uint8).tobytes()
        (tmp_path / f"mnist/{part}-images-idx3-ubyte").write_bytes(head + pixels)
        head = b"".join(number.to_bytes(4, "big") for number in (0x801, count))
        (tmp_path / f"mnist/{part}-labels-idx1-ubyte").write_bytes(head + bytes(range(10)) * (count // 10))
    sets = module.mnist(tmp_path)
    assert sets["train"][0].shape == (40, 3, 14, 14)
    assert sets["test"][0].shape == (20, 3, 14, 14)
    assert sets["train"][0].mean().abs() < 1e-5


def test_network_training(load, monkeypatch, tmp_path):
    module = load("network_training")
    monkeypatch.setattr(module, "ARMS", [("CGE", "grasp"), ("FO", "noise"), ("FO", "importance")])
    run(module, monkeypatch, "--data", str(tmp_path), "--seeds", "1")
    run(module, monkeypatch, "--data", str(tmp_path), "--seeds", "1")  # nothing left to do
    assert len((tmp_path / "network_training.csv").read_text().splitlines()) == 1 + 3
    assert "| CGE | grasp | 1 |" in (tmp_path / "network_training.md").read_text()
    assert sum(p.numel() for p in module.resnet8().parameters()) == 19858


def test_scores_and_energy(load, monkeypatch, tmp_path):
    module = load("network_training")
    monkeypatch.setattr(module, "SCORED", 20)
    run(module, monkeypatch, "--data", str(tmp_path), "--seeds", "1", "--scores")
    assert "| ZO-GraSP, contraction, step 1e-2 |" in (tmp_path / "grasp_scores.md").read_text()
    rows = [line.split(" | ") for line in (tmp_path / "gradient_energy.md").read_text().splitlines()[2:]]
    share = {row[0].strip("| "): float(row[1]) for row in rows}
    assert share["random, ratios uniform"] == pytest.approx(10.0, abs=0.06)
    assert share["the largest of this gradient"] == max(share.values())
    # A tenth of the weights, each alone: the variance is nine times the squared length.
    assert float(rows[-1][3]) == pytest.approx(9.0, abs=0.06)


@pytest.fixture
def resnet(load, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    module = load("resnet_training")
    for name, value in (("IMAGES", 30), ("HELD_OUT", 10), ("SCORED", 10), ("EPOCHS", {"dense": 2, "grasp": 1})):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module, "STATIC", tmp_path)
    monkeypatch.setattr(module, "resnet20", small)
    return module


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 10),
    )  # fmt: skip


def trained(module, monkeypatch, folder: Path) -> list[dict[str, str]]:
    monkeypatch.setattr(module, "GENERATED", folder)
    paths = ["--data", str(folder.parent), "--folder", str(folder / "runs"), "--results", str(folder / "r.csv")]
    run(module, monkeypatch, *paths, "--seeds", "0")
    with (folder / "r.csv").open(newline="") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def test_resnet_training(resnet, monkeypatch, tmp_path):
    rows = trained(resnet, monkeypatch, tmp_path / "whole")
    assert len(rows) == 2 * (2 + 1)
    ends = {(row["masks"], row["gradient"]): row for row in rows if row["test"]}
    assert len(ends) == 4
    for masks in ("dense", "grasp"):  # the same steps, but for rounding
        losses = [float(ends[masks, gradient]["loss"]) for gradient in ("FO", "ZO")]
        assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert "| dense | ZO | 0 | 2 of 2 |" in (tmp_path / "whole" / "resnet_training.md").read_text()
    assert (tmp_path / "resnet_training.svg").stat().st_size > 5000


def test_resnet_training_goes_on_where_it_was(resnet, monkeypatch, tmp_path):
    monkeypatch.setattr(resnet, "EPOCHS", {"dense": 2})
    whole = trained(resnet, monkeypatch, tmp_path / "whole")
    moved, calls = resnet.moved, []

    def interrupts(*given):
        calls.append(given)
        if len(calls) == 3:  # in the second epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return moved(*given)

    monkeypatch.setattr(resnet, "moved", interrupts)
    with pytest.raises(SystemExit, match="interrupted"):
        trained(resnet, monkeypatch, tmp_path / "parts")
    assert trained(resnet, monkeypatch, tmp_path / "parts") == whole


def test_crops_are_pieces_of_the_framed_image(resnet, generator):
    x = torch.rand(64, 3, 4, 4, generator=generator)
    still = resnet.moved(x, generator, most=0)
    flipped = [torch.equal(got, one.flip(-1)) for got, one in zip(still, x, strict=True)]
    kept = [torch.equal(got, one) for got, one in zip(still, x, strict=True)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert 10 < sum(flipped) < 54
    for got, one in zip(resnet.moved(x, generator, most=1), x, strict=True):
        framed = nn.functional.pad(one, (1, 1, 1, 1))
        pieces = [framed[:, a : a + 4, b : b + 4] for a in range(3) for b in range(3)]
        assert any(torch.equal(got, piece) or torch.equal(got, piece.flip(-1)) for piece in pieces)
