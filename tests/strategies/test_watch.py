"""What a descent notices: steps that outrun the probes, and landscapes that are flat as far as it looks."""

import functools
import warnings

import pytest
import torch

import zograd as zo

ADAM = functools.partial(torch.optim.Adam, lr=0.05)
SGD = functools.partial(torch.optim.SGD, lr=0.05)


def bowl(points):
    return ((points - 0.3) ** 2).sum(1)


def flat(points):
    return torch.full((len(points),), 7.0).to(points)


def told(descent, function, steps):
    """The diagnostics of so many steps, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        numbers = [descent.tell(function(descent.ask().points())).diagnostics for _ in range(steps)]
    return numbers, [str(warning.message) for warning in caught if warning.category is zo.ZogradWarning]


@pytest.mark.parametrize(
    ("estimator", "spread"),
    [
        (zo.RandomGradient(4, step=0.02, directions="sphere"), 0.02 * 3**0.5),
        (zo.RandomGradient(4, step=0.02, directions="rademacher", central=False), 0.02 * 3**0.5),
        (zo.CoordinateGradient(step=0.02), 0.02),
        (zo.CoordinateGradient(step=0.02, curvature=True), 0.02),
        (zo.CoordinateGradient(step=0.02, central=False), 0.02),
        (zo.FrameGradient(step=0.02), 0.02),
    ],
)
def test_step_over_spread_is_the_step_over_the_distance_of_the_probes(estimator, spread):
    descent = zo.Descent(torch.zeros(3).double(), estimator=estimator, optimizer=SGD)
    numbers, _ = told(descent, bowl, 3)
    for each in numbers:
        assert each["step_length"] > 0
        assert each["step_over_spread"] == pytest.approx(each["step_length"] / spread)


def test_of_probes_drawn_again_from_seeds_it_is_known_too():
    estimator = zo.RandomGradient(4200, step=0.02)
    descent = zo.Descent(torch.zeros(1024), estimator=estimator, optimizer=SGD)
    assert isinstance(descent.ask().offsets, zo.Seeded)
    center, values = descent.ask().center, torch.linspace(0, 1, 8400)
    step = descent.tell(values)
    assert step.diagnostics["step_over_spread"] == pytest.approx(float((descent.center - center).norm()) / 0.02 / 32)
    assert "half_cosine" not in step.diagnostics


def test_a_trial_step_is_measured_by_the_probes_before_it():
    descent = zo.Descent(torch.zeros(2).double(), estimator=zo.FrameGradient(), optimizer=zo.optim.QuasiNewton)
    first, second = told(descent, bowl, 2)[0]
    assert "step_over_spread" not in first  # the step is still to come
    assert second["step_over_spread"] == pytest.approx(second["step_length"] / 0.25)
    exact = zo.Descent(torch.zeros(2).double(), estimator=zo.ForwardGradient(2), optimizer=SGD)
    assert "step_over_spread" not in exact.tell(torch.ones(2).double()).diagnostics  # it looks at no distance


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (zo.SmoothedGradient(0.1, 32), "all 64 values are equal: increase the spread (0.1 now)"),
        (zo.RandomGradient(4, step=0.01), "all 8 values are equal: increase the step (0.01 now)"),
        (
            zo.CoordinateGradient(step=torch.full((2,), 0.03).double()),
            r"all 4 values are equal: increase the step (0.03",
        ),
    ],
)
def test_a_flat_landscape_is_said_at_once_and_once(estimator, words):
    descent = zo.Descent(torch.zeros(2).double(), estimator=estimator, optimizer=ADAM)
    _, said = told(descent, flat, 1)
    assert len(said) == 1
    assert said[0].startswith(words)
    assert told(descent, flat, 20)[1] == []


def test_what_was_said_is_not_said_again_by_a_restored_descent():
    def make():
        return zo.Descent(torch.zeros(2), estimator=zo.RandomGradient(4), optimizer=ADAM)

    one, two = make(), make()
    assert len(told(one, flat, 1)[1]) == 1
    two.load_state_dict(one.state_dict())
    assert told(two, flat, 20)[1] == []


def test_a_rule_that_looks_further_away_by_itself_has_time_to():
    rule = functools.partial(zo.optim.AnnealedAdam, steps=50)
    descent = zo.Descent(torch.zeros(2), estimator=zo.RandomGradient(4), optimizer=rule)
    assert told(descent, flat, 9)[1] == []
    (said,) = told(descent, flat, 1)[1]
    assert said.startswith("all 80 values are equal, now at a distance of 0.")
    finds = zo.Descent(torch.zeros(2), estimator=zo.RandomGradient(4), optimizer=rule)
    assert told(finds, flat, 9)[1] == told(finds, bowl, 1)[1] == told(finds, flat, 50)[1] == []


def test_a_plateau_found_later_is_said_after_ten_gradients():
    descent = zo.Descent(torch.zeros(2), estimator=zo.RandomGradient(4), optimizer=ADAM)
    assert told(descent, bowl, 3)[1] == []
    assert told(descent, flat, 9)[1] == told(descent, bowl, 1)[1] == told(descent, flat, 9)[1] == []
    assert len(told(descent, flat, 5)[1]) == 1


def test_equal_values_at_equal_distances_may_be_a_minimum():
    descent = zo.Descent(torch.zeros(2), estimator=zo.CoordinateGradient(0.1), optimizer=ADAM)
    told(descent, bowl, 1)
    assert told(descent, flat, 30)[1] == []


def test_a_slope_is_not_flat_and_a_surrogate_says_it_itself():
    descent = zo.Descent(torch.zeros(2), estimator=zo.RandomGradient(4), optimizer=ADAM)
    assert told(descent, bowl, 30)[1] == []
    surrogate = zo.Descent(torch.zeros(2), estimator=zo.PolynomialSurrogate(samples=4), optimizer=ADAM)
    assert len(told(surrogate, flat, 20)[1]) == 1


def test_in_a_contest_one_of_several_ways_is_not_warned_of():
    def steps(x):  # flat for those who look near, not for those who look far
        return float(sum(round(4 * float(v)) ** 2 for v in x))

    with warnings.catch_warnings():
        warnings.simplefilter("error", zo.ZogradWarning)
        zo.minimize(steps, torch.full((400,), 0.5), bounds=(-1, 1), evaluations=1100, seed=1)


def test_the_numbers_of_every_step_come_back_from_the_file(tmp_path):
    def make():
        return zo.Descent(torch.zeros(3).double(), estimator=zo.RandomGradient(4, step=0.02), optimizer=ADAM)

    with zo.Run.create(tmp_path, make(), zo.batched(bowl), evaluations=80) as run:
        steps = list(run)
    back = zo.read_run(tmp_path).history
    assert [step.diagnostics for step in back] == [step.diagnostics for step in steps]
    assert {"signal_to_noise", "half_cosine", "step_over_spread", "gradient_norm", "step_length"} <= (
        steps[0].diagnostics.keys()
    )
    table = (tmp_path / "steps.csv", zo.read_run(tmp_path).to_csv(tmp_path / "steps.csv", "steps"))[0]
    assert "half_cosine" in table.read_text().splitlines()[0]
