"""Where to look, and what to conclude: one file a method."""

from zograd.estimators._coordinate import CoordinateGradient
from zograd.estimators._estimator import Estimate, GradientEstimator
from zograd.estimators._forward import ForwardGradient
from zograd.estimators._frame import FrameGradient
from zograd.estimators._neighbours import NearestNeighbourGradient
from zograd.estimators._neural import NeuralSurrogate
from zograd.estimators._polynomial import PolynomialSurrogate
from zograd.estimators._published import PublishedSurrogate
from zograd.estimators._random import RandomGradient
from zograd.estimators._smoothed import SmoothedGradient

__all__ = [
    "CoordinateGradient",
    "Estimate",
    "ForwardGradient",
    "FrameGradient",
    "GradientEstimator",
    "NearestNeighbourGradient",
    "NeuralSurrogate",
    "PolynomialSurrogate",
    "PublishedSurrogate",
    "RandomGradient",
    "SmoothedGradient",
]
