"""Who competes where there are many parameters and no noise."""

from functools import partial

import torch

from zograd._parameters import Parameters
from zograd.estimators import CoordinateGradient, GradientEstimator, RandomGradient, SmoothedGradient
from zograd.optim import BlockNewton
from zograd.strategies._contest import Contestant
from zograd.strategies._descent import Descent, OptimizerFactory

SAMPLES, PAIRS = 8, 2
"""Directions a step, and pairs of those mirrored near."""
FORWARD, NEAR, WIDE = 1e-3, 0.04, 0.2
"""How far one-sided, mirrored and wide mirrored directions look, in units of the parameters."""
RATE, NEAR_RATE, WIDE_RATE = 0.01, 0.005, 0.1
"""Adam's first learning rates for them."""
BLOCK = 64
"""Coordinates that move together."""
LENGTH = 0.05
"""How far a block's probes look."""


def field(parameters: Parameters, seed: int) -> list[Contestant]:
    """Directions one-sided (fewest evaluations, for smooth programs), mirrored, and wide (for plateaus); and blocks."""

    def entered(name: str, estimator: GradientEstimator, rule: OptimizerFactory, rate: float = 0.0) -> Contestant:
        def made() -> Descent:
            descent = Descent(parameters, estimator=estimator, optimizer=rule, seed=seed)
            descent.watch.patience = None  # another contestant may look further away
            return descent

        return Contestant(name, made, rate)

    adam, near, wide = (partial(torch.optim.Adam, lr=rate) for rate in (RATE, NEAR_RATE, WIDE_RATE))
    newton = partial(BlockNewton, block=BLOCK)
    blocks = f"blocks of {min(BLOCK, parameters.dimension)} coordinates"
    return [
        entered("one-sided directions", RandomGradient(SAMPLES, step=FORWARD, central=False), adam, RATE),
        entered("mirrored directions", SmoothedGradient(NEAR, PAIRS), near, NEAR_RATE),
        entered("wide mirrored directions", SmoothedGradient(WIDE, SAMPLES), wide, WIDE_RATE),
        entered(blocks, CoordinateGradient(step=LENGTH), newton),
    ]
