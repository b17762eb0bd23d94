"""Teach a network to write digits with a pen that has no derivative."""

import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

import zograd as zo
from zograd.problems import _spline
from zograd.problems._arguments import whole
from zograd.problems._digits import SIDE, images, printed
from zograd.problems._drawing import enlarged
from zograd.problems._problem import Picture, Problem

CONTROLS = 12
"""Control points of a stroke; the pen takes two numbers for each, and one for its width."""
NUMBERS = 2 * CONTROLS + 1
SPOTS = 64
"""Places along the curve where the pen is put down."""
THIN, THICK = 0.7, 1.5
"""The pen's radius in pixels."""
CURVE = _spline.basis(torch.linspace(0, 1, SPOTS), CONTROLS)[0]
AT_ONCE = 256
"""Pictures drawn at once: as many as stay in the cache."""

POOLED, CODE, HIDDEN = 4, 4, 24
"""Sides of the squares whose means the encoder sees; numbers of a code; neurons of the decoder."""
LAYERS = (((SIDE // POOLED) ** 2, CODE), (CODE, HIDDEN), (HIDDEN, NUMBERS))
SPREAD = 0.1
"""How far the default method looks, in units of the weights."""
JITTER = 0.1
"""How far a code is moved before it is decoded: near codes are to be near digits."""
FAINT = 0.3
"""How much of the last layer's usual weights there is at the start, so that all begin near the ring."""
COLUMNS, GAP = 5, 10
"""Digits in a row of the picture, and pixels between those of the file and its own."""


def strokes(digits: Path | None = None, pictures: int = 10, seed: int = 0) -> Problem:
    r"""Teach a network to write digits with a pen that has no derivative.

    An auto-encoder sees a digit t as 7 x 7 means and gives it a code of four numbers in [-1, 1]. From the code, moved
    by fixed noise of 0.1, its decoder (24 neurons) tells the 12 control points of a spline and the width of a pen. A
    renderer draws them in pixels that are ink or paper. Over all n digits and 784 pixels,

    .. math:: f(\theta) = \frac{1}{784\,n} \sum_{t, \text{pixels}} \left(\text{draw}(\text{net}_\theta(t)) - t\right)^2

    for its 945 weights, each in units of one over the root of the fan-in; the first strokes are rings. All that is
    between the weights and f is treated as a program. The picture has the digits as the network writes them, and below
    them as many of its own, from codes drawn at random.

    **Cost**: one drawing for each digit; many evaluations are drawn together.

    Args:
        digits: MNIST's pictures: an idx file such as ``t10k-images-idx3-ubyte.gz``, or the folder that it is in, laid
            out by torchvision or not. Without it they are 0 to 9 of matplotlib's font, as large as MNIST's are.
        pictures: How many digits, the first of the file; of the font the ten are repeated, each with noise of its own.
        seed: Of the start, the noise, and the codes drawn at random.

    Raises:
        ArgumentError: When there is no such file, or it has too few pictures or others than of 28 x 28.
        MissingExtraError: When matplotlib is not installed.

    References:
        Fischer and Ritschel, ZeroGrads: Learning Local Surrogates for Non-Differentiable Graphics, ACM Trans. Graph.
        2024 (a generative model on a task without a derivative). LeCun, Cortes and Burges, The MNIST database of
        handwritten digits, 1998.
    """
    whole("pictures", pictures, 1, 1000, "It is how many digits are to be written; try 10.")
    goal = torch.stack([torch.from_numpy(picture.copy()) for picture in _pictures(digits, pictures)]).flatten(1) / 255
    seen = pooled(goal)
    generator = torch.Generator().manual_seed(seed)
    start = first(generator)
    noise = JITTER * torch.randn(pictures, CODE, generator=generator)
    own = 2 * torch.rand(pictures, CODE, generator=generator) - 1

    def residuals(points: Tensor) -> Tensor:
        points = points.float()
        return written(points, encoded(points, seen) + noise) - goal

    def draw(point: Tensor, size: int) -> Picture:
        points = torch.as_tensor(point).float()[None]
        return sheet([written(points, codes)[0] for codes in (encoded(points, seen), own)], size)

    return Problem(
        name="strokes",
        summary="teach a network to write digits with a pen that has no derivative",
        fun=zo.batched(lambda points: residuals(points).square().mean((1, 2))),
        residuals=zo.batched(residuals),
        x0=start,
        loss="mean squared error of the pixels",
        evaluations=80_000,
        draw=draw,
        target=lambda size: sheet([goal], size),
        settings={"estimator": zo.NeuralSurrogate(spread=SPREAD, samples=8)},
        details={
            "digits": f"{pictures} of matplotlib's font" if digits is None else f"{pictures} of {digits.name}",
            "network": "-".join(str(before) for before, _ in LAYERS) + f"-{NUMBERS}",
            "parameters": str(len(start)),
        },
    )


def drawn(numbers: Tensor) -> Tensor:
    """Strokes, shape (n, 25), as pictures, (n, 784) in float32: a pixel is 1 where a disc of the pen reaches, else 0.

    Args:
        numbers: In [0, 1]: the control points' x and y, in sides of the picture, then the width from thin to thick.
    """
    n = len(numbers)
    numbers = numbers.float()
    controls = numbers[:, :-1].reshape(n, CONTROLS, 2).clamp(0, 1)
    radius = THIN + (THICK - THIN) * numbers[:, -1:, None].clamp(0, 1)
    # A border of two pixels all around holds what lies outside, and is cut off in the end.
    pen = (CURVE @ controls) * SIDE + 2
    near = (pen - 2).ceil()[:, :, None] + torch.arange(4.0)[:, None]
    squared = (near + 0.5 - pen[:, :, None]).square()
    inked = squared[..., None, 0] + squared[..., None, :, 1] <= (radius**2)[..., None]
    width = SIDE + 4
    pixel = near[..., None, 0] + width * near[..., None, :, 1]
    # Pixel 0 is in the border: where the pen does not reach is written there.
    pixel = torch.where(inked, pixel.clamp(0, width**2 - 1), 0.0).long().flatten(1)
    paper = torch.zeros(n, width * width).scatter_(1, pixel, 1.0)
    return paper.reshape(n, width, width)[:, 2:-2, 2:-2].reshape(n, -1)


def ring() -> Tensor:
    """The first stroke before the sigmoid, shape (25,): every digit is near a ring; a straight line does not close."""
    turn = torch.linspace(-0.5, 1.5, CONTROLS) * torch.pi
    return torch.cat([torch.stack([turn.cos(), turn.sin()], 1).flatten(), torch.zeros(1)])


def first(generator: torch.Generator) -> Tensor:
    """The weights to start with, layer by layer its matrix and its biases: normal, and the strokes near rings."""
    parts = []
    for place, (before, width) in enumerate(LAYERS):
        last = place == len(LAYERS) - 1
        parts += [torch.randn(before * width, generator=generator) * (FAINT if last else 1.0)]
        parts += [ring() if last else torch.zeros(width)]
    return torch.cat(parts)


def pooled(pictures: Tensor) -> Tensor:
    """What the encoder sees of pictures of shape (n, 784): four times the mean of each square of 4 x 4, (n, 49)."""
    return POOLED * avg_pool2d(pictures.reshape(-1, 1, SIDE, SIDE), POOLED).flatten(1)


def encoded(points: Tensor, seen: Tensor) -> Tensor:
    """The codes that networks of weights (n, 945) give to m digits, shape (n, m, 4)."""
    return layer(points, 0, seen).tanh()


def written(points: Tensor, codes: Tensor) -> Tensor:
    """What they write from codes, of shape (m, 4) or (n, m, 4): pictures, shape (n, m, 784)."""
    numbers = layer(points, 2, layer(points, 1, codes).tanh()).sigmoid()
    drawings = [drawn(part) for part in torch.split(numbers.reshape(-1, NUMBERS), AT_ONCE)]
    return torch.cat(drawings).reshape(len(points), -1, SIDE**2)


def layer(points: Tensor, place: int, values: Tensor) -> Tensor:
    """One layer of every network, without its bend, of values of shape (m, before) or (n, m, before)."""
    used = sum((before + 1) * width for before, width in LAYERS[:place])
    before, width = LAYERS[place]
    matrices = points[:, used : used + before * width].reshape(-1, before, width) / math.sqrt(before)
    return values @ matrices + points[:, None, used + before * width : used + (before + 1) * width]


def sheet(rows: list[Tensor], size: int) -> Picture:
    """Pictures of digits as one, dark on light, five in a row; those of the next entry stand below, after a gap."""
    parts = []
    for digits in rows:
        missing = -len(digits) % COLUMNS if len(digits) > COLUMNS else 0
        squares = pad(pad(digits, (0, 0, 0, missing)).reshape(-1, SIDE, SIDE), (1, 1, 1, 1))
        parts += [torch.cat(list(row), 1) for row in torch.split(squares, COLUMNS)]
        parts += [torch.zeros(GAP, parts[-1].shape[1])]
    return enlarged(1 - torch.cat(parts[:-1]), size)


def _pictures(digits: Path | None, count: int) -> list[Picture]:
    if digits is None:
        font = [printed(digit) for digit in range(min(count, 10))]
        return [font[place % 10] for place in range(count)]
    found = images(digits, count)
    if len(found) < count or found.shape[1:] != (SIDE, SIDE):
        raise zo.ArgumentError(
            f"`digits` must have {count} pictures of {SIDE} x {SIDE} pixels, found {len(found)} of "
            f"{found.shape[2]} x {found.shape[1]} in {digits}. Ask for fewer, or pass MNIST's own file.",
            argument="digits",
            found=digits,
        )
    return list(found)
