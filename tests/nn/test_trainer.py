"""The training loop: the same bits however often it stops, and plain PyTorch around it."""

import builtins
import os
import random
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import zograd as zo
from zograd import ArgumentError, EvaluationError, MissingExtraError, RunError
from zograd.nn import _checkpoint

cross_entropy = nn.functional.cross_entropy


def data(n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 4, generator=generator)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def network(dropout: float = 0.2) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2)
    )  # fmt: skip


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten().double() for value in model.state_dict().values()])


def same(first: nn.Module, second: nn.Module) -> bool:
    return torch.equal(flat(first), flat(second))


class Stop(Exception):
    """What ends a training in these tests: as sudden as a lost power line, seen from the outside."""


def trainer(folder: Path | None = None, masks: str = "", stop_at: int = 0, **options: Any) -> zo.nn.Trainer:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05, weight_decay=1e-3)
    calls = 0

    def loss_fn(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise Stop
        return cross_entropy(outputs, targets)

    made = {
        "random": lambda: zo.nn.RandomMasks(model, 0.5),
        "importance": lambda: zo.nn.ImportanceMasks(model, 0.5),
    }
    options.setdefault("scheduler", torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40))
    options.setdefault("gradient", "autograd")
    masked = made[masks]() if masks else None
    return zo.nn.Trainer(model, loss_fn, optimizer, folder=folder, masks=masked, seed=3, **options)


@pytest.mark.parametrize("masks", ["", "random", "importance"])
@pytest.mark.parametrize("schedule", ["epoch", "step"])
def test_resume_is_exact_wherever_it_stopped(tmp_path: Path, masks: str, schedule: str) -> None:
    whole = trainer(masks=masks, schedule=schedule)
    expected = whole.fit(data(), validation=0.25, epochs=3, batch=10)
    for stop_at in (2, 7, 12):
        folder = tmp_path / str(stop_at)
        with pytest.raises(Stop):
            trainer(folder, masks, stop_at, schedule=schedule).fit(
                data(), validation=0.25, epochs=3, batch=10, save_every=1e-9
            )
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002
        again = trainer(folder, masks, schedule=schedule)
        found = again.fit(data(), validation=0.25, epochs=3, batch=10)
        assert same(again.model, whole.model)
        for row, right in zip(found.epochs, expected.epochs, strict=True):
            assert row | {"seconds": 0} == right | {"seconds": 0}
        assert (found.best, found.stopped) == (expected.best, "epochs")


