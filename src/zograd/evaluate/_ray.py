"""Ray's tasks behind the protocol of ``concurrent.futures``."""

import importlib
import ipaddress
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, wait
from typing import Any, TypeVar, final

from zograd._checks import count, require
from zograd._errors import MissingExtraError

T = TypeVar("T")

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
"""Read when Ray is imported. Without the first it listens on every network, whatever address `ray.init` is given."""

OURS = ("max_retries", "retry_exceptions")


@final
class RayExecutor(Executor):
    """Ray's tasks as an executor, for ``minimize(..., executor=...)`` and `Pool`.

    It uses the Ray that this process is connected to. Where there is none it starts one on this machine, which only
    this machine can reach (127.0.0.1), without dashboard and usage statistics, and ends it in `shutdown`.

    Ray does nothing again by itself here: a task whose worker dies is lost as ``crashed``, and Ray replaces the
    worker. ``zo.retry(n)``, or ``Pool(retries=n)``, tries it again, so often and no more, and says so. Cancelling a
    task that runs kills its worker.

    **Cost**: about a millisecond a task, and seconds to start. **When**: there is a Ray cluster already.

    Args:
        workers: How many tasks at a time; by default Ray's number of processors.
        options: Of every task, as ``ray.remote`` takes them, such as ``{"num_gpus": 1}``.

    Raises:
        MissingExtraError: When Ray is not installed.
        ArgumentError: When an argument is wrong, or Ray cannot be started so that only this machine reaches it.

    Example:
        >>> import zograd as zo
        >>> from zograd.evaluate import RayExecutor
        >>> with RayExecutor(workers=2) as executor:  # doctest: +SKIP
        ...     result = zo.minimize(lambda x: x**2, 3.0, executor=executor, timeout=10.0)
    """

    def __init__(self, workers: int | None = None, *, options: Mapping[str, Any] | None = None) -> None:
        if workers is not None:
            count("workers", workers, hint="How many tasks run at a time.")
        given = dict(options or {})
        hint = "Ray retries in silence: pass on_failure=zo.retry(n), or Pool(retries=n)."
        require(not any(name in given for name in OURS), "options", f"have none of {', '.join(OURS)}", given, hint)
        self._ray, self._started = _connected(workers)
        self._max_workers = workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self._task = self._ray.remote(max_retries=0, **given)(_called)
        self._out: set[Future[Any]] = set()
        self._closed = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Begin a call in one of Ray's workers.

        Raises:
            RuntimeError: After `shutdown`.
        """
        if self._closed:
            raise RuntimeError("an executor takes nothing after its shutdown")
        reference = self._task.remote(fn, args, kwargs)
        future: Future[T] = reference.future()

        def ended(future: "Future[T]") -> None:
            self._out.discard(future)
            if future.cancelled():
                self._ray.cancel(reference, force=True)

        self._out.add(future)
        future.add_done_callback(ended)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more; end the Ray that was started here, once what is out is done or cancelled."""
        self._closed = True
        if cancel_futures:
            for future in list(self._out):
                future.cancel()
        if wait or self._started:
            _all_done(list(self._out))
        if self._started:
            self._started = False
            self._ray.shutdown()


_all_done = wait  # `shutdown` has an argument of that name, which is the protocol's


def _connected(workers: int | None) -> tuple[Any, bool]:
    """Ray, and whether it was started here."""
    for name, setting in LOOPBACK.items() if "ray" not in sys.modules else ():
        os.environ.setdefault(name, setting)
    try:
        ray = importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise MissingExtraError("ray", "ray") from error
    if ray.is_initialized():
        return ray, False
    address = ray.util.get_node_ip_address()
    hint = "Make the executor before anything imports ray, or start Ray yourself with ray.init()."
    reachable = not ipaddress.ip_address(address).is_loopback
    require(not reachable, "Ray", "start so that only this machine reaches it", address, hint)
    ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    return ray, True


def _called(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return fn(*args, **kwargs)
