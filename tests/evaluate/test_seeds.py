"""Which seed an evaluation has, and common random numbers within a mirrored pair."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

import zograd as zo
from zograd import Probes
from zograd._probes import Coordinates, Dense, Seeded
from zograd.blackbox._seed import evaluation_seed
from zograd.evaluate import InProcess, Pool, evaluate, failure_policy
from zograd.evaluate._seeds import Seeds

CENTER = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
PAIRS = {
    "dense": Dense(torch.tensor([[0.0, -0.1, 0.2], [0.3, 0.0, 0.1], [0.0, 0.1, -0.2], [-0.3, 0.0, -0.1]]).double()),
    "coordinates": Coordinates(torch.tensor([0, 2, 0, 2]), torch.tensor([0.1, 0.1, -0.1, -0.1])),
    "seeded": Seeded(torch.tensor([7, 8, 7, 8]), torch.tensor([0.1, 0.1, -0.1, -0.1])),
}


@pytest.mark.parametrize("offsets", PAIRS.values(), ids=PAIRS)
def test_the_sides_of_a_pair_have_one_seed_and_pairs_and_waves_others(offsets) -> None:
    probes = Probes(CENTER, offsets)
    first, second, third, fourth = Seeds(3, common=True).of(probes, call=1)
    assert first == third
    assert second == fourth
    assert first != second
    assert not {first, second} & set(Seeds(3, common=True).of(probes, call=2))
    assert not {first, second} & set(Seeds(4, common=True).of(probes, call=1))
    assert len(set(Seeds(3).of(probes, call=1))) == 4


@pytest.mark.parametrize("common", [False, True])
@pytest.mark.parametrize("offsets", PAIRS.values(), ids=PAIRS)
def test_a_row_has_its_seed_whatever_is_asked_for_beside_it(offsets, common) -> None:
    probes = Probes(CENTER, offsets)
    whole = Seeds(3, common).of(probes, call=5)
    assert whole[1:3] == Seeds(3, common).of(probes[1:3], call=5, first=1)


@pytest.mark.parametrize(
    "offsets",
    [
        Dense(torch.zeros(2, 3)),
        Coordinates(torch.tensor([1, 1]), torch.zeros(2)),
        Seeded(torch.ones(2).long(), torch.zeros(2)),
    ],
)
def test_the_centre_evaluated_twice_shows_its_noise(offsets) -> None:
    first, second = Seeds(0, common=True).of(Probes(CENTER.float(), offsets), call=1)
    assert first != second


def drawing(x) -> float:
    """Noise from everywhere that noise comes from."""
    return float(np.random.randn() + random.random() + torch.rand(()) + evaluation_seed.get() % 97)  # noqa: NPY002


def asked(evaluator) -> torch.Tensor:
    box = zo.pointwise(drawing)
    return evaluate(evaluator, box, [Probes(CENTER, PAIRS["dense"])], failure_policy("raise"))[0]


def test_here_and_in_workers_the_noise_is_the_same_and_cancels() -> None:
    here = asked(InProcess(seed=5, common_random_numbers=True))
    assert here[0] == here[2]
    assert here[1] == here[3]
    assert here[0] != here[1]
    with Pool(workers=2, seed=5, common_random_numbers=True) as pool:
        assert torch.equal(asked(pool), here)
    with Pool(workers=2, seed=5) as pool:
        assert len(set(asked(pool).tolist())) == 4


def test_every_attempt_at_a_row_has_its_seed(tmp_path: Path) -> None:
    def fails_at_first(x) -> float:
        drawn, seen = drawing(x), tmp_path / f"{float(x[0]):.17g}{float(x[1]):.17g}"
        if not seen.exists():
            seen.touch()
            raise RuntimeError("busy")
        return drawn

    evaluator = InProcess(retries=1, wait=0.001, seed=5, common_random_numbers=True)
    (again,) = evaluate(
        evaluator, zo.pointwise(fails_at_first), [Probes(CENTER, PAIRS["dense"])], failure_policy("raise")
    )
    assert torch.equal(again, asked(InProcess(seed=5, common_random_numbers=True)))


@pytest.mark.parametrize("workers", [None, 2])
def test_a_command_gets_one_seed_for_both_sides(workers) -> None:
    program = zo.Program(["printf", "%s", "{seed}"]).over(zo.Parameters({"x": 0.0}))
    evaluator = InProcess(common_random_numbers=True) if workers is None else Pool(workers, common_random_numbers=True)
    probes = Probes(torch.zeros(1).double(), Coordinates(torch.zeros(4).long(), torch.tensor([0.1, 0.2, -0.1, -0.2])))
    (told,) = evaluate(evaluator, program, [probes], failure_policy("raise"))
    assert told[0] == told[2]
    assert told[1] == told[3]
    assert told[0] != told[1]
    if isinstance(evaluator, Pool):
        evaluator.close()


def test_another_wave_outside_a_run_has_other_noise() -> None:
    evaluator = InProcess(common_random_numbers=True)
    assert not set(asked(evaluator).tolist()) & set(asked(evaluator).tolist())


def test_the_callers_random_numbers_go_on_as_if_nothing_had_been_drawn(unchecked: None) -> None:
    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    without = drawn()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    asked(InProcess(common_random_numbers=True))
    assert drawn() == without
    assert evaluation_seed.get() == 0


def test_a_program_of_many_points_is_refused(unchecked: None) -> None:
    with pytest.raises(zo.ArgumentError, match="`common_random_numbers` must be False for a program of many points"):
        zo.minimize(zo.batched(lambda x: x.sum(1)), [1.0], evaluations=10, common_random_numbers=True)
    with Pool(workers=1, common_random_numbers=True) as pool, pytest.raises(zo.ArgumentError, match="must be False"):
        evaluate(pool, zo.batched(lambda x: x.sum(1)), [Probes(CENTER, PAIRS["dense"])], failure_policy("raise"))
    with pytest.raises(zo.ArgumentError, match="`common_random_numbers` must be True or False"):
        zo.minimize(drawing, [1.0], evaluations=10, common_random_numbers="pairs")


def weather(x) -> float:
    """Noise that multiplies and noise that adds: only the first is left in a pair's difference."""
    windy = np.random.randn(len(x))  # noqa: NPY002
    return float(((np.asarray(x) - 0.3 - 0.1 * windy) ** 2).sum() + 10 * np.random.randn())  # noqa: NPY002


