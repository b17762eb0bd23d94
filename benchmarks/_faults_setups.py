"""Sixteen rows with two workers through zograd, and what every set-up tells."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from _faults import LIMIT_SECONDS, ROWS, WORKERS, Faulty

START, LOW, HIGH = np.full(2, 3.0), -5.0, 5.0


@dataclass
class Held:
    """What the caller of a library holds, whether or not it comes back.

    Args:
        begin: Called when the workers are there and the sixteen rows are due; the clock starts.
        values: The values of single rows that the library kept, in any order.
        statuses: What became of a row where the library says it, by row: a word of `zograd.evaluate.Status`.
        end: Called when the rows are there and all workers of the library's own have ended, where an executor of the
            caller's is shut down afterwards; else the clock stops when the set-up returns.
        numbered: Whether the rows of ``statuses`` are known; else their keys mean nothing.
        collect: Fills ``values`` and ``statuses`` when the library has returned or raised.
    """

    begin: Callable[[], None]
    end: Callable[[], None]
    values: list[Any] = field(default_factory=list)
    statuses: dict[int, str] = field(default_factory=dict)
    numbered: bool = False
    collect: Callable[[], None] = lambda: None

    def keep(self, row: int, value: Any) -> None:
        """A row that came back with a value."""
        good = np.shape(value) == () and np.isfinite(value)
        self.statuses[row] = "ok" if good else "invalid"
        self.values += [value] if good else []


Setup = Callable[[Faulty, Held], None]


def nothing(point: Any) -> float:
    """For warming up: long enough that every worker gets some."""
    time.sleep(0.2)
    return 0.0


def _wave(rows: int) -> list[Any]:
    import torch

    import zograd as zo

    return [zo.Probes(torch.zeros(1), zo.Dense(torch.arange(float(rows))[:, None]))]


def _streamed(pool: Any, box: Any, warm: Any, held: Held) -> None:
    """Through a pool of zograd's; NaN comes back as a value, which whoever collects the rows counts as invalid."""
    held.numbered = True
    for _ in pool.stream(warm, _wave(2 * WORKERS)):
        pass
    held.begin()
    for piece in pool.stream(box, _wave(ROWS)):
        for place, row in enumerate(piece.rows):
            if piece.values is None:
                held.statuses[row] = piece.status
            else:
                held.keep(row, float(piece.values[place]))


def zograd_processes(fun: Faulty, held: Held) -> None:
    import zograd as zo

    with zo.Pool(workers=WORKERS, timeout=LIMIT_SECONDS) as pool:
        _streamed(pool, zo.pointwise(fun.row), zo.pointwise(nothing), held)


def zograd_program(fun: Faulty, held: Held) -> None:
    import zograd as zo

    program = zo.Program(
        [sys.executable, "-S", str(Path(__file__).with_name("_faults.py")), fun.case, fun.folder, "{x[0]}"]
    )
    with zo.Pool(workers=WORKERS, timeout=LIMIT_SECONDS) as pool:
        _streamed(pool, program, zo.Program(["echo", "{x[0]}"]), held)


def zograd_loky(fun: Faulty, held: Held) -> None:
    import loky

    import zograd as zo

    executor = loky.get_reusable_executor(max_workers=WORKERS)
    with zo.Pool(workers=WORKERS, timeout=LIMIT_SECONDS, executor=executor) as pool:
        _streamed(pool, zo.pointwise(fun.row), zo.pointwise(nothing), held)
    held.end()
    executor.shutdown()


def zograd_dask(fun: Faulty, held: Held) -> None:
    from distributed import Client, LocalCluster

    import zograd as zo

    keywords = {"n_workers": WORKERS, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
    with LocalCluster(**keywords) as cluster, Client(cluster) as client:
        executor = client.get_executor(pure=False)
        with zo.Pool(workers=WORKERS, timeout=LIMIT_SECONDS, executor=executor) as pool:
            _streamed(pool, zo.pointwise(fun.row), zo.pointwise(nothing), held)
        held.end()


def zograd_minimize(fun: Faulty, held: Held) -> None:
    import zograd as zo

    def collect() -> None:
        for number, evaluation in enumerate(zo.read_run(run).evaluations()):
            held.statuses[number] = evaluation.status
            held.values.append(evaluation.value)

    run, held.collect = f"{fun.folder}/run", collect
    zo.minimize(nothing, START, evaluations=WORKERS, workers=WORKERS)  # what workers are forked from stays
    held.begin()
    given = {"evaluations": ROWS, "workers": WORKERS, "timeout": LIMIT_SECONDS}
    whole = zo.RandomGradient(samples=ROWS // 2)  # one step asks for all of them; the default has smaller steps
    zo.minimize(fun.placed, START, bounds=(LOW, HIGH), estimator=whole, run=run, **given)


ZOGRAD: dict[str, tuple[Setup, str, str]] = {
    "zograd, processes": (zograd_processes, "zograd", "`timeout`"),
    "zograd, threads and Program": (zograd_program, "zograd", "`timeout`"),
    "zograd, loky's executor": (zograd_loky, "zograd", "`timeout`"),
    "zograd, Dask's executor": (zograd_dask, "zograd", "`timeout`"),
    "zograd minimize": (zograd_minimize, "zograd", "`timeout`"),
}
"""Each with its package and its time limit."""
