"""One demonstration: solve a problem before the user's eyes and write its report."""

import inspect
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from zograd._errors import ArgumentError
from zograd.cli._codes import INTERRUPTED
from zograd.cli._progress import progress
from zograd.problems import Problem
from zograd.report import Outputs, times_lower, write_folder


def demonstrate(make: Callable[..., Problem]) -> Callable[..., int]:
    """The command that solves what ``make`` makes; it returns the exit code."""

    def command(evaluations: int | None, by: str, seed: int, out: Path | None, **arguments: Any) -> int:
        takes_seed = "seed" in inspect.signature(make).parameters
        problem = make(**arguments, **({"seed": seed} if takes_seed else {}))
        budget = problem.evaluations if evaluations is None else evaluations
        folder = Path(f"demo-{problem.name}") if out is None else out
        given = {**arguments, "evaluations": budget, "by": by, "seed": seed, "out": out}
        outputs = Outputs(
            folder,
            f"zograd demo: {problem.name}",
            problem.parameters(),
            subtitle=f"{problem.summary[0].upper()}{problem.summary[1:]}.",
            loss=problem.loss,
            draw=problem.draw,
            target=problem.target,
            details=problem.details,
            command=typed(problem.name, given),
        )
        outputs.prepare()
        return _solve(problem, outputs, budget, seed, by)

    return command


def _solve(problem: Problem, outputs: Outputs, budget: int, seed: int, by: str) -> int:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{problem.name}[/bold]: {problem.summary}")
    console.print(", ".join(f"{name} {fact}" for name, fact in problem.details.items()), style="dim")
    start = problem.value(problem.x0)
    with progress(console, budget, start) as shown:
        result = {"loss": problem.solve, "outputs": problem.fit}[by](budget, seed=seed, progress=False, callback=shown)
    interrupted = not result.success
    if not result.history and not interrupted:
        raise ArgumentError(
            f"`evaluations` must be enough for one step, found {budget}. Try {problem.evaluations}.",
            argument="evaluations",
            found=budget,
        )
    console.print(result.message.strip(), markup=False)
    page = write_folder(outputs, result, start)
    lower = f", {times_lower(start, result.fun)} times lower" if 0.0 < result.fun < start else ""
    console.print(f"{problem.loss}: {start:.4g} -> {result.fun:.4g}{lower}", style="bold")
    console.print(f"The report: {page}", markup=False)
    return INTERRUPTED if interrupted else 0


def typed(name: str, arguments: dict[str, Any]) -> str:
    """The command with every option said."""
    words = ["zograd", "demo", name]
    for option, given in arguments.items():
        if given is not None:
            words += [f"--{option}", str(given)]
    return shlex.join(words)
