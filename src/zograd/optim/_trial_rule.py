"""What the rules share that try a step before they take it."""

from abc import ABC
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zograd._arrays import array
from zograd._checks import require
from zograd._parameters import Parameters
from zograd._typing import Points, Vector
from zograd.optim._step_rule import StepRule, mid_step


class TrialRule(StepRule, ABC):
    """A step rule of one flat tensor: `take` prepares trial steps, and `settle` moves the centre, knowing their values.

    Trial steps and the noise lie in torch's state of the centre, where `Descent` finds them when it is saved.

    Args:
        params: One flat tensor, in units in which 1 is a large step (as `Parameters` makes them).
        defaults: The settings, under the names of torch's groups.

    Attributes:
        center: The tensor that is moved.
    """

    def __init__(self, params: Iterable[Tensor], defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        tensors = [p for group in self.param_groups for p in group["params"]]
        require(len(tensors) == 1 and tensors[0].ndim == 1, "params", "be one tensor of shape (d,)", tensors)
        self.center: Tensor = tensors[0]
        self._generator = torch.Generator().manual_seed(0)
        self._parameters: Parameters | None = None
        infinite = torch.full_like(self.center, torch.inf)
        self._bound(-infinite, infinite, torch.zeros_like(self.center))
        self._now.update(trials=None, noise=0.0)

    def begin(self, parameters: Parameters, generator: torch.Generator) -> None:
        """Learn the bounds, how far whole numbers lie apart (0 for a real), and where random numbers come from."""
        self._parameters, self._generator = parameters, generator
        self._bound(parameters.lower, parameters.upper, parameters.granularity)

    @property
    def trying(self) -> bool:
        """Whether trial steps are being evaluated."""
        return self._now["trials"] is not None

    def trials(self) -> Points | None:
        """The steps to try, or ``None`` where a gradient is due."""
        trials: Points | None = self._now["trials"]
        return trials

    @property
    def noise(self) -> float:
        """The standard deviation of one value, as repeated centres tell; 0 for a deterministic program."""
        return float(self._now["noise"])

    @property
    def answer(self) -> tuple[Vector, float] | None:
        """Under noise what the rule has settled on: the lowest single value is luck."""
        return self._settled() if self.noise > 0 else None

    def _settled(self) -> tuple[Vector, float] | None:
        """Under noise, the point to return and its expected value, once there is one."""
        return None

    @property
    def _now(self) -> dict[str, Any]:
        """All that changes."""
        state: dict[str, Any] = self.state[self.center]
        return state

    def _bound(self, lower: Vector, upper: Vector, least: Vector) -> None:
        """Keep the bounds, how far whole numbers lie apart (0 for a real), and which those are."""
        self._lower, self._upper, self._least = (each.to(self.center) for each in (lower, upper, least))
        self._apart = array(self._least).astype(np.float64)
        self._whole = self._apart > 0

    def _move(self, point: Vector) -> None:
        """Move the centre, to within the bounds and to the middle of whole numbers."""
        with torch.no_grad():
            self.center.copy_(self._snapped(point.clamp(self._lower, self._upper)))

    def _snapped(self, point: Vector) -> Vector:
        """``point`` with whole numbers in the middle of their step."""
        if self._parameters is None or not self._whole.any():
            return point
        return mid_step(self._parameters, self._least > 0, point)
