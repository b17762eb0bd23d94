"""Sixteen rows, two workers, a limit of 2 s, and six faults: zograd and its peers.

Each set-up runs in a process of its own, and is given up when it has not come back after 20 s.

    OMP_NUM_THREADS=1 python benchmarks/faults.py
    OMP_NUM_THREADS=1 python benchmarks/faults.py --setups "zograd, processes" --redo
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import psutil
from _faults import (
    ALONE,
    BEST,
    CASES,
    LIMIT_SECONDS,
    PLACES,
    ROWS,
    STATUSES,
    WORKERS,
    Faulty,
    faults,
    innocent,
    value,
)  # fmt: skip
from _faults_gradients import GRADIENTS, left_of
from _faults_peers import PEERS
from _faults_setups import ZOGRAD, Held
from _machine import installed, machine, package
from _runner import GENERATED, RESULTS, Results, Row, sweep, table, write

NEVER_SECONDS, START_SECONDS, GRACE_SECONDS, INTERRUPTED_AT = 20.0, 60.0, 8.0, 6
TARGET_SECONDS = 4.0
SETUPS = ZOGRAD | PEERS
METHODS = SETUPS | GRADIENTS
GRADIENT = "one NaN in a gradient"
MARK = "ZOGRAD_BENCHMARK_FAULTS"
KEY = ["setup", "case", "repeat"]
FIELDS = [
    *KEY, "outcome", "seconds", "start_seconds", "exit_seconds", "right", "kept", "blamed", "named", "best", "left",
    "error", "version", "machine",
]  # fmt: skip


def attempt(setup: str, case: str, folder: Path) -> Row:
    """One set-up in this process."""
    if case == GRADIENT:
        with_nan, without = left_of(setup)
        return {"outcome": with_nan, "best": without}
    times = {"start": time.monotonic()}

    def begin() -> None:
        times["begin"] = time.monotonic()
        (folder / "begun").touch()

    held = Held(begin, lambda: times.setdefault("end", time.monotonic()) and None)
    error, outcome = "", "returned"
    try:
        SETUPS[setup][0](Faulty(case, str(folder)), held)
    except BaseException as raised:
        outcome, error = "raised", f"{type(raised).__name__}: {raised}".strip(": ")
    times.setdefault("end", time.monotonic())
    if "begin" not in times:  # it raised before its workers were there
        raise RuntimeError(error)
    with contextlib.suppress(Exception):
        held.collect()
    return judged(held, case) | {
        "outcome": outcome,
        "seconds": f"{times['end'] - times['begin']:.2f}",
        "start_seconds": f"{times['begin'] - times['start']:.2f}",
        "error": " ".join(error.split())[:200],
    }


def judged(held: Held, case: str) -> Row:
    """What the caller holds, against what happened."""
    due, wrong = innocent(case), faults(case)
    kept = {float(found) for found in held.values if isinstance(found, int | float)} & due.keys()
    lost = {row for row, status in held.statuses.items() if status != "ok"}
    right = sum(held.statuses.get(row) == (STATUSES[wrong[row]] if row in wrong else "ok") for row in range(ROWS))
    return {
        "right": right if held.numbered else "",
        "kept": len(kept),
        "blamed": len(lost - wrong.keys()) if held.numbered else max(0, len(lost) - len(wrong)),
        "named": len(lost & wrong.keys()) if held.numbered else min(len(lost), len(wrong)),
        "best": value(BEST) in kept,
    }


def marked(mark: str, but: int) -> list[psutil.Process]:
    """The processes that a set-up has started, but for itself and Python's own helpers, which end with it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) != mark or process.pid == but or process.status() == psutil.STATUS_ZOMBIE:
                continue
            words = " ".join(process.cmdline())
            server = "forkserver" in words and os.getsid(process.pid) != process.pid  # a worker leads a session
            if "resource_tracker" in words or server:
                continue
            found.append(process)
    return found


def run(task: Row) -> Row:
    """One case in a process of its own, which is a group of its own: Ctrl-C goes to all of a group."""
    with tempfile.TemporaryDirectory() as name:
        found = watched(task, Path(name))
    print(
        *(task[key] for key in KEY), "|", found["outcome"], found.get("seconds", ""), found.get("error", ""), flush=True
    )
    distribution = METHODS[task["setup"]][1]
    version = f"{package(distribution)}, {package('numpy')}" if distribution else ""
    return dict.fromkeys(FIELDS, "") | task | found | {"version": version, "machine": machine()}


