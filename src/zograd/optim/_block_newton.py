"""A Newton rule for many parameters: block by block of coordinates, with the curvature that probes give for free."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from zograd._checks import count, positive
from zograd._errors import ArgumentError
from zograd._probes import Probes
from zograd._typing import Values
from zograd.estimators import CoordinateGradient, Estimate, GradientEstimator
from zograd.optim._trial_rule import TrialRule

FALLBACK = 0.3
"""The second trial is this share of the Newton step, for blocks whose coordinates work against each other."""
MEMORY = 0.5
"""The weight of what was known of a curvature against what is measured now."""
LENGTH = 0.05
"""The distance of a probe from the centre where the estimator names none, in units of the parameters."""
LONGEST = 0.5
"""Probes that show nothing are made longer up to this."""
LEAST = 1e-3
"""A curvature below this share of the typical one is taken for that: flat coordinates must not run away."""


@final
class BlockNewton(TrialRule):
    r"""Newton steps in random blocks of coordinates: no learning rate, for hundreds to many thousands of parameters.

    Every coordinate is in one block a sweep, in random order. For the coordinates of a block

    .. math:: s_i = -\frac{g_i}{\max(|c_i|, \bar c_i)}, \qquad |s_i| \le \text{furthest}

    with c the curvature that central differences give for free and its running mean. The whole step and a shorter one
    are tried, and the centre moves to the better of them if that is lower than the centre. Coordinates whose probes
    show nothing at all are probed twice as far away the next time.

    Cost: ``2 k + 3`` evaluations a block of k coordinates, so about ``2 d`` a sweep, in each of which every parameter
    moves once. Memory O(d). Needs `CoordinateGradient`.

    Args:
        params: One flat tensor, in units in which 1 is a large step (as `Parameters` makes them).
        block: The number of coordinates that move together, k. More go astray where parameters interact.
        furthest: The longest step of one coordinate.

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
        """Prepare the Newton step of the block, and a shorter one."""
        if estimate.value is None or estimate.curvature is None:
            return  # the centre was lost: the next block tries again
        s, furthest = self._now, self.param_groups[0]["furthest"]
        now, before = estimate.curvature.abs(), s["curvature"]
        mixed = torch.where(before.isnan(), now, MEMORY * before + (1 - MEMORY) * now)
        s["curvature"] = torch.where(now.isnan(), before, mixed)
        least = LEAST * s["curvature"].nanmedian()
        steps = -estimate.gradient / now.maximum(s["curvature"]).clamp(min=float(least))
        steps = steps.nan_to_num(nan=0.0, posinf=furthest, neginf=-furthest).clamp(-furthest, furthest)
        flat = s["active"][(now[s["active"]] == 0) & (estimate.gradient[s["active"]] == 0)]
        s["lengths"][flat] = (2 * s["lengths"][flat]).minimum(self._least[flat].clamp(min=LONGEST))
        s["value"], s["trials"] = estimate.value, torch.stack([steps, FALLBACK * steps])

    def settle(self, values: Values) -> None:
        """Move to the better trial, if it is lower than the centre."""
        s = self._now
        told = values.nan_to_num(nan=torch.inf, posinf=torch.inf)
        row = int(told.argmin())
        if float(told[row]) < s["value"]:
            self._move(self.center.detach() + s["trials"][row])
        s["trials"] = None
