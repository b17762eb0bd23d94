"""Curves of recorded steps."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zograd._checks import require
from zograd.report._extras import module
from zograd.strategies import Step

INK, ACCENT, PALE = "#2b2f36", "#d1495b", "#b9c2cc"
NAMES = {
    "signal_to_noise": "signal-to-noise of the gradient",
    "r_squared": "R² of the surrogate's forecast",
    "half_cosine": "cosine between half-batches",
    "step_over_spread": "step over distance of the probes",
    "gradient_norm": "length of the gradient",
    "step_length": "length of the step",
    "spread": "spread of the samples",
}
LINEAR = ("r_squared", "half_cosine")
"""Shares of 1, which may be below zero; all others are lengths and ratios, on a logarithmic axis."""
COLUMNS = 3


def loss_curve(
    history: Sequence[Step],
    path: str | Path,
    *,
    label: str = "loss",
    start: float | None = None,
    log: bool | None = None,
) -> Path:
    """Draw the loss against the evaluations: the best so far, and the centre of each step where it is known.

    Args:
        history: The steps, such as ``result.history``; at least one.
        path: Where to; the suffix says the format (png, svg, pdf). An existing file is replaced.
        label: What the loss is.
        start: The loss at the starting point, which is then drawn at 0 evaluations.
        log: Whether the axis of the loss is logarithmic; by default it is where every loss is positive.

    Returns:
        The path.

    Raises:
        ArgumentError: When there is no step.
        MissingExtraError: When matplotlib is not installed.

    Example:
        >>> import tempfile, zograd as zo, zograd.report
        >>> result = zo.minimize(lambda x: x**2 + 1, 3.0, evaluations=40)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     zo.report.loss_curve(result.history, folder + "/loss.png").stat().st_size > 1000
        True
    """
    require(len(history) > 0, "history", "hold at least one step", list(history), "Give the run a larger budget.")
    figure, (axes,) = _figure()
    center = [(step.evaluations, step.value) for step in history if step.value is not None]
    best = [(step.evaluations, step.best_value) for step in history if math.isfinite(step.best_value)]
    if start is not None:
        best.insert(0, (0, start))
    if center:
        axes.plot(*zip(*center, strict=True), color=PALE, linewidth=1.2, label="centre of the step")
    if best:
        axes.plot(*zip(*best, strict=True), color=ACCENT, linewidth=2.0, label="best so far")
        axes.annotate(
            f"{best[-1][1]:.4g}", best[-1], xytext=(0, 8), textcoords="offset points", ha="right", color=ACCENT
        )
    losses = [loss for _, loss in [*center, *best]] or [1.0]
    if log if log is not None else min(losses) > 0:
        axes.set_yscale("log")
        ticker = module("matplotlib.ticker", "matplotlib")
        axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        # Labels between the decades, where there are few decades.
        if max(losses) < 30 * min(losses):
            axes.yaxis.set_minor_formatter(ticker.StrMethodFormatter("{x:g}"))
        else:
            axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set(xlabel="evaluations", ylabel=label)
    axes.set_xlim(left=0)
    if center and best:
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=8)
    return _saved(figure, path)


def diagnostics_curves(history: Sequence[Step], path: str | Path) -> Path | None:
    """Draw the diagnostics that say how good the gradients were, one panel each, against the evaluations.

    Args:
        history: The steps, such as ``result.history``.
        path: Where to; the suffix says the format. An existing file is replaced.

    Returns:
        The path; ``None``, and no file, where the steps carry none of these diagnostics.

    Raises:
        MissingExtraError: When matplotlib is not installed.
    """
    series = {
        name: [
            (step.evaluations, step.diagnostics[name])
            for step in history
            if math.isfinite(step.diagnostics.get(name, math.nan)) and (name in LINEAR or step.diagnostics[name] > 0.0)
        ]
        for name in NAMES
    }
    shown = {name: points for name, points in series.items() if len(points) > 1}
    if not shown:
        return None
    figure, panels = _figure(len(shown))
    for axes, (name, points) in zip(panels, shown.items(), strict=True):
        places, heights = zip(*points, strict=True)
        axes.plot(places, heights, ".", color=PALE, markersize=2, rasterized=True)
        axes.plot(*_smooth(places, heights), color=INK, linewidth=1.6)
        axes.set(yscale="linear" if name in LINEAR else "log", xlabel="evaluations", title=NAMES[name])
        if name in LINEAR:
            axes.set_ylim(-1.05, 1.05)
        axes.set_xlim(0, history[-1].evaluations)
        axes.title.set_fontsize(9)
        axes.locator_params(axis="x", nbins=5)
    return _saved(figure, path)


def _smooth(places: Sequence[float], heights: Sequence[float], windows: int = 60) -> tuple[list[float], list[float]]:
    """Medians over at most ``windows`` windows of equally many steps."""
    numpy = module("numpy", "numpy")
    groups = numpy.array_split(numpy.arange(len(places)), min(windows, len(places)))
    place, height = numpy.asarray(places, float), numpy.asarray(heights, float)
    return [float(place[group].mean()) for group in groups], [float(numpy.median(height[group])) for group in groups]


def _figure(panels: int = 1) -> tuple[Any, list[Any]]:
    """A figure that no window system and no global state knows of, and its panels, `COLUMNS` side by side."""
    columns = min(panels, COLUMNS)
    rows = -(-panels // columns)
    height = 3.4 if panels == 1 else 2.6 * rows
    figure = module("matplotlib.figure", "matplotlib").Figure(figsize=(7.2, height), dpi=140)
    figure.set_layout_engine("constrained")
    places = [figure.add_subplot(rows, columns, place + 1) for place in range(panels)]
    for one in places:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="#eceff3", linewidth=0.8)
        one.set_axisbelow(True)
        one.tick_params(colors=INK, labelsize=8)
    return figure, places


def _saved(figure: Any, path: str | Path) -> Path:
    figure.savefig(path)
    return Path(path)
