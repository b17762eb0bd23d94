"""How black boxes are evaluated, what becomes of what is lost, and the journal of what came back."""

from zograd.evaluate._choose import evaluator_for
from zograd.evaluate._collect import Collector, evaluate
from zograd.evaluate._evaluator import Evaluator, Finished, Status
from zograd.evaluate._failures import FailurePolicy, Tally, failure_policy, last_words, retry, value
from zograd.evaluate._file import NAME, connect_to_read, reported
from zograd.evaluate._inprocess import InProcess
from zograd.evaluate._journal import Journal
from zograd.evaluate._journaled import Journaled
from zograd.evaluate._pool import Pool
from zograd.evaluate._ranks import Ranks
from zograd.evaluate._ray import RayExecutor
from zograd.evaluate._records import Evaluation, evaluation, loaded, parsed, read, settings, unpacked

__all__ = [
    "NAME",
    "Collector",
    "Evaluation",
    "Evaluator",
    "FailurePolicy",
    "Finished",
    "InProcess",
    "Journal",
    "Journaled",
    "Pool",
    "Ranks",
    "RayExecutor",
    "Status",
    "Tally",
    "connect_to_read",
    "evaluate",
    "evaluation",
    "evaluator_for",
    "failure_policy",
    "last_words",
    "loaded",
    "parsed",
    "read",
    "reported",
    "retry",
    "settings",
    "unpacked",
    "value",
]
