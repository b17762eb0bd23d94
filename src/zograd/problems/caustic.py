"""Shape a sheet of water so that the light below it draws a picture."""

from typing import TypeAlias, final

import torch
from torch import Tensor

import zograd as zo
from zograd.problems._arguments import whole
from zograd.problems._drawing import enlarged
from zograd.problems._problem import Picture, Problem
from zograd.problems._spline import basis

INDEX = 1.33
BRIGHTEST = 0.995
ROWS_AT_ONCE = 8

Side: TypeAlias = tuple[Tensor, Tensor, Tensor]


def caustic(control: int = 32, photons: int = 128, size: int = 64, noise: bool = False, seed: int = 0) -> Problem:
    r"""Shape the surface of water so that light draws on the floor.

    The height of the surface over [-1, 1]^2 is h = s / 4 + 3 / 4, with s a cubic B-spline over a grid of control
    points, which are the parameters. Light comes straight down, is refracted with index 1.33, and falls on the floor at
    height 0. There the photons are **counted** in pixels; the picture is the counts over their .995 quantile, clipped
    to [0, 1], and

    .. math:: f(s) = \frac{1}{w^2} \sum_{\text{pixels}} \left(\text{picture}(s) - \text{goal}\right)^2

    The goal is 1 where ``.6 < r < .8``, or ``|x| < .1`` and ``|y| < .5``, else 0. Counting has no derivative: a photon
    is in one pixel or in the next, so that the loss is a staircase with very small steps.

    The start is 0.5 plus normal numbers of standard deviation 0.05.

    **Cost**: the photons of one evaluation are a few matrix products and one histogram, and many evaluations are one
    call.

    **Noise**: none by default, for the photons start from a fixed grid. With ``noise`` the grid is moved once a call by
    a random part of its cell.

    Args:
        control: Control points along one side: the parameters are their square.
        photons: Photons along one side.
        size: Pixels along one side.
        noise: Whether the photons start from other places in every call.
        seed: Of the start.

    Raises:
        ArgumentError: When a number is too small or too large.

    References:
        Fischer and Ritschel, ZeroGrads: Learning Local Surrogates for Non-Differentiable Graphics, ACM Trans. Graph.
        2024 (this task). Wallace, WebGL Water, 2011 (counting photons).
    """
    whole("control", control, 4, 512, "More control points can draw finer lines; try 32.")
    whole("photons", photons, 8, 4096, "Too few leave pixels empty; try twice the pixels.")
    whole("size", size, 8, 1024, "It is the number of pixels along one side; try 64.")
    water = Water(control, photons, size, noise)
    goal = ring(size)
    start = 0.5 + 0.05 * torch.randn(control**2, generator=torch.Generator().manual_seed(seed))

    def residuals(points: Tensor) -> Tensor:
        return water(points) - goal.to(points)

    def draw(point: Tensor, longer: int) -> Picture:
        # More light than is counted in a search, so that what one sees is not the grain of it.
        fine = Water(control, max(photons, 512), min(2 * size, 256), False)
        return enlarged(fine(torch.as_tensor(point)[None])[0].numpy(), longer)

    return Problem(
        name="caustic",
        summary="shape the surface of water so that light draws on the floor",
        fun=zo.batched(lambda points: (residuals(points) ** 2).mean((1, 2))),
        residuals=zo.batched(residuals),
        x0=start,
        loss="mean squared error of the light",
        noise=noise,
        evaluations=30_000,
        draw=draw,
        target=lambda longer: enlarged(ring(256).numpy(), longer),
        details={
            "control points": f"{control} x {control}",
            "photons": f"{photons} x {photons}, {'from a grid moved at random' if noise else 'from a fixed grid'}",
            "pixels": f"{size} x {size}",
        },
    )


