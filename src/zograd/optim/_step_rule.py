"""What every step rule is: a torch optimiser that may also see the estimate and ask for trial steps."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from zograd._errors import ArgumentError
from zograd._parameters import Parameters
from zograd._probes import Probes
from zograd._typing import Points, Values, Vector
from zograd.estimators import Estimate, GradientEstimator


class StepRule(torch.optim.Optimizer, ABC):
    """A ``torch.optim.Optimizer`` of one flat tensor whose step knows how good its gradient is.

    It moves the centre in ``step``, or proposes trial steps, which `Descent` has evaluated and then settles.
    """

    @property
    def trying(self) -> bool:
        """Whether the next values are those of trial steps."""
        return False

    @property
    def answer(self) -> tuple[Vector, float] | None:
        """A point and its expected value to return in place of the best value seen, where noise makes that luck."""
        return None

    def begin(self, parameters: Parameters, generator: torch.Generator) -> None:
        """Called once by `Descent`: what the entries mean, and where random numbers come from."""

    def refine(self, estimator: GradientEstimator) -> GradientEstimator:
        """The estimator to use for the next gradient, such as ``estimator`` with another step."""
        return estimator

    def trials(self) -> Points | None:
        """Offsets from the centre, shape (k, d), of steps to try next; ``None`` where a gradient is due."""
        return None

    @abstractmethod
    def settle(self, values: Values) -> None:
        """Move the centre, knowing the values at the trial steps, shape (k,), NaN where lost."""

    def step(  # type: ignore[override]
        self,
        closure: Callable[[], float] | None = None,
        *,
        estimate: Estimate | None = None,
        probes: Probes | None = None,
        values: Values | None = None,
    ) -> None:
        """Torch's name for `take`.

        Raises:
            ArgumentError: When there is no estimate: a rule needs more than ``.grad``.
        """
        if estimate is None or probes is None or values is None:
            raise ArgumentError(
                "`step` must be given the estimate, its probes and their values, found .grad alone. Use the rule in "
                "zo.minimize or zo.Descent; torch.optim.Adam steps from .grad.",
                argument="estimate",
            )
        self.take(estimate, probes, values)

    @abstractmethod
    def take(self, estimate: Estimate, probes: Probes, values: Values) -> None:
        """Take a gradient, with the probes and values that it came from: move the centre, or prepare trial steps."""


def mid_step(parameters: Parameters, whole: Tensor, point: Vector) -> Vector:
    """``point`` with whole numbers in the middle of their step: the same to the program, and both neighbours in sight.

    Args:
        parameters: What the entries mean.
        whole: Which entries are whole numbers or choices, shape (d,).
        point: Shape (d,).
    """
    if not bool(whole.any()):
        return point
    return parameters.encode(parameters.decode(point)).to(point).where(whole, point)
