"""Durable runs: created, interrupted in every way, resumed, refused."""

import contextlib
import functools
import json
import os
import signal
import sqlite3
import sys
import threading
import time
from hashlib import blake2b

import numpy as np
import pytest
import torch

import zograd as zo
import zograd._run_file
from zograd.evaluate import Journal


def valley(x):
    """A narrow valley, with points here and there that cannot be evaluated."""
    x = np.asarray(x)
    if int(abs(x[0]) * 1e9) % 29 == 0:
        raise ValueError("an unlucky point")
    return float(100 * ((x[1:] - x[:-1] ** 2) ** 2).sum() + ((1 - x[:-1]) ** 2).sum())


def bowl(x):
    """A bowl, all of which can be evaluated."""
    return float((np.asarray(x) ** 2).sum())


class Counted:
    """Counts the calls of a function, and interferes with one of them."""

    def __init__(self, fun=valley, at=0, interfere=None):
        self.fun, self.at, self.interfere = fun, at, interfere
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        if self.calls == self.at:
            return self.interfere()
        return self.fun(x)


def interrupt():
    """Ctrl-C."""
    raise KeyboardInterrupt


def told(result):
    """Everything that a resumed run must share with an uninterrupted one, to the last bit."""
    steps = [
        (s.number, s.evaluations, s.value, s.best_value, s.best_point.tolist(), s.lost, s.diagnostics)
        for s in result.history
    ]
    return repr((np.asarray(result.x).tolist(), result.fun, result.nfev, result.nit, result.lost, steps))


METHODS = {
    "chosen for few": {},
    "random": {"estimator": zo.RandomGradient(samples=2)},
    "smoothed and Adam": {
        "estimator": zo.SmoothedGradient(samples=3),
        "optimizer": functools.partial(torch.optim.Adam, lr=0.05),
        "scheduler": functools.partial(torch.optim.lr_scheduler.StepLR, step_size=5, gamma=0.5),
    },
    "coordinates and momentum": {
        "estimator": zo.CoordinateGradient(),
        "optimizer": functools.partial(torch.optim.SGD, lr=1e-3, momentum=0.9),
    },
}


def minimize(fun, run=None, method="random", **options):
    settings = {"evaluations": 120, "bounds": (-1.0, 2.0)} | METHODS[method] | options
    return zo.minimize(fun, np.full(3, -0.5), run=run, **settings)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("snapshots", [0.0, 1e9], ids=["a snapshot a step", "no snapshot"])
def test_an_interrupted_run_ends_as_one_that_was_not(method, snapshots, tmp_path, monkeypatch):
    monkeypatch.setattr(zograd._run_file, "SNAPSHOT_SECONDS", snapshots)
    monkeypatch.setattr(zograd._run_file, "SNAPSHOT_SHARE", 1e9)
    plain = minimize(valley, method=method)
    paid = 0
    for at in (1, 38, 33):
        fun = Counted(at=at, interfere=interrupt)
        result = minimize(fun, tmp_path / "run", method)
        paid += fun.calls - 1
        assert result.status == -1
        assert result.nfev == paid
    fun = Counted()
    result = minimize(fun, tmp_path / "run", method)
    assert told(result) == told(plain)
    assert paid + fun.calls == plain.nfev
    assert minimize(fun, tmp_path / "run", method).fun == plain.fun
    assert paid + fun.calls == plain.nfev


def test_the_message_says_whether_it_was_resumed(tmp_path):
    first = minimize(valley, tmp_path / "run")
    again = minimize(valley, tmp_path / "run")
    assert f"Recorded in {tmp_path / 'run'}." in first.message
    assert f"Resumed {tmp_path / 'run'} at step {first.nit}, {first.nfev} evaluations." in again.message
    assert again.seconds >= first.seconds > 0


@pytest.mark.parametrize("method", ["random", "coordinates and momentum"])
def test_a_larger_budget_goes_on_with_what_was_chosen(method, tmp_path):
    plain = minimize(valley, method=method, evaluations=60)
    minimize(valley, tmp_path / "run", method, evaluations=60)
    fun = Counted()
    longer = minimize(fun, tmp_path / "run", method, evaluations=120)
    assert fun.calls == longer.nfev - plain.nfev > 0
    assert told(longer).partition("[(")[2].startswith(told(plain).partition("[(")[2][:-3])