def watched(task: Row, folder: Path) -> Row:
    """Start it, wait for it, interrupt it where that is the case, and end all that is left of it."""
    answer = folder / "answer.json"
    mark = str(folder)
    command = [sys.executable, __file__, "--one", task["setup"], task["case"], str(folder)]
    with (folder / "errors").open("wb") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=os.environ | {MARK: mark, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    try:
        alive = lambda: process.poll() is None  # noqa: E731
        until(lambda: (folder / "begun").exists() or answer.exists() or not alive(), START_SECONDS)
        began = time.monotonic()
        if task["case"] == "Ctrl-C":
            until(lambda: len(list(folder.glob("*.done"))) >= INTERRUPTED_AT or not alive(), NEVER_SECONDS)
            began = time.monotonic()
            os.killpg(process.pid, signal.SIGINT)
        until(lambda: answer.exists() or not alive(), NEVER_SECONDS)
        back = time.monotonic()
        if not answer.exists():
            words = (folder / "errors").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            if alive():
                return {"outcome": "never came back", "error": f"given up after {NEVER_SECONDS:g} s"}
            return {"outcome": "died", "seconds": f"{back - began:.2f}", "error": f"{process.returncode} {words}"}
        found: Row = json.loads(answer.read_text(encoding="utf-8"))
        if task["case"] == GRADIENT:
            return found
        if task["case"] == "Ctrl-C":
            found["seconds"] = f"{back - began:.2f}"
        ended = [None if alive() else back]

        def gone() -> bool:
            ended[0] = ended[0] or (None if alive() else time.monotonic())
            return not marked(mark, process.pid)

        until(gone, GRACE_SECONDS, 0.1)
        found["left"] = len(marked(mark, process.pid))
        until(lambda: bool(ended[0]) or not alive(), NEVER_SECONDS)
        found["exit_seconds"] = "never" if alive() else f"{(ended[0] or time.monotonic()) - back:.1f}"
        return found
    finally:
        for each in [process.pid, *(each.pid for each in marked(mark, process.pid))]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        process.wait()


def until(holds: Callable[[], bool], seconds: float, pause: float = 0.01) -> None:
    """Wait for it, for so long at most."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(pause)


def number(row: Row, column: str) -> str:
    return row[column] if row[column] in {"", "never"} else f"{float(row[column]):.1f}"


def verdict(row: Row | None) -> str:
    """A case in a few words."""
    if row is None:
        return ""
    if row["outcome"] == "never came back":
        return "**never came back**"
    if row["outcome"] == "died":
        return f"**the caller died**, {number(row, 'seconds')} s"
    raised = "" if row["outcome"] == "returned" else f"raises {row['error'].split(':')[0]}, "
    kept = ("best kept" if row["best"] == "True" else "best lost") if row["case"] == "Ctrl-C" else ""
    kept = kept or f"{row['kept']} of {len(innocent(row['case']))}"
    ends = ", its process never ended" if row["exit_seconds"] == "never" else ""
    return f"{raised}{kept}, {number(row, 'seconds')} s{ends}"


def least(rows: list[Row], column: str) -> int:
    """The worst of the repeats; one that never came back kept nothing."""
    return min(int(row[column] or 0) for row in rows)


def report(rows: list[Row]) -> str:
    """The tables, as Markdown."""
    named = {(row["setup"], row["case"]): row for row in reversed(rows)}
    every = [row for row in rows if row["case"] == "all"]
    ours = []
    for name in ZOGRAD:
        mine = [row for row in every if row["setup"] == name]
        if mine:
            times = sorted(float(row["seconds"] or "inf") for row in mine)
            ours.append(
                [
                    name,
                    f"{least(mine, 'right')} of {ROWS}" if mine[0]["right"] else "",
                    f"{least(mine, 'kept')} of {len(innocent('all'))}",
                    max(row["blamed"] for row in mine),
                    f"{times[len(times) // 2]:.2f}",
                    f"{times[-1]:.2f}",
                    f"{max(float(row['start_seconds'] or 'inf') for row in mine):.1f}",
                    max(row["left"] for row in mine),
                    len(mine),
                ]
            )
    theirs = [
        [
            name,
            SETUPS[name][2],
            verdict(row),
            f"{row['named']} of {len(PLACES)}" if row["named"] else "",
            row["blamed"],
            row["left"],
            number(row, "exit_seconds"),
        ]
        for name in SETUPS
        if (row := named.get((name, "all")))
    ]
    alone = [case for case in CASES if case != "all"]
    cells = [[n, *(verdict(named.get((n, case))) for case in alone)] for n in SETUPS if (n, "all") in named]
    nan = [[name, row["outcome"], row["best"]] for name in GRADIENTS if (row := named.get((name, GRADIENT)))]
    versions = sorted({row["version"] for row in rows if row["version"]})
    return "\n".join(
        [
            "<!-- made by benchmarks/faults.py -->\n",
            f"{ROWS} evaluations, {WORKERS} workers, a limit of {LIMIT_SECONDS:g} s. Among them are "
            f"{len(ALONE)} that go wrong:\n",
            "".join(f"- **{name}**: {what}\n" for name, what in ALONE.items()),
            "### zograd\n",
            f"The worst of the repeats, and the median time. The aim is under {TARGET_SECONDS:g} s with the workers "
            "there already; what it takes to have them is apart. `minimize` chooses its points itself, so that a "
            "status is not compared with a row.\n",
            table(
                [
                    "",
                    "statuses right",
                    "innocent values kept",
                    "innocent rows blamed",
                    "median s",
                    "longest s",
                    "start, longest s",
                    "processes left",
                    "repeats",
                ],
                ours,
            ),
            "### All six faults at once\n",
            f"`n of {len(innocent('all'))}` are the values of innocent rows that the caller has in the end. Named are "
            "the faulty rows that the library says are lost; blamed are innocent ones that it says are. Processes left "
            f"are counted {GRACE_SECONDS:g} s after it came back. Exit is what the caller's own process then took "
            "to end.\n",
            table(["", "its limit", "came back", "named", "blamed", "processes left", "exit, s"], theirs),
            "### Each fault alone, and Ctrl-C\n",
            f"**Never came back**: it was given up after {NEVER_SECONDS:g} s. Ctrl-C: the seconds after it, and "
            "whether the caller still has the best value seen.\n",
            table(["", *alone], cells),
            "### One NaN in the samples of a gradient\n",
            table(["", "with the NaN", "without it"], nan),
            "### Machine and versions\n",
            "".join(f"- {name}\n" for name in [*sorted({row["machine"] for row in rows}), *versions]),
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(METHODS)
    parser.add_argument("--setups", nargs="+", choices=names, default=names)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=3, help="of all faults at once through zograd")
    parser.add_argument("--out", type=Path, default=RESULTS / "faults.csv", help="continued where it is")
    parser.add_argument("--report", type=Path, default=GENERATED / "faults.md")
    parser.add_argument("--jobs", type=int, default=1, help="set-ups at a time")
    parser.add_argument("--redo", action="store_true", help="forget the rows of these set-ups and cases first")
    parser.add_argument("--one", nargs=3, metavar=("SETUP", "CASE", "FOLDER"), help="one case, here and now")
    given = parser.parse_args(arguments)

    if given.one:
        setup, case, folder = given.one
        warnings.simplefilter("ignore")
        found = json.dumps(attempt(setup, case, Path(folder)), default=str)
        answer = Path(folder) / "answer.json"
        answer.with_suffix(".part").write_text(found, encoding="utf-8")
        answer.with_suffix(".part").rename(answer)
        return
    results = Results(given.out, FIELDS, KEY)
    if given.redo:
        cases = {*given.cases, GRADIENT}
        results.rewrite(r for r in results.rows if r["setup"] not in given.setups or r["case"] not in cases)
    tasks = [
        {"setup": name, "case": case, "repeat": repeat}
        for name in given.setups
        if not METHODS[name][1] or installed(METHODS, [name])
        for case in (given.cases if name in SETUPS else [GRADIENT])
        for repeat in range(given.repeats if name in ZOGRAD and case == "all" else 1)
    ]
    sweep(tasks, run, results, given.jobs)
    results.rewrite(results.rows)
    write(given.report, report(results.rows))


if __name__ == "__main__":
    main()
