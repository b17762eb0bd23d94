"""zograd: gradients for programs that have none."""

from zograd._errors import (
    ArgumentError,
    EvaluationError,
    GradientError,
    MissingExtraError,
    RunError,
    ZogradError,
)
from zograd._parameters import Parameters
from zograd._probes import Coordinates, Dense, Probes, Seeded
from zograd.blackbox import BlackBox
from zograd.estimators import (
    CoordinateGradient,
    Estimate,
    ForwardGradient,
    GradientEstimator,
    RandomGradient,
    SmoothedGradient,
)

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "BlackBox",
    "CoordinateGradient",
    "Coordinates",
    "Dense",
    "Estimate",
    "EvaluationError",
    "ForwardGradient",
    "GradientError",
    "GradientEstimator",
    "MissingExtraError",
    "Parameters",
    "Probes",
    "RandomGradient",
    "RunError",
    "Seeded",
    "SmoothedGradient",
    "ZogradError",
]
