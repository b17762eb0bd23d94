"""Who competes where there are many parameters and no noise."""

from functools import partial

import torch

from zograd._parameters import Parameters
from zograd.estimators import CoordinateGradient, GradientEstimator, RandomGradient, SmoothedGradient
from zograd.optim import BlockNewton
from zograd.strategies._contest import Contestant
from zograd.strategies._descent import Descent, OptimizerFactory

SAMPLES, PAIRS = 8, 4
"""Directions a step, and pairs of those mirrored near."""
FORWARD, NEAR, WIDE = 1e-3, 0.04, 0.2
"""How far one-sided, mirrored and wide mirrored directions look, in units of the parameters."""
RATE, WIDE_RATE = 0.01, 0.1
"""Adam's first learning rates for those who look near, and wide."""
FULL = 2500
"""Parameters up to which they are that. Beyond, 1 / sqrt(d): a step, most of which is chance, stays as long."""
BLOCK = 64
"""Coordinates that move together."""
LENGTH = 0.05
"""How far a block's probes look."""


def field(parameters: Parameters, seed: int, few: bool = False) -> list[Contestant]:
    """Directions one-sided (fewest evaluations, for smooth programs), mirrored, and wide (for plateaus); and blocks.

    Where few, blocks and mirrored directions: those who gain where the others have done what they can.
    """

    def entered(name: str, estimator: GradientEstimator, rule: OptimizerFactory, rate: float = 0.0) -> Contestant:
        def made() -> Descent:
            descent = Descent(parameters, estimator=estimator, optimizer=rule, seed=seed)
            if rate or not few:  # another contestant may look further away
                descent.watch.patience = None
            return descent

        return Contestant(name, made, rate)

    shorter = min(1.0, (FULL / parameters.dimension) ** 0.5)
    rate, wide_rate = shorter * RATE, shorter * WIDE_RATE
    adam, wide = (partial(torch.optim.Adam, lr=one) for one in (rate, wide_rate))
    newton = partial(BlockNewton, block=BLOCK)
    name = f"blocks of {min(BLOCK, parameters.dimension)} coordinates"
    blocks = entered(name, CoordinateGradient(step=LENGTH), newton)
    mirrored = entered("mirrored directions", SmoothedGradient(NEAR, PAIRS), adam, rate)
    if few:
        return [blocks, mirrored]
    return [
        entered("one-sided directions", RandomGradient(SAMPLES, step=FORWARD, central=False), adam, rate),
        mirrored,
        entered("wide mirrored directions", SmoothedGradient(WIDE, SAMPLES), wide, wide_rate),
        blocks,
    ]
