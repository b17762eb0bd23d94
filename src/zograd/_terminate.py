"""SIGTERM as Ctrl-C: what a batch system or a shutdown sends, so that the best so far is kept."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` in this thread on SIGTERM, where nobody else has a use for it; the next one kills."""
    free = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if not free:
        yield
        return
    signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _reset() -> None:
    """A forked worker must die of SIGTERM: it is how it is stopped."""
    if signal.getsignal(signal.SIGTERM) is _raise:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)
