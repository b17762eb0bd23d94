"""Photographs: any file that Pillow can read, as RGB bytes."""

from pathlib import Path
from typing import Any

import numpy as np

import zograd as zo
from zograd.problems._drawing import module
from zograd.problems._problem import Picture

PORTRAIT = "Grace Hopper, United States Navy (public domain)"
FILE = "grace_hopper.jpg"
FACE = (96, 10, 416, 330)


def portrait() -> Any:
    """The face of Grace Hopper, from the portrait that matplotlib ships as sample data: 320 x 320 pixels.

    Raises:
        MissingExtraError: When matplotlib or Pillow is not installed.
    """
    return opened(Path(module("matplotlib.cbook").get_sample_data(FILE, asfileobj=False))).crop(FACE)


def opened(path: Path) -> Any:
    """A picture file as an upright RGB `PIL.Image.Image`, transparent parts over white.

    Raises:
        ArgumentError: When the file is not there, is no picture, or is too large to be one.
        MissingExtraError: When Pillow is not installed.
    """
    pillow, operations = module("PIL.Image", "pillow"), module("PIL.ImageOps", "pillow")
    try:
        with pillow.open(path) as file:
            upright = operations.exif_transpose(file)
            upright.load()
    except FileNotFoundError as error:
        raise _refused(path, "no such file", "Check the path.") from error
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
        reason = "a folder" if path.is_dir() else f"a file that cannot be read as one ({error})"
        raise _refused(path, reason, "Convert it to PNG or JPEG first.") from error
    if upright.mode[0] in "IF":
        # More than 8 bits a channel: Pillow would cut off everything above 255.
        levels = np.asarray(upright, np.float64)
        span = max(float(np.ptp(levels)), 1e-12)
        upright = pillow.fromarray(np.uint8(255 * (levels - levels.min()) / span))
    layers = upright.convert("RGBA")
    sheet = pillow.new("RGBA", layers.size, "white")
    return pillow.alpha_composite(sheet, layers).convert("RGB")


def resized(photograph: Any, size: int) -> Picture:
    """The photograph with its longer side ``size`` pixels long and its shape kept."""
    scale = size / max(photograph.size)
    width, height = (max(1, round(scale * side)) for side in photograph.size)
    smooth = module("PIL.Image", "pillow").Resampling.LANCZOS
    return np.asarray(photograph.resize((width, height), smooth))


def _refused(path: Path, found: str, hint: str) -> zo.ArgumentError:
    return zo.ArgumentError(
        f"`image` must be a picture file, found {found}: {path}. {hint}", argument="image", found=path
    )
