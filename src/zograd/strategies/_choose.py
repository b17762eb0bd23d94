"""The chooser: an estimator and a step rule for whoever named none."""

from functools import partial

import torch

from zograd._checks import instance
from zograd._parameters import Parameters
from zograd.estimators import FrameGradient, GradientEstimator, RandomGradient
from zograd.optim import QuasiNewton
from zograd.strategies._descent import Descent, OptimizerFactory, SchedulerFactory
from zograd.strategies._strategy import Strategy

LARGEST_FRAME = 200
"""The most parameters for which a dense metric is kept: its arithmetic is O(d^3) a gradient."""
GRADIENTS = 10
"""The least number of full gradients that a quasi-Newton metric is worth."""
SAMPLES = 4
"""Directions a step where full gradients are too dear."""
SPREAD = 1e-2
"""How far random directions look, in units of the parameters."""
TRAVEL = 0.4
"""Adam's first rate is this over the root of the number of steps, in units of the parameters."""


def choose(
    parameters: Parameters,
    evaluations: int,
    *,
    estimator: GradientEstimator | None = None,
    optimizer: OptimizerFactory | None = None,
    scheduler: SchedulerFactory | None = None,
    seed: int = 0,
) -> tuple[Strategy, str]:
    """A strategy for ``parameters`` within a budget of ``evaluations``, and in words what was chosen and why."""
    if estimator is not None:
        instance("estimator", estimator, GradientEstimator, "a GradientEstimator", "Try zo.RandomGradient().")
    dimension = parameters.dimension
    small = dimension <= LARGEST_FRAME and evaluations >= GRADIENTS * (2 * dimension + 1)
    words = []
    if estimator is None:
        estimator = FrameGradient() if small and optimizer is None else RandomGradient(SAMPLES, step=SPREAD)
        words.append(f"{type(estimator).__name__}, {estimator.evaluations(dimension)} evaluations a gradient")
    if optimizer is None and isinstance(estimator, FrameGradient):
        optimizer = QuasiNewton
        words.append("QuasiNewton steps with restarts")
    elif optimizer is None:
        steps = max(1, evaluations // estimator.evaluations(dimension))
        rate = TRAVEL / steps**0.5
        optimizer = partial(torch.optim.Adam, lr=rate, betas=(0.9, 0.99))
        if scheduler is None:
            scheduler = partial(torch.optim.lr_scheduler.LinearLR, start_factor=1.0, end_factor=0.0, total_iters=steps)
        words.append(f"Adam with its rate falling from {rate:.3g} units to 0 in {steps} steps")
    descent = Descent(parameters, estimator=estimator, optimizer=optimizer, scheduler=scheduler, seed=seed)
    entries = "1 parameter" if dimension == 1 else f"{dimension} parameters"
    return descent, f"Chosen for {entries}: {', '.join(words)}." if words else ""