def high(points):
    """Never below 1: no sweep of blocks promises enough, so that others start too."""
    return 1 + (points - 0.3).abs().mean(1) + (3 * points).sin().square().mean(1)


def contested(run=None, evaluations=4020, interrupted=None):
    """A contest of blocks and mirrored directions, interrupted after so many points."""
    seen = 0

    def fun(points):
        nonlocal seen
        seen += len(points)
        if interrupted is not None and seen > interrupted:
            interrupt()
        return high(points)

    return zo.minimize(zo.batched(fun), torch.zeros(201), evaluations=evaluations, run=run)


def test_a_contest_that_began_with_a_sweep_goes_on_bit_for_bit_and_beyond_its_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(zograd._run_file, "SNAPSHOT_SECONDS", 0.0)
    monkeypatch.setattr(zograd._run_file, "SNAPSHOT_SHARE", 1e9)
    plain = contested(tmp_path / "plain")
    assert {step.diagnostics.get("contestant") for step in plain.history} >= {0.0, 1.0}
    for points in (200, 350, 900):  # in the first sweep, in the first heat of the other, later
        assert contested(tmp_path / "run", interrupted=points).status == -1
    assert told(contested(tmp_path / "run")) == told(plain)
    longer = contested(tmp_path / "run", 5000)
    assert longer.nfev > plain.nfev
    assert told(longer) == told(contested(tmp_path / "plain", 5000))
    assert told(longer).partition("[(")[2].startswith(told(plain).partition("[(")[2][:-3])


def test_other_settings_are_refused_and_named(tmp_path):
    minimize(valley, tmp_path / "run")
    with pytest.raises(zo.RunError, match="seed: 0 -> 1") as caught:
        minimize(valley, tmp_path / "run", seed=1)
    assert any(line.startswith("seed") for line in caught.value.differences)
    with pytest.raises(zo.RunError, match=r"estimator\.samples: 2 -> 3"):
        minimize(valley, tmp_path / "run", estimator=zo.RandomGradient(samples=3))
    with pytest.raises(zo.RunError, match=r"parameters\.table"):
        minimize(valley, tmp_path / "run", bounds=(-1.0, 3.0))
    with pytest.raises(zo.RunError, match=r"parameters\.digest"):
        minimize(valley, tmp_path / "run", bounds=(-1.0, 2.0 + 1e-15))
    with pytest.raises(zo.RunError, match=r"policy\.fill"):
        minimize(valley, tmp_path / "run", on_failure=zo.value(9.0))
    assert minimize(valley, tmp_path / "run").success


def test_a_program_that_changed_its_mind_is_caught_by_the_digest(tmp_path):
    def descent(step):
        return zo.Descent([1.0, 2.0], estimator=zo.RandomGradient(samples=2), optimizer=torch.optim.Adam, seed=step)

    box = zo.batched(lambda x: (x**2).sum(1))
    with zo.Run.create(tmp_path, descent(0), box, evaluations=100) as run:
        for _ in range(3):
            next(run)
    file = sqlite3.connect(tmp_path / "run.sqlite")
    file.execute("UPDATE evaluations SET digest = x'00' WHERE call = 2 AND row = 1")
    file.execute("DELETE FROM snapshots")
    file.commit()
    file.close()
    with pytest.raises(zo.RunError, match="row 1 of call 2 must be the point that was recorded") as caught:
        zo.Run.resume(tmp_path, descent(0), box)
    assert caught.value.differences[0].startswith("call 2, row 1: 00 -> ")


def test_a_changed_value_is_caught_by_the_step(tmp_path):
    def descent():
        return zo.Descent([1.0, 2.0], estimator=zo.CoordinateGradient(), optimizer=torch.optim.Adam)

    box = zo.batched(lambda x: (x**2).sum(1))
    with zo.Run.create(tmp_path, descent(), box, evaluations=100) as run:
        steps = [next(run) for _ in range(3)]
    file = sqlite3.connect(tmp_path / "run.sqlite")
    file.execute("UPDATE evaluations SET value = -7.0 WHERE call = 3 AND row = 1")
    file.commit()
    file.close()
    with pytest.raises(zo.RunError, match="step 3 must come out as it is on record"):
        zo.Run.resume(tmp_path, descent(), box)
    assert steps[-1].best_value > 0


