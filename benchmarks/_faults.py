"""A function of sixteen rows some of which go wrong, as a function and as a program; no more than the standard library.

Every value is another number, so that it is known afterwards which rows a method still holds.
"""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROWS, WORKERS, LIMIT_SECONDS, HANG_SECONDS = 16, 2, 2.0, 12.0
BEST = 2
"""The row with the lowest value."""

PAUSE_SECONDS = 0.25
"""What a row takes where Ctrl-C is to come in the middle."""

PLACES = {"hang": 3, "grandchild": 5, "death": 7, "exception": 9, "NaN": 11, "shape": 13}
STATUSES = {
    "hang": "timeout", "grandchild": "timeout", "death": "crashed", "exception": "failed", "NaN": "invalid",
    "shape": "invalid",
}  # fmt: skip
ALONE = {
    "hang": f"one row takes {HANG_SECONDS:g} s",
    "grandchild": f"one row starts a program and waits for it, {HANG_SECONDS:g} s",
    "death": "one row kills its process with SIGKILL",
    "exception": "one row raises ValueError",
    "NaN": "one row returns NaN",
    "shape": "one row returns two numbers",
}
CASES = {
    "none": "no fault, for comparison",
    "all": "the six faults below at once, in sixteen rows",
    **ALONE,
    "Ctrl-C": f"no fault; SIGINT to the whole process group after six rows of {PAUSE_SECONDS} s",
}


def faults(case: str) -> dict[int, str]:
    """Which rows go wrong in a case, and how."""
    return {row: fault for fault, row in PLACES.items() if case in {"all", fault}}


def value(row: int) -> float:
    """What a row is worth; another number each, the lowest at `BEST`."""
    return 100.0 + (row - BEST) % ROWS


def innocent(case: str) -> dict[float, int]:
    """The rows that must come back, by their values."""
    return {value(row): row for row in range(ROWS) if row not in faults(case)}


class Faulty:
    """The function.

    Args:
        case: A name of `CASES`.
        folder: Where rows leave a file as they begin and one as they end.
    """

    def __init__(self, case: str, folder: str) -> None:
        self.case, self.folder = case, folder

    def row(self, point: Sequence[float]) -> Any:
        """For those who choose the points: the first coordinate is the row."""
        return self._outcome(int(point[0]))

    def ordered(self, *_: Any) -> Any:
        """For an optimiser, which chooses its own points: the row is how many evaluations have begun before."""
        return self._outcome(self._next())

    def placed(self, point: Sequence[float]) -> Any:
        """As `ordered`, but a point that is evaluated again, for its neighbour took the worker, is the same row."""
        digest = hashlib.sha256(str([float(entry) for entry in point]).encode()).hexdigest()
        mark = Path(self.folder, f"{digest}.row")
        if not mark.exists():
            mark.write_text(str(self._next()), encoding="ascii")
        return self._outcome(int(mark.read_text(encoding="ascii")))

    def _next(self) -> int:
        row = 0
        while True:
            try:
                os.close(os.open(f"{self.folder}/{row}.began", os.O_CREAT | os.O_EXCL))
                return row
            except FileExistsError:
                row += 1

    def _outcome(self, row: int) -> Any:
        found: Any = value(row)
        match faults(self.case).get(row):
            case "hang":
                time.sleep(HANG_SECONDS)
            case "grandchild":
                subprocess.run(["sleep", str(HANG_SECONDS)], check=True)
            case "death":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exception":
                raise ValueError("the solver did not converge")
            case "NaN":
                found = float("nan")
            case "shape":
                found = [found, found]
        if self.case == "Ctrl-C":
            time.sleep(PAUSE_SECONDS)
        Path(f"{self.folder}/{row}.done").touch()
        return found


if __name__ == "__main__":  # as a program: case, folder, row
    print(str(Faulty(*sys.argv[1:3]).row([float(sys.argv[3])])).replace("nan", "NaN"))
