"""Chooser: every branch, and the words that say which."""

import functools

import pytest
import torch

import zograd as zo
from zograd.strategies import Chooser, Contest, NewtonOrCMAES, Pilot
from zograd.strategies._field import field

ADAM = functools.partial(torch.optim.Adam, lr=0.1)
LITTLE_STEP = functools.partial(zo.optim.BlockNewton, furthest=0.1)


POLYNOMIAL = zo.PolynomialSurrogate()
DIRECTIONS = ["one-sided directions", "mirrored directions", "wide mirrored directions"]
BLOCKS = "blocks of 64 coordinates"


def choose(d, evaluations, estimator=None, optimizer=None, **given):
    chooser = Chooser(zo.Parameters(torch.zeros(d), bounds=(-1, 1)), evaluations)
    return chooser, chooser.strategy(estimator, optimizer, **given)


@pytest.mark.parametrize(
    ("d", "evaluations", "given", "estimator", "optimizer", "why"),
    [
        (3, 99, {"estimator": zo.FrameGradient(step=0.1)}, "FrameGradient", "QuasiNewton", "as FrameGradient asks"),
        (3, 99, {"estimator": zo.RandomGradient()}, "RandomGradient", "AnnealedAdam", "for a step from .grad"),
        (3, 99, {"estimator": zo.ForwardGradient()}, "ForwardGradient", "AnnealedAdam", "for a step from .grad"),
        (9, 99, {"estimator": POLYNOMIAL}, "PolynomialSurrogate", "TrustRegion", "to the minimum of what was fitted"),
        (99, 999, {"estimator": POLYNOMIAL}, "PolynomialSurrogate", "AnnealedAdam", "for a step from .grad"),
        (9, 99, {"optimizer": zo.optim.TrustRegion}, "PolynomialSurrogate", "TrustRegion", "as TrustRegion asks"),
        (3, 99, {"optimizer": ADAM}, "CoordinateGradient", "Adam", "central differences"),
        (900, 99, {"optimizer": ADAM}, "RandomGradient", "Adam", "random directions"),
        (900, 99, {"optimizer": zo.optim.QuasiNewton}, "FrameGradient", "QuasiNewton", "as QuasiNewton asks"),
        (900, 99, {"optimizer": LITTLE_STEP}, "CoordinateGradient", "BlockNewton", "as BlockNewton asks"),
    ],
)
def test_what_is_not_named_is_chosen_and_said(d, evaluations, given, estimator, optimizer, why):
    chooser, descent = choose(d, evaluations, **given)
    assert type(descent.estimator).__name__ == estimator
    assert type(descent.optimizer).__name__ == optimizer
    named = given.get("estimator")
    assert named is None or descent.estimator is named
    assert (
        chooser.said == f"Chosen for {d} parameters and {evaluations} evaluations: {estimator} and {optimizer} ({why})."
    )


@pytest.mark.parametrize(("d", "evaluations"), [(1, 15), (200, 2005)])
def test_few_parameters_are_for_newton_steps_until_they_miss(d, evaluations):
    chooser, chosen = choose(d, evaluations)
    assert isinstance(chosen, NewtonOrCMAES)
    said = (
        f"Chosen for {d} parameter{'s' if d > 1 else ''} and {evaluations} evaluations: FrameGradient and QuasiNewton "
        "(central differences in a learned frame"
    )
    assert chooser.said == f"{said})."
    chosen.report("and then another")
    assert chooser.said == f"{said}); and then another."


def test_both_named_are_taken_and_nothing_is_said():
    chooser, descent = choose(3, 99, zo.RandomGradient(), ADAM)
    assert (type(descent.estimator), type(descent.optimizer), chooser.said) == (
        zo.RandomGradient,
        torch.optim.Adam,
        "",
    )


@pytest.mark.parametrize(
    ("d", "evaluations", "values", "optimizer", "said"),
    [
        (301, 1000, 4 * [1.0], "BlockNewton", "no noise at the start, so blocks of 64 coordinates"),
        (201, 4019, 4 * [1.0], "BlockNewton", "no noise at the start, so blocks of 64 coordinates"),
        (900, 14400, 4 * [1.0], "BlockNewton", "no noise at the start, so blocks of 64 coordinates"),
        (4, 44, 4 * [1.0], "BlockNewton", "no noise at the start, so blocks of 4 coordinates"),
        (501, 1000, 4 * [1.0], "AnnealedAdam", "too few evaluations to look at every parameter, so random directions"),
        (201, 10**6, [1.0, 1.5, 1.0, 1.5], "AnnealedAdam", "noise of 0.29 at the start, so random directions"),
        (4, 44, [1.0, 1.5, 1.0, 1.5], "AnnealedAdam", "noise of 0.29 at the start, so random directions that widen"),
    ],
)
def test_many_parameters_are_decided_by_a_pilot(d, evaluations, values, optimizer, said):
    chooser, pilot = choose(d, evaluations)
    assert isinstance(pilot, Pilot)
    assert chooser.said == ""
    pilot.tell(torch.tensor(values).double())
    assert type(pilot.chosen.optimizer).__name__ == optimizer
    assert said in chooser.said


