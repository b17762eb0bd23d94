"""Step rules that know the noise."""

from zograd.optim._step_rule import StepRule

__all__ = ["StepRule"]
