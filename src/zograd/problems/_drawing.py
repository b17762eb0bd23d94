"""Drawing with matplotlib's Agg rasteriser, imported when first needed: it is an extra."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

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
    figure = module("matplotlib.figure").Figure(figsize=(width, height), dpi=1)
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