def test_there_is_one_writer(tmp_path):
    def descent():
        return zo.Descent([1.0], estimator=zo.CoordinateGradient(), optimizer=torch.optim.Adam)

    box = zo.batched(lambda x: (x**2).sum(1))
    run = zo.Run.create(tmp_path / "a", descent(), box, evaluations=100)
    next(run)
    with pytest.raises(zo.RunError, match=f"being written by process {os.getpid()} on"):
        zo.Run.resume(tmp_path / "a", descent(), box)
    with pytest.raises(zo.RunError, match="one writer"):
        zo.Run.create(tmp_path / "a", descent(), box, evaluations=100)
    run.close()
    with pytest.raises(zo.RunError, match="must not overwrite another"):
        zo.Run.create(tmp_path / "a", descent(), box, evaluations=100)
    with pytest.raises(StopIteration):
        next(run)
    with zo.Run.resume(tmp_path / "a", descent(), box) as resumed:
        assert next(resumed).number == 2
    with pytest.raises(zo.RunError, match="there must be a run at"):
        zo.Run.resume(tmp_path / "b", descent(), box)


def test_a_run_that_is_dropped_lets_the_next_one_in(tmp_path):
    def begun():
        descent = zo.Descent([1.0], estimator=zo.CoordinateGradient(), optimizer=torch.optim.Adam)
        next(zo.Run.create(tmp_path, descent, zo.batched(lambda x: (x**2).sum(1)), evaluations=100))

    begun()
    assert len(zo.read_run(tmp_path).history) == 1
    Journal(tmp_path).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_worker_that_outlives_its_writer_does_not_keep_the_run_locked(tmp_path):
    journal = Journal(tmp_path, {"evaluations": 1})
    ready, wait = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"x")
        os.read(wait[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        journal.close()
        Journal(tmp_path).close()
    finally:
        os.write(wait[1], b"x")
        os.waitpid(child, 0)
        for end in (*ready, *wait):
            os.close(end)


def test_a_full_disk_stops_the_run_with_the_best_so_far_and_loses_nothing(tmp_path, monkeypatch):
    opened = Journal.__init__

    def small(self, *arguments):
        opened(self, *arguments)
        pages = self._connection.execute("PRAGMA page_count").fetchone()[0]
        self._connection.execute(f"PRAGMA max_page_count = {pages + 1}")

    fun = Counted(bowl)
    monkeypatch.setattr(Journal, "__init__", small)
    monkeypatch.setattr("zograd.evaluate._journal.GROUP_SECONDS", 0.0)
    with pytest.raises(zo.RunError, match="full") as caught:
        minimize(fun, tmp_path / "run", evaluations=1200)
    assert caught.value.result.fun < bowl(np.full(3, -0.5))
    assert 0 < fun.calls < 1200
    monkeypatch.setattr(Journal, "__init__", opened)
    monkeypatch.undo()
    known = len(zo.read_run(tmp_path / "run"))
    again = Counted(bowl)
    result = minimize(again, tmp_path / "run", evaluations=1200)
    assert known + again.calls == result.nfev
    assert told(result) == told(minimize(bowl, evaluations=1200))


def test_what_a_full_disk_did_not_take_is_tried_again(tmp_path):
    descent = zo.Descent([1.0, 2.0], estimator=zo.CoordinateGradient(), optimizer=torch.optim.Adam)
    fun = Counted(lambda x: float((x**2).sum()))
    run = zo.Run.create(tmp_path, descent, zo.pointwise(fun), evaluations=400)
    next(run)
    connection = run._file.journal._connection
    run._file.journal.flush()
    connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}")

    def go_on():
        for _ in run:
            run._file.journal.flush()

    with pytest.raises(zo.RunError, match="full"):
        go_on()
    connection.execute("PRAGMA max_page_count = 100000")
    for _ in run:
        pass
    assert run.stopped == "budget"
    assert fun.calls == run.evaluations == len(zo.read_run(tmp_path))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux")
def test_a_directory_that_cannot_be_written_is_refused_before_anything_is_evaluated(tmp_path):
    fun = Counted()
    with pytest.raises(zo.RunError, match="must be able to make its directory"):
        minimize(fun, "/proc/run")
    (tmp_path / "file").write_text("")
    with pytest.raises(zo.RunError, match="must be able to make its directory"):
        minimize(fun, tmp_path / "file" / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").mkdir()
    with pytest.raises(zo.RunError, match="must be able to write to"):
        minimize(fun, tmp_path / "run")
    assert fun.calls == 0


def test_sigterm_returns_the_best_so_far_and_the_run_goes_on(tmp_path):
    plain = minimize(valley)
    fun = Counted(at=50, interfere=lambda: os.kill(os.getpid(), signal.SIGTERM))
    result = minimize(fun, tmp_path / "run")
    assert result.status == -1
    assert "Terminated by a signal after 49" in result.message
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert zo.read_run(tmp_path / "run").sessions[0]["stopped"] == "terminated"
    assert told(minimize(valley, tmp_path / "run")) == told(plain)


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "Interrupted"), (signal.SIGTERM, "Terminated")])
def test_a_signal_that_the_program_swallows_stops_the_run_all_the_same(tmp_path, number, word):
    calls = 0

    def deaf(x):
        nonlocal calls
        calls += 1
        if calls == 50:
            with contextlib.suppress(BaseException):  # as compiled code does, when Python that it calls raises
                os.kill(os.getpid(), number)
                time.sleep(10)
        return valley(x)

    first = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, first)  # a job in the background of a shell is started deaf to Ctrl-C
    try:
        result = minimize(deaf, tmp_path / "run")
        assert signal.getsignal(number) == first
    finally:
        signal.signal(number, before)
    assert result.status == -1
    assert word in result.message
    assert 50 <= calls == result.nfev < 60
    assert told(minimize(valley, tmp_path / "run")) == told(minimize(valley))


