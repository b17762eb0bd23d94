"""A folder with everything that a run leaves: pictures, curves, a table and the page that shows them."""

import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from zograd._checks import require
from zograd._parameters import Parameters
from zograd._result import Result
from zograd.report._animation import animation, moments
from zograd.report._extras import module
from zograd.report._html import MARK, Section, write_html
from zograd.report._pictures import comparison, save_picture
from zograd.report._plots import diagnostics_curves, loss_curve
from zograd.report._table import write_history

FILES = (
    "before.png",
    "target.png",
    "after.png",
    "comparison.png",
    "loss.png",
    "diagnostics.png",
    "run.gif",
    "history.csv",
    "report.html",
)
FRAMES, FRAME_SIZE, PICTURE_SIZE = 60, 320, 384

Draw = Callable[[Any, int], NDArray[np.uint8]]


@final
@dataclass(frozen=True, slots=True)
class Outputs:
    """What to write about a run, and where.

    Args:
        folder: Made when it is not there. Files of an earlier report are replaced, all others left alone.
        title: The heading of the page.
        subtitle: A sentence below it.
        loss: What the loss is, as the label of an axis.
        parameters: What the points of the history mean.
        draw: A point, and the longer side in pixels, to a picture; without it there are curves and numbers only.
        target: The picture that was wanted, given the longer side in pixels, where there is one.
        details: Facts about the problem, by name.
        command: What to type to repeat the run.
    """

    folder: Path
    title: str
    parameters: Parameters
    subtitle: str = ""
    loss: str = "loss"
    draw: Draw | None = None
    target: Callable[[int], NDArray[np.uint8]] | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    command: str = ""

    def prepare(self) -> None:
        """Make the folder, and refuse to replace what another program or a person has put there.

        Raises:
            ArgumentError: When the folder is a file, cannot be made, or holds files of the same names that are not
                from an earlier report.
        """
        hint = "Name another folder."
        require(not self.folder.exists() or self.folder.is_dir(), "out", "be a folder", str(self.folder), hint)
        taken = [name for name in FILES if (self.folder / name).exists()]
        page = self.folder / "report.html"
        ours = page.is_file() and MARK in page.read_text(encoding="utf-8", errors="replace")
        must = "hold no files of these names that are not from an earlier report"
        require(ours or not taken, "out", must, f"{', '.join(taken)} in {self.folder}", "Move them, or " + hint.lower())
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            require(False, "out", f"be a folder that can be made ({error.strerror})", str(self.folder), hint)


def write_folder(outputs: Outputs, result: Result, start: float) -> Path:
    """Write the pictures, curves, table and page of a run.

    Args:
        outputs: What and where.
        result: What `zograd.minimize` returned; an interrupted run will do.
        start: The loss at the starting point.

    Returns:
        The path of the page, ``report.html``.

    Raises:
        ArgumentError: When the folder holds somebody else's files.
        MissingExtraError: When a package of the ``report`` extra is not installed.
    """
    outputs.prepare()
    for name in FILES:
        (outputs.folder / name).unlink(missing_ok=True)
    write_history(result.history, outputs.folder / "history.csv")
    sections = [*_pictures(outputs, result), *_curves(outputs, result, start)]
    sections.append(Section("Settings", table={**outputs.details, **_numbers(result), **_versions()}))
    if outputs.command:
        again = "The same seed and versions give the same run, to the last bit."
        sections.append(Section("How to repeat it", again, code=outputs.command))
    return write_html(
        outputs.folder / "report.html",
        outputs.title,
        sections,
        subtitle=outputs.subtitle,
        numbers={
            **({"times lower": times_lower(start, result.fun)} if 0.0 < result.fun < math.inf and start > 0.0 else {}),
            f"{outputs.loss}, start": f"{start:.4g}",
            f"{outputs.loss}, end": f"{result.fun:.4g}",
            "evaluations": f"{result.nfev:,}",
            "seconds": f"{result.seconds:.1f}",
        },
    )


def times_lower(start: float, end: float) -> str:
    """How many times lower the end is than the start, both above zero."""
    ratio = start / end
    return f"{ratio:.1f}" if ratio < 1000 else f"{ratio:.3g}"


def _pictures(outputs: Outputs, result: Result) -> list[Section]:
    if outputs.draw is None:
        return []
    folder = outputs.folder
    first = outputs.parameters.decode(outputs.parameters.initial)
    pictures = {"before": outputs.draw(first, PICTURE_SIZE)}
    if outputs.target is not None:
        pictures["target"] = outputs.target(PICTURE_SIZE)
    pictures["after"] = outputs.draw(result.x, PICTURE_SIZE)
    for name, picture in pictures.items():
        save_picture(picture, folder / f"{name}.png")
    height = min(PICTURE_SIZE, min(picture.shape[0] for picture in pictures.values()))
    comparison(pictures, folder / "comparison.png", height=height)
    frames = [outputs.draw(first, FRAME_SIZE)]
    frames += [
        outputs.draw(outputs.parameters.decode(step.best_point), FRAME_SIZE)
        for step in moments(result.history, FRAMES - 1)
    ]
    animation(frames, folder / "run.gif")
    said = "The start, the end" if outputs.target is None else "The start, what was wanted, and the end"
    return [
        Section("What became of it", pictures={said: folder / "comparison.png"}),
        Section("The run", pictures={"The best so far, slower where most happens": folder / "run.gif"}),
    ]


def _curves(outputs: Outputs, result: Result, start: float) -> list[Section]:
    if not result.history:
        return []
    folder = outputs.folder
    loss_curve(result.history, folder / "loss.png", label=outputs.loss, start=start)
    sections = [Section("Loss against evaluations", pictures={outputs.loss.capitalize(): folder / "loss.png"})]
    if diagnostics_curves(result.history, folder / "diagnostics.png"):
        shown = {"Dots are steps, lines their running medians": folder / "diagnostics.png"}
        sections.append(Section("How good the gradients were", pictures=shown))
    return sections


def _numbers(result: Result) -> dict[str, str]:
    rate = result.nfev / result.seconds if result.seconds > 0 else math.nan
    return {
        "how it ended": result.message,
        "steps": f"{result.nit:,}",
        "evaluations a second": f"{rate:,.0f}",
        "evaluations lost": f"{result.lost:,}",
    }


def _versions() -> dict[str, str]:
    zograd, matplotlib = module("zograd", "zograd"), module("matplotlib", "matplotlib")
    return {
        "versions": f"zograd {zograd.__version__}, torch {torch.__version__}, numpy {np.__version__}, "
        f"matplotlib {matplotlib.__version__}, Python {platform.python_version()}",
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
    }
