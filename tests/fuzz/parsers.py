"""Fuzz what reads other people's bytes: a worker's answers, a program's results, and a run's file.

    pip install atheris
    python tests/fuzz/parsers.py worker -max_total_time=60

Targets are ``worker``, ``json``, ``npy``, ``image``, ``file``, ``cells``, ``snapshot``, and ``damage``; the options are
libFuzzer's. An input that makes anything else than numbers or the one error that may be raised stops it, and is kept as
``crash-...``; so does one that takes 10 s or 2 GB.
"""

import contextlib
import io
import json
import math
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["zograd", "json", "numpy.lib._format_impl", "zipfile"]):
    import zograd._record
    import zograd._snapshot
    import zograd.blackbox._program_results as results
    import zograd.blackbox._program_worker as worker
    import zograd.evaluate._records as records

import numpy as np
import torch

import zograd as zo

LIMIT = 2**20
FOLDER = Path(tempfile.mkdtemp(prefix="zograd-fuzz-"))


def numbers_only(result: object) -> None:
    """Complain of anything that is no finite number."""
    if isinstance(result, dict):
        for entry in result.values():
            numbers_only(entry)
    elif isinstance(result, np.ndarray):
        if result.dtype not in (np.float32, np.float64) and result.dtype.kind not in "iu":
            raise TypeError(f"an array of {result.dtype}")
    elif not isinstance(result, float):
        raise TypeError(f"{type(result).__name__} is no number")


def drawn(provider: atheris.FuzzedDataProvider, depth: int = 0) -> object:
    """A JSON value: deep, wide, of mixed kinds."""
    match provider.ConsumeIntInRange(0, 9 if depth < 6 else 5):
        case 0:
            return provider.PickValueInList([None, True, "", "1.5", "<f8", "|O", "a" * 2000, math.nan, math.inf])
        case 1:
            return provider.ConsumeInt(9)
        case 2 | 3:
            return provider.ConsumeFloat()
        case 4:
            return provider.ConsumeIntInRange(-1, 4)
        case 5:
            return [provider.ConsumeIntInRange(0, 9)] * provider.PickValueInList([1, 2, 3, 1000])
        case 6:
            nested = drawn(provider, depth + 1)
            for _ in range(provider.PickValueInList([1, 2, 30, 70])):
                nested = [nested]
            return nested
        case 7 | 8:
            return [drawn(provider, depth + 1) for _ in range(provider.ConsumeIntInRange(0, 4))]
    names = ["a", "id", "result", "error", "arrays", "name", "dtype", "shape", ""]
    return {
        provider.PickValueInList(names): drawn(provider, depth + 1) for _ in range(provider.ConsumeIntInRange(0, 4))
    }


def written(data: bytes) -> bytes:
    """The data, or, where their first byte is odd, JSON that they say how to make, and the rest."""
    if not data or data[0] % 2 == 0:
        return data[1:]
    provider = atheris.FuzzedDataProvider(data[1:])
    value = drawn(provider)
    return json.dumps(value).encode() + b"\n" + provider.ConsumeBytes(32)


def from_worker(data: bytes) -> None:
    """Bytes as they come in, in pieces."""
    data = written(data)
    answer, said = worker.Answer(0, LIMIT), bytearray()
    size = 1 + (data[0] if data else 0)
    with contextlib.suppress(zo.EvaluationError):
        for start in range(0, len(data), size):
            said += data[start : start + size]
            if answer.complete(said):
                numbers_only(results.finite(answer.result(said)))
                return


def from_json(data: bytes) -> None:
    """What a program prints."""
    with contextlib.suppress(zo.EvaluationError):
        numbers_only(results.finite(results.numbers(results.from_json(written(data)))))


def from_npy(data: bytes) -> None:
    """An array file; most of the time one whose beginning is right."""
    head = b"\x93NUMPY\x01\x00" if data[:1] < b"\xe0" else b""
    with contextlib.suppress(zo.EvaluationError):
        numbers_only(results.finite(results.from_npy(head + data[1:])))


def from_image(data: bytes) -> None:
    """An image file."""
    with contextlib.suppress(zo.EvaluationError):
        numbers_only(results.finite(results.from_image(data, LIMIT)))


def from_file(data: bytes) -> None:
    """A file in the scratch directory that the program made as the data say, with links among it."""
    provider = atheris.FuzzedDataProvider(data)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        (Path(folder) / "secret").write_bytes(b"secret")
        names = ["a", "b", "a/b", "../secret", ".", "..", "a/../../secret", folder, str(scratch), "/dev/zero"]
        for _ in range(provider.ConsumeIntInRange(0, 6)):
            place = scratch / provider.PickValueInList(["a", "b", "a/b", "b/a"])
            with contextlib.suppress(OSError):
                match provider.ConsumeIntInRange(0, 3):
                    case 0:
                        place.mkdir()
                    case 1:
                        place.write_bytes(b"1")
                    case 2:
                        place.symlink_to(provider.PickValueInList(names))
                    case 3:
                        scratch.rename(scratch.with_name("moved"))
                        scratch.symlink_to(folder)
        with contextlib.suppress(zo.EvaluationError):
            name = provider.PickValueInList(["a", "b", "a/b", "b/a", "secret"])
            if results.read_within(scratch, name, 100) == b"secret":
                raise RuntimeError("read outside the scratch directory")


