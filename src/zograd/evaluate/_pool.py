"""Evaluation by many at a time: processes that may hang or die, threads for external programs, or any executor."""

import math
import os
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from typing import final

from torch import nn

from zograd._checks import count, instance, positive, require
from zograd._probes import Probes
from zograd.blackbox import BlackBox, ModuleLoss, Program, TracedLoss
from zograd.evaluate._evaluator import Evaluator, Finished
from zograd.evaluate._parcel import Parcel
from zograd.evaluate._pool_backend import Backend, Box
from zograd.evaluate._pool_wave import Wave, WaveSettings
from zograd.evaluate._replica import Original
from zograd.evaluate._seeds import Seeds


@final
class Pool(Evaluator):
    r"""Evaluates many rows at a time and survives what they do: a hang, a crash, a leak, rubbish.

    Who does the work depends on the black box: threads for a `Program`, which is processes anyway; else ``workers``
    processes on this machine; else an ``executor``. Closures and lambdas work, and the caller's script needs no guard.

    **Limits**: a row that takes longer than ``timeout`` is ended with its worker and all that it started, and is lost
    as ``timeout``; a worker that dies loses the row that it ran as ``crashed``. Other rows of the same task are done
    again by others. Workers are replaced as needed.

    **Same result, whoever works**: rows of a program of one point are evaluated one by one, and before each Python's,
    NumPy's and torch's global generators are seeded from (seed, call, row), so that 1 worker and 16, quick and slow,
    and a run that was resumed, give the same values bit for bit. A program of many points gets ``batch`` rows at a
    time whatever the number of workers. `zograd.Program` has the seed as ``{seed}`` and ``ZOGRAD_SEED``.

    **Networks** (`zograd.backward`, `zograd.nn.backward`): each worker keeps a copy of the model, and is sent what has
    changed of it since, the batch once, and shares of the rows: at most some 64 of equal predicted cost, the longest
    first. What is in a share, and so the gradient's last bit, does not depend on the workers. A share that is lost with
    its worker is given to another, up to twice, before its rows count as ``crashed``. ``timeout`` is that of a share.

    **Cost**: two messages a task. Cheap rows travel together, as many as take 0.1 s by what the last ones took, and a
    worker without work takes over half of what waits in another. The first task starts the workers, which import torch
    once. Workers have one torch thread each.

    **When**: a row costs a millisecond or more, or may hang or crash. Else `InProcess` is quicker.

    Args:
        workers: How many at a time; by default one for each processor, or what the executor has.
        timeout: Seconds a row; for a program of many points, seconds a batch.
        retries: How often a lost row is tried again before it counts as lost.
        wait: Seconds before the first of these, twice as many before each next.
        executor: Any ``concurrent.futures.Executor``: loky's, ``MPIPoolExecutor``, Dask's
            ``Client.get_executor(pure=False)``, `zograd.evaluate.RayExecutor`; it is the caller's to shut down.
        isolate: Whether each worker of an executor runs the program in a child process of its own. Only then does
            ``timeout`` hold, and does a crash lose one row and no worker.
        memory: Bytes of address space that a row may add to what a worker process has at its start (Linux).
        recycle_after: Rows after which a worker process is replaced, for a program that leaks.
        batch: Rows at a time of a program of many points.
        seed: Of the rows' seeds.
        common_random_numbers: Whether the two sides of a mirrored pair have one seed between them.

    Raises:
        ArgumentError: When an argument is wrong, or the black box cannot be pickled.

    Example:
        >>> import zograd as zo
        >>> with zo.Pool(workers=2, timeout=10.0) as pool:  # doctest: +SKIP
        ...     layer = zo.differentiable(lambda x: float(x[0]) ** 2, evaluator=pool)
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        timeout: float | None = None,
        retries: int = 0,
        wait: float = 0.1,
        executor: Executor | None = None,
        isolate: bool = True,
        memory: int | None = None,
        recycle_after: int | None = None,
        batch: int = 32,
        seed: int = 0,
        common_random_numbers: bool = False,
    ) -> None:
        if workers is not None:
            count("workers", workers, hint="How many evaluations run at a time.")
        self.workers = workers
        self.timeout = None if timeout is None else positive("timeout", timeout, "In seconds a row.")
        self.retries = count("retries", retries, least=0)
        self.pause = positive("wait", wait, "In seconds.")
        if executor is not None:
            instance("executor", executor, Executor, "a concurrent.futures.Executor")
            require(isolate or timeout is None, "isolate", "be True where there is a time limit", isolate)
            local = memory is None and recycle_after is None
            require(local, "executor", "be None where workers are limited in memory or recycled", executor)
        self.executor, self.isolate = executor, isolate
        self.memory = None if memory is None else count("memory", memory, hint="In bytes.")
        self.recycle_after = None if recycle_after is None else count("recycle_after", recycle_after)
        self.batch = count("batch", batch)
        self.seeds = Seeds(seed, common_random_numbers)
        self._backends: dict[str, Backend] = {}
        self._sent = 0
        self._last: tuple[weakref.ref[BlackBox], float] | None = None
        self._networks: weakref.WeakKeyDictionary[nn.Module, Original] = weakref.WeakKeyDictionary()

    @property
    def sent(self) -> int:
        """Bytes that have gone out to workers: black boxes and what was asked of them."""
        return self._sent + sum(backend.sent for backend in self._backends.values())

    def stream(self, blackbox: BlackBox, probes: Sequence[Probes]) -> Iterator[Finished]:
        """Evaluate; rows come back as they finish. Closing the iterator kills what still runs.

        Raises:
            ArgumentError: When the black box cannot be pickled, or the caller made a mistake that it noticed.
        """
        self.seeds.must_fit(blackbox)
        places = self._placed(probes)
        backend = self._backend(blackbox)
        settings = WaveSettings(self.retries, self.pause, self.batch, self.seeds)
        parcel, seconds = self._parcel(blackbox, probes), self._seconds_of(blackbox)
        wave = Wave(parcel, blackbox, backend, list(probes), places, settings, seconds)
        try:
            yield from wave.stream()
        finally:
            self._last = weakref.ref(blackbox), wave.seconds

    def close(self) -> None:
        """End the workers; the next wave starts new ones."""
        for backend in self._backends.values():
            backend.close()
            self._sent += backend.sent
        self._backends.clear()
        self._networks.clear()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        said = {"workers": self.workers, "timeout": self.timeout, "executor": self.executor}
        return f"Pool({', '.join(f'{name}={value!r}' for name, value in said.items() if value is not None)})"

    def _seconds_of(self, blackbox: BlackBox) -> float:
        """What a row took in the last wave; NaN where that was of another black box."""
        return self._last[1] if self._last is not None and self._last[0]() is blackbox else math.nan

    def _parcel(self, blackbox: BlackBox, probes: Sequence[Probes]) -> Parcel:
        """The black box as it travels: of a network that workers have a copy of, what has changed."""
        if isinstance(blackbox, Program) and self.timeout is not None:
            return Box(blackbox.limited(self.timeout))
        if not isinstance(blackbox, ModuleLoss | TracedLoss):
            return Box(blackbox)
        if any(wave.center.data_ptr() != blackbox.center.data_ptr() for wave in probes):
            return Box(blackbox)
        plain = blackbox.plain if isinstance(blackbox, TracedLoss) else blackbox
        if plain.model not in self._networks:
            self._networks[plain.model] = Original()
        return self._networks[plain.model].parcel(blackbox)

    def _backend(self, blackbox: BlackBox) -> Backend:
        # Imported here: `import zograd` starts nothing and pays for none of it.
        from zograd.evaluate._pool_futures import Futures, Threads

        workers = self.workers or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        if self.executor is not None:
            workers = self.workers or getattr(self.executor, "_max_workers", None) or workers
            self._backends.setdefault(
                "executor", Futures(self.executor, 2 * workers, timeout=self.timeout, isolate=self.isolate)
            )
            return self._backends["executor"]
        if isinstance(blackbox, Program):
            return self._backends.setdefault("threads", Threads(workers))
        if "processes" not in self._backends:
            from zograd.evaluate._pool_processes import Processes

            self._backends["processes"] = Processes(
                workers, timeout=self.timeout, memory=self.memory, recycle_after=self.recycle_after
            )
        return self._backends["processes"]
