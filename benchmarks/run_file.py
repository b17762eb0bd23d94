"""A run's file with many evaluations: what appending costs, what reading takes, and whether memory stays as it is.

Run with: python benchmarks/run_file.py [evaluations]
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import torch

import zograd as zo
from zograd._probes import Dense, Probes
from zograd.evaluate import InProcess, Journal, Journaled

TARGET_MILLISECONDS = 0.2
ROWS = 20
DIMENSION = 10


class Free(zo.BlackBox):
    """Costs nothing, so that what is left is the journal's."""

    def __call__(self, points):
        """A value for each point."""
        return points[:, 0]


def megabytes() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(name: str, work) -> None:
    """Print what one reading takes."""
    begun = time.perf_counter()
    found = work()
    print(f"{name:<42}{time.perf_counter() - begun:8.2f} s   {found}")


def main(evaluations: int) -> None:
    """Fill a file as a run does, then read it."""
    waves = evaluations // ROWS
    point = torch.zeros(DIMENSION, dtype=torch.float64)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        journal = Journal(folder, {"evaluations": evaluations})
        plain, journaled = InProcess(), Journaled(InProcess(), journal)
        generator = torch.Generator().manual_seed(0)
        offsets = torch.randn(ROWS, DIMENSION, dtype=torch.float64, generator=generator)
        box, spent, bare, slowest = Free(), 0.0, 0.0, 0.0
        early = 0.0
        for wave in range(1, waves + 1):
            probes = Probes(point + wave, Dense(offsets))
            begun = time.perf_counter()
            for _ in plain.stream(box, [probes]):
                pass
            middle = time.perf_counter()
            journaled.places = ((wave, 0),)
            for _ in journaled.stream(box, [probes]):
                pass
            journal.add_step(wave, (wave, wave * ROWS, 0.5, 1.0 / wave, 0), {"step_length": 0.1}, point)
            end = time.perf_counter()
            bare, spent, slowest = bare + middle - begun, spent + end - middle, max(slowest, end - middle)
            if wave == max(1, waves // 20):
                early = megabytes()
        journal.close()
        each = 1000 * (spent - bare) / (waves * ROWS)
        print(f"{waves * ROWS} evaluations in waves of {ROWS}, {waves} steps")
        print(f"appending costs {each:.4f} ms an evaluation; the slowest wave took {1000 * slowest:.0f} ms")
        print(f"target of at most {TARGET_MILLISECONDS} ms: {'met' if each <= TARGET_MILLISECONDS else 'missed'}")
        print(f"memory: {early:.0f} MB after a twentieth, {megabytes():.0f} MB at the end")
        print(f"size: {(folder / 'run.sqlite').stat().st_size / 2**20:.0f} MiB")
        record = zo.read_run(folder)
        timed("count", lambda: len(record))
        timed("best value", lambda: record.best_value)
        timed("last step", lambda: record.history[-1].number)
        timed("every step", lambda: sum(1 for _ in record.history))
        timed("evaluations to CSV", lambda: record.to_csv(Path(place) / "evaluations.csv").stat().st_size)
        timed("opening to write, checked end to end", lambda: Journal(folder).close())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000)