def ring(size: int) -> Tensor:
    """The goal: a ring with a bar, shape (size, size)."""
    line = torch.linspace(-1.0, 1.0, size)
    x, y = torch.meshgrid(line, line, indexing="ij")
    radius = (x**2 + y**2).sqrt()
    return ((radius > 0.6) & (radius < 0.8) | (x.abs() < 0.1) & (y.abs() < 0.5)).float()


@final
class Water:
    """Control points, shape (n, control^2), to the light on the floor, shape (n, size, size).

    Args:
        control: Control points along one side.
        photons: Photons along one side.
        size: Pixels along one side.
        noise: Whether the photons' grid is moved at random once a call.
    """

    def __init__(self, control: int, photons: int, size: int, noise: bool) -> None:
        self.control, self.photons, self.size, self.noise = control, photons, size, noise
        line = torch.linspace(-1.0, 1.0, photons, dtype=torch.float64)
        self.fixed = self._side(line), self._side(line)

    def __call__(self, points: Tensor) -> Tensor:
        """Some rows at a time: their photons fit into the cache, and the matrices are large enough to pay."""
        sides = self._moved() if self.noise else self.fixed
        first, second = (tuple(part.to(points) for part in side) for side in sides)
        surfaces = points.reshape(-1, self.control, self.control)
        pieces = [surfaces[start : start + ROWS_AT_ONCE] for start in range(0, len(surfaces), ROWS_AT_ONCE)]
        return torch.cat([self._light(piece, first, second) for piece in pieces])

    def _side(self, line: Tensor) -> Side:
        """Where the photons start along one side, and what makes heights and slopes there of control points."""
        values, slopes = basis(line / 2 + 0.5, self.control)
        return line, values, slopes / 2  # of one unit of the line, which is 2 long

    def _moved(self) -> tuple[Side, Side]:
        cell = 2.0 / self.photons
        line = torch.linspace(-1.0, 1.0 - cell, self.photons, dtype=torch.float64)
        first, second = (line + cell * torch.rand((), dtype=torch.float64) for _ in range(2))
        return self._side(first), self._side(second)

    def _light(self, surface: Tensor, first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> Tensor:
        (x, along, rising), (y, across, leaning) = first, second
        beside = surface @ across.mT
        height = (along @ beside).mul_(0.25).add_(0.75)
        to_x, to_y = (rising @ beside).mul_(0.25), (along @ (surface @ leaning.mT)).mul_(0.25)
        # The normal is (-to_x, -to_y, 2) / length; the light comes along (0, 0, -1).
        length = (to_x * to_x).addcmul_(to_y, to_y).add_(4.0).rsqrt_()
        cosine = 2.0 * length
        inside = (cosine * cosine).mul_(INDEX**2).add_(1.0 - INDEX**2)
        pull = cosine.mul(INDEX).sub_(inside.clamp(min=0.0).sqrt_())
        down = pull * cosine - INDEX
        # Light that is reflected back goes nowhere, and is counted below where it came from.
        travel = torch.where(inside < 0.0, 0.0, height.mul_(pull).mul_(length).div_(down))
        to_x.mul_(travel).add_(x[:, None])
        to_y.mul_(travel).add_(y)
        return self._counted(to_x, to_y)

    def _counted(self, x: Tensor, y: Tensor) -> Tensor:
        """Photons in pixels, over their quantile."""
        n, w = len(x), self.size
        seen = (x.abs() < 1.0) & (y.abs() < 1.0)
        row = (x * (w / 2)).add_(w / 2 - 1).long()  # towards zero, as the released program counts
        column = (y * (w / 2)).add_(w / 2 - 1).long()
        place = row.mul_(w).add_(column).add_(w * w * torch.arange(n)[:, None, None])
        place = torch.where(seen, place, n * w * w).flatten()
        counts = torch.bincount(place, minlength=n * w * w + 1)[:-1].view(n, w * w).to(x)
        bright = torch.quantile(counts, BRIGHTEST, dim=1, keepdim=True).clamp(min=1e-9)
        return (counts / bright).clamp_(max=1.0).view(n, w, w)
