"""One look for all pictures: `save` writes an SVG that is the same bytes every time."""

from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PICTURES = Path(__file__).parent.parent / "_static"

INK, GREY, FAINT = "#22303c", "#8a97a3", "#dfe5ea"
BLUE, ORANGE, GREEN, RED, PURPLE = "#1b6ca8", "#e07b1a", "#2a8f5b", "#c23b4b", "#7a4fa3"

plt.rcParams.update(
    {
        "axes.axisbelow": True,
        "axes.edgecolor": GREY,
        "axes.grid": True,
        "axes.labelcolor": INK,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlecolor": INK,
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
        "axes.titlesize": 11.5,
        "figure.constrained_layout.use": True,
        "figure.dpi": 110,
        "font.size": 10,
        "grid.color": FAINT,
        "grid.linewidth": 0.7,
        "legend.frameon": False,
        "lines.linewidth": 2,
        "lines.solid_capstyle": "round",
        "svg.hashsalt": "zograd",
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
)


def label(axes: Axes, x: float, y: float, text: str, color: str, **settings) -> None:
    """Words beside a line, in its colour: quicker to read than a legend."""
    axes.annotate(text, (x, y), color=color, **{"fontsize": 9.5, "va": "center", **settings})


def save(figure: Figure, name: str, folder: Path = PICTURES) -> None:
    """Write the picture for the documentation."""
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
