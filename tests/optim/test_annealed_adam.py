"""AnnealedAdam: the rate falls, the probes stay above the noise."""

import functools

import pytest
import torch

import zograd as zo
from zograd.optim._falling import ended, falling

RULE = zo.optim.AnnealedAdam


def sphere(points):
    return ((points - 0.3) ** 2).sum(1)


def descent(steps=50, noise=0.0, d=5, estimator=None, seed=0):
    return zo.Descent(
        zo.Parameters(torch.full((d,), 0.9).double(), bounds=(0, 1)),
        estimator=estimator or zo.RandomGradient(4, step=0.01),
        optimizer=functools.partial(RULE, steps=steps, noise=noise),
        seed=seed,
    )


def length(at):
    return float(at.ask().offsets.squared_norms(at.center).max() / 5) ** 0.5


def test_the_rate_falls_to_zero_over_the_steps():
    at = descent(steps=20)
    rates, moves = [], []
    for _ in range(20):
        moves.append(at.tell(sphere(at.ask().points())).diagnostics["step_length"])
        rates.append(at.optimizer.param_groups[0]["lr"])
    first = 0.4 / 20**0.5
    assert rates == pytest.approx([first * (1 - k / 20) for k in range(20)])
    assert moves[0] == pytest.approx(first * 5**0.5, rel=1e-3)  # Adam's first step is its rate in every coordinate


