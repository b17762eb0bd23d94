"""Switch the segments of LED displays so that they show given digits."""

import torch
from torch import Tensor

import zograd as zo
from zograd.problems._arguments import whole
from zograd.problems._drawing import enlarged
from zograd.problems._problem import Picture, Problem

PI = "314159265358979323846264338327950288419716939937"
DIGITS = 4
HEIGHT, WIDTH = 18, 12
BOX_PIXELS = HEIGHT * WIDTH
THICK, GLOW = 0.8, 1.6
COLOR = torch.tensor([1.0, 0.35, 0.2])

# The ends of the seven segments (row, column), clockwise from the top, the middle last; and which of them a digit has.
SEGMENTS = torch.tensor(
    [
        [[2.5, 3.0], [2.5, 8.0]],
        [[3.5, 9.0], [7.5, 9.0]],
        [[9.5, 9.0], [13.5, 9.0]],
        [[14.5, 3.0], [14.5, 8.0]],
        [[9.5, 2.0], [13.5, 2.0]],
        [[3.5, 2.0], [7.5, 2.0]],
        [[8.5, 3.0], [8.5, 8.0]],
    ]
)
SHAPES = ("012345", "12", "01346", "01236", "1256", "02356", "023456", "012", "0123456", "012356")


def led(displays: int = 12, seed: int = 0) -> Problem:
    r"""Switch the segments of LED displays until they show pi.

    Each display has four digits, of seven segments each; each segment has one parameter in [0, 1] and is lit where that
    **rounds** to 1. A lit segment shines on the pixels around it, within the housing of its digit; light adds up and
    a pixel saturates at 1. So

    .. math:: f(x) = \frac{1}{w h} \sum_{\text{pixels}} \left(\min(1, G \, \text{round}(x)) - \text{goal}\right)^2

    with G the glow of the segments. The derivative is zero wherever there is one, the least value is 0, and each of the
    28 parameters of a display matters. They start uniformly random.

    **Cost**: many evaluations are one small matrix product.

    Args:
        displays: How many displays of four digits, up to 12: the parameters are 28 times as many, 336 by default.
        seed: Of the start.

    Raises:
        ArgumentError: When there are too few or too many displays.

    References:
        Fischer and Ritschel, ZeroGrads: Learning Local Surrogates for Non-Differentiable Graphics, ACM Trans. Graph.
        2024 (this task, rendered by Blender; the indices of the released program reach 39 of its 336 parameters, here
        they reach all).
    """
    whole("displays", displays, 1, len(PI) // DIGITS, "A display has four digits, 28 parameters; try 12.")
    digits = displays * DIGITS
    lit = torch.zeros(digits, 7)
    for place, digit in enumerate(PI[:digits]):
        lit[place, [int(segment) for segment in SHAPES[int(digit)]]] = 1.0
    shine = glow()
    goal = shown(lit.flatten()[None], shine)

    def residuals(points: Tensor) -> Tensor:
        return shown(points, shine) - goal

    def picture(light: Tensor, size: int) -> Picture:
        # Two displays a row, which is 8 digits; an odd one stands alone.
        across = 2 * DIGITS if displays > 1 else DIGITS
        missing = -digits % across
        boxes = torch.cat([light.view(digits, HEIGHT, WIDTH), torch.zeros(missing, HEIGHT, WIDTH)])
        rows = boxes.view(-1, across, HEIGHT, WIDTH).transpose(1, 2).reshape(-1, across * WIDTH)
        return enlarged(0.06 + 0.94 * rows[..., None] * COLOR, size)

    return Problem(
        name="led",
        summary="switch the segments of LED displays until they show pi",
        fun=zo.batched(lambda points: (residuals(points) ** 2).mean(1)),
        residuals=zo.batched(residuals),
        x0=torch.rand(7 * digits, generator=torch.Generator().manual_seed(seed)),
        loss="mean squared error of the pixels",
        bounds=(0.0, 1.0),
        evaluations=5000,
        minimum=0.0,
        draw=lambda point, size: picture(shown(torch.as_tensor(point)[None], shine)[0], size),
        target=lambda size: picture(goal[0], size),
        details={"displays": str(displays), "parameters": str(7 * digits), "pixels": str(digits * BOX_PIXELS)},
    )


def shown(points: Tensor, shine: Tensor) -> Tensor:
    """The light of all digits, shape (n, digits * pixels of one): what is lit shines, and a pixel saturates."""
    on = points.clamp(0.0, 1.0).round().reshape(len(points), -1, 7)
    light: Tensor = on @ shine.to(points)
    return light.clamp_(max=1.0).flatten(1)


def glow() -> Tensor:
    """How brightly each segment shines on each pixel of its digit, shape (7, pixels): 1 on itself, less around it."""
    pixels = torch.cartesian_prod(torch.arange(float(HEIGHT)), torch.arange(float(WIDTH)))
    start, along = SEGMENTS[:, 0], SEGMENTS[:, 1] - SEGMENTS[:, 0]
    beside = pixels[None] - start[:, None]
    part = ((beside * along[:, None]).sum(2) / (along**2).sum(1)[:, None]).clamp(0.0, 1.0)
    distance = (beside - part[..., None] * along[:, None]).norm(dim=2)
    return torch.exp(-((distance - THICK).clamp(min=0.0) ** 2) / (2 * (GLOW / 2) ** 2))
