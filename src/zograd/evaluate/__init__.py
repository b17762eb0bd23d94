"""How black boxes are evaluated, and what becomes of what is lost."""

from zograd.evaluate._collect import Collector, evaluate, last_words
from zograd.evaluate._evaluator import Evaluator, Finished, Status
from zograd.evaluate._failures import FailurePolicy, Tally, failure_policy, value
from zograd.evaluate._inprocess import InProcess

__all__ = [
    "Collector",
    "Evaluator",
    "FailurePolicy",
    "Finished",
    "InProcess",
    "Status",
    "Tally",
    "evaluate",
    "failure_policy",
    "last_words",
    "value",
]
