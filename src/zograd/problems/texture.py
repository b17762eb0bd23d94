"""Find every value of a picture from one number: how far it is from a photograph."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import zograd as zo
from zograd.problems._arguments import whole
from zograd.problems._drawing import enlarged
from zograd.problems._photograph import PORTRAIT, opened, portrait, resized
from zograd.problems._problem import Problem


def texture(image: Path | None = None, size: int = 256, seed: int = 0) -> Problem:
    r"""Find every value of a picture from its distance to a photograph.

    .. math:: f(x) = \frac1d \sum_{i=1}^d (x_i - \text{photograph}_i)^2

    with d = 3 w h: 196,608 by default. Nothing is simpler or smoother; what it asks is how a method does in so many
    dimensions, in evaluations, memory and time. With all parameters alike, no method of values alone can know more
    than about one direction an evaluation. The start is 0.5 plus normal numbers of standard deviation 0.05.

    Args:
        image: A picture file of your own; transparent parts count as white. The portrait that `picture` shows by
            default.
        size: The longer side, in pixels.
        seed: Of the start.

    Raises:
        ArgumentError: When the file is not there or is no picture.
        MissingExtraError: When matplotlib or Pillow is not installed.

    References:
        Fischer and Ritschel, ZeroGrads: Learning Local Surrogates for Non-Differentiable Graphics, ACM Trans. Graph.
        2024 (this task; the loss of the released program divides picture and photograph by their means first, which
        makes it blind to the sign of the whole picture).
    """
    whole("size", size, 4, 2048, "The parameters are three times its square; try 256.")
    photograph = portrait() if image is None else opened(image)
    pixels = resized(photograph, min(size, max(photograph.size)))
    goal = torch.from_numpy(pixels.astype(np.float32) / 255).flatten()
    noise = torch.randn(len(goal), generator=torch.Generator().manual_seed(seed))

    def residuals(points: Tensor) -> Tensor:
        return points - goal.to(points)

    def fun(points: Tensor) -> Tensor:
        # Row by row: a row that is subtracted and squared in the cache costs a third of a batch that is not.
        return torch.stack([torch.linalg.vecdot(rest, rest) for rest in map(residuals, points)]) / len(goal)

    return Problem(
        name="texture",
        summary="find every value of a picture from its distance to a photograph",
        fun=zo.batched(fun),
        residuals=zo.batched(lambda points: residuals(points).reshape(-1, *pixels.shape)),
        x0=(0.5 + 0.05 * noise).clamp(0.0, 1.0),
        loss="mean squared error of the pixels",
        bounds=(0.0, 1.0),
        evaluations=20_000,
        minimum=0.0,
        draw=lambda point, longer: enlarged(torch.as_tensor(point).view(pixels.shape).numpy(), longer),
        target=partial(enlarged, pixels / 255),
        details={
            "photograph": PORTRAIT if image is None else image.name,
            "parameters": str(len(goal)),
            "pixels": f"{pixels.shape[1]} x {pixels.shape[0]}",
        },
    )