def test_a_gradient_gains_what_the_sides_have_in_common() -> None:
    estimator, center = zo.CoordinateGradient(step=0.05), torch.zeros(20, dtype=torch.float64)
    probes = estimator.propose(center, torch.Generator().manual_seed(0))

    def error(common: bool) -> float:
        with Pool(workers=1, seed=1, common_random_numbers=common) as pool:
            (values,) = evaluate(pool, zo.pointwise(weather), [probes], failure_policy("raise"))
        return float((estimator.gradient(probes, values).gradient + 0.6).norm())

    assert error(True) < error(False) / 20


def test_many_parameters_are_minimised_better_with_common_random_numbers() -> None:
    def left(common: bool) -> float:
        np.random.seed(0)  # noqa: NPY002
        start = np.full(250, -0.5)
        result = zo.minimize(weather, start, bounds=(-1, 1), evaluations=2000, common_random_numbers=common)
        return float(((np.asarray(result.x) - 0.3) ** 2).sum())

    assert left(True) < 0.6 * left(False)


def test_a_durable_run_goes_on_with_the_same_noise(tmp_path: Path) -> None:
    settings = {"bounds": (-1, 1), "common_random_numbers": True}
    start = np.full(6, -0.5)
    whole = zo.minimize(weather, start, evaluations=200, run=tmp_path / "whole", **settings)

    def stop(result) -> bool:
        return result.nfev >= 90

    zo.minimize(weather, start, evaluations=200, run=tmp_path / "parts", callback=stop, **settings)
    parts = zo.minimize(weather, start, evaluations=200, run=tmp_path / "parts", **settings)
    assert np.array_equal(parts.x, whole.x)
    assert parts.fun == whole.fun
    with pytest.raises(zo.RunError, match="common_random_numbers"):
        zo.minimize(weather, start, evaluations=200, run=tmp_path / "parts", bounds=(-1, 1))