def from_cells(data: bytes) -> None:
    """The cells of a run's tables."""
    provider = atheris.FuzzedDataProvider(data)

    def cell() -> object:
        return [
            None,
            provider.ConsumeInt(8),
            provider.ConsumeFloat(),
            provider.ConsumeBytes(20),
            provider.PickValueInList(["ok", "nan", "torch.float64", "failed", "{}"]),
            provider.ConsumeUnicodeNoSurrogates(200),
        ][provider.ConsumeIntInRange(0, 5)]

    readers: list[tuple[Callable[..., object], int]] = [
        (records.evaluation, 7),
        (records.unpacked, 2),
        (records.loaded, 1),
        (records.settings, 1),
        (zograd._record._session, 4),
        (zograd._record._step, 7),
    ]
    read, count = provider.PickValueInList(readers)
    cells = [cell() for _ in range(count)]
    with contextlib.suppress(zo.RunError):
        records.read(Path("run"), read, *cells)


def from_snapshot(data: bytes) -> None:
    """The state in a run's file."""
    with contextlib.suppress(zo.RunError):
        zograd._snapshot.unpack(data)


def run_file() -> bytes:
    """The bytes of a whole run's file."""
    folder = FOLDER / "whole"
    if not folder.exists():
        zo.minimize(lambda x: x**2, 1.0, run=folder, evaluations=60)
        with contextlib.closing(sqlite3.connect(folder / "run.sqlite")) as file:
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return (folder / "run.sqlite").read_bytes()


def from_damage(data: bytes) -> None:
    """A run's file with other bytes here and there, read and then gone on with."""
    provider = atheris.FuzzedDataProvider(data)
    damaged = bytearray(run_file())
    for _ in range(provider.ConsumeIntInRange(1, 8)):
        place = provider.ConsumeIntInRange(0, len(damaged) - 1)
        piece = provider.ConsumeBytes(provider.ConsumeIntInRange(1, 16))
        damaged[place : place + len(piece)] = piece
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        (Path(folder) / "run.sqlite").write_bytes(damaged)
        with contextlib.suppress(zo.RunError):
            record = zo.read_run(folder)
            _ = list(record.rows()), list(record.rows("steps")), record.best_point, record.best_value, record.sessions
        with contextlib.suppress(zo.RunError):
            zo.minimize(lambda x: x**2, 1.0, run=folder, evaluations=80)


def saved(array: object) -> bytes:
    """A file of NumPy's, without the beginning that `from_npy` adds."""
    stream = io.BytesIO()
    np.save(stream, array)
    return b"\0" + stream.getvalue()[8:]


def picture(form: str) -> bytes:
    """A small image."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(stream, form)
    return stream.getvalue()


LINE = {"arrays": [{"name": "a", "dtype": "<f8", "shape": [2, 1]}, {"name": "b", "dtype": "|u1", "shape": [2]}]}
JSON = [b"\1" * 99, b'\0{"result": {"a": [[1, 2.5]], "b": -1}}\n', b"\0[1, NaN, Infinity]", b"\0hello\n2"]
TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "worker": (from_worker, lambda: [*JSON, b"\0" + json.dumps(LINE).encode() + b"\n" + bytes(18)]),
    "json": (from_json, lambda: JSON),
    "npy": (from_npy, lambda: [saved(np.zeros((2, 3))), saved(np.arange(4, dtype=np.uint8))]),
    "image": (from_image, lambda: [picture(form) for form in results.IMAGES]),
    "file": (from_file, lambda: [bytes(range(16))]),
    "cells": (from_cells, lambda: [bytes(64), b'{"evaluations": 3}' * 4]),
    "snapshot": (from_snapshot, lambda: [zograd._snapshot.pack({"a": torch.ones(2), "b": [1, "c"]})]),
    "damage": (from_damage, lambda: [bytes(40)]),
}


def main(words: list[str]) -> None:
    """Fuzz the target that the first word names."""
    if len(words) < 2 or words[1] not in TARGETS:
        sys.exit(__doc__)
    target, seeds = TARGETS[words[1]]
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds()):
        (corpus / str(number)).write_bytes(seed)
    torch.set_num_threads(1)
    atheris.Setup([words[0], str(corpus), "-timeout=10", "-rss_limit_mb=2048", "-max_len=4096", *words[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
