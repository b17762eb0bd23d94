"""The benchmark of a network's gradient at a tiny size, and its page."""

import csv
import importlib
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("network_gradient")
    for name in ("_machine", "_resnet20", "_runner", "network_gradient"):
        sys.modules.pop(name, None)


def run(script, monkeypatch, folder: Path, *arguments: str) -> list[dict[str, str]]:
    paths = ["--results", str(folder / "r.csv"), "--page", str(folder / "p.md")]
    monkeypatch.setattr(sys, "argv", ["network_gradient.py", "--repeats", "1", "--sample", "1", *arguments, *paths])
    script.main()
    with (folder / "r.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_without_the_reference(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "METHODS", script.METHODS[:3] + script.METHODS[5:])
    run(script, monkeypatch, tmp_path, "--batch", "2")
    rows = run(script, monkeypatch, tmp_path, "--batch", "2")  # nothing left to do
    assert len(rows) == 2 * 3
    text = (tmp_path / "p.md").read_text()
    assert "zograd contraction" in text
    assert "GFLOP" in text


def test_what_a_gpu_is_asked_for_runs_on_a_processor_too(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "METHODS", script.METHODS[:1])
    rows = run(script, monkeypatch, tmp_path, "--half", "--batch", "2", "4")
    assert len(rows) == 2 * 2 * 5
    assert {row["device"] for row in rows} == {"cpu"}
    # In evaluation mode 16 bits keep the gradient; BatchNorm over two images loses more of it, also in autograd.
    errors = {row["method"]: float(row["error"]) for row in rows if row["mode"] == "eval" and row["error"]}
    assert set(errors) == set(script.HALVES[1:])
    assert max(errors.values()) < 0.3
    text = (tmp_path / "p.md").read_text()
    assert "batch of 2" in text
    assert "batch of 4" in text
    assert text.count("zograd reuse, bfloat16*") == 4


def test_a_gpu_that_is_not_there(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        run(script, monkeypatch, tmp_path, "--device", "cuda")
    assert "sees no GPU" in capsys.readouterr().err
    assert not (tmp_path / "r.csv").exists()


def test_all_coordinates_or_a_sample(script, generator):
    assert script.drawn(4, 0, generator).tolist() == [0, 1, 2, 3]
    assert script.extent(0) == "dense"
    sample = script.drawn(4, 50, generator)
    assert len(sample) == 50
    assert set(sample.tolist()) == {0, 1, 2, 3}


def test_a_sample_of_the_coordinates_is_multiplied(script):
    model, x, loss_fn = script.problem(2, "eval")
    assert sum(p.numel() for p in model.parameters()) == script.DENSE
    expected = script.by_autograd(model, x, loss_fn)
    found = script._coordinates(model, x, loss_fn, 2, False, expected)
    assert found["queries"] == script.DENSE
    assert found["seconds"] > 0