@pytest.mark.parametrize(
    ("d", "evaluations", "heat", "names"),
    [
        (301, 1024, 64, [*DIRECTIONS, BLOCKS]),
        (1601, 4096, 64, [*DIRECTIONS, BLOCKS]),
        (30000, 10**5, 1000, [*DIRECTIONS, BLOCKS]),
        (201, 4020, 64, [BLOCKS, "mirrored directions"]),
        (900, 18000, 180, [BLOCKS, "mirrored directions"]),
    ],
)
def test_many_parameters_and_no_noise_make_a_contest_which_says_who_leads(d, evaluations, heat, names):
    chooser, pilot = choose(d, evaluations)
    pilot.tell(torch.ones(4).double())
    contest = pilot.chosen
    assert isinstance(contest, Contest)
    assert (contest.heat, contest.budget) == (heat, evaluations)
    assert [contestant.name for contestant in contest.contestants] == names
    assert contest.current is contest._descents[0]  # blocks where they begin, with a sweep
    assert type(contest.current.optimizer).__name__ == ("BlockNewton" if names[0] == BLOCKS else "Adam")
    said = f"Chosen for {d} parameters and {evaluations} evaluations: a contest, for there is no noise at the start"
    assert chooser.said == f"{said}, led by nobody yet."
    contest.report("somebody")
    assert chooser.said.endswith("led by somebody.")


@pytest.mark.parametrize(("d", "rates"), [(2500, (0.01, 0.005)), (10000, (0.005, 0.005)), (40000, (0.0025, 0.0025))])
def test_steps_of_those_who_look_near_are_no_longer_than_half_a_unit(d, rates):
    found = {one.name: one.rate for one in field(zo.Parameters(torch.zeros(d)), 0) if one.rate}
    assert found == pytest.approx(dict(zip(DIRECTIONS, (*rates, 0.1), strict=True)))
    near = field(zo.Parameters(torch.zeros(d)), 0, few=True)[1]
    assert near.rate == pytest.approx(rates[0])
    assert near.make().estimator.samples == 4


def test_a_flat_program_is_told_of_where_blocks_begin():
    with pytest.warns(zo.ZogradWarning, match="all .* values are equal"):
        zo.minimize(zo.batched(lambda points: torch.ones(len(points))), torch.zeros(201), evaluations=4020)


def test_the_budget_sets_the_steps_of_annealed_adam_and_the_noise_is_passed_on():
    _, pilot = choose(300, 4000)
    pilot.tell(torch.tensor([1.0, 1.5, 1.0, 1.5]).double())
    group = pilot.chosen.optimizer.param_groups[0]
    assert group["steps"] == (4000 - 4 - 8) // 8  # the pilot, and the value of the last centre
    assert group["noise"] == pytest.approx((1 / 12) ** 0.5)
    _, descent = choose(3, 5, zo.RandomGradient(16))
    assert descent.optimizer.param_groups[0]["steps"] == 1


def test_the_seed_is_that_of_the_descent():
    parameters = zo.Parameters(torch.zeros(3))
    first, again, other = (
        Chooser(parameters, 99, seed).strategy(zo.RandomGradient(2), ADAM).ask().points() for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.usefixtures("unchecked")
def test_an_estimator_that_is_none_is_refused():
    with pytest.raises(zo.ArgumentError, match="`estimator` must be a GradientEstimator"):
        choose(3, 99, torch.optim.Adam)


HALVE = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)


@pytest.mark.filterwarnings("ignore:all .* values are equal:zograd.ZogradWarning")
def test_a_scheduler_goes_with_an_optimiser_that_has_a_rate():
    _, descent = choose(3, 99, None, ADAM, scheduler=HALVE)
    descent.tell(torch.ones(6).double())
    assert descent.optimizer.param_groups[0]["lr"] == 0.05
    with pytest.raises(zo.ArgumentError, match="`scheduler` must come with an optimizer"):
        choose(3, 99, scheduler=HALVE)
    for rule in (zo.optim.QuasiNewton, functools.partial(zo.optim.AnnealedAdam, steps=9)):
        with pytest.raises(zo.ArgumentError, match="`scheduler` must be None with"):
            choose(3, 99, None, rule, scheduler=HALVE)
