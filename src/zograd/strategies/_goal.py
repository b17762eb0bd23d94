"""What the outputs of a program should be."""

from typing import Any, final

import torch
from torch import Tensor

from zograd._checks import require
from zograd._typing import Values
from zograd.blackbox._outputs import Outputs

HINT = "It is what the outputs should be: an array of their shape, or one number."


@final
class Goal:
    """The goal t, packed as the outputs are.

    Args:
        goal: In the shape of the outputs, or one number; ``None`` for zero.
    """

    def __init__(self, goal: Any) -> None:
        self.wanted = None if goal is None else Outputs.pack(goal, torch.zeros(0, dtype=torch.float64), None)[1]

    def residuals(self, values: Values, shape: tuple[int, ...] | None) -> Tensor:
        """What is missing, shape (n, m), in float64 on the CPU.

        Args:
            values: The outputs, shape (n, *out), or (n,) where all were lost before their shape was known.
            shape: That of one output, ``None`` before it is known.

        Raises:
            ArgumentError: When the goal has another shape.
        """
        outputs = values.detach().cpu().double().reshape(len(values), -1)
        known = shape is not None or values.ndim > 1
        if self.wanted is None or not known:
            return outputs
        fits = self.wanted.numel() in (1, outputs.shape[1])
        require(fits, "goal", f"have the shape of an output, {tuple(values.shape[1:])}", self.wanted, HINT)
        return outputs - self.wanted.reshape(1, -1)
