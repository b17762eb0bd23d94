"""What the benchmarks share: a budget that cannot be overspent, a results file that can be continued, tables."""

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
GENERATED = ROOT / "docs" / "_generated"
STATIC = ROOT / "docs" / "_static"

Row = dict[str, Any]


class BudgetSpentError(Exception):
    """The evaluation that was asked for would exceed the budget."""


class Counted:
    """A function that counts its evaluations, remembers the best value, and refuses to exceed its budget.

    Args:
        fun: One point to one number.
        budget: The evaluations it allows.
    """

    def __init__(self, fun: Callable[[np.ndarray], float], budget: int) -> None:
        self.fun, self.budget = fun, budget
        self.calls, self.refused, self.best = 0, 0, math.inf

    @property
    def left(self) -> int:
        """Evaluations that may still be made."""
        return self.budget - self.calls

    def __call__(self, point: Any) -> float:
        """The value at ``point``."""
        if not self.left:
            self.refused += 1
            raise BudgetSpentError
        self.calls += 1
        value = float(self.fun(np.asarray(point, dtype=float)))
        self.best = min(self.best, value)
        return value


class Results:
    """A CSV file to which rows are appended as they finish, so that an interrupted benchmark goes on where it was.

    Args:
        path: The file.
        fields: Its columns.
        key: The columns that name a row.
    """

    def __init__(self, path: Path, fields: Sequence[str], key: Sequence[str]) -> None:
        self.path, self.fields, self.key = path, list(fields), list(key)
        self.rows: list[Row] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self.rows = list(csv.DictReader(file))

    def name(self, row: Row) -> tuple[str, ...]:
        """What tells a row from the others."""
        return tuple(str(row[column]) for column in self.key)

    def append(self, row: Row) -> None:
        """Add one row to the file, now."""
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.fields, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        self.rows.append({column: str(row[column]) for column in self.fields})

    def rewrite(self, rows: Iterable[Row]) -> None:
        """Replace the file's rows, in the order of the key: a diff then shows what changed and nothing else."""
        ordered = sorted(rows, key=lambda row: tuple(_natural(str(row[column])) for column in self.key))
        self.path.unlink(missing_ok=True)
        self.rows = []
        for row in ordered:
            self.append(row)


def sweep(tasks: Sequence[Row], work: Callable[[Row], Row], results: Results, jobs: int = 1) -> None:
    """Do the tasks that have no row in ``results`` yet; append each as it finishes.

    Args:
        tasks: The rows to fill, each with at least the results' key.
        work: A task to its row; a function of a module, so that it can be sent to another process.
        results: Where the rows go.
        jobs: Processes; 1 works in this one.
    """
    known = {results.name(row) for row in results.rows}
    missing = [task for task in tasks if results.name(task) not in known]
    print(f"{len(missing)} of {len(tasks)} to do", flush=True)
    if jobs == 1:
        for task in missing:
            results.append(work(task))
        return
    with ProcessPoolExecutor(jobs) as pool:
        for future in as_completed([pool.submit(work, task) for task in missing]):
            results.append(future.result())


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; numbers are aligned to the right."""
    body = [[str(cell) for cell in row] for row in rows]
    right = [bool(body) and all(_numeric(row[column]) for row in body) for column in range(len(header))]
    lines = [list(header), ["---:" if number else "---" for number in right], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def write(path: Path, text: str) -> None:
    """Write a generated page and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.rstrip() + "\n", encoding="utf-8")
    print(f"wrote {path.name}")


def _numeric(cell: str) -> bool:
    try:
        float(cell.strip("*").split(" ")[0] or "0")
    except ValueError:
        return False
    return True


def _natural(text: str) -> tuple[float, str]:
    return (float(text), "") if text.isdigit() else (math.inf, text)
