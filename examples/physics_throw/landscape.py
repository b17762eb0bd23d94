"""Draw the loss around a throw along two of its parameters: `python landscape.py throw.json landscape.png`."""

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import throw

INK, GREY, FAINT, BLUE, GREEN = "#22303c", "#8a97a3", "#dfe5ea", "#1b6ca8", "#2a8f5b"


def main() -> None:
    """Two slices, and how much of them is jumps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("values", type=Path, help="the throw, as run.py writes it")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--points", type=int, default=401, help="throws a slice")
    arguments = parser.parse_args()
    values = json.loads(arguments.values.read_text())
    plt.rcParams.update({"font.size": 10, "axes.edgecolor": GREY, "axes.labelcolor": INK, "text.color": INK,
                         "axes.spines.top": False, "axes.spines.right": False})  # fmt: skip
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 3.4), sharey=True, layout="constrained")
    for axes, name in zip(panels, ("speed", "azimuth"), strict=True):
        places = np.linspace(*throw.BOUNDS[name], arguments.points)
        losses = np.array([throw.loss({**values, name: float(place)}) for place in places])
        jumps = np.abs(np.diff(losses))
        print(f"{name}: {(jumps > 0.1).sum()} of {len(jumps)} neighbours differ by more than 0.1; the largest by "
              f"{jumps.max():.2f}", flush=True)  # fmt: skip
        axes.axhline(throw.HIT, color=GREEN, lw=1, ls="--")
        axes.plot(places, losses, ".", color=BLUE, ms=3)
        axes.plot(values[name], throw.loss(values), "o", ms=9, mfc="none", mec=INK)
        axes.set_xlabel(f"{name}, {'m/s' if name == 'speed' else 'degrees'}")
        axes.grid(color=FAINT, lw=0.7)
        axes.set_axisbelow(True)
    panels[0].set_ylabel("loss, m")
    panels[0].text(11.5, throw.HIT + 0.06, "a hit lies below", color=GREEN, fontsize=9)
    figure.savefig(arguments.picture, dpi=100)
    print(f"picture: {arguments.picture}")


if __name__ == "__main__":
    main()
