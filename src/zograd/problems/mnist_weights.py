"""Find the weights of a network whose output is a given digit."""

import itertools
import math
from pathlib import Path

import torch
from torch import Tensor

import zograd as zo
from zograd.problems._arguments import whole
from zograd.problems._digits import SIDE, images, printed
from zograd.problems._drawing import enlarged
from zograd.problems._problem import Picture, Problem

WIDTHS = (256, 32, 32, SIDE**2)
FONT_DIGIT = 7


def mnist_weights(digits: Path | None = None, number: int = 7, seed: int = 0) -> Problem:
    r"""Find the weights of a network whose output is a given digit.

    A perceptron 256-32-32-784 (ReLU inside, a sigmoid at the end) sees one fixed random input z, and

    .. math:: f(\theta) = \frac{1}{784} \sum_{\text{pixels}} \left(\text{net}_\theta(z) - \text{digit}\right)^2

    over all 35,152 weights and biases. They start uniformly in one over the root of the fan-in. The network is treated
    as a program: nothing is differentiated.

    **Cost**: an evaluation reads its 35,152 numbers once; many are one batched product.

    Args:
        digits: MNIST's pictures: an idx file such as ``t10k-images-idx3-ubyte.gz``, or the folder that it is in, laid
            out by torchvision or not. Without it the digit is a 7 of matplotlib's font, as large as MNIST's are.
        number: Which picture of the file, counted from 0.
        seed: Of the input and of the start.

    Raises:
        ArgumentError: When there is no such file or picture, or its pictures have another size.
        MissingExtraError: When matplotlib is not installed.

    References:
        Fischer and Ritschel, ZeroGrads: Learning Local Surrogates for Non-Differentiable Graphics, ACM Trans. Graph.
        2024 (this task). LeCun, Cortes and Burges, The MNIST database of handwritten digits, 1998.
    """
    whole("number", number, 0, 1_000_000, "It says which picture of the file; try 7.")
    pixels = printed(FONT_DIGIT) if digits is None else _picture(digits, number)
    goal = torch.from_numpy(pixels.copy()).flatten() / 255
    generator = torch.Generator().manual_seed(seed)
    given = torch.rand(WIDTHS[0], generator=generator)
    start = torch.cat(
        [
            (2 * torch.rand(width * before + width, generator=generator) - 1) / math.sqrt(before)
            for before, width in itertools.pairwise(WIDTHS)
        ]
    )

    def residuals(points: Tensor) -> Tensor:
        return (shown(points, given) - goal.to(points)).reshape(-1, SIDE, SIDE)

    return Problem(
        name="mnist_weights",
        summary="find the weights of a network whose output is a given digit",
        fun=zo.batched(lambda points: (residuals(points) ** 2).mean((1, 2))),
        residuals=zo.batched(residuals),
        x0=start,
        loss="mean squared error of the pixels",
        evaluations=50_000,
        draw=lambda point, size: enlarged(shown(torch.as_tensor(point)[None], given).view(SIDE, SIDE).numpy(), size),
        target=lambda size: enlarged(goal.view(SIDE, SIDE).numpy(), size),
        details={
            "digit": f"a {FONT_DIGIT} of matplotlib's font" if digits is None else f"number {number} of {digits.name}",
            "network": "-".join(map(str, WIDTHS)),
            "parameters": str(len(start)),
        },
    )


def shown(points: Tensor, given: Tensor) -> Tensor:
    """The network's output for rows of weights, shape (n, 784): each layer's matrix first, then its biases."""
    values, used = given.to(points).expand(len(points), -1), 0
    for layer, (before, width) in enumerate(itertools.pairwise(WIDTHS), 1):
        matrices = points[:, used : used + width * before].reshape(-1, width, before)
        used += width * before
        values = (matrices @ values[:, :, None])[:, :, 0] + points[:, used : used + width]
        used += width
        values = values.relu() if layer < len(WIDTHS) - 1 else values.sigmoid()
    return values


def _picture(digits: Path, number: int) -> Picture:
    pictures = images(digits, number + 1)
    if number >= len(pictures) or pictures.shape[1:] != (SIDE, SIDE):
        raise zo.ArgumentError(
            f"`digits` must have a picture number {number} of {SIDE} x {SIDE} pixels, found {len(pictures)} "
            f"of {pictures.shape[2]} x {pictures.shape[1]} in {digits}. Pass another number, or MNIST's own file.",
            argument="digits",
            found=digits,
        )
    picture: Picture = pictures[number]
    return picture
