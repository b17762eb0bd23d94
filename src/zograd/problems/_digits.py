"""Handwritten digits in the files of MNIST, or one digit of a font where there are none."""

import gzip
import struct
from pathlib import Path

import numpy as np

import zograd as zo
from zograd.problems._drawing import canvas, module
from zograd.problems._problem import Picture

FILES = ("t10k-images-idx3-ubyte", "train-images-idx3-ubyte")
IMAGES = 2051
SIDE = 28


def images(path: Path, most: int | None = None) -> Picture:
    """The pictures of an idx file, shape (n, height, width), one byte a pixel.

    Args:
        path: The file, with ``.gz`` or without; or a folder that has one of MNIST's, at its top or where torchvision
            puts it (``MNIST/raw``). Of a folder the test pictures are taken.
        most: How many at most; all by default.

    Raises:
        ArgumentError: When there is none, or it is no file of pictures.
    """
    file = _found(path)
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            kind, count, height, width = struct.unpack(">4i", stream.read(16))
            if kind != IMAGES:
                raise _refused(path, f"a file of another kind (its number is {kind}, not {IMAGES})")
            count = count if most is None else min(count, most)
            data = np.frombuffer(stream.read(count * height * width), np.uint8)
            return data.reshape(count, height, width)
    except (OSError, EOFError, struct.error, ValueError) as error:
        if isinstance(error, zo.ArgumentError):
            raise
        raise _refused(path, f"a file that cannot be read as one ({error})") from error


def printed(digit: int) -> Picture:
    """A digit in matplotlib's default font, shape (28, 28), in the middle, 20 pixels high as MNIST's are."""
    board = canvas(SIDE, SIDE)
    outline = module("matplotlib.textpath").TextPath((0, 0), str(digit), size=20)
    box = outline.get_extents()
    scale = 20 / box.height
    moved = module("matplotlib.transforms").Affine2D().translate(-box.x0 - box.width / 2, -box.y0 - box.height / 2)
    moved = moved.scale(scale).translate(SIDE / 2, SIDE / 2)
    axes = board.figure.add_axes((0, 0, 1, 1), xlim=(0, SIDE), ylim=(0, SIDE))
    axes.axis("off")
    axes.add_patch(module("matplotlib.patches").PathPatch(moved.transform_path(outline), color="black", linewidth=0))
    board.draw()
    return 255 - np.array(board.buffer_rgba())[:, :, 0]


def _found(path: Path) -> Path:
    if not path.is_dir():
        if not path.exists():
            raise _refused(path, "no such file")
        return path
    for name in FILES:
        for folder in (path, path / "MNIST" / "raw", path / "raw"):
            for file in (folder / name, folder / f"{name}.gz"):
                if file.exists():
                    return file
    raise _refused(path, f"a folder without {FILES[0]} or {FILES[1]}")


def _refused(path: Path, found: str) -> zo.ArgumentError:
    return zo.ArgumentError(
        f"`digits` must be a file of pictures in MNIST's idx format, or a folder with one, found {found}: {path}. "
        "Leave it out for a digit of a font.",
        argument="digits",
        found=path,
    )
