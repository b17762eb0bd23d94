"""Readers of the original files of MNIST and CIFAR-10, and of an archive of JPEGs: tensors out, nothing downloaded."""

import gzip
import io
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, final

import numpy as np
import torch
from torch import Tensor

from zograd._checks import instance, one_of, require
from zograd._errors import ArgumentError, MissingExtraError

Images = tuple[Tensor, Tensor]
IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
MNIST = {True: "train", False: "t10k"}
CIFAR10 = {True: [f"data_batch_{at}" for at in range(1, 6)], False: ["test_batch"]}


def read_idx(path: str | Path) -> Tensor:
    """One file in the idx format of MNIST, as it is or compressed (``.gz``).

    Args:
        path: The file.

    Returns:
        A tensor of the file's shape and type, such as uint8 of shape (60000, 28, 28).

    Raises:
        ArgumentError: When there is no such file, or it is not idx or cut short.

    Example:
        >>> import pathlib, tempfile, zograd as zo
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "labels-idx1-ubyte"
        >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
        >>> zo.nn.read_idx(path)
        tensor([7, 2, 1], dtype=torch.uint8)

    References:
        LeCun, Cortes and Burges, The MNIST database of handwritten digits, 1998 (the format of the files).
    """
    data = _content(path)
    good = len(data) >= 4 and data[:2] == b"\0\0" and data[2] in IDX_TYPES and len(data) >= 4 + 4 * data[3]
    require(good, "path", "be a file in the idx format", str(path), "It starts with two zeros, a type and a rank.")
    kind, start = np.dtype(IDX_TYPES[data[2]]), 4 + 4 * data[3]
    shape = [int(size) for size in np.frombuffer(data, ">u4", data[3], 4)]
    needed = start + int(np.prod(shape, dtype=object)) * kind.itemsize
    found = f"{path} with {len(data)} bytes"
    require(len(data) == needed, "path", f"hold {needed} bytes for the shape {tuple(shape)}", found, "Get it again.")
    array = np.frombuffer(data, kind, offset=start).reshape(shape)
    return torch.from_numpy(array.astype(kind.newbyteorder("=")))


def read_mnist(folder: str | Path, train: bool = True) -> Images:
    """MNIST's images and labels from its original four files, as they are or compressed (``.gz``).

    Args:
        folder: Where ``train-images-idx3-ubyte`` and the others are.
        train: The 60,000 images to train with, or the 10,000 to test with.

    Returns:
        Images, float32 of shape (n, 1, 28, 28) in [0, 1], and labels, int64 of shape (n,).

    Raises:
        ArgumentError: When a file is missing or damaged.

    References:
        LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, Proc. IEEE 1998.
    """
    name = MNIST[instance("train", train, bool, "True or False")]
    images, labels = (read_idx(_found(folder, f"{name}-{part}-ubyte")) for part in ("images-idx3", "labels-idx1"))
    good = images.ndim == 3 and len(images) == len(labels)
    require(good, "folder", "hold as many images as labels", f"{tuple(images.shape)} and {tuple(labels.shape)}")
    return images[:, None].float() / 255, labels.long()


def read_cifar10(folder: str | Path, train: bool = True) -> Images:
    """CIFAR-10's images and labels from its original Python batches (``cifar-10-batches-py``).

    The batches are pickles, which can run any code. These are read by an unpickler that knows arrays, bytes and plain
    containers, and refuses everything else.

    Args:
        folder: Where ``data_batch_1`` to ``data_batch_5`` and ``test_batch`` are.
        train: The 50,000 images to train with, or the 10,000 to test with.

    Returns:
        Images, float32 of shape (n, 3, 32, 32) in [0, 1], and labels, int64 of shape (n,).

    Raises:
        ArgumentError: When a file is missing, damaged, or holds anything but arrays.

    References:
        Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """
    parts = []
    for name in CIFAR10[instance("train", train, bool, "True or False")]:
        path = _found(folder, name)
        try:
            batch = _Arrays(io.BytesIO(_content(path)), encoding="bytes").load()
            data, labels = np.asarray(batch[b"data"], np.uint8), np.asarray(batch[b"labels"], np.int64)
            parts.append((torch.from_numpy(data.reshape(len(labels), 3, 32, 32)), torch.from_numpy(labels)))
        except ArgumentError:
            raise
        except Exception as error:  # a damaged pickle can raise anything
            hint = "Get it again: it is one of the files of cifar-10-python.tar.gz."
            require(False, "folder", "hold the original Python batches", f"{path} ({error})", hint)
    return torch.cat([images for images, _ in parts]).float() / 255, torch.cat([labels for _, labels in parts])


