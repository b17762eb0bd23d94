"""kill -9 at random moments, with and without a damaged file: is the resumed run that of an uninterrupted one?

Each trial starts a durable run in a process of its own, kills it with SIGKILL at a random moment, damages the file in
one of five ways (or not at all), and starts it again, until it comes to its end. It then must have the answer, the
history and every recorded value of a run that was never killed, bit for bit, and no evaluation that the file still
held when the run went on may have been paid again. POSIX only, for it forks.

Run with: python benchmarks/kill9.py [kills] [seed]
"""

import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from hashlib import blake2b
from pathlib import Path

import torch

import zograd as zo
import zograd._run
from zograd.evaluate import Journal

EVALUATIONS = 240
SECONDS = 0.002
LONG_SECONDS = 0.06
DIMENSION = 4
DAMAGE = ("none", "none", "torn page", "half a page", "no WAL", "no shared memory", "truncated")


class Slow(zo.BlackBox):
    """A valley with a few lost points; writes down what it was asked for before it answers."""

    rows_per_call = 1

    def __init__(self, log: Path) -> None:
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, points):
        """One point."""
        os.write(self.log, blake2b(points[0].numpy().tobytes(), digest_size=16, person=b"value").digest())
        chosen = int(points[0].view(torch.int64).sum()) % 40
        time.sleep(LONG_SECONDS if chosen == 0 else SECONDS)
        if chosen == 1:
            raise ValueError("this point cannot be evaluated")
        return (100 * (points[:, 1:] - points[:, :-1] ** 2).square().sum(1)) + (1 - points[:, :-1]).square().sum(1)


def minimised(folder: Path) -> zo.Result:
    """The run, from where it is."""
    log = folder.with_suffix(".log")
    return zo.minimize(
        Slow(log), torch.full((DIMENSION,), -0.5), evaluations=EVALUATIONS, run=folder, seed=1, progress=False
    )


def told(result: zo.Result) -> str:
    """Everything that must be the same, to the last bit: floats are written so that they read back the same."""
    steps = [
        (s.number, s.evaluations, s.value, s.best_value, s.best_point.tolist(), s.lost, s.diagnostics)
        for s in result.history
    ]
    return repr((result.x.tolist(), result.fun, result.nfev, result.nit, result.lost, result.status, steps))


def recorded(folder: Path) -> list[tuple[object, ...]]:
    """Every evaluation on record, but for its seconds."""
    return [
        (e.call, e.row, e.digest, struct.pack("d", e.value), e.status, e.error)
        for e in zo.read_run(folder).evaluations()
    ]


def started(folder: Path) -> int:
    """The run, in a child of this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of other threads, which the child never waits for
        child = os.fork()
    if child == 0:
        code = 1
        try:
            minimised(folder)
            code = 0
        except zo.RunError as error:
            print(error, flush=True)
        finally:
            os._exit(code)
    return child


def damaged(folder: Path, how: str, chance: random.Random) -> None:
    """Do to the files what a power cut or a careless copy does."""
    file, wal = folder / "run.sqlite", folder / "run.sqlite-wal"
    size = wal.stat().st_size if wal.exists() else 0
    if how == "torn page" and size:
        with wal.open("r+b") as opened:
            opened.truncate(max(0, size - chance.randrange(1, 4096)))
    elif how == "half a page" and size > 4096:
        with wal.open("r+b") as opened:
            opened.seek(size - 2048)
            opened.write(chance.randbytes(2048))
    elif how == "no WAL":
        wal.unlink(missing_ok=True)
    elif how == "no shared memory":
        (folder / "run.sqlite-shm").unlink(missing_ok=True)
    elif how == "truncated" and file.stat().st_size > 3 * 4096:
        with file.open("r+b") as opened:
            opened.truncate(4096 * chance.randrange(file.stat().st_size // 8192, file.stat().st_size // 4096))


def still_held(folder: Path) -> Counter[bytes]:
    """What a writer that opens the file finds in it: looked up in a copy."""
    with tempfile.TemporaryDirectory() as elsewhere:
        copy = Path(shutil.copytree(folder, Path(elsewhere) / "copy"))
        Journal(copy).close()
        return Counter(e.digest for e in zo.read_run(copy).evaluations())


def trial(folder: Path, chance: random.Random, kills: int, longest: float, damage: tuple[str, ...] = DAMAGE):
    """Kill a run up to ``kills`` times, then let it finish.

    Returns:
        What was done to it at each kill, and how many evaluations on record were paid for again.
    """
    done, sessions = [], []
    log = folder.with_suffix(".log")
    while True:
        before = log.stat().st_size if log.exists() else 0
        held = still_held(folder) if (folder / "run.sqlite").exists() else Counter()
        child = started(folder)
        if len(done) < kills:
            time.sleep(chance.uniform(0.0, longest))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        with log.open("rb") if log.exists() else open(os.devnull, "rb") as opened:
            opened.seek(before)
            data = opened.read()
        sessions.append((held, Counter(data[i : i + 16] for i in range(0, len(data), 16))))
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                raise RuntimeError(f"a session failed after {done}")
            break
        how = chance.choice(damage)
        if (folder / "run.sqlite").exists():
            damaged(folder, how, chance)
            done.append(how)
        else:
            done.append("not yet there")
    final = Counter(e.digest for e in zo.read_run(folder).evaluations())
    again = sum((calls + held - final).total() for held, calls in sessions)
    return done, again


def main(kills: int, seed: int) -> None:
    """Print what was done and what came of it."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        minimised(Path(place) / "warm")  # torch imports much of itself at the first step
        begun = time.perf_counter()
        plain = minimised(Path(place) / "uninterrupted")
        longest = time.perf_counter() - begun
        expected = told(plain), recorded(Path(place) / "uninterrupted")
        print(f"uninterrupted: {plain.nfev} evaluations, {plain.lost} lost, {longest:.2f} s")
        counts: Counter[str] = Counter()
        same = trials = paid = 0
        while counts.total() < kills:
            folder = Path(place) / f"trial{trials}"
            done, again = trial(folder, chance, min(3, kills - counts.total()), longest)
            counts.update(done)
            paid += again
            trials += 1
            same += (told(minimised(folder)), recorded(folder)) == expected
        for how, number in sorted(counts.items()):
            print(f"killed, {how}: {number}")
        print(f"runs with the answer, the history and every value of the uninterrupted one: {same} of {trials}")
        print(f"evaluations on record that were paid for again: {paid}")
        if same < trials or paid:
            sys.exit(1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    zograd._run.SNAPSHOT_SECONDS = 0.2  # these runs are over in less than the usual two seconds
    numbers = [int(word) for word in sys.argv[1:]]
    main(*numbers, *(50, 0)[len(numbers) :])