def test_beyond_the_steps_the_rate_begins_again_at_a_quarter():
    shares = [falling(done, 8) for done in range(32)]
    assert shares[:8] == [1 - k / 8 for k in range(8)]
    assert shares[8:16] == [0.25, 0.125] * 4  # four stretches to the next doubling
    assert shares[16:32] == pytest.approx([0.25 / 2**0.5 * left / 4 for left in (4, 3, 2, 1)] * 4)
    assert [done for done in range(40) if ended(done, 8)] == [8, 10, 12, 14, 16, 20, 24, 28, 32]
    assert [done for done in range(9) if ended(done, 1)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [falling(done, 3) > 0 for done in range(99)] == [True] * 99


def test_it_descends_with_no_rate_to_tune(solve):
    start = float(sphere(torch.full((1, 5), 0.9).double()))
    for factor in (1e-6, 1.0, 1e6):
        at = solve(lambda x, f=factor: f * sphere(x), descent(steps=200), 1600)
        assert at.best_value < 1e-3 * factor * start


@pytest.mark.filterwarnings("ignore:all 80 values are equal:zograd.ZogradWarning")
def test_probes_widen_on_a_plateau_up_to_a_limit():
    at = descent(estimator=zo.RandomGradient(4, step=0.01, directions="rademacher"))
    lengths = []
    for _ in range(15):
        lengths.append(length(at))
        at.tell(torch.ones(len(at.ask())).double())
    assert lengths[:5] == pytest.approx([0.01 * 1.5**k for k in range(5)])
    assert 0.3 <= lengths[-1] < 0.45
    assert lengths[-1] == lengths[-2]


def test_probes_widen_under_noise_and_shrink_back_when_it_is_clear():
    generator = torch.Generator().manual_seed(0)
    at = descent(noise=0.1, steps=400)

    def told(points, factor):
        return factor * sphere(points) + 0.1 * torch.randn(len(points), generator=generator, dtype=points.dtype)

    for _ in range(15):
        at.tell(told(at.ask().points(), 1.0))
    wide = length(at)
    assert wide > 0.05
    for _ in range(15):
        at.tell(told(at.ask().points(), 1e4))
    assert length(at) < wide / 2
    assert at.optimizer.param_groups[0]["widened"] >= 1.0


def test_clear_probes_keep_their_length_and_so_do_lost_ones():
    at = descent()
    for values in (sphere(at.ask().points()), torch.tensor([1.0, *[float("nan")] * 3, 2.0, 3.0, 4.0, 5.0]).double()):
        at.tell(values)
        assert at.optimizer.param_groups[0]["widened"] == 1.0


@pytest.mark.parametrize(
    "estimator", [zo.CoordinateGradient(step=0.01), zo.RandomGradient(3, step=0.01, central=False), zo.FrameGradient()]
)
def test_other_probes_are_left_as_they_are(estimator):
    at = descent(estimator=estimator)
    for _ in range(3):
        at.tell(torch.ones(len(at.ask())).double())
    assert at.optimizer.param_groups[0]["widened"] == 1.0
    assert at.optimizer.refine(estimator) is estimator


def test_noise_costs_it_little(solve):
    generator = torch.Generator().manual_seed(0)

    def noisy(points):
        return sphere(points) + 0.05 * torch.randn(len(points), generator=generator, dtype=points.dtype)

    at = solve(noisy, descent(steps=400, noise=0.05, d=50), 3200)
    start = float(sphere(torch.full((1, 50), 0.9).double()))
    assert float(sphere(at.center[None])) < 0.1 * start


def test_under_noise_the_answer_is_the_last_centre_and_its_mean_value(solve):
    """The wide probes that noise asks for find no low values themselves."""
    generator = torch.Generator().manual_seed(1)

    def noisy(points):
        return sphere(points) + 0.1 * torch.randn(len(points), generator=generator, dtype=points.dtype)

    at = solve(noisy, descent(steps=300, noise=0.1, d=50), 2400)
    assert at.answer == (at.best_point, at.best_value)
    luckiest = float(sphere(at.best_point[None]))
    assert torch.equal(at.ask().points(), at.center.repeat(8, 1))
    step = at.tell(torch.tensor([0.1, 0.3, torch.nan, 0.2, 0.2, 0.2, 0.2, torch.inf]).double())
    assert (step.value, step.lost) == (None, 2)
    point, value = at.answer
    assert torch.equal(point, at.center)
    assert value == pytest.approx(0.2)
    assert float(sphere(point[None])) < 0.75 * luckiest


def test_under_noise_the_lower_of_two_checked_centres_is_the_answer():
    at = descent(steps=8, noise=0.1)

    def checked(values):
        while not at.optimizer.trying:
            at.tell(sphere(at.ask().points()))
        center = at.center.detach().clone()
        at.tell(values)
        return center

    checked(torch.full((8,), torch.nan).double())
    assert at.answer == (at.best_point, at.best_value)  # all were lost: once more
    first = checked(torch.full((8,), 0.5).double())
    assert at.optimizer.param_groups[0]["done"] == 8
    second = checked(torch.full((8,), 0.4).double())
    assert at.optimizer.param_groups[0]["done"] == 10
    assert not torch.equal(first, second)
    assert torch.equal(at.answer[0], second)
    checked(torch.full((8,), 0.6).double())
    assert torch.equal(at.answer[0], second)
    assert at.answer[1] == pytest.approx(0.4)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_raised_budget_goes_on_and_leaves_what_was_done(tmp_path, noise):
    def program(points):  # noise that is the same for the same point, so that a run can be repeated
        return sphere(points) + noise * (1e6 * points.sum(1)).sin()

    def going(folder, evaluations):
        begin = zo.Run.resume if (tmp_path / folder).exists() else zo.Run.create
        return begin(tmp_path / folder, descent(20, noise), zo.batched(program), evaluations=evaluations)

    def told(step):
        return step.number, step.evaluations, step.value, step.best_value, step.best_point.tolist()

    with going("a", 168) as run:
        first = [told(step) for step in run]
    with going("a", 400) as run:
        next(run)
        next(run)
    with going("a", 400) as run:  # what was done with the raised budget is repeated from the file, too
        last = list(run)
        center = run.strategy.center.detach().clone()
    with going("b", 400) as run:
        whole = [told(step) for step in run]
        assert torch.equal(run.strategy.center, center)
    assert whole[: len(first)] == first
    assert whole[-len(last) :] == [told(step) for step in last]
    assert max(step.diagnostics["step_length"] for step in last) > 1e-4
    assert last[-1].best_value < first[-1][3]


def test_without_noise_there_is_nothing_to_check(solve):
    at = solve(sphere, descent(steps=5), 80)
    assert at.evaluations == 80
    assert at.answer == (at.best_point, at.best_value)


def test_its_first_step_is_adams():
    center = torch.nn.Parameter(torch.zeros(3))
    center.grad = torch.tensor([1.0, -2.0, 0.0])
    rule = RULE([center], steps=4)
    estimate, probes = zo.Estimate(center.grad), zo.Probes(center.detach(), zo.Dense(torch.eye(3)))
    rule.step(estimate=estimate, probes=probes, values=torch.zeros(3))
    assert center.tolist() == pytest.approx([-0.2, 0.2, 0.0])
    assert (rule.trying, rule.trials(), rule.answer) == (False, None, None)


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_a_state_goes_on_bit_for_bit(steps, same_after_reload):
    assert same_after_reload(lambda x: (20 * sphere(x)).round(), lambda seed: descent(seed=seed), steps)


@pytest.mark.parametrize(("given", "word"), [({"steps": 0}, "steps"), ({"steps": 3, "noise": -1.0}, "noise")])
def test_its_settings_are_checked(given, word):
    with pytest.raises(zo.ArgumentError, match=f"`{word}` must be"):
        RULE([torch.nn.Parameter(torch.zeros(2))], **given)
