"""Which steps are tried at once: several dampings, of the outputs as they are, blurred, or equalised."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from zograd.strategies._footprints import Grid
from zograd.strategies._krylov import damped_steps
from zograd.strategies._slopes import Amounts, Outcomes, Slopes

TRIALS = 16
"""Steps tried at once, at most."""
SHARE = 8
"""One trial for so many evaluations of a measurement."""
GROUP = 4
"""Steps of one kind in a wave."""
FACTORS = (10.0, 1.0, 0.1, 0.01)
"""Dampings tried at once, times the one that was best."""
JUMPING = 2 * GROUP
"""Steps tried at once where the program jumps, at least: a lone step is then a draw and tells little of its damping."""
OTHERS = (100.0, 3.0, 0.3, 0.001)
"""More of them, where the outputs are no picture."""
BLURS = (1.0, 2.0, 4.0)
"""Widths in pixels under which steps are tried."""
FLAT = 1e-6
"""Slopes below this share of the longest are rounding."""
FAR = 30.0
"""No output asks for more than so many times the move that the median output asks for."""


def wave(cost: int, jumps: bool) -> int:
    """How many steps are tried at once, where a measurement costs so many evaluations."""
    wanted = max(cost // SHARE, JUMPING if jumps else 1)
    return 1 if wanted < GROUP else min(TRIALS, wanted - wanted % GROUP)


def model_steps(
    slopes: Slopes,
    residuals: Outcomes,
    scale: Amounts,
    damping: float,
    groups: int,
    *,
    grid: Grid | None,
    blur: int,
    smooth: bool,
) -> Float[Tensor, "steps k"]:
    """Steps of the model to try, `GROUP` a group: first those of the outputs as they are.

    Args:
        slopes: J, of k directions and m outputs.
        residuals: r, shape (m,).
        scale: D of `damped_steps`, shape (k,).
        damping: The one that was best.
        groups: How many kinds of steps, 1 at least.
        grid: The picture that the outputs are, or ``None``.
        blur: Which width comes next.
        smooth: Whether the outputs have slopes that hold for a while; the last group is then of equalised outputs.
    """
    dampings = [damping * factor for factor in FACTORS]
    steps = [damped_steps(slopes, residuals, dampings, scale)]
    if groups > 1 and grid is None:
        more = [damping * factor for factor in OTHERS][:: 1 + (groups < 3)]
        steps.append(damped_steps(slopes, residuals, more, scale))
    elif grid is not None:
        for each in range(groups - 1):
            if smooth and each == groups - 2:
                weight, wanted = equalised(slopes, residuals)
                steps.append(damped_steps(slopes, wanted, dampings, scale, weight.mul))
            else:
                width = BLURS[(blur + each) % len(BLURS)]
                steps.append(damped_steps(slopes, residuals, dampings, scale, partial(grid.blurred, width=width)))
    return torch.cat(steps)


def lone_step(
    slopes: Slopes, residuals: Outcomes, scale: Amounts, damping: float, widest: Tensor
) -> tuple[Float[Tensor, "1 k"], Amounts]:
    """The step for one damping, in units of the longest slopes that each direction ever had; and these lengths."""
    lengths = slopes.squares().sqrt()
    widest = lengths if len(widest) != len(lengths) else widest.maximum(lengths)
    floor = 1e-8 * float(widest.max()) or 1.0
    return damped_steps(slopes, residuals, [damping], scale / widest.clamp(min=floor)), widest


def equalised(slopes: Slopes, residuals: Outcomes) -> tuple[Outcomes, Outcomes]:
    r"""Weights under which every output moves alike, and residuals that ask for no move that is too far.

    .. math:: w_j = 1 / \| J_j \|, \qquad |r'_j| = \min\left(|r_j|, 30 \, \| J_j \| \, \mathrm{median}_i
              \frac{|r_i|}{\| J_i \|} \right)

    An output near its end, such as a sigmoid at 0 or 1, hardly moves. A step that minds squares alone takes it for
    settled and may throw it to its other end, from where no slope leads back. Under these weights it counts as much as
    the others, which holds it where it is right, and brings it back where it is wrong but not yet flat.

    Returns:
        The weights, 0 for outputs that do not move, and the residuals, both of shape (m,).
    """
    length = slopes.lengths()
    moving = length > FLAT * length.max()
    weight = torch.where(moving, 1 / torch.where(moving, length, 1.0), 0.0)
    if not bool(moving.any()):
        return weight, torch.zeros_like(residuals)
    most = FAR * (residuals.abs() * weight)[moving].median() * length
    return weight, residuals.clamp(-most, most)
