"""Pilot: four evaluations decide, and nothing that they found is lost."""

import functools

import pytest
import torch

import zograd as zo
from zograd.strategies import Pilot

START = torch.full((3,), 0.5).double()


def sphere(points):
    return (points**2).sum(1)


def make(seen=None, seed=0):
    parameters = zo.Parameters(START, bounds=(0.0, 1.0))

    def decide(noise):
        if seen is not None:
            seen.append(noise)
        adam = functools.partial(torch.optim.Adam, lr=0.01 if noise else 0.1)
        return zo.Descent(parameters, estimator=zo.RandomGradient(2), optimizer=adam, seed=seed)

    return Pilot(parameters, decide)


@pytest.mark.parametrize(
    ("told", "noise"),
    [
        ([2.0, 2.0, 2.0, 2.0], 0.0),
        ([2.0, 3.0, 2.0, 3.0], (1 / 3) ** 0.5),
        ([torch.nan, 3.0, torch.inf, 4.0], 0.5**0.5),
        ([torch.nan, 3.0, torch.nan, torch.inf], 0.0),
        ([1.0, 1.0 + 1e-13, 1.0, 1.0], 0.0),  # rounding
        ([1.0, 1.0 + 1e-10, 1.0, 1.0], 5e-11),
    ],
)
def test_the_scatter_of_the_start_decides(told, noise):
    seen = []
    pilot = make(seen)
    probes = pilot.ask()
    assert torch.equal(probes.points(), START.repeat(4, 1))
    assert torch.equal(pilot.ask().points(), probes.points())
    step = pilot.tell(torch.tensor(told, dtype=torch.float64))
    assert seen == [pytest.approx(noise, rel=1e-4)]
    assert (step.number, step.evaluations, step.best_value) == (1, 4, min(v for v in told if v == v))
    assert step.lost == sum(v != v or v == float("inf") for v in told)
    assert step.diagnostics == {"noise": seen[0]}
    assert len(pilot.ask()) == 4


def test_lost_values_have_no_mean():
    step = make().tell(torch.full((4,), torch.nan).double())
    assert (step.value, step.lost, step.best_value) == (None, 4, float("inf"))


def test_the_value_at_the_start_is_the_mean():
    assert make().tell(torch.tensor([2.0, 3.0, 2.0, 3.0]).double()).value == 2.5
    assert make().tell(torch.tensor([2.0, *3 * [torch.nan]]).double()).value == 2.0


def test_values_of_the_wrong_shape_are_refused():
    with pytest.raises(zo.ArgumentError, match=r"shape \(4,\)"):
        make().tell(torch.zeros(3).double())


@pytest.mark.filterwarnings("ignore:all .* values are equal:zograd.ZogradWarning")
def test_the_best_so_far_is_handed_over_and_comes_back():
    pilot = make()
    assert pilot.answer == (pilot.best_point, float("inf"))
    pilot.tell(torch.tensor([0.25, 0.5, 0.5, 0.5]).double())
    assert pilot.chosen.best_value == 0.25
    step = pilot.tell(torch.full((4,), 9.0).double())
    assert (step.number, step.evaluations, step.best_value) == (2, 8, 0.25)
    point = pilot.ask().points()[2]
    step = pilot.tell(torch.tensor([9.0, 9.0, -1.0, 9.0]).double())
    assert (pilot.best_value, step.best_value) == (-1.0, -1.0)
    assert torch.equal(pilot.best_point, point)
    assert torch.equal(pilot.answer[0], point)


def test_what_an_interrupted_wave_brought_is_noticed_before_and_after_the_choice():
    pilot = make()
    pilot.notice(torch.tensor([torch.nan, 7.0, 7.0, 8.0]).double())
    assert (pilot.best_value, pilot.chosen) == (7.0, None)
    pilot.tell(torch.tensor(4 * [8.0]).double())
    pilot.notice(torch.tensor([9.0, torch.nan, 3.0, torch.nan]).double())
    assert (pilot.best_value, pilot.chosen.best_value) == (3.0, 3.0)
    assert torch.equal(pilot.best_point, pilot.ask().points()[2])


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_state_goes_on_bit_for_bit(steps, noise, tmp_path):
    def told(pilot):
        points = pilot.ask().points()
        return sphere(points) + noise * torch.arange(len(points)).double()

    one, two = make(seed=0), make(seed=9)
    for _ in range(steps):
        one.tell(told(one))
    torch.save(one.state_dict(), tmp_path / "state.pt")
    two.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (two.chosen is None) == (steps == 0)
    if steps == 0:
        two = make(seed=0)
        two.load_state_dict(one.state_dict())
    for _ in range(4):
        assert torch.equal(one.ask().points(), two.ask().points())
        first, second = one.tell(told(one)), two.tell(told(two))
        assert (first.number, first.evaluations, first.best_value) == (
            second.number,
            second.evaluations,
            second.best_value,
        )
