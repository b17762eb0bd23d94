"""Who competes where there are many parameters and no noise."""

from functools import partial

import torch

from zograd._parameters import Parameters
from zograd.estimators import CoordinateGradient, GradientEstimator, RandomGradient, SmoothedGradient
from zograd.optim import BlockNewton
from zograd.strategies._contest import Contestant
from zograd.strategies._descent import Descent, OptimizerFactory

SAMPLES, PAIRS, MORE = 8, 2, 4
"""Directions a step, and pairs of those mirrored near; more of them in a long run, which ends where chance is felt."""
FORWARD, NEAR, WIDE = 1e-3, 0.04, 0.2
"""How far one-sided, mirrored and wide mirrored directions look, in units of the parameters."""
RATE, NEAR_RATE, WIDE_RATE = 0.01, 0.005, 0.1
"""Adam's first learning rates for them; that of one-sided directions for mirrored ones where they are as many."""
LONGEST = 0.5
"""Adam moves all coordinates by about its rate, mostly by chance: for those who look near, no further in all."""
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

    most = LONGEST / parameters.dimension**0.5
    rate, near_rate = min(RATE, most), min(RATE if few else NEAR_RATE, most)
    adam, near, wide = (partial(torch.optim.Adam, lr=one) for one in (rate, near_rate, WIDE_RATE))
    newton = partial(BlockNewton, block=BLOCK)
    name = f"blocks of {min(BLOCK, parameters.dimension)} coordinates"
    blocks = entered(name, CoordinateGradient(step=LENGTH), newton)
    mirrored = entered("mirrored directions", SmoothedGradient(NEAR, MORE if few else PAIRS), near, near_rate)
    if few:
        return [blocks, mirrored]
    return [
        entered("one-sided directions", RandomGradient(SAMPLES, step=FORWARD, central=False), adam, rate),
        mirrored,
        entered("wide mirrored directions", SmoothedGradient(WIDE, SAMPLES), wide, WIDE_RATE),
        blocks,
    ]
