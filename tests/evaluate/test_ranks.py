"""Two ranks of torch.distributed over loopback (gloo): the same bits on both as in one process."""

import datetime
import multiprocessing
import os
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

import zograd as zo
from zograd.blackbox import ModuleLoss
from zograd.evaluate import InProcess, Ranks
from zograd.evaluate._ranks import assigned

LIMIT = 300.0
"""Seconds until two ranks that wait for each other are given up."""


def join(folder: Path, rank: int, world: int) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    wait = datetime.timedelta(seconds=LIMIT)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=world, timeout=wait
    )


def gradient(evaluator: zo.evaluate.Evaluator | None, shift: float = 0.0) -> torch.Tensor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Tanh(), nn.Linear(6, 2))
    x = torch.randn(5, 4) + shift
    for estimator in (zo.CoordinateGradient(), zo.RandomGradient(3)):
        zo.backward(model, lambda output: output.square().mean(), x, estimator=estimator, evaluator=evaluator)
    return torch.cat([p.grad.flatten() for p in model.parameters()])


class Picky(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(self.w[0]) > 1:
            raise ValueError("too far")
        return self.w * x


def raising() -> tuple[str, torch.Tensor]:
    """What is said of a row that raises on one rank, and the gradient without it."""
    ranks, estimator = Ranks(), zo.CoordinateGradient(central=False)
    model = Picky()
    zo.backward(model, torch.sum, torch.ones(3), estimator=estimator, evaluator=ranks)
    try:
        zo.backward(model, torch.sum, torch.ones(3), estimator=estimator, on_failure="raise", evaluator=ranks)
    except zo.EvaluationError as error:
        return str(error), model.w.grad
    return "", model.w.grad


def work(rank: int, folder: Path) -> None:
    """The whole life of a rank."""
    torch.set_num_threads(1)
    try:
        join(folder, rank, 2)
        found = {"gradient": gradient(Ranks()), "raising": raising()}
        try:
            gradient(Ranks(), shift=float(rank))
        except zo.ArgumentError as error:
            found["other batch"] = str(error)
        distributed.destroy_process_group()
    except Exception:
        found = {"error": traceback.format_exc()}
    torch.save(found, folder / f"rank{rank}")


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(rank, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LIMIT)
        process.kill()
    return [torch.load(folder / f"rank{rank}") for rank in range(2)]


def test_same_bits_on_both_as_in_one_process(two) -> None:
    expected = gradient(None)
    assert [torch.equal(found["gradient"], expected) for found in two] == [True, True]


def test_a_row_that_raises_is_lost_on_both(two) -> None:
    for said, found in (found["raising"] for found in two):
        assert "too far" in said
        torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64))


def test_ranks_with_other_data_are_told(two) -> None:
    for found in two:
        assert "found 'rank [1] with others than rank 0'" in found["other batch"]


@pytest.fixture
def alone(tmp_path) -> Iterator[None]:
    join(tmp_path, 0, 1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_one_rank_is_enough() -> None:
    assert repr(Ranks()) == "Ranks(1)"
    assert torch.equal(gradient(Ranks()), gradient(None))
    box = zo.pointwise(lambda x: float(x[0]))
    probes = zo.Probes(torch.zeros(2), zo.Dense(torch.arange(6.0).view(3, 2)))
    assert [float(piece.values) for piece in Ranks().stream(box, [probes])] == [0.0, 2.0, 4.0]


@pytest.mark.usefixtures("alone")
def test_a_mistake_is_raised() -> None:
    model = nn.Linear(2, 1)
    box = ModuleLoss(model, lambda output: output, torch.ones(3, 2), list(model.parameters()))
    probes = zo.Probes(box.center, zo.Coordinates(torch.tensor([0]), torch.ones(1)))
    for evaluator in (InProcess(), Ranks()):
        with pytest.raises(zo.ArgumentError, match="`loss_fn` must return one number"):
            list(evaluator.stream(box, [probes]))


def test_a_group_is_needed() -> None:
    with pytest.raises(zo.ArgumentError, match="init_process_group first"):
        Ranks()


def test_longest_first_to_who_has_least() -> None:
    costs = [3.0, 1.0, 7.0, 2.0, 5.0, 4.0]
    tasks = assigned(costs, 2)
    assert tasks == [[2, 0, 1], [4, 5, 3]]
    assert sorted(at for mine in tasks for at in mine) == list(range(6))
    assert assigned(costs, 8) == [[2], [4], [5], [0], [3], [1], [], []]
    assert assigned([], 2) == [[], []]
