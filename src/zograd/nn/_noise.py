"""How noisy a function is along a line, from a table of differences, and the step of a central difference for that."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

POINTS = 7
"""Of one table: six orders of differences."""
SPACINGS = 7.3
"""From one table's spacing to the next; no multiple of a power of two, at which a quantiser would not be seen."""
AGREEING = 4.0
"""Three orders whose estimates are within this factor are an estimate (Moré and Wild)."""
LADDER = 4.0
"""From one step to the next in the search for the shortest at which the third derivative is seen."""

SEEN = 3.0
"""The third derivative is seen where its difference is so many times what noise makes of it."""
LARGER = 2.0
"""Noise at the step that is so many times the noise known counts instead."""

Along = Callable[[Tensor], Tensor]
"""Distances along some lines, shape (points,), to values of shape (lines, points)."""


def noise_level(values: Tensor) -> float | None:
    r"""The standard deviation of the noise in values at equally spaced points (ECNoise).

    The k-th differences of a smooth function shrink with k, and those of noise grow in a known way, so that

    .. math:: \sigma_k^2 = \frac{(k!)^2}{(2k)!}\ \overline{(\Delta^k f)^2}

    is the noise's variance from some k on: where three orders in a row agree, and the differences change their sign.

    Args:
        values: Shape (points,).

    Returns:
        The estimate; None where half of the neighbours are equal (too close), or no three orders agree (too far).

    References:
        Moré and Wild, Estimating computational noise, SIAM J. Sci. Comput. 2011, section 4.
    """
    told = values.double()
    if not bool(told.isfinite().all()) or int((told.diff() == 0).sum()) >= len(told) // 2:
        return None
    levels, signs = [], []
    for order in range(1, len(told)):
        differences = told.diff(n=order)
        factor = math.factorial(order) ** 2 / math.factorial(2 * order)
        levels.append(math.sqrt(factor * float(differences.square().mean())))
        signs.append(bool((differences[1:].sign() != differences[:-1].sign()).any()))
    for order in range(len(levels) - 3):
        near = levels[order : order + 3]
        if signs[order] and max(near) <= AGREEING * min(near):
            return levels[order]
    return None


def noise_along(along: Along, spacing: float, widest: float) -> tuple[float, float, int]:
    """The noise of some lines together: wider tables until one of them tells.

    Returns:
        The root of the mean square over the lines that tell, 0 where none does up to the widest table; the spacing;
        how many points were looked at.
    """
    offsets = torch.arange(POINTS, dtype=torch.float64) - POINTS // 2
    looked = 0
    while True:
        found = [noise_level(values) for values in along(spacing * offsets)]
        looked += POINTS
        told = [level for level in found if level is not None]
        wider = spacing * SPACINGS
        # More than one line must tell: a single one may have met one lonely level of a quantiser.
        if 2 * len(told) >= len(found) or wider * (POINTS // 2) > widest:
            break
        spacing = wider
    return math.sqrt(sum(level**2 for level in told) / len(told)) if told else 0.0, spacing, looked


def step_along(along: Along, shortest: float, widest: float) -> tuple[float, float, float, int]:
    r"""The step at which a central difference's noise and bias are about equal, for some lines together.

    .. math:: h = \Big(\frac{3\,\varepsilon}{|f'''|}\Big)^{1/3}

    makes the least of :math:`\varepsilon / h + |f'''| h^2 / 6`. Noise may be of several sizes, as of a sensor behind a
    quantiser: it is measured again at the step that was found, until no more is seen there.

    Args:
        along: The values along the lines.
        shortest: The spacing to begin with.
        widest: The largest distance that is gone.

    Returns:
        The step, the noise, the third derivative, and the number of points looked at on each line.
    """
    noise, spacing, looked = noise_along(along, shortest, widest)
    while True:
        step, third, more = _balanced(along, noise, spacing, widest)
        looked += more
        if 2 * spacing >= step:
            return step, noise, third, looked
        there, _, more = noise_along(along, step / 2, step / 2)
        looked += more
        if there <= LARGER * noise:
            return step, noise, third, looked
        noise, spacing = there, step / 2


def _balanced(along: Along, noise: float, shortest: float, widest: float) -> tuple[float, float, int]:
    r"""The step for noise of a known size, the third derivative, and the points looked at.

    The derivative is told by :math:`D = \frac{1}{2} (f(4 h) - f(-4 h)) - 2 (f(h) - f(-h)) \approx 10 f''' h^3` at the
    shortest h of a ladder at which D is larger than noise makes it; where it is not even at the widest, it is no larger
    than what D is there.
    """
    rungs = max(1, math.ceil(math.log(widest / LADDER / shortest, LADDER)) + 1)
    steps = [widest / LADDER ** (rungs - at) for at in range(rungs)]
    of_noise = noise * math.sqrt((2 + 2 * LADDER**2) / LADDER)
    thirds: dict[int, float] = {}

    def is_seen(at: int) -> bool:
        h = steps[at]
        values = along(torch.tensor([-LADDER * h, -h, h, LADDER * h], dtype=torch.float64)).double()
        values = values[values.isfinite().all(1)]
        d = (values[:, 3] - values[:, 0]) / 2 - LADDER / 2 * (values[:, 2] - values[:, 1])
        size = math.sqrt(float(d.square().mean())) if len(d) else math.inf  # lost: too far
        thirds[at] = math.sqrt(max(0.0, size**2 - of_noise**2)) / ((LADDER**3 - LADDER) / 6 * h**3)
        return size > SEEN * of_noise

    low, high = 0, rungs  # the first rung at which it is seen
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_seen(middle) else (middle + 1, high)
    at = min(low, rungs - 1)
    third, h = thirds[at], steps[at]
    best = widest if low == rungs else h
    if noise > 0 and 0 < third < math.inf:
        best = (3 * noise / third) ** (1 / 3)
    return min(max(best, h / LADDER), LADDER * h), third, 4 * len(thirds)
