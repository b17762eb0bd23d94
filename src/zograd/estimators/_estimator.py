"""What every gradient estimator is: where to look, and what to conclude."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, final

import torch

from zograd._checks import require
from zograd._probes import Probes
from zograd._typing import Values, Vector


@final
@dataclass(frozen=True, eq=False, slots=True)
class Estimate:
    """What an estimator concludes from the values at its probes.

    Args:
        gradient: Shape (d,), in values per unit of the parameters.
        squared_error: The expected squared error ``E ||g - E g||^2`` of the gradient, where the estimator can
            tell it from its own samples (else ``None``): sampling and noise, not the bias.
        value: The value at the centre, where it is known or can be told (else ``None``).
        curvature: The second derivative along each coordinate, or along each direction of the frame of
            `FrameGradient`, shape (d,), where the probes give it for free (else ``None``).
        diagnostics: Named numbers for the journal and the progress line, such as ``lost`` rows.
    """

    gradient: Vector
    squared_error: float | None = None
    value: float | None = None
    curvature: Vector | None = None
    diagnostics: dict[str, float] = field(default_factory=dict)

    @property
    def signal_to_noise(self) -> float | None:
        """``||g||^2`` without its noise, over the noise: ``max(||g||^2 - e, 0) / e`` with e the squared error."""
        if self.squared_error is None or self.squared_error <= 0.0:
            return None
        square = float(self.gradient.square().sum())
        return max(square - self.squared_error, 0.0) / self.squared_error


class GradientEstimator(ABC):
    """Proposes where to look and turns what was found into a gradient; knows nothing of execution.

    ``propose`` then ``gradient`` is one estimate; between them somebody else evaluates the probes. An estimator
    is pure: it holds no state between calls unless it learns, draws only from the generator that it is given,
    and leaves the centre as it is. Before it is merged, `zograd.testing.assert_conforms` must pass on it.
    """

    @abstractmethod
    def propose(self, center: Vector, generator: torch.Generator) -> Probes:
        """Where to look, around ``center`` of shape (d,), drawing from ``generator`` only."""

    @abstractmethod
    def gradient(self, probes: Probes, values: Values) -> Estimate:
        """What ``values``, shape (n,), at ``probes`` say of the gradient.

        A NaN row is a lost evaluation: it is left out and the scale is kept.
        """

    @abstractmethod
    def evaluations(self, dimension: int) -> int:
        """The rows that one `propose` sends out for ``dimension`` parameters: the price of one gradient."""

    def state_dict(self) -> dict[str, Any]:
        """What the estimator has learned, as tensors and plain numbers: empty unless it learns."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            ArgumentError: When there is something in it and this estimator learns nothing.
        """
        require(not state, "state", f"be empty, for {type(self).__name__} learns nothing", state)