def test_signals_are_left_to_the_main_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(minimize(valley)))
    thread.start()
    thread.join()
    assert results[0].fun == minimize(valley).fun


def test_time_target_and_callback_stop_a_run_that_goes_on(tmp_path):
    plain = minimize(valley)
    assert minimize(valley, tmp_path / "run", max_time=1e-9).status == 2
    assert minimize(valley, tmp_path / "run", callback=lambda result: result.nit == 4).status == 3
    reached = minimize(valley, tmp_path / "run", target=plain.fun)
    assert reached.status == 1
    assert reached.fun == plain.fun
    assert minimize(valley, tmp_path / "run", target=plain.fun).status == 1
    stops = [session["stopped"] for session in zo.read_run(tmp_path / "run").sessions]
    assert stops == ["time", "callback", "target", "target"]
    assert told(minimize(valley, tmp_path / "run")) == told(plain)
    assert minimize(valley, tmp_path / "run", target=plain.fun).status == 1


def test_what_a_run_failed_at_is_tried_again(tmp_path):
    def fail():
        raise OSError("the licence server is down")

    fun = Counted(bowl, at=30, interfere=fail)
    with pytest.raises(zo.EvaluationError, match="licence server"):
        minimize(fun, tmp_path / "run", on_failure="raise")
    assert zo.read_run(tmp_path / "run").lost() == {"failed": 1}
    again = Counted(bowl)
    result = minimize(again, tmp_path / "run", on_failure="raise")
    assert told(result) == told(minimize(bowl, on_failure="raise"))
    assert again.calls == result.nfev - 29
    assert zo.read_run(tmp_path / "run").lost() == {}


def test_a_step_that_lost_everything_is_tried_again(tmp_path):
    down = [True]

    def fun(x):
        return float("nan") if down[0] else valley(x)

    with pytest.raises(zo.EvaluationError, match="No step can be made"):
        minimize(fun, tmp_path / "run")
    down[0] = False
    assert told(minimize(fun, tmp_path / "run")) == told(minimize(valley))


