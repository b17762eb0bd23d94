"""zograd: gradients for programs that have none."""

from zograd import nn, optim
from zograd._backward import backward
from zograd._differentiable import differentiable
from zograd._errors import (
    ArgumentError,
    EvaluationError,
    GradientError,
    MissingExtraError,
    RunError,
    ZogradError,
)
from zograd._minimize import minimize
from zograd._parameters import Parameters
from zograd._probes import Coordinates, Dense, Probes, Seeded
from zograd._record import Record, read_run
from zograd._result import Result
from zograd._run import Run
from zograd.blackbox import BlackBox, Program, batched, pointwise, torch_function
from zograd.estimators import (
    CoordinateGradient,
    Estimate,
    ForwardGradient,
    FrameGradient,
    GradientEstimator,
    RandomGradient,
    SmoothedGradient,
)
from zograd.evaluate import Pool, retry, value
from zograd.strategies import Descent, Step, Strategy

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "BlackBox",
    "CoordinateGradient",
    "Coordinates",
    "Dense",
    "Descent",
    "Estimate",
    "EvaluationError",
    "ForwardGradient",
    "FrameGradient",
    "GradientError",
    "GradientEstimator",
    "MissingExtraError",
    "Parameters",
    "Pool",
    "Probes",
    "Program",
    "RandomGradient",
    "Record",
    "Result",
    "Run",
    "RunError",
    "Seeded",
    "SmoothedGradient",
    "Step",
    "Strategy",
    "ZogradError",
    "backward",
    "batched",
    "differentiable",
    "minimize",
    "nn",
    "optim",
    "pointwise",
    "read_run",
    "retry",
    "torch_function",
    "value",
]
