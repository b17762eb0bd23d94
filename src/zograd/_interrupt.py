"""Ctrl-C and SIGTERM: what a user, a batch system or a shutdown sends, so that the best so far is kept."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


_UNCLAIMED: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
"""The handlers that Python begins with: where there is another, somebody else has a use for the signal."""

_heard: type[KeyboardInterrupt] | None = None


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    global _heard
    _heard = Terminated if number == signal.SIGTERM else KeyboardInterrupt
    raise _heard


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt in this thread on Ctrl-C, `Terminated` on SIGTERM, where nobody else handles them.

    Either may be swallowed on its way: compiled code that calls Python drops the error that comes back (as matplotlib's
    renderer does, now and then), and a program may have a bare ``except``. `raise_swallowed` raises it again.
    """
    global _heard
    mine = threading.current_thread() is threading.main_thread()
    taken = [number for number, handler in _UNCLAIMED.items() if mine and signal.getsignal(number) == handler]
    for number in taken:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, _UNCLAIMED[number])
        if taken:
            _heard = None


def raise_swallowed() -> None:
    """Raise what has come since `interruptible` began and has not ended it.

    Raises:
        KeyboardInterrupt: After Ctrl-C; `Terminated` after SIGTERM.
    """
    if _heard is not None and threading.current_thread() is threading.main_thread():
        raise _heard


def _reset() -> None:
    """A forked worker must die of SIGTERM: it is how it is stopped."""
    for number, handler in _UNCLAIMED.items():
        if signal.getsignal(number) is _raise:
            signal.signal(number, handler)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)
