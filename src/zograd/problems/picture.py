"""Reproduce a photograph with translucent ellipses, through the 8-bit pixels of somebody else's renderer."""

from functools import cached_property, partial
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

import zograd as zo
from zograd.problems._arguments import whole
from zograd.problems._drawing import canvas, module
from zograd.problems._photograph import PORTRAIT, opened, portrait, resized
from zograd.problems._problem import Picture, Problem

LARGEST = 256

Ellipses = dict[str, NDArray[np.float64]]


def picture(image: Path | None = None, shapes: int = 150, size: int = 64, seed: int = 0) -> Problem:
    r"""Reproduce a photograph through a renderer without a gradient.

    The renderer draws translucent ellipses, and

    .. math:: f(x) = \frac{1}{3 w h} \sum_{\text{pixels, channels}} \left(\text{render}(x) - \text{photograph}\right)^2

    on w x h pixels, in units where a channel is in [0, 1]. The ellipses are drawn in order over the photograph's mean
    colour. Each has nine numbers: centre (2, in widths and heights of the picture), half axes (2, in longer sides, on
    a log scale), angle (degrees), colour (3) and opacity. They start at random places in random greyish colours.

    The renderer is matplotlib's Agg rasteriser, through its public `EllipseCollection`: compiled, maintained, on
    every platform, under a BSD-like licence. It writes whole bytes, so that the loss is a staircase in every
    parameter; it is evaluated as it is, and nothing of it is differentiated.

    **Cost**: one drawing an evaluation, whose time grows with the ellipses and the pixels.

    The default photograph is the official portrait of Grace Hopper that matplotlib ships as sample data: a work of
    the United States Navy, in the public domain.

    Args:
        image: A picture file of your own, of any size and shape; transparent parts count as white.
        shapes: How many ellipses.
        size: The longer side, in pixels, of the picture that is compared; the shorter follows from the photograph.
        seed: Of the random start.

    Raises:
        ArgumentError: When the file is not there or is no picture.
        MissingExtraError: When matplotlib or Pillow is not installed.
    """
    whole("shapes", shapes, 1, 10_000, "More shapes show more detail and need more evaluations; try 150.")
    whole("size", size, 8, LARGEST, "It is the longer side in pixels at which pictures are compared; try 64.")
    photograph = portrait() if image is None else opened(image)
    pixels = resized(photograph, min(size, max(photograph.size)))
    error = PictureError(pixels)
    height, width = pixels.shape[:2]
    return Problem(
        name="picture",
        summary="reproduce a photograph through a renderer without a gradient",
        fun=error,
        residuals=zo.pointwise(error.differences),
        x0=_start(shapes, seed),
        loss="mean squared error of the pixels",
        bounds={
            "center": (-0.1, 1.1),
            "axes": (0.01, 0.6),
            "angle": (-360, 540),
            "color": (0, 1),
            "opacity": (0.02, 1),
        },
        scale={"center": 0.25, "axes": "log", "angle": 60.0, "color": 0.5, "opacity": 0.5},
        evaluations=60_000,
        minimum=None,
        draw=error.draw,
        target=partial(resized, photograph),
        details={
            "photograph": PORTRAIT if image is None else image.name,
            "ellipses": str(shapes),
            "parameters": str(9 * shapes),
            "pixels compared": f"{width} x {height}, 8 bits a channel",
            "renderer": f"matplotlib {module('matplotlib').__version__}, Agg",
        },
    )


@final
class PictureError:
    """The program: ellipses to the mean squared error of their picture. It can be pickled.

    Args:
        pixels: The photograph at the size at which it is compared.
    """

    def __init__(self, pixels: Picture) -> None:
        self.pixels = pixels
        self.height, self.width = pixels.shape[:2]
        self.background = pixels.reshape(-1, 3).mean(0).round().astype(np.uint8)

    def __call__(self, ellipses: Ellipses) -> float:
        """The mean squared error, in units where a channel is in [0, 1]."""
        difference = self._renderer(ellipses).astype(np.float32) - self._wanted
        return float(np.vdot(difference, difference)) / (difference.size * 255.0**2)

    def differences(self, ellipses: Ellipses) -> NDArray[np.float32]:
        """Picture less photograph, shape (height, width, 3), in the same units."""
        return (self._renderer(ellipses).astype(np.float32) - self._wanted) / np.float32(255.0)

    def draw(self, ellipses: Ellipses, size: int) -> Picture:
        """The same ellipses on a canvas of another size, which they have enough detail for."""
        scale = size / max(self.width, self.height)
        width, height = max(1, round(scale * self.width)), max(1, round(scale * self.height))
        return Renderer(width, height, self.background)(ellipses).copy()

    @cached_property
    def _wanted(self) -> NDArray[np.float32]:
        return self.pixels.astype(np.float32)

    @cached_property
    def _renderer(self) -> "Renderer":
        return Renderer(self.width, self.height, self.background)

    def __reduce__(self) -> tuple[Any, ...]:
        return PictureError, (self.pixels,)


@final
class Renderer:
    """Draws ellipses on one canvas, again and again.

    Args:
        width: In pixels.
        height: In pixels.
        background: The colour underneath, three bytes.
    """

    def __init__(self, width: int, height: int, background: NDArray[np.uint8]) -> None:
        board = canvas(width, height)
        self._renderer = board.get_renderer()
        self._bytes = np.asarray(board.buffer_rgba())
        self._empty = np.append(background, np.uint8(255))
        self._extent = np.array([width, -height]), np.array([0, height]), float(max(width, height))
        untransformed = module("matplotlib.transforms").IdentityTransform()
        self._ellipses = module("matplotlib.collections").EllipseCollection(
            [1.0], [1.0], [0.0], units="dots", offsets=[(0.0, 0.0)], linewidths=0, offset_transform=untransformed
        )
        self._ellipses.set_figure(board.figure)
        self._ellipses.set_transform(untransformed)

    def __call__(self, ellipses: Ellipses) -> Picture:
        """The picture, shape (height, width, 3): a view that the next call overwrites."""
        stretch, origin, longer = self._extent
        drawn = self._ellipses
        drawn.set_offsets(ellipses["center"] * stretch + origin)
        drawn.set_widths(2 * longer * ellipses["axes"][:, 0])
        drawn.set_heights(2 * longer * ellipses["axes"][:, 1])
        drawn.set_angles(-ellipses["angle"])
        drawn.set_facecolor(np.column_stack([ellipses["color"], ellipses["opacity"]]))
        self._bytes[:] = self._empty
        drawn.draw(self._renderer)
        return self._bytes[:, :, :3]


def _start(shapes: int, seed: int) -> Ellipses:
    """Ellipses that know nothing of the photograph."""
    generator = np.random.default_rng(seed)
    return {
        "center": generator.uniform(0.0, 1.0, (shapes, 2)),
        "axes": np.exp(generator.normal(np.log(0.06), 0.3, (shapes, 2))).clip(0.02, 0.5),
        "angle": generator.uniform(0.0, 180.0, shapes),
        "color": generator.uniform(0.3, 0.7, (shapes, 3)),
        "opacity": np.full(shapes, 0.5),
    }
