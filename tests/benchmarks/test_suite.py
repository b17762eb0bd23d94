"""The suite runs at a tiny size, tunes, keeps to the budget, continues, and reports only seeds it was not tuned on."""

import csv
import importlib
import json
import math
import sys
from pathlib import Path

import pytest
import torch

import zograd as zo

pytest.importorskip("matplotlib")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
DEFAULT, ES = "zo.minimize (nothing tuned)", "ES (antithetic)"

MODELS = """
import torch
from torch import nn

class Sampler:
    def __init__(self, options, update, render, criterion):
        self.options, self.update, self.render, self.criterion = options, update, render, criterion
    def sample(self, current_param, kwargs):
        half = self.options["sigma"] * torch.randn(self.options["batchsize"], self.options["ndim"])
        points = current_param.detach() - torch.cat([half, -half])
        images = [self.render(self.update({}, point, ""), None)["img"] for point in points]
        return {"samples": points, "f_at_samples": torch.stack([self.criterion(i, torch.zeros(1)) for i in images])}

def create_sampler(options, update, render, normalize, defaults, gt_img):
    return Sampler(options, update, render, options["criterion"])

class NeuralProxy(nn.Module):
    def __init__(self, options, normalize):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(options["ndim"]))
    def forward(self, current_param, samples, f_at_samples, kwargs):
        self.told = samples - current_param.detach(), f_at_samples
        return self.slope.detach().clone()
    def update(self, optimizer):
        offsets, values = self.told
        self.slope.grad = -((values - values.mean())[:, None] * offsets).mean(0)
        optimizer.step()
"""


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def load(monkeypatch):
    """The scripts find each other by their folder, as they do when they are run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in ("_machine", "_runner", "_suite", "suite", "zerograds", "models"):
        sys.modules.pop(name, None)


@pytest.fixture
def command(tmp_path):
    where = ["--out", "s.csv", "--report", "s.md", "--picture", "s.png", "--reference", "none.csv"]
    return [str(tmp_path / word) if "." in word else word for word in where]


def test_quick_runs_tunes_and_goes_on(load, tmp_path, command, capsys):
    suite = load("suite")
    small = ["--quick", "--cases", "plateau", "--methods", DEFAULT, ES, *command]
    suite.main(small)
    found = rows(tmp_path / "s.csv")
    assert {row["error"] for row in found} == {""}
    assert [row["seed"] for row in found if row["method"] == ES] == ["0", "1000", "1000"]
    assert all(int(row["evaluations"]) <= 200 for row in found)
    default = next(row for row in found if row["method"] == DEFAULT and row["seed"] == "0")
    assert json.loads(default["reached"])["0"] == int(default["curve"].split(";")[-1].split(":")[0])
    assert "### plateau: 200 evaluations, 1 seed" in (tmp_path / "s.md").read_text()
    assert (tmp_path / "s.png").stat().st_size > 1000
    capsys.readouterr()
    suite.main(small)
    assert "0 of 3 to do" in capsys.readouterr().out
    suite.main([*small, "--only-report", "--redo"])
    assert rows(tmp_path / "s.csv") == [] if (tmp_path / "s.csv").exists() else True


@pytest.mark.parametrize("name", ["cornell", "led", "rosenbrock"])
def test_every_seed_has_a_start_of_its_own_inside_the_bounds(load, name):
    case = load("_suite").CASES[name]
    problem, first = case.start(0)
    starts = [first.initial, case.start(0)[1].initial, case.start(1)[1].initial]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    usual = problem.parameters()
    assert torch.equal(starts[0], usual.clip(starts[0]))
    assert (starts[0] - usual.initial).abs().max() < 5 * case.length  # not far from where it is usually


def test_the_grid_grows_until_its_best_is_inside(load, tmp_path, monkeypatch):
    suite, cases = load("suite"), load("_suite")
    runner = load("_runner")
    monkeypatch.setattr(
        suite,
        "run",
        lambda task: (
            task
            | dict.fromkeys(suite.FIELDS[5:], "")
            | {
                "reached": "{}",
                "best": abs(math.log(json.loads(task["settings"])["rate"] / 3.0))
                + abs(math.log(json.loads(task["settings"])["spread"] / 0.001)),
            }
        ),
    )
    results = runner.Results(tmp_path / "g.csv", suite.FIELDS, suite.KEY)
    suite.measure(results, ["toy"], ["FD"], 2, False, 1)
    best = json.loads(suite.best_settings(results.rows, "toy", "FD", 4000))
    assert best["rate"] == pytest.approx(3.3, rel=0.05)
    assert best["spread"] == pytest.approx(0.00104, rel=0.05)
    tried = [json.loads(row["settings"]) for row in results.rows]
    assert all(beside in tried for beside in cases.METHODS["FD"].beside(cases.CASES["toy"], best))
    reported = suite.chosen_rows(results.rows, "toy", "FD", 4000)
    assert [row["seed"] for row in reported] == ["0", "1"]


def test_a_grid_that_is_known_grows_when_it_goes_on(load, tmp_path, monkeypatch):
    suite, runner = load("suite"), load("_runner")

    def told(task):
        best = {"reached": "{}", "best": abs(math.log(json.loads(task["settings"])["rate"] / 3.0))}
        return task | dict.fromkeys(suite.FIELDS[5:], "") | best

    monkeypatch.setattr(suite, "run", told)
    monkeypatch.setattr(suite, "MOST_ROUNDS", 1)
    results = runner.Results(tmp_path / "g.csv", suite.FIELDS, suite.KEY)
    suite.measure(results, ["toy"], ["FD"], 1, False, 1)
    first = len(results.rows)
    monkeypatch.setattr(suite, "MOST_ROUNDS", 3)
    suite.measure(results, ["toy"], ["FD"], 1, False, 1)
    assert len(results.rows) > first


def test_the_grid_of_zerograds_grows_around_its_lowest_end(load):
    zerograds = load("zerograds")
    ends = {"as released": 0.0, "sigma 1 rate 10": 0.2, "sigma 0.3 rate 100": 0.5}
    found = [{"case": "toy", "settings": name, "seed": 0, "last": end} for name, end in ends.items()]
    beside = ["sigma 0.3 rate 10", "sigma 3 rate 10", "sigma 1 rate 3", "sigma 1 rate 30"]
    assert zerograds.beside(found, "toy") == beside
    assert zerograds.beside(found, "caustic") == []


def test_watching_counts_rows_and_finds_the_first_below_a_target(load):
    box = load("suite").Watched(zo.batched(lambda points: points[:, 0]), [5.0, 2.0, -1.0])
    box(torch.tensor([[9.0], [torch.nan], [4.0], [1.0], [0.5]]))
    box(torch.tensor([[3.0], [0.4]]))
    assert (box.evaluations, box.best) == (7, pytest.approx(0.4))
    assert box.reached == {5.0: 3, 2.0: 4}
    assert box.curve == [(5, 0.5), (7, pytest.approx(0.4))]


def test_further_targets_come_first_then_evaluations_then_the_loss(load):
    suite = load("suite")

    def row(best, **reached):
        return {"best": str(best), "reached": json.dumps({name[1:]: count for name, count in reached.items()})}

    ordered = [row(0.0, t3=9, t2=90), row(0.0, t3=10, t2=91), row(2.5, t3=1), row(2.6, t3=1), row(3.5), row(4.0)]
    shuffled = [ordered[place] for place in (3, 0, 5, 2, 4, 1)]
    assert sorted(shuffled, key=lambda one: suite.score(one, [3.0, 2.0])) == ordered


def test_missed_targets_are_said(load):
    suite = load("suite")
    assert suite.shown(suite.np.array([3.0, 5.0, math.inf])) == "5 [3, -], 1 of 3 missed"
    assert suite.shown(suite.np.array([math.inf] * 3)) == "- [-, -]"


def test_an_error_is_a_row(load, monkeypatch):
    suite, cases = load("suite"), load("_suite")
    broken = cases.Method(lambda *given: (_ for _ in ()).throw(RuntimeError("no")), ())
    monkeypatch.setitem(cases.METHODS, "broken", broken)
    task = {"case": "toy", "method": "broken", "settings": "{}", "budget": 10, "seed": 0}
    assert suite.run(task)["error"] == "RuntimeError: no"


@pytest.mark.parametrize("name", ["toy", "plateau", "rosenbrock", "led"])
def test_cases_are_what_they_say(load, name):
    case = load("_suite").CASES[name]
    problem = case.make(3)
    assert problem.name == name
    assert problem.value(problem.x0) > case.targets[-1]
    assert list(case.targets) == sorted(case.targets, reverse=True)


class TestReference:
    def test_without_their_code_it_says_so(self, load, tmp_path, capsys):
        load("zerograds").main(["--out", str(tmp_path / "z.csv")])
        assert "left out" in capsys.readouterr().out
        assert not (tmp_path / "z.csv").exists()

    def test_their_classes_are_run_and_recorded(self, load, tmp_path, command, monkeypatch):
        (tmp_path / "models.py").write_text(MODELS)
        zerograds = load("zerograds")
        monkeypatch.setattr(zerograds, "BUDGETS", {"toy": 400, "caustic": 40})
        monkeypatch.setattr(sys, "path", list(sys.path))
        where = ["--code", str(tmp_path), "--seeds", "1", "--out", str(tmp_path / "none.csv")]
        zerograds.main([*where, "--cases", "toy"])
        (row,) = rows(tmp_path / "none.csv")
        assert (row["evaluations"], row["settings"]) == ("400", "as released")
        assert float(row["best"]) < float(row["start"]) == pytest.approx(35.01, abs=0.01)
        suite = load("suite")
        suite.main(["--quick", "--cases", "toy", "--methods", DEFAULT, *command])
        assert "| ZeroGrads, as released | 400 evaluations |" in (tmp_path / "s.md").read_text()
