"""Recover the settings of a Blender scene from one picture of it, from rendered values alone.

python run.py                   # the run of the README: about 3,000 renders, a few minutes
python run.py --evaluations 100 # a glimpse
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import worker

import zograd as zo

HERE = Path(__file__).parent

BOUNDS: dict[str, Any] = {
    "count": (1, 8),
    "segments": (1, 6),
    "bevel": (0.0, 0.24),
    "spacing": (0.55, 0.95),
    "height": (0.6, 2.2),
    "paint": (0.0, 1.0),
    "scale": (0.12, 0.5),
    "edge": (0.2, 0.8),
    "dark": (0.0, 1.0),
    "light": (0.0, 1.0),
    "power": (100.0, 1000.0),
    "lamp_turn": (-90.0, 90.0),
    "lamp_rise": (20.0, 75.0),
    "camera_turn": (-40.0, 40.0),
    "camera_rise": (15.0, 55.0),
}
LOGARITHMIC = ("scale", "power")
WHOLE = ("count", "segments")
SHAPES = ("count", "segments", "bevel", "spacing", "height")
START: dict[str, Any] = {
    "count": 3,
    "segments": 1,
    "bevel": 0.05,
    "spacing": 0.8,
    "height": 1.0,
    "paint": [0.5, 0.5, 0.5],
    "texture": "clouds",
    "scale": 0.22,
    "edge": 0.4,
    "dark": [0.3, 0.3, 0.3],
    "light": [0.6, 0.6, 0.6],
    "power": 250.0,
    "lamp_turn": 30.0,
    "lamp_rise": 40.0,
    "camera_turn": -10.0,
    "camera_rise": 28.0,
}
HIDDEN: dict[str, Any] = {
    "count": 5,
    "segments": 3,
    "bevel": 0.12,
    "spacing": 0.68,
    "height": 1.5,
    "paint": [0.7, 0.12, 0.08],
    "texture": "rings",
    "scale": 0.33,
    "edge": 0.55,
    "dark": [0.05, 0.12, 0.3],
    "light": [0.8, 0.7, 0.4],
    "power": 420.0,
    "lamp_turn": -50.0,
    "lamp_rise": 50.0,
    "camera_turn": 18.0,
    "camera_rise": 36.0,
}
"""What made the target. Only the target and the comparison at the end are made from it."""


def shown(linear: np.ndarray) -> np.ndarray:
    """A scene-linear picture as a screen shows it (sRGB), from 0 to 1."""
    clipped = np.clip(linear.astype(np.float64), 0.0, 1.0)
    return np.where(clipped <= 0.0031308, 12.92 * clipped, 1.055 * clipped ** (1 / 2.4) - 0.055)


def squared_error(picture: np.ndarray, target: np.ndarray) -> float:
    """The mean squared difference of two pictures."""
    return float(np.mean((picture - target) ** 2))


def loss(picture: np.ndarray, target: np.ndarray, levels: int = 5) -> float:
    """The mean squared error at several resolutions, so that what is a little off is a little wrong."""
    total = 0.0
    for _ in range(levels):
        total += squared_error(picture, target) / levels
        picture, target = _halved(picture), _halved(target)
    return total


def _halved(picture: np.ndarray) -> np.ndarray:
    side = len(picture) // 2
    return picture.reshape(side, 2, side, 2, 3).mean((1, 3))


class Search:
    """Descents one after the other on the same target, each from the best that the last one found.

    Args:
        render: From parameters to a picture.
        target: The picture to recover.
        seed: Of the search.
    """

    def __init__(self, render: Callable[[dict[str, Any]], np.ndarray], target: np.ndarray, seed: int) -> None:
        self.render, self.target, self.seed = render, target, seed
        self.evaluations = 0
        self.best, self.value = START, math.inf
        self.curve: list[tuple[int, float]] = []
        self.stages: list[dict[str, Any]] = []

    def descend(self, name: str, start: dict[str, Any], free: Iterable[str], evaluations: int) -> None:
        """Minimise over the ``free`` parameters, with the others as they are in ``start``.

        Args:
            name: What the plot calls it.
            start: All parameters.
            free: The names of those that move.
            evaluations: The budget.
        """
        free = set(free)
        still = {key: value for key, value in start.items() if key not in free}
        parameters = zo.Parameters(
            {key: value for key, value in start.items() if key in free},
            bounds={key: value for key, value in BOUNDS.items() if key in free},
            scale={key: "log" for key in LOGARITHMIC if key in free},
            integers=tuple(key for key in WHOLE if key in free),
            choices={key: worker.TEXTURES for key in ("texture",) if key in free},
        )
        result = zo.minimize(
            lambda moved: loss(self.render({**still, **moved}), self.target),
            parameters,
            evaluations=evaluations,
            seed=self.seed,
        )
        for step in result.history:
            self.curve.append((self.evaluations + step.evaluations, min(self.value, step.best_value)))
        self.evaluations += result.nfev
        if result.fun < self.value:
            self.best, self.value = {key: {**still, **result.x}[key] for key in START}, result.fun
        stage = {"stage": name, "evaluations": result.nfev, "found": result.fun, "best": self.value}
        self.stages.append(stage)
        print(f"{name}: {result.fun:.5f} after {self.evaluations} renders. {result.message}", flush=True)

    def in_stages(self, evaluations: int) -> None:
        """A descent for each texture, then the shapes with random restarts, then everything but the texture.

        Args:
            evaluations: The budget: half of it for the textures, a sixth for the shapes, a third for the end.
        """
        others = [key for key in START if key != "texture"]
        for texture in worker.TEXTURES:
            self.descend(texture, {**START, "texture": texture}, others, evaluations // 8)
        self.descend("shapes", self.best, SHAPES, evaluations // 6)
        self.descend("all", self.best, others, evaluations - self.evaluations)


def draw(search: Search, pictures: list[np.ndarray], floor: float, folder: Path) -> None:
    """Write comparison.png and loss.png.

    Args:
        search: The finished search.
        pictures: Start, target and result.
        floor: The loss of the hidden parameters.
        folder: Where they go.
    """
    import matplotlib.pyplot as plt
    from PIL import Image

    gap = np.ones((len(pictures[0]), 6, 3))
    row = np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)
    Image.fromarray((255 * row).round().astype(np.uint8)).save(folder / "comparison.png", optimize=True)
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    axes.semilogy(*zip(*search.curve, strict=True), drawstyle="steps-post", label="best so far")
    axes.axhline(floor, color="black", linestyle=":", label="hidden parameters, another seed")
    end = 0
    for stage in search.stages:
        axes.axvline(end, color="0.85", zorder=0)
        axes.text(end, 1.0, f" {stage['stage']}", transform=axes.get_xaxis_transform(), va="bottom", fontsize=8)
        end += stage["evaluations"]
    axes.set(xlabel="renders", ylabel="loss", xlim=(0, end))
    axes.legend()
    figure.savefig(folder / "loss.png", dpi=120)


def read_arguments() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--evaluations", type=int, default=3000, help="renders to spend")
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    parser.add_argument("--plain", action="store_true", help="one call of zo.minimize for everything")
    parser.add_argument(
        "--texture", choices=worker.TEXTURES, help="one call for everything but the texture, which is this"
    )
    parser.add_argument("--python", help="a Python with pip's bpy, in place of the blender command")
    parser.add_argument("--out", type=Path, default=HERE, help="where pictures and figures go")
    return parser.parse_args()


def main() -> None:
    """Make the target, search, and say how near it came."""
    asked = read_arguments()
    asked.out.mkdir(parents=True, exist_ok=True)
    with zo.Program(worker.command(asked.python), persistent=True, timeout=60.0, then=shown) as blender:

        def render(told: dict[str, Any]) -> np.ndarray:
            return blender({"seed": 0, **told})

        target = render({**HIDDEN, "seed": 1})
        truth = render(HIDDEN)  # what would be found at best: it differs from the target by noise alone
        began = time.monotonic()
        search = Search(render, target, asked.seed)
        if asked.plain:
            search.descend("plain", START, START, asked.evaluations)
        elif asked.texture:
            others = [key for key in START if key != "texture"]
            search.descend(asked.texture, {**START, "texture": asked.texture}, others, asked.evaluations)
        else:
            search.in_stages(asked.evaluations)
        seconds = time.monotonic() - began
        floor, error = squared_error(truth, target), squared_error(render(search.best), target)
        report = {
            "renders": search.evaluations,
            "seconds": round(seconds),
            "mse": error,
            "floor": floor,
            "ratio": error / floor,
            "start_mse": squared_error(render(START), target),
            "stages": search.stages,
            "found": search.best,
        }
        (asked.out / "result.json").write_text(json.dumps(report, indent=1) + "\n")
        fine = {"size": 256, "samples": 256}
        draw(
            search, [render({**told, **fine}) for told in (START, HIDDEN, search.best)], loss(truth, target), asked.out
        )
    print(f"MSE {error:.5f} = {error / floor:.2f} times the noise floor, {seconds:.0f} s")
    for key, value in search.best.items():
        print(f"{key:12} found {_short(value):24} hidden {_short(HIDDEN[key])}")


def _short(value: Any) -> str:
    return value if isinstance(value, str) else str(np.round(value, 3).tolist())


if __name__ == "__main__":
    main()
