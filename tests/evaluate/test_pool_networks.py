"""A network's gradient by a pool: the same bits whoever works, and only what has changed travels."""

import copy
import os
import signal
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zograd as zo
from zograd.blackbox import ModuleLoss, TracedLoss
from zograd.evaluate import Evaluator, Finished, InProcess, Pool

Loss = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(workers=2) as shared:
        yield shared


def small_cnn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(75, 3)
    )


def batch(number: int, size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(size, 1, 7, 7, generator=generator), torch.randint(3, (size,), generator=generator)


def flat(tensors: Iterator[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def trained(evaluator: Evaluator | None, estimator: zo.GradientEstimator, steps: int = 3, **keywords) -> torch.Tensor:
    """Parameters, buffers and a random number after some steps, each with a batch of its own; the last is smaller."""
    model = small_cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in range(steps):
        optimizer.zero_grad()
        x, y = batch(number, 4 if number < steps - 1 else 3)

        def loss_fn(output: torch.Tensor, y: torch.Tensor = y) -> torch.Tensor:
            return F.cross_entropy(output, y) + 0.01 * model[5].weight.square().sum()

        zo.backward(model, loss_fn, x, estimator=estimator, evaluator=evaluator, **keywords)
        optimizer.step()
    return torch.cat([flat(model.state_dict().values()), torch.rand(3).double()])


ACTIVE = torch.arange(0, 260, 5)
ESTIMATORS = {
    "coordinates": zo.CoordinateGradient(active=ACTIVE),
    "one-sided": zo.CoordinateGradient(active=ACTIVE, central=False),
    "random": zo.RandomGradient(4),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_same_bits_as_in_process(pool, name) -> None:
    expected = trained(None, ESTIMATORS[name])
    assert torch.equal(trained(pool, ESTIMATORS[name]), expected)
    assert not torch.equal(expected[: len(ACTIVE)], flat(small_cnn().parameters())[: len(ACTIVE)])


def test_same_bits_from_one_worker_and_from_an_executor() -> None:
    estimator = ESTIMATORS["coordinates"]
    expected = trained(None, estimator)
    with Pool(workers=1) as alone:
        assert torch.equal(trained(alone, estimator), expected)
    with ThreadPoolExecutor(2) as executor:
        assert torch.equal(trained(Pool(executor=executor, workers=2), estimator), expected)
        shared = Pool(executor=executor, workers=2, isolate=False)  # threads of this process
        assert torch.equal(trained(shared, estimator), expected)


def test_seeds_derivatives_and_whole_passes(pool, monkeypatch) -> None:
    monkeypatch.setattr("zograd.estimators._directions.SEEDED_ENTRIES", 0)
    monkeypatch.setattr("zograd.estimators._directions.SEEDED_DIMENSION", 0)
    for estimator in (zo.RandomGradient(2), ESTIMATORS["coordinates"]):
        assert torch.equal(trained(pool, estimator, 2, reuse=False), trained(None, estimator, 2, reuse=False))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_exact_derivatives(pool) -> None:
    def found(evaluator: Evaluator | None) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
        zo.backward(model, torch.sum, torch.ones(2, 3), estimator=zo.ForwardGradient(3), evaluator=evaluator)
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    assert torch.equal(found(pool), found(None))


def test_sparse_training_sends_what_has_changed_and_the_batch_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(400, 100), nn.Tanh(), nn.Linear(100, 2))
    x = torch.randn(50, 400)
    parameters, data = sum(p.nbytes for p in model.parameters()), x.nbytes
    active = torch.arange(0, 40_000, 1000)
    estimator = zo.CoordinateGradient(active=active)

    def sent(pool: Pool, inputs: torch.Tensor) -> int:
        before = pool.sent
        model.zero_grad()
        zo.backward(model, lambda output: output.square().mean(), inputs, estimator=estimator, evaluator=pool)
        return pool.sent - before

    with Pool(workers=2) as pool:
        first = sent(pool, x)
        assert 2 * (parameters + data) < first < 2.2 * (parameters + data)
        with torch.no_grad():
            model[0].weight.view(-1)[active] += 0.01
        sparse = sent(pool, x)
        assert sparse < 0.1 * parameters
        assert sent(pool, x) < sparse  # nothing has changed: the shares alone
        other = sent(pool, x + 1)
        assert 2 * data < other < 2 * data + 2 * sparse
        with torch.no_grad():
            model[0].weight += 0.01
        assert 2 * model[0].weight.nbytes < sent(pool, x + 1) < 2.2 * parameters
        with pytest.raises(AttributeError):
            pool.sent = 0


class Fragile(nn.Module):
    """A part that ends a worker at its ``last`` call there, once: then a flag lies."""

    def __init__(self, flag: Path | None, last: int) -> None:
        super().__init__()
        self.caller, self.flag, self.last, self.calls = os.getpid(), flag, last, 0
        self.inner = zo.nn.Opaque(self.outer, structure="elementwise")

    def outer(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += os.getpid() != self.caller
        if os.getpid() != self.caller and self.calls >= self.last and (self.flag is None or not self.flag.exists()):
            if self.flag is not None:
                self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return x.sin()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def fragile(flag: Path | None, last: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), Fragile(flag, last), nn.Linear(4, 1))


def test_a_killed_worker_costs_nothing_but_time(tmp_path) -> None:
    flag = tmp_path / "killed"
    model = fragile(flag, last=5)  # three calls make and check the record: it dies within a share
    reference = copy.deepcopy(model)
    x = torch.randn(5, 3)
    with Pool(workers=2) as pool:
        zo.backward(model, torch.mean, x, estimator=zo.CoordinateGradient(), on_failure="raise", evaluator=pool)
        assert flag.exists()
    zo.backward(reference, torch.mean, x, estimator=zo.CoordinateGradient())
    assert torch.equal(*(torch.cat([p.grad.flatten() for p in m.parameters()]) for m in (model, reference)))


def test_a_network_that_always_ends_its_worker_is_lost_in_the_end() -> None:
    model = fragile(None, last=1)
    estimator = zo.CoordinateGradient(active=torch.tensor([0]))
    with Pool(workers=1) as pool, pytest.raises(zo.EvaluationError, match=r"every one of the 2 probes.*SIGKILL"):
        zo.backward(model, torch.mean, torch.ones(1, 3), estimator=estimator, reuse=False, evaluator=pool)


def first_row(piece: Finished) -> int:
    return piece.rows.start


class Picky(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.equal(self.w, torch.ones_like(self.w)):
            raise ValueError("cannot live there")  # the same for all rows: which comes back last is chance
        return self.w * x


def test_a_model_that_raises_gives_the_error_that_it_gives_here(pool) -> None:
    said = []
    for evaluator in (None, pool):
        with pytest.raises(zo.EvaluationError, match="cannot live there") as caught:
            zo.backward(Picky(), torch.sum, torch.ones(2), estimator=zo.CoordinateGradient(), evaluator=evaluator)
        said.append(str(caught.value))
        assert isinstance(caught.value.__cause__, ValueError)
    assert said[0] == said[1]


@pytest.mark.parametrize("part", ["model", "loss_fn", "inputs"])
def test_what_cannot_be_pickled_is_named(pool, part) -> None:
    model, lock = nn.Linear(1, 1), threading.Lock()
    inputs: object = torch.ones(1, 1)

    def loss_fn(output: torch.Tensor) -> torch.Tensor:
        return output.sum()

    if part == "loss_fn":
        loss_fn.lock = lock
    elif part == "model":
        model.lock = lock
    elif part == "inputs":
        model.register_forward_pre_hook(lambda module, given: (given[0],))
        inputs = (torch.ones(1, 1), lock)
    with pytest.raises(zo.ArgumentError, match=f"`{part}` must be something that can be sent"):
        zo.backward(model, loss_fn, inputs, estimator=zo.CoordinateGradient(), evaluator=pool)


classes = torch.tensor([1, 0])


def test_a_name_that_is_a_part_of_torch_too(pool) -> None:
    model = nn.Linear(3, 2)  # cloudpickle takes torch.classes for a part of what the loss needs
    loss_fn = types.FunctionType(
        (lambda output: torch.nn.functional.cross_entropy(output, classes)).__code__, globals()
    )
    loss_fn.__module__ = "__main__"
    zo.backward(model, loss_fn, torch.ones(2, 3), estimator=zo.CoordinateGradient(), evaluator=pool)
    assert float(model.weight.grad.norm()) > 0


def test_memory_that_is_shared_stays_shared(pool) -> None:
    found = []
    for evaluator in (None, pool):
        torch.manual_seed(0)
        model = nn.Linear(3, 2).double()
        weight = model.weight.detach().T[1:]  # another tensor in the same memory

        def loss_fn(output: torch.Tensor, weight: torch.Tensor = weight) -> torch.Tensor:
            return output.sum() + 7 * weight.square().sum()

        keywords = {"estimator": zo.CoordinateGradient(), "reuse": False, "evaluator": evaluator}
        zo.backward(model, loss_fn, torch.ones(1, 3).double(), **keywords)
        found.append(model.weight.grad)
        torch.testing.assert_close(model.weight.grad[:, 1:], 1 + 14 * weight.T, rtol=1e-5, atol=1e-5)
    assert torch.equal(*found)


@pytest.mark.parametrize("reuse", [True, False])
def test_global_settings_travel(pool, reuse) -> None:
    found = []
    for evaluator in (None, pool):
        torch.manual_seed(0)
        model, x = nn.Linear(8, 8), torch.ones(1, 8)
        keywords = {"estimator": zo.CoordinateGradient(active=ACTIVE[:8], step=0.1), "reuse": reuse}
        torch.set_default_dtype(torch.float64)
        try:
            with torch.autocast("cpu", torch.bfloat16):  # it keeps the parameters in 16 bits, but they move
                zo.backward(model, lambda out: (out * torch.ones(8)).sum(), x, evaluator=evaluator, **keywords)
        finally:
            torch.set_default_dtype(torch.float32)
        found.append(model.weight.grad.flatten()[ACTIVE[:8]])
    assert torch.equal(*found)
    torch.testing.assert_close(found[0], torch.ones(8), rtol=0.1, atol=0.1)


def test_modes_and_frozen_parts_travel(pool) -> None:
    model, (x, y) = small_cnn(), batch(0)
    found = []
    for evaluator in (None, pool, None, pool):
        model.train(len(found) < 2)
        model[0].weight.requires_grad_(len(found) < 2)
        model.zero_grad()
        torch.manual_seed(3)
        estimator = zo.CoordinateGradient(active=torch.arange(9))
        zo.backward(model, lambda output: F.cross_entropy(output, y), x, estimator=estimator, evaluator=evaluator)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        model.load_state_dict(small_cnn().state_dict())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[2], found[3])


def test_a_batch_of_probes_around_another_centre(pool) -> None:
    model, (x, y) = small_cnn(), batch(0)
    box = ModuleLoss(model, lambda output: F.cross_entropy(output, y), x, list(model.parameters()))
    probes = zo.Probes(box.center + 0.1, zo.Coordinates(torch.arange(3), torch.full((3,), 0.1)))
    with torch.no_grad():
        found, expected = (
            {
                row: piece.values[row - piece.rows.start]
                for piece in evaluator.stream(box, [probes])
                for row in piece.rows
            }
            for evaluator in (pool, InProcess())
        )
    assert found == expected


def test_sparse_training_in_the_trainer(pool) -> None:
    x, y = batch(0, 12)
    found = []
    for evaluator in (None, pool):
        model = small_cnn()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        masks = zo.nn.RandomMasks(model, 0.1)
        keywords = {"gradient": "reuse", "masks": masks, "evaluator": evaluator, "progress": False}
        zo.nn.Trainer(model, F.cross_entropy, optimizer, **keywords).fit((x, y), epochs=1, batch=5)
        found.append(flat(model.parameters()))
    assert torch.equal(*found)
    with pytest.raises(zo.ArgumentError, match="`evaluator` must be None with this gradient"):
        zo.nn.Trainer(model, F.cross_entropy, optimizer, gradient="autograd", evaluator=pool)


def test_directions_in_the_trainer(pool) -> None:
    x, y = batch(0, 8)
    found = []
    for evaluator in (None, pool):
        model = small_cnn()
        keywords = {"gradient": zo.RandomGradient(2), "evaluator": evaluator, "progress": False}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        zo.nn.Trainer(model, F.cross_entropy, optimizer, **keywords).fit((x, y), epochs=1, batch=4)
        found.append(flat(model.parameters()))
    assert torch.equal(*found)


def test_longest_share_first() -> None:
    model, (x, y) = small_cnn(), batch(0)
    with torch.no_grad():
        box = TracedLoss(ModuleLoss(model, lambda output: F.cross_entropy(output, y), x, list(model.parameters())))
        probes, _ = box.arranged(zo.CoordinateGradient().propose(box.center, torch.Generator()))
        costs = {share.rows: share.cost for share in box.shares(probes)}
        with Pool(workers=1) as alone:
            order = [costs[piece.rows] for piece in alone.stream(box, [probes])]
    assert len(order) > 5
    assert order == sorted(order, reverse=True)


@pytest.mark.usefixtures("unchecked")
def test_an_evaluator_is_asked_for() -> None:
    with pytest.raises(zo.ArgumentError, match="`evaluator` must be an Evaluator"):
        zo.backward(nn.Linear(1, 1), torch.sum, torch.ones(1, 1), evaluator=2)
    with pytest.raises(zo.ArgumentError, match="`evaluator` must be an Evaluator"):
        zo.nn.backward(nn.Linear(1, 1), torch.sum, torch.ones(1, 1), evaluator=2)