def read_jpegs(path: str | Path, split: str = "train", limit: int | None = None) -> Images:
    """Images and labels from a NumPy archive of JPEGs.

    The archive (``.npz``) holds, for each split, ``{split}_jpeg`` (uint8, all files one after the other),
    ``{split}_end`` (where each of them ends) and ``{split}_label``. Needs Pillow.

    Args:
        path: The archive.
        split: ``"train"`` or ``"test"``.
        limit: Read so many, from the first; all by default.

    Returns:
        Images, float32 of shape (n, 3, height, width) in [0, 1], and labels, int64 of shape (n,).

    Raises:
        ArgumentError: When the archive is missing or damaged, or its images are not of one size.
        MissingExtraError: When Pillow is not installed.
    """
    one_of("split", split, ("train", "test"))
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingExtraError("pillow", "report") from error
    hint = f"It holds {split}_jpeg, {split}_end and {split}_label."
    try:
        with np.load(_existing(path), allow_pickle=False) as archive:
            files, ends, labels = (archive[f"{split}_{part}"] for part in ("jpeg", "end", "label"))
        ends = ends[:limit].astype(np.int64)
        starts = np.concatenate([[0], ends[:-1]])
        content = files.tobytes()
        pictures = []
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            with Image.open(io.BytesIO(content[start:end]), formats=["JPEG"]) as picture:
                pictures.append(np.asarray(picture.convert("RGB")))
        images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
        found = torch.from_numpy(labels[:limit].astype(np.int64))
    except (OSError, ValueError, KeyError, EOFError, zlib.error) as error:
        require(False, "path", "be an archive of JPEGs", f"{path} ({error})", hint)
    require(len(found) == len(images), "path", "hold as many labels as images", f"{len(found)}, {len(images)}", hint)
    return images.float() / 255, found


@final
class _Arrays(pickle.Unpickler):
    """Reads pickles of NumPy arrays, bytes and plain containers; a pickle that asks for anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may call: only what makes an array."""
        allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("multiarray", "_reconstruct"): _empty,
            ("multiarray", "scalar"): _refused,
            ("_codecs", "encode"): _bytes,
        }
        found = allowed.get((module.rpartition(".")[2], name))
        if found is None:
            hint = "It may hold arrays, bytes, lists and dicts; this one would run other code."
            require(False, "folder", "hold pickles of arrays only", f"{module}.{name}", hint)
        return found


def _empty(kind: Any, shape: Any, code: Any) -> Any:
    """What NumPy's own function does, for plain arrays only."""
    if kind is not np.ndarray:
        raise ValueError("no subclass of ndarray is read")
    return np.ndarray((0,), dtype=np.int8)


def _bytes(text: str, encoding: str = "latin1") -> bytes:
    """How Python 2 and early protocols write bytes."""
    return text.encode("latin1")


def _refused(*given: Any) -> NoReturn:
    raise ValueError("only arrays are read")


def _existing(path: str | Path) -> Path:
    file = Path(path)
    require(file.is_file(), "path", "be a file that is there", str(path), "Nothing is downloaded: put it there first.")
    return file


def _found(folder: str | Path, name: str) -> Path:
    """The file with or without .gz."""
    for candidate in (Path(folder) / name, Path(folder) / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    require(False, "folder", f"hold {name} or {name}.gz", str(folder), "Nothing is downloaded: put it there first.")
    raise AssertionError  # pragma: no cover


def _content(path: str | Path) -> bytes:
    """A file's bytes, decompressed where they are compressed."""
    data = _existing(path).read_bytes()
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        require(False, "path", "be a whole gzip file", f"{path} ({error})", "Get it again.")
        raise
