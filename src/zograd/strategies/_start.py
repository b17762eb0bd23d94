"""Six evaluations that tell what kind of program it is: noisy, smooth, or with jumps."""

import math
from typing import NamedTuple, final

import torch
from torch import Tensor

from zograd._errors import GradientError
from zograd._parameters import Parameters
from zograd._typing import Points, Vector, Weights
from zograd.strategies._slopes import Outcomes

WIDE, NARROW = 0.1, 1e-3
"""The two steps that tell a smooth program from one with jumps, in units of the parameters."""
STRAIGHTER = 0.5
"""A program is smooth if it bends so much less over the narrow step than over the wide one."""


@final
class Start(NamedTuple):
    """What was found at the start.

    Args:
        residuals: Their mean, shape (m,).
        value: Their mean square.
        noisy: Whether the same point has given different outputs.
        noise: The variance of one output.
        smooth: Whether the outputs are straight lines when seen from near.
    """

    residuals: Outcomes
    value: float
    noisy: bool
    noise: float
    smooth: bool


def first_offsets(parameters: Parameters, center: Vector, generator: torch.Generator) -> Points:
    """The start twice, and a pair of opposite points at each of two distances: offsets of shape (6, d)."""
    low, high = (side.cpu().to(center) for side in (parameters.lower, parameters.upper))
    space = torch.minimum(center - low, high - center).clamp(min=0)
    signs = torch.randint(2, center.shape, generator=generator).to(center) * 2 - 1
    moves = ~parameters.fixed.cpu()
    rows = [torch.zeros_like(center)] * 2
    for reach in (WIDE, NARROW):
        offset = signs * torch.minimum(torch.full_like(space, reach), space) * moves
        rows += [offset, -offset]
    return torch.stack(rows)


def started(outputs: Tensor, losses: Weights) -> Start:
    """What the outputs at `first_offsets`, shape (6, m), say.

    Raises:
        GradientError: When the start was lost twice.
    """
    known = losses[:2].isfinite()
    if not bool(known.any()):
        raise GradientError("the start must be evaluated, found that it was lost twice.")
    residuals = outputs[:2][known].mean(0)
    noisy = bool(known.all()) and not torch.equal(outputs[0], outputs[1])
    wide, narrow = (_bend(outputs[place], outputs[place + 1], residuals) for place in (2, 4))
    noise = float((outputs[0] - outputs[1]).square().mean()) / 2 if noisy else 0.0
    # Kinks are nearer the closer one looks, jumps are not: with kinks the bend falls slowly, but it falls.
    smooth = not noisy and narrow < STRAIGHTER * wide
    return Start(residuals, float(residuals.square().mean()), noisy, noise, smooth)


def _bend(ahead: Tensor, behind: Tensor, center: Tensor) -> float:
    """How far a pair of opposite points is from a straight line: 0 for a line, about 1 for noise and jumps."""
    slope = float((ahead - behind).norm())
    bend = float((ahead + behind - 2 * center).norm())
    return bend / slope if math.isfinite(bend) and slope > 0 else 1.0
