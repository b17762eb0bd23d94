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
    ZogradWarning,
)
from zograd._minimize import minimize
from zograd._minimize_least_squares import minimize_least_squares
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
    NearestNeighbourGradient,
    NeuralSurrogate,
    PolynomialSurrogate,
    PublishedSurrogate,
    RandomGradient,
    SmoothedGradient,
)
from zograd.evaluate import Pool, retry, value
from zograd.strategies import Descent, GaussNewton, Step, Strategy

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
    "GaussNewton",
    "GradientError",
    "GradientEstimator",
    "MissingExtraError",
    "NearestNeighbourGradient",
    "NeuralSurrogate",
    "Parameters",
    "PolynomialSurrogate",
    "Pool",
    "Probes",
    "Program",
    "PublishedSurrogate",
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
    "ZogradWarning",
    "backward",
    "batched",
    "differentiable",
    "minimize",
    "minimize_least_squares",
    "nn",
    "optim",
    "pointwise",
    "read_run",
    "retry",
    "torch_function",
    "value",
]
