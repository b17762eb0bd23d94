"""Many at a time: every fault is one lost row with its status, and the same values whoever works."""

import contextlib
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

import zograd as zo
from zograd.blackbox import BlackBox
from zograd.evaluate import Finished, InProcess, Pool, evaluate, failure_policy
from zograd.evaluate._pool_worker import Progress

LONG = 20.0


def wave_of(*sizes: int, first: int = 0) -> list[zo.Probes]:
    wave = []
    for size in sizes:
        rows = torch.arange(first, first + size, dtype=torch.float64)
        wave.append(zo.Probes(torch.zeros(2, dtype=torch.float64), zo.Dense(torch.stack([rows, rows * 0], 1))))
        first += size
    return wave


def by_row(pieces: Iterator[Finished]) -> dict[int, Finished]:
    found = {row: piece for piece in pieces for row in piece.rows}
    return dict(sorted(found.items()))


def sleeps(seconds: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[-2:] == ["sleep", seconds] and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def workers_alive() -> list[psutil.Process]:
    """The worker processes of this process: the children of the server that forks them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            parent = process.parent()
            forked = parent is not None and "forkserver" in " ".join(parent.cmdline())
            if forked and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(workers=2) as shared:
        yield shared


def faulty(x: torch.Tensor) -> object:
    """The fault table: a hang, a hanging grandchild, a crash, an exception, NaN, and the wrong shape."""
    match int(x[0]):
        case 3:
            time.sleep(LONG * 10)
        case 5:
            import subprocess as started

            started.run(["sleep", "7501"])
        case 7:
            os.kill(os.getpid(), signal.SIGSEGV)
        case 9:
            raise ValueError("nine")
        case 11:
            return math.nan
        case 13:
            return [1.0, 2.0]
    return float(x[0])


FAULTS = {3: "timeout", 5: "timeout", 7: "crashed", 9: "failed", 11: "invalid", 13: "invalid"}


def check_faults(pieces: Iterator[Finished]) -> None:
    found = by_row(pieces)
    assert list(found) == list(range(16))
    for row, piece in found.items():
        if row in FAULTS and row != 11:
            assert (row, piece.status) == (row, FAULTS[row]), piece.error
        elif row != 11:
            assert piece.status == "ok", piece.error
            assert piece.values is not None
            assert piece.values.tolist() == [row]
    nan = found[11]
    assert nan.status == "invalid" or (nan.values is not None and nan.values.isnan().all())
    assert sleeps("7501") == []


def test_the_fault_table_in_processes() -> None:
    with Pool(workers=2, timeout=3.0) as pool:
        for _ in pool.stream(zo.pointwise(lambda x: 1.0), wave_of(4)):
            pass
        check_faults(pool.stream(zo.pointwise(faulty), wave_of(16)))
    assert workers_alive() == []


def test_the_fault_table_with_programs_in_threads() -> None:
    script = (
        "case {x[0]} in 3.0) sleep 7501;; 5.0) (setsid sleep 7501 & wait); sleep 7501;; 7.0) kill -SEGV $$;;"
        " 9.0) exit 9;; 11.0) echo NaN;; 13.0) echo '[1, 2]';; *) echo {x[0]};; esac"
    )
    program = zo.Program(["sh", "-c", script.replace("{x[0]}", '"$0"'), "{x[0]}"], stdin=True)
    pool = Pool(workers=2, timeout=3.0)
    list(pool.stream(program, wave_of(1)))
    check_faults(pool.stream(program, wave_of(16)))
    pool.close()


def test_the_fault_table_through_an_executor() -> None:
    with ThreadPoolExecutor(2) as executor:
        check_faults(Pool(executor=executor, timeout=3.0).stream(zo.pointwise(faulty), wave_of(16)))
    deadline = time.monotonic() + LONG
    while workers_alive() and time.monotonic() < deadline:  # those of the executor's threads end with them
        time.sleep(0.05)
    assert workers_alive() == []


def noisy(x: torch.Tensor) -> list[float]:
    return [float(x[0]), random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002


def test_one_worker_and_three_give_the_same_values_bit_for_bit() -> None:
    found = []
    for workers in (1, 3):
        with Pool(workers=workers, seed=5) as pool:
            waves = [evaluate(pool, zo.pointwise(noisy), wave_of(9, 4), failure_policy("raise")) for _ in range(2)]
            found.append([values for wave in waves for values in wave])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert not torch.equal(found[0][0], found[0][2])
    assert len(torch.unique(found[0][0][:, 1])) == 9


def test_a_row_has_the_seed_of_its_place_in_a_run(pool) -> None:
    box = zo.pointwise(noisy)
    pool.places = ((7, 0),)
    (whole,) = evaluate(pool, box, wave_of(6), failure_policy("raise"))
    pool.places = ((7, 4), (7, 0))
    last, first = evaluate(pool, box, [wave_of(6)[0][4:], wave_of(6)[0][:2]], failure_policy("raise"))
    assert torch.equal(torch.cat([first, whole[2:4], last]), whole)


def test_a_lost_row_is_tried_again_with_the_same_seed(tmp_path) -> None:
    def once(x: torch.Tensor) -> list[float]:
        mark = Path(tmp_path) / str(int(x[0]))
        if not mark.exists():
            mark.touch()
            match int(x[0]):
                case 1:
                    os._exit(0)
                case 2:
                    raise OSError("busy")
                case 3:
                    time.sleep(LONG * 10)
                case 4:
                    return [math.nan] * 4
        return noisy(x)

    with Pool(workers=2, seed=5, retries=1, wait=0.01, timeout=2.0) as pool:
        (values,) = evaluate(pool, zo.pointwise(once), wave_of(6), failure_policy("raise"))
    with Pool(workers=1, seed=5) as pool:
        (expected,) = evaluate(pool, zo.pointwise(noisy), wave_of(6), failure_policy("raise"))
    assert torch.equal(values, expected)


def test_retries_are_bounded_and_said(pool) -> None:
    with Pool(workers=1, retries=2, wait=0.01) as retrying:
        (piece,) = retrying.stream(zo.pointwise(lambda x: 1 / 0), wave_of(1))
    assert piece.status == "failed"
    assert piece.error == "ZeroDivisionError: division by zero It was tried 3 times."
    assert isinstance(piece.exception, ZeroDivisionError)


@pytest.mark.parametrize("sizes", [(1,), (40,), (3, 0, 70, 1)])
@pytest.mark.parametrize("kind", ["pointwise", "batched", "torch_function"])
def test_it_agrees_with_in_process(pool, kind, sizes) -> None:
    scale = torch.tensor(3.0, dtype=torch.float64)
    box = getattr(zo, kind)((lambda x: x.sum(-1) * scale) if kind == "batched" else (lambda x: x.sum() * scale))
    wave = wave_of(*sizes)
    found = evaluate(pool, box, wave, failure_policy("raise"))
    expected = evaluate(InProcess(), box, wave, failure_policy("raise"))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_derivatives_and_other_dtypes_travel(pool) -> None:
    center = torch.tensor([1.0, 2.0])
    box = zo.torch_function(lambda x: (x**2).sum())
    probes = zo.ForwardGradient(samples=3).propose(center, torch.Generator().manual_seed(0))
    (found,) = evaluate(pool, box, [probes], failure_policy("raise"))
    (expected,) = evaluate(InProcess(), box, [probes], failure_policy("raise"))
    torch.testing.assert_close(found, expected)
    half = zo.Probes(center.bfloat16(), zo.Dense(torch.zeros(2, 2, dtype=torch.bfloat16)))
    (found,) = evaluate(pool, zo.batched(lambda x: x.sum(1)), [half], failure_policy("raise"))
    assert found.dtype == torch.bfloat16
    assert found.tolist() == [3.0, 3.0]


def test_structures_and_parameters_come_back(pool) -> None:
    parameters = zo.Parameters({"a": 1.0, "b": [2.0, 3.0]})
    box = zo.pointwise(lambda p: {"sum": p["a"] + p["b"][1], "all": p["b"]}).over(parameters)
    wave = [zo.Probes(parameters.initial, zo.Dense(torch.zeros(2, 3, dtype=torch.float64)))]
    (values,) = evaluate(pool, box, wave, failure_policy("raise"))
    assert box.outputs is not None
    assert box.outputs.unpack(values)["sum"].tolist() == [4.0, 4.0]
    assert float(zo.differentiable(lambda x: {"y": float(x[0])}, evaluator=pool)(torch.ones(1, 1))["y"]) == 1.0


def test_a_wrong_shape_is_its_own_rows_fault(pool) -> None:
    """Also where it is the first that a new worker sees."""

    def odd(x: torch.Tensor) -> object:
        if x[0] == 1:
            os._exit(3)
        return [1.0, 2.0] if x[0] == 2 else float(x[0])

    with Pool(workers=1) as one:
        pieces = by_row(one.stream(zo.pointwise(odd), wave_of(8)))
    assert [piece.status for piece in pieces.values()] == ["ok", "crashed", "invalid", *["ok"] * 5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "kind", [float, np.float32, np.float64, np.float16, int, np.array, lambda x: np.array(x, np.float32), torch.tensor]
)
def test_numbers_of_every_kind_are_those_of_in_process(pool, kind, dtype) -> None:
    parameters = zo.Parameters(np.array([0.1, 0.7]))
    box = zo.pointwise(lambda x: kind(float(x[0]) / 3 + 7)).over(parameters)
    wave = [zo.Probes(torch.zeros(2, dtype=dtype), zo.Dense(torch.rand(6, 2, dtype=torch.float64).to(dtype)))]
    found = evaluate(pool, box, wave, failure_policy("raise"))
    assert torch.equal(found[0], evaluate(InProcess(), box, wave, failure_policy("raise"))[0])
    assert found[0].dtype == dtype


def test_points_that_cannot_be_decoded_are_the_callers_mistake(pool) -> None:
    box = zo.pointwise(lambda p: 1.0).over(zo.Parameters({"n": 3}, integers=("n",)))
    wave = [zo.Probes(torch.zeros(1, dtype=torch.float64), zo.Dense(torch.full((3, 1), math.nan).double()))]
    with pytest.raises(zo.ArgumentError, match="finite"):
        list(pool.stream(box, wave))


def test_rows_are_taken_back_only_where_they_have_not_begun(tmp_path) -> None:
    (tmp_path / "shared").write_bytes(bytes(Progress.BYTES))
    with (tmp_path / "shared").open("r+b") as file:
        worker, parent = Progress(file.fileno()), Progress(file.fileno())
    parent.clear()
    assert parent.running()[0] == -1
    assert worker.begin(0)
    assert worker.begin(1)
    assert parent.limit(1) > 1000
    assert parent.limit(3) == 3
    assert worker.begin(2)
    before = parent.running()
    assert before[0] == 2
    assert before[1] <= time.monotonic()
    assert not worker.begin(3)
    parent.clear()
    assert worker.begin(3)
    worker.close()
    parent.close()


def test_another_structure_than_in_the_wave_before_is_invalid(pool) -> None:
    held: dict[str, object] = {"value": 1.0}
    box = zo.pointwise(lambda x: held["value"])
    assert evaluate(pool, box, wave_of(2), failure_policy("raise"))[0].tolist() == [1.0, 1.0]
    held["value"] = [1.0, 2.0]
    pieces = list(pool.stream(box, wave_of(2)))
    assert {piece.status for piece in pieces} == {"invalid"}
    assert "must return one structure every time" in pieces[0].error


def test_what_the_caller_changes_between_waves_is_seen(pool) -> None:
    held = {"value": 1.0}
    box = zo.pointwise(lambda x: held["value"])
    for value in (1.0, 2.0, 1.0, 3.0, 4.0, 5.0, 6.0, 2.0):
        held["value"] = value
        assert evaluate(pool, box, wave_of(3), failure_policy("raise"))[0].tolist() == [value] * 3


def test_a_mistake_of_the_callers_is_raised(pool) -> None:
    box = zo.pointwise(lambda x: x)
    probes = zo.ForwardGradient(samples=2).propose(torch.zeros(2), torch.Generator().manual_seed(0))
    with pytest.raises(zo.ArgumentError, match="torch_function"):
        list(pool.stream(box, [probes]))
    lock = threading.Lock()
    with pytest.raises(zo.ArgumentError, match="cannot be pickled"):
        list(pool.stream(zo.pointwise(lambda x: lock), wave_of(1)))
    assert evaluate(pool, zo.pointwise(lambda x: 1.0), wave_of(2), failure_policy("raise"))[0].tolist() == [1.0, 1.0]


class Wrong(BlackBox):
    """Returns no row a point."""

    def __init__(self, rows_per_call) -> None:
        self.rows_per_call = rows_per_call

    def __call__(self, points):
        return points.sum()


@pytest.mark.parametrize("rows_per_call", [1, None])
def test_wrong_rows_are_invalid(pool, rows_per_call) -> None:
    assert {piece.status for piece in pool.stream(Wrong(rows_per_call), wave_of(3))} == {"invalid"}


class Unloadable:
    """Can be pickled, and not unpickled."""

    def __reduce__(self):
        return int, ("no number",)


class Odd(Exception):
    """An exception that cannot be made again."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("odd")


def test_what_cannot_be_loaded_is_lost_and_said(pool) -> None:
    trap = Unloadable()
    pieces = list(pool.stream(zo.pointwise(lambda x: trap), wave_of(2)))
    assert {piece.status for piece in pieces} == {"failed"}
    assert "cannot be loaded in a worker: ValueError" in pieces[0].error


def test_an_exception_that_does_not_travel_is_still_said(pool) -> None:
    class Holding(Exception):
        def __init__(self) -> None:
            super().__init__("holding")
            self.held = threading.Lock()

    def fail(x: torch.Tensor) -> float:
        raise Odd(1, 2) if x[0] else Holding()

    pieces = by_row(pool.stream(zo.pointwise(fail), wave_of(2)))
    assert [piece.error for piece in pieces.values()] == ["Holding: holding", "Odd: odd"]
    assert [piece.exception for piece in pieces.values()] == [None, None]


def test_rows_behind_a_slow_one_are_given_to_others(pool) -> None:
    def slow(x: torch.Tensor) -> float:
        time.sleep(1.0 if int(x[0]) % 50 == 2 else 0.0)
        return float(os.getpid())

    began = time.monotonic()
    (values,) = evaluate(pool, zo.pointwise(slow), wave_of(60), failure_policy("raise"))
    assert len(torch.unique(values)) == 2
    assert values.isfinite().all()
    assert time.monotonic() - began < LONG


def test_a_worker_is_replaced_after_so_many_rows() -> None:
    with Pool(workers=1, recycle_after=2) as pool:
        box = zo.pointwise(lambda x: [os.getpid(), torch.get_num_threads()])
        found = [evaluate(pool, box, wave_of(2), failure_policy("raise"))[0] for _ in range(2)]
    assert found[0][0, 0] == found[0][1, 0] != found[1][0, 0]
    assert found[0][:, 1].tolist() == [1, 1]


def test_a_worker_that_died_while_idle_loses_nothing() -> None:
    with Pool(workers=1) as pool:
        box = zo.pointwise(lambda x: float(os.getpid()))
        (first,) = evaluate(pool, box, wave_of(1), failure_policy("raise"))
        victim = psutil.Process(int(first[0]))
        victim.kill()
        victim.wait(LONG) if victim.is_running() else None
        (second,) = evaluate(pool, box, wave_of(1), failure_policy("raise"))
    assert first[0] != second[0]


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS")
def test_the_memory_limit_holds() -> None:
    with Pool(workers=1, memory=2**28) as pool:
        pieces = by_row(pool.stream(zo.pointwise(lambda x: len(bytearray(int(x[0]) * 2**29))), wave_of(2)))
    assert [piece.status for piece in pieces.values()] == ["ok", "failed"]
    assert "MemoryError" in pieces[1].error


def test_closing_the_iterator_kills_what_runs() -> None:
    with Pool(workers=2) as pool:
        pieces = pool.stream(
            zo.pointwise(lambda x: subprocess.run(["sleep", "7502"]).returncode if x[0] else 0.0), wave_of(4)
        )
        next(pieces)
        while not sleeps("7502"):
            time.sleep(0.01)
        pieces.close()
        assert sleeps("7502") == []
        program = zo.Program(["sh", "-c", 'test "$0" = 0.0 || sleep 7503; echo 1', "{x[0]}"], stdin=True)
        pieces = pool.stream(program, wave_of(5))
        next(pieces)
        while not sleeps("7503"):
            time.sleep(0.01)
        pieces.close()
        assert sleeps("7503") == []
        assert evaluate(pool, zo.pointwise(lambda x: 1.0), wave_of(1), failure_policy("raise"))[0].tolist() == [1.0]


SCRIPT = """
import os, sys, time, subprocess
import torch, zograd as zo
from zograd.evaluate import Pool

def hang(x):
    if x[0] > 0:
        print("hangs", flush=True)
        subprocess.run(["sleep", "7504"])
    return 0.0

wave = [zo.Probes(torch.zeros(1), zo.Dense(torch.arange(4.0)[:, None]))]
for piece in Pool(workers=2).stream(zo.pointwise(hang), wave):
    pass
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_the_caller_ends(tmp_path, number) -> None:
    script = tmp_path / "script.py"  # without a guard: workers do not run it again
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A job in the background of a shell is started deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"hangs")  # of both workers, maybe in one line
            while not sleeps("7504"):
                time.sleep(0.01)
            process.send_signal(number)
            process.communicate(timeout=LONG * 3)
        finally:
            process.kill()
    deadline = time.monotonic() + LONG
    while sleeps("7504") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sleeps("7504") == []


def test_an_executor_that_is_broken_loses_its_tasks() -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    pieces = list(Pool(executor=executor, isolate=False).stream(zo.pointwise(lambda x: 1.0), wave_of(3)))
    assert [piece.status for piece in pieces] == ["crashed"] * 3
    assert "the executor lost it" in pieces[0].error


def test_an_executor_without_isolation() -> None:
    with ThreadPoolExecutor(2) as executor, Pool(executor=executor, isolate=False) as pool:
        (values,) = evaluate(pool, zo.pointwise(lambda x: float(x[0])), wave_of(30), failure_policy("raise"))
        assert values.tolist() == list(range(30))
        pieces = pool.stream(zo.pointwise(lambda x: time.sleep(0.05) or 1.0), wave_of(9))
        next(pieces)
        pieces.close()
        program = zo.Program(["echo", "{x[0]}"], stdin=True)
        assert evaluate(pool, program, wave_of(2), failure_policy("raise"))[0].tolist() == [0.0, 1.0]
        assert "executor" in repr(pool)


def test_loky_gives_the_same_values_and_survives_a_crash() -> None:
    loky = pytest.importorskip("loky")
    executor = loky.get_reusable_executor(max_workers=1)
    try:
        (values,) = evaluate(Pool(executor=executor, seed=5), zo.pointwise(noisy), wave_of(4), failure_policy("raise"))
        pieces = by_row(
            Pool(executor=executor, timeout=LONG).stream(
                zo.pointwise(lambda x: os._exit(3) if x[0] == 1 else 1.0), wave_of(3)
            )
        )
    finally:
        executor.shutdown()  # whose workers end their own children
    with Pool(workers=1, seed=5) as pool:
        assert torch.equal(evaluate(pool, zo.pointwise(noisy), wave_of(4), failure_policy("raise"))[0], values)
    assert [piece.status for piece in pieces.values()] == ["ok", "crashed", "ok"]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"workers": 0}, "`workers` must be"),
        ({"timeout": 0.0}, "`timeout` must be"),
        ({"retries": -1}, "`retries` must be"),
        ({"wait": 0}, "`wait` must be"),
        ({"executor": 3}, "`executor` must be"),
        ({"batch": 0}, "`batch` must be"),
        ({"seed": -1}, "`seed` must be"),
        ({"memory": 0}, "`memory` must be"),
        ({"recycle_after": 0}, "`recycle_after` must be"),
        ({"executor": ThreadPoolExecutor(1), "isolate": False, "timeout": 1.0}, "`isolate` must be True"),
        ({"executor": ThreadPoolExecutor(1), "memory": 10}, "`executor` must be None"),
    ],
)
def test_wrong_arguments(keywords, message) -> None:
    with pytest.raises(zo.ArgumentError, match=message):
        Pool(**keywords)