class Noisy(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Augments with all three global generators."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, at: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = data(24)
        return x[at] + torch.randn(4) + random.random() + float(np.random.rand()), y[at]  # noqa: NPY002


@pytest.mark.parametrize("seeded", [False, True])
def test_resume_is_exact_with_a_loader_that_augments(tmp_path: Path, seeded: bool, unchecked: None) -> None:
    # unchecked: the tests' type checks draw from Python's random numbers themselves
    def run(folder: Path | None, stop_at: int = 0) -> zo.nn.Trainer:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        generator = torch.Generator().manual_seed(9) if seeded else None
        loader = DataLoader(Noisy(), batch_size=5, shuffle=True, generator=generator)
        made = trainer(folder, stop_at=stop_at)
        made.fit(loader, epochs=2, save_every=1e-9)
        return made

    whole = run(None)
    with pytest.raises(Stop):
        run(tmp_path, stop_at=8)
    assert same(run(tmp_path).model, whole.model)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_between_two_steps(tmp_path: Path, number: int) -> None:
    whole = trainer()
    whole.fit(data(), epochs=2, batch=10)
    handler = signal.getsignal(number)
    first = trainer(tmp_path)
    calls = 0
    loss_fn = first._stepping.loss_fn

    def interrupts(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 6:  # the last batch of the first epoch
            os.kill(os.getpid(), number)
        return loss_fn(outputs, targets)

    first._stepping.loss_fn = interrupts
    training = first.fit(data(), epochs=2, batch=10)
    assert training.stopped == "interrupted"
    assert training.epochs == []
    assert signal.getsignal(number) is handler
    again = trainer(tmp_path)
    assert again.fit(data(), epochs=2, batch=10).stopped == "epochs"
    assert same(again.model, whole.model)
    # In the same process, without a folder, fit goes on as well.
    kept = trainer()
    kept._stepping.loss_fn = interrupts
    calls = 0
    assert kept.fit(data(), epochs=2, batch=10).stopped == "interrupted"
    assert kept.fit(data(), epochs=2, batch=10).stopped == "epochs"
    assert same(kept.model, whole.model)


def test_interrupted_after_the_last_step(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    loss_fn = made._stepping.loss_fn

    def interrupts(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if not made.model.training:  # the validation at the end of the only epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return loss_fn(outputs, targets)

    made._stepping.loss_fn = interrupts
    training = made.fit(data(), data(), epochs=1, batch=100)
    assert training.stopped == "interrupted"  # not lost: a caller with more to do stops
    assert len(training.epochs) == 1
    assert trainer(tmp_path).fit(data(), data(), epochs=1, batch=100).stopped == "epochs"


def test_a_second_interruption_raises() -> None:
    with _checkpoint.Interruption().watched() as watching:
        os.kill(os.getpid(), signal.SIGINT)
        assert watching.came
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_in_another_thread() -> None:
    made = trainer()
    thread = threading.Thread(target=made.fit, args=(data(),), kwargs={"epochs": 1})
    thread.start()
    thread.join()
    assert len(made.training.epochs) == 1


def test_from_function_values_as_from_autograd() -> None:
    def run(**options: Any) -> torch.Tensor:
        model = network(0.0).double()
        model[2] = nn.Tanh()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        made = zo.nn.Trainer(model, cross_entropy, optimizer, seed=3, **options)
        x, y = data()
        made.fit((x.double(), y), epochs=1, batch=20)
        return flat(model)

    exact = run(gradient="autograd")
    assert (run() - exact).norm() < 1e-6 * exact.norm()
    assert (run(gradient="plain") - exact).norm() < 1e-6 * exact.norm()
    assert (run(gradient=zo.CoordinateGradient()) - exact).norm() < 1e-6 * exact.norm()


@pytest.mark.parametrize("gradient", ["reuse", "contraction"])
def test_masked_steps_are_those_of_autograd(gradient: Any) -> None:
    def run(gradient: Any) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        masks = zo.nn.RandomMasks(model, 0.25)
        made = zo.nn.Trainer(model, cross_entropy, optimizer, gradient=gradient, masks=masks)
        x, y = data()
        made.fit((x.double(), y), epochs=2, batch=20)
        return flat(model)

    exact = run("autograd")
    assert (run(gradient) - exact).norm() < 1e-6 * exact.norm()


def test_accumulated_batches_are_one_large_batch() -> None:
    def run(batch: int, accumulate: int) -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(0.1).add_(torch.arange(p.numel()).view_as(p) / 10)
        x, y = data(64)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        made = zo.nn.Trainer(model, cross_entropy, optimizer, accumulate=accumulate, seed=3)
        made.fit((x.double(), y), epochs=2, batch=batch)
        return model

    assert (flat(run(8, 4)) - flat(run(32, 1))).abs().max() < 1e-9


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_only_what_is_active_moves(kind: Any) -> None:
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer = kind(model.parameters(), lr=0.1, weight_decay=0.1, **options)
    masks = zo.nn.RandomMasks(model, 0.25)
    made = zo.nn.Trainer(model, cross_entropy, optimizer, masks=masks)
    made.fit(data(), epochs=1, batch=10)
    active = made._stepping.active
    assert active is not None
    mask = torch.zeros(sum(p.numel() for p in before), dtype=torch.bool)
    mask[active.index] = True
    pieces = torch.split(mask, [p.numel() for p in before])
    for p, old, piece in zip(model.parameters(), before, pieces, strict=True):
        moved = (p != old).flatten()
        assert not bool((moved & ~piece).any())
        assert bool(moved.any())
        for value in optimizer.state[p].values():
            if isinstance(value, torch.Tensor) and value.shape == p.shape:
                assert bool((value.flatten()[~piece] == 0).all())


def test_seeded_descent_and_random_directions_learn() -> None:
    x, y = data()
    model = network(0.0).eval()
    seeded = zo.nn.SeededDescent(model.parameters(), lr=0.02, samples=2)
    made = zo.nn.Trainer(model, cross_entropy, seeded, accumulate=2)
    training = made.fit((x, y), epochs=4, batch=20)
    assert training.epochs[-1]["loss"] < training.epochs[0]["loss"]
    model = network(0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    made = zo.nn.Trainer(model, cross_entropy, optimizer, gradient=zo.RandomGradient(8))
    training = made.fit((x, y), epochs=4, batch=20)
    assert training.epochs[-1]["loss"] < training.epochs[0]["loss"]


def test_patience_and_the_best_epoch(tmp_path: Path) -> None:
    x, y = data()
    wrong = (x, 1 - y)  # what is learnt makes this worse from the first epoch on
    made = trainer(tmp_path)
    training = made.fit((x, y), wrong, epochs=50, patience=3)
    assert training.stopped == "patience"
    losses = [row["validation_loss"] for row in training.epochs]
    assert training.best == 1 + losses.index(min(losses)) == len(losses) - 3
    made.load_best()
    assert made.evaluate(wrong)["loss"] == pytest.approx(min(losses), rel=1e-5)
    other = trainer(tmp_path)
    assert other.fit((x, y), wrong, epochs=50, patience=3).stopped == "patience"
    other.load_best()
    assert same(other.model, made.model)
    with pytest.raises(RunError, match="no best epoch"):
        trainer().load_best()


def test_a_plateau_lowers_the_rate() -> None:
    x, y = data()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    made = zo.nn.Trainer(model, cross_entropy, optimizer, gradient="autograd", scheduler=scheduler)
    training = made.fit((x, y), (x, 1 - y), epochs=6)
    assert training.epochs[-1]["rate"] < 0.1


def test_evaluation_leaves_no_trace() -> None:
    made = trainer()
    made.model[3].eval()
    x, y = data()
    before = flat(made.model)
    found = made.evaluate(DataLoader(TensorDataset(x, y), batch_size=7))
    assert torch.equal(flat(made.model), before)
    assert made.model.training
    assert not made.model[3].training
    made.model.eval()
    outputs = made.model(x)
    assert found["loss"] == pytest.approx(float(cross_entropy(outputs, y).detach()), rel=1e-5)
    assert found["accuracy"] == pytest.approx(float((outputs.argmax(1) == y).float().mean()))


class Two(nn.Module):
    """Two arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.stack([a, b], 1))


@pytest.mark.parametrize("gradient", ["auto", "autograd"])
@pytest.mark.parametrize("kind", [tuple, dict])
def test_models_of_several_arguments(kind: Any, gradient: Any) -> None:
    a, b = torch.randn(2, 12)
    inputs = (a, b) if kind is tuple else {"a": a, "b": b}
    torch.manual_seed(0)
    model = Two()
    made = zo.nn.Trainer(model, nn.functional.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1), gradient=gradient)
    training = made.fit([(inputs, (a - b)[:, None])], epochs=20)
    assert training.epochs[-1]["loss"] < training.epochs[0]["loss"]
    assert "accuracy" not in made.evaluate([(inputs, torch.tensor(0.0).expand(12, 1))])


def test_a_loss_that_is_not_finite() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for gradient in ("auto", "autograd"):
        made = zo.nn.Trainer(model, lambda o, t: o.sum() * float("nan"), optimizer, gradient=gradient)
        with pytest.raises(EvaluationError, match="finite"):
            made.fit(data(), epochs=1)


def test_checkpoints_of_others(tmp_path: Path) -> None:
    trainer(tmp_path).fit(data(), epochs=1, batch=10)
    with pytest.raises(RunError, match="batch: 10 there, 20 here") as caught:
        trainer(tmp_path).fit(data(), epochs=1, batch=20)
    assert caught.value.differences[0] == "batch: 10 there, 20 here"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "last.pt"]
    content = (tmp_path / "last.pt").read_bytes()
    for damaged in (content[:-100], b"", b"not a checkpoint"):
        (tmp_path / "last.pt").write_bytes(damaged)
        with pytest.raises(RunError, match="cannot be read"):
            trainer(tmp_path).fit(data(), epochs=1, batch=10)
    torch.save([1], tmp_path / "last.pt")
    with pytest.raises(RunError, match="it is no dict"):
        trainer(tmp_path).fit(data(), epochs=1, batch=10)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        trainer(tmp_path / "file").fit(data(), epochs=1, batch=10)


def test_wrong_arguments(unchecked: None) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def make(**options: Any) -> zo.nn.Trainer:
        given = {"model": model, "loss_fn": cross_entropy, "optimizer": optimizer} | options
        return zo.nn.Trainer(given.pop("model"), given.pop("loss_fn"), given.pop("optimizer"), **given)

    masks = zo.nn.RandomMasks(model, 0.5)
    for options, words in (
        ({"model": 1}, "nn.Module"),
        ({"loss_fn": 1}, "callable"),
        ({"optimizer": torch.optim.SGD}, "torch optimiser"),
        ({"gradient": "backprop"}, "be an estimator or one of"),
        ({"gradient": 3}, "be an estimator or one of"),
        ({"masks": 0.5}, "be Masks"),
        ({"masks": masks, "gradient": zo.RandomGradient()}, "None with this estimator"),
        ({"masks": masks, "optimizer": zo.nn.SeededDescent(model.parameters())}, "None with this estimator"),
        ({"scheduler": 1}, "be a scheduler"),
        ({"schedule": "batch"}, "schedule"),
        ({"accumulate": 0}, "accumulate"),
        ({"tensorboard": True}, "folder"),
    ):
        with pytest.raises(ArgumentError, match=words):
            make(**options)
    x, y = data()
    loader = DataLoader(TensorDataset(x, y))
    for train, options, words in (
        ((x, y[:-1]), {}, "as many inputs as targets"),
        (iter([(x, y)]), {}, "gone through again"),
        (x, {}, "two tensors or a loader"),
        ([x], {}, "pairs of inputs and targets"),
        ((x, y), {"epochs": 0}, "epochs"),
        ((x, y), {"batch": 0}, "batch"),
        ((x, y), {"save_every": 0}, "save_every"),
        ((x, y), {"patience": 3}, "patience"),
        ((x, y), {"patience": 0, "validation": 0.5}, "patience"),
        ((x, y), {"validation": 0.0001}, "samples on both sides"),
        (loader, {"validation": 0.5}, "train is a loader"),
    ):
        with pytest.raises(ArgumentError, match=words):
            make().fit(train, **({"epochs": 1} | options))


def test_the_line_says_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    trainer(progress=True).fit(data(), 0.25, epochs=2, batch=10)
    said = capsys.readouterr().err
    assert "epoch 2 of 2" in said
    assert "validation loss" in said
    assert "10/10" in said
    trainer().fit(data(), epochs=1)
    assert capsys.readouterr().err == ""


def test_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            written.append((folder, purge_step))

        def add_scalar(self, name: str, value: float, at: int) -> None:
            written.append((name, at))

        def flush(self) -> None:
            pass

        def close(self) -> None:
            written.append("closed")

    module = type(sys)("tensorboard")
    module.SummaryWriter = Writer
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tensorboard", type(sys)("tensorboard"))
        patch.setitem(sys.modules, "torch.utils.tensorboard", module)
        trainer(tmp_path, tensorboard=True).fit(data(), 0.25, epochs=2)
        trainer(tmp_path, tensorboard=True).fit(data(), 0.25, epochs=3)
    assert [entry for entry in written if entry[0] == str(tmp_path / "tensorboard")] == [
        (str(tmp_path / "tensorboard"), 1),
        (str(tmp_path / "tensorboard"), 3),
    ]
    assert ("validation_accuracy", 2) in written
    assert written[-1] == "closed"
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"zograd\[tensorboard\]"):
        trainer(tmp_path / "b", tensorboard=True).fit(data(), epochs=1)


def test_tensorboard_s_own_file_read_back(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trainer(tmp_path, tensorboard=True).fit(data(), 0.25, epochs=1)
    kept = (tmp_path / "last.pt").read_bytes()
    trainer(tmp_path, tensorboard=True).fit(data(), 0.25, epochs=2)
    (tmp_path / "last.pt").write_bytes(kept)  # as if it was killed after epoch 2 was shown, before it was kept
    training = trainer(tmp_path, tensorboard=True).fit(data(), 0.25, epochs=3)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == sorted(training.epochs[0])
    for name in training.epochs[0]:
        scalars = events.Scalars(name)
        assert [scalar.step for scalar in scalars] == [1, 2, 3]
        assert [scalar.value for scalar in scalars] == pytest.approx([row[name] for row in training.epochs], rel=1e-6)


def test_without_pillow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "PIL":
            raise ModuleNotFoundError(name="PIL")
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match="pillow"):
        zo.nn.read_jpegs(tmp_path / "a.npz")
