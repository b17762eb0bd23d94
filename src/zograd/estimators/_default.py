"""The estimator of a gradient inside PyTorch when the user names none."""

from zograd.estimators._coordinate import CoordinateGradient
from zograd.estimators._estimator import GradientEstimator
from zograd.estimators._random import RandomGradient

FEW_PARAMETERS = 64
"""Up to here every coordinate is looked at: 128 evaluations at most."""


def default_estimator(dimension: int) -> GradientEstimator:
    """Every coordinate, both ways, up to `FEW_PARAMETERS`; above, pairs along half as many random directions.

    Cost: ``2 d`` evaluations for d up to 64, and 64 for more, whose gradient has about ``d / 32`` times its own
    squared length of variance.
    """
    return CoordinateGradient() if dimension <= FEW_PARAMETERS else RandomGradient(FEW_PARAMETERS // 2)
