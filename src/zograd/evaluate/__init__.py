"""How black boxes are evaluated."""

from zograd.evaluate._evaluator import Evaluator, Finished, Status

__all__ = ["Evaluator", "Finished", "Status"]
