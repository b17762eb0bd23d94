"""A rule of one's own: what Descent does for it, and what it need not do."""

import functools

import pytest
import torch

import zograd as zo


class Halving(zo.optim.StepRule):
    """Tries the full and the half step, and takes the better."""

    def __init__(self, params):
        super().__init__(params, {})
        self.pending, self.told = None, []

    @property
    def trying(self):
        return self.pending is not None

    def trials(self):
        return self.pending

    def settle(self, values):
        self.told.append(values)
        self.param_groups[0]["params"][0].add_(self.pending[int(values.argmin())])
        self.pending = None

    def take(self, estimate, probes, values):
        assert len(probes) == len(values)
        self.pending = -torch.stack([estimate.gradient, estimate.gradient / 2])


class Plain(zo.optim.StepRule):
    """No trial steps."""

    def settle(self, values):
        raise AssertionError("nothing was tried")

    def take(self, estimate, probes, values):
        self.param_groups[0]["params"][0].data -= 0.25 * estimate.gradient


def sphere(points):
    return (points**2).sum(1)


def test_trial_steps_are_asked_for_told_and_settled():
    at = zo.Descent(torch.ones(3).double(), estimator=zo.CoordinateGradient(), optimizer=Halving)
    assert len(at.ask()) == 6
    first = at.tell(sphere(at.ask().points()))
    assert first.value == pytest.approx(3.0)
    assert first.diagnostics["step_length"] == 0.0
    trial = at.ask()
    assert torch.allclose(trial.points(), torch.stack([-torch.ones(3), torch.zeros(3)]).double(), atol=1e-6)
    second = at.tell(sphere(trial.points()))
    assert (second.value, second.evaluations, second.number) == (None, 8, 2)
    assert second.diagnostics["step_length"] == pytest.approx(3**0.5)
    assert torch.allclose(at.optimizer.told[0], torch.tensor([3.0, 0.0]).double(), atol=1e-6)
    assert second.best_value < 1e-12


def test_a_rule_without_trials_uses_the_estimator_as_it_is():
    at = zo.Descent(
        torch.ones(2).double(), estimator=zo.CoordinateGradient(), optimizer=functools.partial(Plain, defaults={})
    )
    for _ in range(20):
        at.tell(sphere(at.ask().points()))
    assert at.best_value < 1e-9
    assert at.optimizer.refine(at.estimator) is at.estimator
    assert at.answer == (at.best_point, at.best_value)


def test_a_rule_must_say_how_it_steps_and_settles():
    class Unfinished(zo.optim.StepRule):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Unfinished([torch.nn.Parameter(torch.zeros(2))], {})


def test_a_gradient_alone_is_not_enough():
    rule = Plain([torch.nn.Parameter(torch.zeros(2))], {})
    with pytest.raises(zo.ArgumentError, match=r"found \.grad alone"):
        rule.step()
