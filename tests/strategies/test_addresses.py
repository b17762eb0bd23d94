"""Whose outputs are whose, in 2 log2(d) probes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import zograd as zo
from zograd.strategies._addresses import addresses, owners


@given(st.integers(1, 70), st.integers(1, 90), st.integers(0, 10**6))
def test_every_owner_is_found(items: int, outputs: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(-1, items, (outputs,), generator=generator)
    truth[0] = items - 1
    slopes = torch.zeros(items, outputs, dtype=torch.float64)
    owned = truth >= 0
    slopes[truth[owned], owned.nonzero()[:, 0]] = 0.5 + torch.rand(int(owned.sum()), generator=generator).double()
    found = owners(addresses(items).double() @ slopes, items)
    assert found is not None
    assert torch.equal(found, truth)


def test_outputs_of_several_items_are_told_from_those_of_one() -> None:
    mix = torch.ones(20, 30, dtype=torch.float64)
    assert owners(addresses(20).double() @ mix, 20) is None
    assert owners(torch.zeros(10, 5, dtype=torch.float64), 20) is None
    few = torch.eye(300, dtype=torch.float64)
    few[3, 7] = 1.0
    found = owners(addresses(300).double() @ few, 300)
    assert found is not None
    assert found[7] == -1
    assert int((found != torch.arange(300)).sum()) == 1


def test_many_parameters_with_outputs_of_their_own_are_fitted_at_once() -> None:
    # 40,000 x 40,000 slopes would not fit; 32 probes find the 40,000 that are not zero.
    goal = torch.linspace(0.2, 0.9, 40_000)
    result = zo.minimize_least_squares(
        zo.batched(lambda x: x**3 + x), torch.full((40_000,), 0.5), goal=goal**3 + goal, bounds=(0, 1), evaluations=300
    )
    assert "parameter by parameter" in result.message
    assert result.history[1].evaluations == 6 + 32
    assert result.fun < 1e-9


def test_parameters_that_share_outputs_are_taken_along_random_directions() -> None:
    mix = torch.randn(2_000, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    box = zo.batched(lambda x: torch.tanh(x @ mix / 40) - 0.5)
    result = zo.minimize_least_squares(box, torch.zeros(2_000).double(), evaluations=600)
    assert "random directions" in result.message
    assert result.fun < 1e-3


@pytest.mark.parametrize("stop", [20, 45])
def test_a_run_that_was_interrupted_while_asking_goes_on(tmp_path, stop: int) -> None:
    goal = torch.linspace(0.2, 0.9, 600)
    calls = []

    def program(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return x - goal

    given_ = {"evaluations": 300, "run": tmp_path / "run"}
    start = torch.full((600,), 0.5)
    zo.minimize_least_squares(program, start, **given_)
    second = zo.minimize_least_squares(program, start, **given_)
    whole = zo.minimize_least_squares(lambda x: x - goal, start, evaluations=300)
    assert second.fun == whole.fun < 1e-12
