"""Readers of original files: tiny files of the same formats, and damaged ones."""

import gzip
import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zograd as zo
from zograd import ArgumentError


def idx(array: np.ndarray, code: int) -> bytes:
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize(("code", "kind"), [(8, ">u1"), (9, ">i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")])
def test_idx_of_every_type(tmp_path: Path, code: int, kind: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(kind)
    (tmp_path / "a").write_bytes(idx(array, code))
    found = zo.nn.read_idx(tmp_path / "a")
    assert found.shape == (2, 3)
    assert found.dtype == torch.from_numpy(array.astype(array.dtype.newbyteorder("="))).dtype
    assert found.tolist() == array.tolist()


@pytest.mark.parametrize("compressed", [False, True])
def test_mnist(tmp_path: Path, compressed: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    labels = np.array([5, 0, 4, 1, 9], np.uint8)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        data = idx(array, 8)
        path = tmp_path / f"t10k-{name}-ubyte{'.gz' if compressed else ''}"
        path.write_bytes(gzip.compress(data) if compressed else data)
    x, y = zo.nn.read_mnist(tmp_path, train=False)
    assert x.shape == (5, 1, 28, 28)
    assert x.dtype == torch.float32
    assert torch.equal((x[:, 0] * 255).round().byte(), torch.from_numpy(images))
    assert y.dtype == torch.int64
    assert y.tolist() == labels.tolist()
    with pytest.raises(ArgumentError, match=r"train-images-idx3-ubyte or .*\.gz"):
        zo.nn.read_mnist(tmp_path)


def test_mnist_with_too_few_labels(tmp_path: Path) -> None:
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((2, 28, 28), np.uint8), 8))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(3, np.uint8), 8))
    with pytest.raises(ArgumentError, match="as many images as labels"):
        zo.nn.read_mnist(tmp_path, train=False)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "idx format"),
        (b"\x89PNG....", "idx format"),
        (bytes([0, 0, 8, 200]), "idx format"),
        (idx(np.zeros(9, np.uint8), 8)[:-1], "hold 17 bytes for the shape"),
        (idx(np.zeros(9, np.uint8), 8) + b"x", "hold 17 bytes for the shape"),
        (struct.pack(">4B2I", 0, 0, 8, 2, 2**32 - 1, 2**32 - 1), "bytes for the shape"),
        (gzip.compress(idx(np.zeros(99, np.uint8), 8), mtime=0)[:-9], "whole gzip file"),
    ],
)
def test_damaged_idx(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ArgumentError, match=words):
        zo.nn.read_idx(tmp_path / "a")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="file that is there"):
        zo.nn.read_idx(tmp_path / "a")


def cifar(folder: Path, name: str, seed: int, protocol: int = 2) -> tuple[np.ndarray, list[int]]:
    generator = np.random.default_rng(seed)
    data = generator.integers(0, 256, (3, 3072), dtype=np.uint8)
    labels = generator.integers(0, 10, 3).tolist()
    batch = {b"data": data, b"labels": labels, b"batch_label": b"a batch", b"filenames": [b"a.png"] * 3}
    (folder / name).write_bytes(pickle.dumps(batch, protocol=protocol))
    return data, labels


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar10(tmp_path: Path, protocol: int) -> None:
    parts = [cifar(tmp_path, f"data_batch_{at}", at, protocol) for at in range(1, 6)]
    data, labels = cifar(tmp_path, "test_batch", 0, protocol)
    x, y = zo.nn.read_cifar10(tmp_path)
    assert x.shape == (15, 3, 32, 32)
    assert y.tolist() == [label for _, part in parts for label in part]
    assert (x[3:6].flatten(1) * 255).round().byte().tolist() == parts[1][0].tolist()
    x, y = zo.nn.read_cifar10(tmp_path, train=False)
    assert (x.flatten(1) * 255).round().byte().tolist() == data.tolist()
    assert y.tolist() == labels


class Evil:
    """A pickle of this runs a command when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (eval, (f"open({str(self.path)!r}, 'w').close()",))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, protocol: int) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": Evil(ran), b"labels": []}, protocol=protocol))
    with pytest.raises(ArgumentError, match="pickles of arrays only"):
        zo.nn.read_cifar10(tmp_path, train=False)
    assert not ran.exists()


class Odd:
    """A pickle of this asks for an array of another class."""

    def __reduce__(self):
        return (np.zeros(2).__reduce__()[0], (np.dtype, (0,), b"b"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04",
        pickle.dumps([1, 2]),
        pickle.dumps({b"data": np.zeros((2, 5), np.uint8), b"labels": [1, 2]}),
        pickle.dumps({b"data": np.zeros(2).view(np.recarray), b"labels": [1]}, protocol=2),
        pickle.dumps({b"data": Odd(), b"labels": [1]}, protocol=2),
        pickle.dumps({b"data": np.float64(1.0), b"labels": [1]}, protocol=2),
    ],
)
def test_damaged_cifar10(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(ArgumentError, match="`folder` must"):
        zo.nn.read_cifar10(tmp_path, train=False)


def jpegs(path: Path, shapes: list[tuple[int, int]], labels: int | None = None) -> None:
    files = []
    for at, shape in enumerate(shapes):
        buffer = io.BytesIO()
        Image.new("RGB", shape, (40 * at, 100, 200)).save(buffer, "JPEG", quality=95)
        files.append(buffer.getvalue())
    content = np.frombuffer(b"".join(files), np.uint8)
    ends = np.cumsum([len(file) for file in files])
    np.savez(path, test_jpeg=content, test_end=ends, test_label=np.arange(labels or len(shapes), dtype=np.uint8))


def test_jpegs(tmp_path: Path) -> None:
    jpegs(tmp_path / "a.npz", [(8, 6)] * 4)
    x, y = zo.nn.read_jpegs(tmp_path / "a.npz", "test")
    assert x.shape == (4, 3, 6, 8)
    assert y.tolist() == [0, 1, 2, 3]
    assert (x.mean((2, 3))[:, 0] * 255 - 40 * torch.arange(4)).abs().max() < 3
    few, _ = zo.nn.read_jpegs(tmp_path / "a.npz", "test", limit=2)
    assert torch.equal(few, x[:2])


def test_damaged_jpegs(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    jpegs(path, [(8, 6), (6, 8)])
    with pytest.raises(ArgumentError, match="archive of JPEGs"):
        zo.nn.read_jpegs(path, "test")
    with pytest.raises(ArgumentError, match="train_jpeg"):
        zo.nn.read_jpegs(path, "train")
    jpegs(path, [(8, 6)], labels=2)
    with pytest.raises(ArgumentError, match="as many labels"):
        zo.nn.read_jpegs(path, "test")
    path.write_bytes(b"no archive")
    with pytest.raises(ArgumentError, match="archive of JPEGs"):
        zo.nn.read_jpegs(path, "test")
    with pytest.raises(ArgumentError, match="split"):
        zo.nn.read_jpegs(path, "valid")
