"""Drawing with matplotlib's Agg rasteriser, imported when first needed: it is an extra."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import zograd as zo
from zograd.problems._problem import Picture


def module(name: str, package: str = "matplotlib") -> Any:
    """Import a module of the ``report`` extra.

    Raises:
        MissingExtraError: When its package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != name.split(".")[0]:
            raise
        raise zo.MissingExtraError(package, "report") from error


def canvas(width: int, height: int) -> Any:
    """An Agg canvas of so many pixels; ``canvas.figure`` has one pixel an inch."""
    figure = module("matplotlib.figure").Figure(figsize=(width, height), dpi=1, layout="none")
    return module("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)


def chart(size: int, plot: Callable[[Any], None]) -> Picture:
    """What ``plot`` draws on an empty pair of axes, as a picture ``size`` wide and three quarters as high."""
    figure = module("matplotlib.figure").Figure(figsize=(5, 3.75), dpi=size / 5, layout="constrained")
    board = module("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    plot(axes)
    board.draw()
    return np.array(board.buffer_rgba())[:, :, :3]


def enlarged(levels: Any, size: int) -> Picture:
    """Levels in [0, 1], shape (height, width) or (height, width, 3), as a picture whose longer side is ``size``.

    Every pixel stays a square, however large: what one sees is what was compared.
    """
    shown = np.asarray(levels, np.float64)
    shown = np.repeat(shown[..., None], 3, 2) if shown.ndim == 2 else shown
    height, width = shown.shape[:2]
    scale = size / max(height, width)
    rows = np.arange(max(1, round(scale * height))) * height // max(1, round(scale * height))
    columns = np.arange(max(1, round(scale * width))) * width // max(1, round(scale * width))
    levels_there: NDArray[np.float64] = shown[rows][:, columns]
    return (255.0 * levels_there.clip(0.0, 1.0)).round().astype(np.uint8)
