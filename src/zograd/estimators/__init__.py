"""Where to look, and what to conclude: one file a method."""

from zograd.estimators._estimator import Estimate, GradientEstimator

__all__ = ["Estimate", "GradientEstimator"]