def test_a_run_that_loses_too_much_stops_and_a_mended_program_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(zograd._run_file, "SNAPSHOT_SECONDS", 0.0)
    options = {"estimator": zo.RandomGradient(samples=20), "evaluations": 600}
    down = [True]

    class Failing(Counted):
        def __call__(self, x):
            value = super().__call__(x)
            if down[0] and self.calls > 85 and self.calls % 5 < 3:
                raise OSError("the licence server is down")
            return value

    fun = Failing(bowl)
    with pytest.raises(zo.EvaluationError, match=r"max_lost=0\.5 .*licence server") as caught:
        minimize(fun, tmp_path / "run", max_lost=0.5, **options)
    stopped, so_far = fun.calls, caught.value.result
    assert 85 + 80 < stopped < 250
    assert so_far.nfev == stopped
    record = zo.read_run(tmp_path / "run")
    assert len(record) == stopped
    assert record.best_value == so_far.fun
    assert record.sessions[-1]["stopped"] == "failed"
    with pytest.raises(zo.EvaluationError, match=r"max_lost=0\.5"):  # not mended: it is not paid for to the end
        minimize(fun, tmp_path / "run", max_lost=0.5, **options)
    assert stopped + 50 < fun.calls < stopped + 250
    down[0] = False
    calls = fun.calls
    result = minimize(fun, tmp_path / "run", **options)
    assert result.nfev == 600
    assert fun.calls - calls < 600 - stopped
    assert result.fun <= so_far.fun
    assert result.history[-1].lost == 0


def test_what_a_run_may_lose_is_said():
    def fun(x):
        fun.calls += 1
        return bowl(x) if fun.calls % 5 > 2 else None

    fun.calls = 0
    options = {"estimator": zo.RandomGradient(samples=20), "evaluations": 400}
    assert minimize(fun, **options).lost == 240
    with pytest.raises(zo.EvaluationError, match="max_lost"):
        minimize(fun, max_lost=0.5, **options)
    with pytest.warns(zo.ZogradWarning, match="all 400 values are equal"):
        hopeless = minimize(lambda x: None, on_failure=zo.value(9.0), **options)
    assert (hopeless.lost, hopeless.nfev, hopeless.fun) == (400, 400, 9.0)


def test_a_damaged_snapshot_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(zograd._run_file, "SNAPSHOT_SECONDS", 0.0)
    monkeypatch.setattr(zograd._run_file, "SNAPSHOT_SHARE", 1e9)
    minimize(Counted(at=60, interfere=interrupt), tmp_path / "run")
    file = sqlite3.connect(tmp_path / "run" / "run.sqlite")
    newest, older = (row[0] for row in file.execute("SELECT step FROM snapshots ORDER BY step DESC").fetchall())
    state = b"PK\x03\x04 nonsense"
    digest = blake2b(state, digest_size=16).digest()
    file.execute("UPDATE snapshots SET state = x'0102' WHERE step = ?", (newest,))
    file.execute("UPDATE snapshots SET state = ?, digest = ? WHERE step = ?", (state, digest, older))
    file.commit()
    file.close()
    assert told(minimize(valley, tmp_path / "run")) == told(minimize(valley))


def test_nothing_is_kept_in_memory_once_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("zograd.evaluate._journal.GROUP_SECONDS", 0.0)
    descent = zo.Descent([1.0], estimator=zo.CoordinateGradient(), optimizer=torch.optim.Adam)
    with zo.Run.create(tmp_path, descent, zo.batched(lambda x: (x**2).sum(1)), evaluations=300) as run:
        for _ in run:
            assert (len(run._file.journal._evaluations), len(run._file.journal._others)) == (0, 0)
    assert len(run.record.history) == run.steps > 0


def test_a_run_in_memory_has_no_record():
    run = zo.Run(
        zo.Descent([1.0], estimator=zo.CoordinateGradient(), optimizer=torch.optim.Adam),
        zo.batched(lambda x: (x**2).sum(1)),
        evaluations=30,
    )
    with run, pytest.raises(zo.RunError, match=r"zograd\.Run\.create"):
        run.record  # noqa: B018


def test_the_configuration_is_readable(tmp_path):
    minimize(valley, tmp_path / "run")
    configuration = zo.read_run(tmp_path / "run").configuration
    assert configuration["estimator"]["samples"] == 2
    assert configuration["evaluations"] == 120
    assert len(json.dumps(configuration)) < 3000
