"""The benchmarks that train networks, at a tiny size and on made-up images."""

import importlib
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("scipy")
Image = pytest.importorskip("PIL.Image")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = ("coordinates_or_directions", "network_training")


@pytest.fixture
def load(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in NAMES:
        module = importlib.import_module(name)
        monkeypatch.setattr(module, "RESULTS", tmp_path)
        monkeypatch.setattr(module, "GENERATED", tmp_path)
        monkeypatch.setattr(module, "EPOCHS", 1)
        monkeypatch.setattr(module, "BATCH", 20)
    module = importlib.import_module(NAMES[0])
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
    for name in ("_machine", "_runner", *NAMES):
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
    module = load("coordinates_or_directions")
    run(module, monkeypatch, "--data", str(tmp_path), "--seeds", "1", "--depths", "1")
    lines = (tmp_path / "coordinates_or_directions.csv").read_text().splitlines()
    assert len(lines) == 1 + 3
    assert "| 1 | 730 | 1 |" in (tmp_path / "coordinates_or_directions.md").read_text()
    run(module, monkeypatch, "--data", str(tmp_path / "none"))


def test_network_training(load, monkeypatch, tmp_path):
    module = load("network_training")
    monkeypatch.setattr(module, "ARMS", [("CGE", "grasp"), ("FO", "noise"), ("FO", "importance")])
    run(module, monkeypatch, "--data", str(tmp_path), "--seeds", "1")
    run(module, monkeypatch, "--data", str(tmp_path), "--seeds", "1")  # nothing left to do
    assert len((tmp_path / "network_training.csv").read_text().splitlines()) == 1 + 3
    assert "| CGE | grasp | 1 |" in (tmp_path / "network_training.md").read_text()
    assert sum(p.numel() for p in module.resnet8().parameters()) == 19858
