"""The seed of the evaluation that is running: set by an evaluator, read by whatever draws random numbers."""

from contextvars import ContextVar

evaluation_seed: ContextVar[int] = ContextVar("evaluation_seed", default=0)
"""0 where nobody has set it, so that noise is common to all evaluations."""
