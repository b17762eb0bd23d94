"""The recorded steps as a table."""

import csv
from collections.abc import Sequence
from pathlib import Path

from zograd.strategies import Step

COLUMNS = ("step", "evaluations", "value", "best_value", "lost")


def write_history(history: Sequence[Step], path: str | Path) -> Path:
    """Write one row a step as CSV: number, evaluations, loss at the centre, best loss, lost rows, diagnostics.

    An entry that a step does not have is empty. Numbers are written so that reading them gives the same floats.

    Args:
        history: The steps, such as ``result.history``.
        path: Where to; an existing file is replaced.

    Returns:
        The path.

    Example:
        >>> import csv, tempfile, zograd as zo, zograd.report
        >>> result = zo.minimize(lambda x: x**2, 3.0, evaluations=20)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = zo.report.write_history(result.history, folder + "/history.csv")
        ...     rows = list(csv.DictReader(path.read_text().splitlines()))
        >>> float(rows[-1]["best_value"]) == result.fun
        True
    """
    names = sorted({name for step in history for name in step.diagnostics})
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *names])
        for step in history:
            told = (step.number, step.evaluations, step.value, step.best_value, step.lost)
            writer.writerow([*told, *(step.diagnostics.get(name) for name in names)])
    return Path(path)
