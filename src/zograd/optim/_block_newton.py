"""A Newton rule for many parameters: block by block of coordinates, with the curvature that probes give for free."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from zograd._checks import count, positive
from zograd._errors import ArgumentError
from zograd._probes import Coordinates, Probes
from zograd._typing import Values, Vector
from zograd.estimators import CoordinateGradient, Estimate, GradientEstimator
from zograd.optim._trial_rule import TrialRule

FALLBACK = 0.3
"""The second trial is this share of the Newton step, for blocks whose coordinates work against each other."""
MEMORY = 0.5
"""The weight of what was known of a curvature against what is measured now."""
LENGTH = 0.05
"""The distance of a probe from the centre where the estimator names none, in units of the parameters."""
LONGER, MUCH_LONGER, LONGEST = 2.0, 4.0, 0.5
"""Probes that show nothing are made longer by this factor, by that where most of a block do, up to this distance."""
LEAST = 1e-3
"""A curvature below this share of the typical one is taken for that: flat coordinates must not run away."""


@final
class BlockNewton(TrialRule):
    r"""Newton steps in random blocks of coordinates: no learning rate, for hundreds to many thousands of parameters.

    Every coordinate is in one block a sweep, in random order. For the coordinates of a block

    .. math:: s_i = -\frac{g_i}{\max(|c_i|, \bar c_i)}, \qquad |s_i| \le \text{furthest}

    with c the curvature that central differences give for free and its running mean. The whole step, a shorter one, and
    every coordinate at the lowest of its own probes (for stairs, where slopes say little) are tried, and the centre
    moves to the best of them if that is lower than the centre. Coordinates whose probes show nothing at all are probed
    twice as far away the next time; where most of a block show nothing, all that were probed no further, four times.

    Cost: ``2 k + 4`` evaluations a block of k coordinates, so about ``2 d`` a sweep, in each of which every parameter
    moves once. Memory O(d). Needs `CoordinateGradient`.

    Args:
        params: One flat tensor, in units in which 1 is a large step (as `Parameters` makes them).
        block: The number of coordinates that move together, k. More go astray where parameters interact.
        furthest: The longest step of one coordinate; it may still move as far as one of its probes.

    References:
        - Nesterov, Efficiency of coordinate descent methods on huge-scale optimization problems, SIAM J. Optim. 2012.
        - Wright, Coordinate descent algorithms, Math. Program. 2015.
    """

    def __init__(self, params: Iterable[Tensor], block: int = 64, furthest: float = 0.3) -> None:
        defaults = {
            "block": count("block", block, hint="It is the number of coordinates that move together; try 64."),
            "furthest": positive("furthest", furthest, "It is the longest step of one coordinate; try 0.3."),
        }
        super().__init__(params, defaults)
        fresh = {
            "order": torch.zeros(0, dtype=torch.int64),
            "curvature": torch.full_like(self.center, torch.nan),
            "value": None,
            "active": torch.zeros(0, dtype=torch.int64),
            "lengths": torch.full_like(self.center, torch.nan),
        }
        self._now.update(fresh)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        super().load_state_dict(state_dict)
        for name in ("order", "active"):  # torch gives all tensors of a state the dtype of the parameters
            self._now[name] = self._now[name].to(torch.int64)

    def refine(self, estimator: GradientEstimator) -> GradientEstimator:
        """The next block of coordinates, with curvature."""
        must = "be a central CoordinateGradient, whose probes tell curvature"
        if not isinstance(estimator, CoordinateGradient) or not estimator.central:
            raise ArgumentError(f"`estimator` must {must}, found {estimator!r}.", argument="estimator", found=estimator)
        s = self._now
        if len(s["order"]) == 0:
            s["order"] = torch.randperm(len(self.center), generator=self._generator)
        size = self.param_groups[0]["block"]
        s["active"], s["order"] = s["order"][:size], s["order"][size:]
        if bool(s["lengths"].isnan().all()):
            step = LENGTH if estimator.step is None else estimator.step
            s["lengths"] = (torch.zeros_like(self.center) + step).maximum(self._least)
        return replace(estimator, step=s["lengths"], active=s["active"], curvature=True)

    def take(self, estimate: Estimate, probes: Probes, values: Values) -> None:
        """Prepare the Newton step of the block, a shorter one, and the step to what the probes found."""
        if estimate.value is None or estimate.curvature is None:
            return  # the centre was lost: the next block tries again
        s, furthest = self._now, self.param_groups[0]["furthest"]
        now, before = estimate.curvature.abs(), s["curvature"]
        mixed = torch.where(before.isnan(), now, MEMORY * before + (1 - MEMORY) * now)
        s["curvature"] = torch.where(now.isnan(), before, mixed)
        least = LEAST * s["curvature"].nanmedian()
        steps = -estimate.gradient / now.maximum(s["curvature"]).clamp(min=float(least))
        steps = steps.nan_to_num(nan=0.0, posinf=furthest, neginf=-furthest).clamp(-furthest, furthest)
        self._widen((now[s["active"]] == 0) & (estimate.gradient[s["active"]] == 0))
        s["value"], s["trials"] = estimate.value, torch.stack([steps, FALLBACK * steps, lowest(probes, values)])

    def settle(self, values: Values) -> None:
        """Move to the best trial, if it is lower than the centre."""
        s = self._now
        told = values.nan_to_num(nan=torch.inf, posinf=torch.inf)
        row = int(told.argmin())
        if float(told[row]) < s["value"]:
            self._move(self.center.detach() + s["trials"][row])
        s["trials"] = None

    def _widen(self, flat: Tensor) -> None:
        """Make longer the probes that showed nothing; where most are such, by more, and so all that are as short."""
        s, active = self._now, self._now["active"]
        longer, more = torch.zeros_like(s["lengths"], dtype=torch.bool), LONGER
        longer[active[flat]] = True
        if 2 * int(longer.sum()) > len(active):
            longer, more = longer | (s["lengths"] <= s["lengths"][longer].median()), MUCH_LONGER
        widened = (more * s["lengths"]).minimum(self._least.clamp(min=LONGEST))
        s["lengths"] = torch.where(longer, widened, s["lengths"])


def lowest(probes: Probes, values: Values) -> Vector:
    """Each coordinate at the lower of its two probes, where that is lower than the centre: a step, shape (d,).

    Args:
        probes: Of `Coordinates`: the centre, then one side of each coordinate, then the other side of each.
        values: Shape (n,).
    """
    offsets, step = probes.offsets, torch.zeros_like(probes.center)
    if not isinstance(offsets, Coordinates) or len(offsets) < 3:
        return step
    gains = (values[0] - values[1:]).nan_to_num(nan=-torch.inf).view(2, -1)
    gain, side = gains.max(0)
    told = offsets.step[1:].view(2, -1).to(step).gather(0, side[None].to(step.device))[0]
    step[offsets.index[1 : 1 + len(gain)].to(step.device)] = torch.where(gain > 0, told, 0.0)
    return step
