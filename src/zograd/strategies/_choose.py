"""The chooser: an estimator and a step rule for whoever named none."""

from functools import partial

import torch

from zograd._parameters import Parameters
from zograd.estimators import CoordinateGradient, GradientEstimator, RandomGradient
from zograd.strategies._descent import Descent, OptimizerFactory, SchedulerFactory
from zograd.strategies._strategy import Strategy

SAMPLES = 4
TRAVEL = 0.4


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
    dimension = parameters.dimension
    words = []
    if estimator is None:
        estimator = (
            CoordinateGradient(step=1e-3) if 40 * dimension <= evaluations else RandomGradient(SAMPLES, step=1e-2)
        )
        words.append(f"{type(estimator).__name__}")
    if optimizer is None:
        steps = max(1, evaluations // estimator.evaluations(dimension))
        optimizer = partial(torch.optim.Adam, lr=TRAVEL / steps**0.5, betas=(0.9, 0.99))
        if scheduler is None:
            scheduler = partial(torch.optim.lr_scheduler.LinearLR, start_factor=1.0, end_factor=0.0, total_iters=steps)
        words.append(f"Adam with its rate falling from {TRAVEL / steps**0.5:.3g} to 0 over {steps} steps")
    descent = Descent(parameters, estimator=estimator, optimizer=optimizer, scheduler=scheduler, seed=seed)
    return descent, f"Chosen for {dimension} parameters: {' and '.join(words)}." if words else ""
