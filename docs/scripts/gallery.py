"""The gallery: every problem solved, with where it starts, what comes of it, what it should be, and the way there.

    python docs/scripts/gallery.py            all of them
    python docs/scripts/gallery.py mesh house some of them

Each is one picture, gallery_NAME.png, and prints one row of the gallery's table, docs/_generated/gallery.md.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from _style import BLUE, PICTURES
from PIL import Image

import zograd as zo
from zograd import problems
from zograd.problems import Problem

torch.set_num_threads(1)
GENERATED = PICTURES.parent / "_generated"
LARGEST = 140_000
"""Bytes of a picture, above which it is saved with fewer colours."""


@dataclass
class Entry:
    """A problem, and what is other than its own settings."""

    make: Callable[[], Problem]
    evaluations: int | None = None
    outputs: bool = False
    target: float | None = None
    logarithmic: bool = True


ENTRIES = [
    Entry(problems.picture, evaluations=10_000),
    Entry(problems.plateau, logarithmic=False),
    Entry(problems.rosenbrock),
    Entry(problems.toy, logarithmic=False),
    Entry(problems.led),
    Entry(problems.caustic, evaluations=30_000, outputs=True),
    Entry(partial(problems.texture, size=32)),
    Entry(problems.mnist_weights, evaluations=50_000, outputs=True, target=5e-4),
    Entry(problems.strokes),
    Entry(problems.mesh, evaluations=10_000),
    Entry(problems.cornell),
    Entry(problems.house),
    Entry(problems.rocket),
]


def solved(entry: Entry) -> None:
    """Solve one and draw it."""
    with plt.rc_context({"figure.constrained_layout.use": False}):
        problem = entry.make()
    parameters = problem.parameters()
    start = problem.value(problem.x0)
    by = problem.fit if entry.outputs else problem.solve
    result = by(entry.evaluations, seed=0, target=entry.target, progress=False)
    shown = {"start": problem.draw(problem.x0, 360), "result": problem.draw(result.x, 360)}
    if problem.target is not None:
        shown["wanted"] = problem.target(360)
    figure, panels = plt.subplots(
        1, len(shown) + 1, figsize=(2.7 * len(shown) + 3.4, 2.8), width_ratios=[1] * len(shown) + [1.1]
    )
    for axes, (name, drawing) in zip(panels, shown.items(), strict=False):
        axes.imshow(drawing)
        axes.set_axis_off()
        axes.set_title(name, loc="center")
    curve(panels[-1], result, start, problem, entry.logarithmic)
    path = PICTURES / f"gallery_{problem.name}.png"
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)
    with Image.open(path) as sheet:
        full = sheet.convert("RGB")
    full.save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        full.quantize(256).save(path, optimize=True)
    row = {
        "parameters": parameters.dimension,
        "evaluations": result.nfev,
        "start": start,
        "result": result.fun,
        "method": method(result.message),
    }
    keep(problem.name, row)
    print(f"{problem.name}: {row}, {result.seconds:.0f} s, {path.stat().st_size / 1e3:.0f} kB", flush=True)


def curve(axes: Any, result: zo.Result, start: float, problem: Problem, logarithmic: bool) -> None:
    """The lowest loss so far against the evaluations."""
    spent = [1, *(step.evaluations for step in result.history)]
    best = np.minimum.accumulate([start, *(step.best_value for step in result.history)])
    axes.step(spent, best, where="post", color=BLUE)
    axes.set(xlabel="evaluations", xscale="log", xlim=(1, None))
    axes.set_title(problem.loss, fontsize=9.5)
    if logarithmic:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, None)


def method(message: str) -> str:
    """Which estimator and rule did it, from what the result says."""
    if "Gauss-Newton" in message:
        return "by its outputs: GaussNewton" + ", BlockNewton" * ("by BlockNewton" in message)
    led = message.partition("led by ")[2].partition(".")[0]
    said = message.partition("evaluations: ")[2].partition(" (")[0]
    return f"contest: {led}" if led else said.replace(" and ", ", ") + ", CMAES" * ("on CMA-ES" in message)


def keep(name: str, row: dict[str, Any]) -> None:
    """Put one row into the table, and leave the others."""
    store, page = GENERATED / "gallery.json", GENERATED / "gallery.md"
    rows = json.loads(store.read_text()) if store.exists() else {}
    rows[name] = row
    store.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
    lines = [
        "<!-- made by docs/scripts/gallery.py -->",
        "",
        "| problem | parameters | evaluations | loss at the start | after | method |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for entry in ENTRIES:
        known = rows.get(made_by(entry))
        if known:
            lines.append(
                f"| `{made_by(entry)}` | {known['parameters']:,} | {known['evaluations']:,} | {known['start']:.3g} | "
                f"{known['result']:.3g} | {known['method']} |"
            )
    page.write_text("\n".join(lines) + "\n")


def made_by(entry: Entry) -> str:
    """The name of an entry's problem."""
    return (entry.make.func if isinstance(entry.make, partial) else entry.make).__name__


for entry in ENTRIES:
    if len(sys.argv) == 1 or made_by(entry) in sys.argv[1:]:
        solved(entry)
