"""A training's state in a file: written whole or not at all, read without running anything, random numbers included."""

import contextlib
import os
import random
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, final

import numpy as np
import torch

from zograd._errors import RunError


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` so that ``path`` is at any time the old file or the new one, also if the power fails.

    Raises:
        RunError: When it cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        if os.name == "posix":  # the new name itself
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except (OSError, RuntimeError) as error:
        raise RunError(f"the checkpoint {path} cannot be written ({error}).", path=path) from error


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote: tensors, numbers and plain containers; anything else in the file is refused.

    Raises:
        RunError: When the file is damaged or something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError("it is no dict")
    except Exception as error:  # a damaged file can raise anything
        first = str(error).partition("\n")[0]
        raise RunError(
            f"the checkpoint {path} cannot be read ({first:.200}). Remove it to start again, or take another folder.",
            path=path,
        ) from error
    return state


def capture(generators: Iterable[torch.Generator]) -> dict[str, Any]:
    """The state of every source of random numbers that a training step may draw from."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002  (augmentations draw from it)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
        "generators": [generator.get_state() for generator in generators],
    }


def restore(state: Mapping[str, Any], generators: Iterable[torch.Generator]) -> None:
    """Go on drawing where `capture` was called."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    for generator, saved in zip(generators, state["generators"], strict=True):
        generator.set_state(saved)


@final
class Interruption:
    """Whether Ctrl-C or SIGTERM has come; the step that is being taken is finished first. A second Ctrl-C raises."""

    def __init__(self) -> None:
        self.came = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True

    @contextlib.contextmanager
    def watched(self) -> Iterator["Interruption"]:
        """Watch for it, in the main thread; elsewhere nothing can come."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        old = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
