"""Pictures side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zograd._checks import require
from zograd.report._extras import module

GAP, CAPTION = 12, 26


def save_picture(picture: NDArray[np.uint8], path: str | Path) -> Path:
    """Write one picture, shape (height, width, 3), one byte a channel; the suffix of ``path`` says the format."""
    _image(picture).save(path)
    return Path(path)


def comparison(pictures: Mapping[str, NDArray[np.uint8]], path: str | Path, *, height: int = 384) -> Path:
    """Write pictures side by side, all of one height, each with its name below.

    Args:
        pictures: Shape (height, width, 3), one byte a channel, by name; at least one.
        path: Where to; an existing file is replaced.
        height: The height of each, in pixels.

    Raises:
        ArgumentError: When there is no picture.
        MissingExtraError: When Pillow is not installed.
    """
    require(len(pictures) > 0, "pictures", "hold at least one picture", pictures)
    pillow, draw, font = (module(f"PIL.{name}", "pillow") for name in ("Image", "ImageDraw", "ImageFont"))
    images = {name: _image(picture) for name, picture in pictures.items()}
    images = {
        name: image.resize((max(1, round(image.width * height / image.height)), height), pillow.Resampling.BICUBIC)
        for name, image in images.items()
    }
    width = sum(image.width for image in images.values()) + GAP * (len(images) - 1)
    sheet = pillow.new("RGB", (width, height + CAPTION), "white")
    pen, left = draw.Draw(sheet), 0
    for name, image in images.items():
        sheet.paste(image, (left, 0))
        place = (left + image.width / 2, height + CAPTION / 2)
        pen.text(place, name, fill="#2b2f36", font=font.load_default(size=15), anchor="mm")
        left += image.width + GAP
    sheet.save(path)
    return Path(path)


def _image(picture: NDArray[np.uint8]) -> Any:
    right = picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    require(right, "picture", "have shape (height, width, 3) and dtype uint8", f"{picture.shape} {picture.dtype}")
    return module("PIL.Image", "pillow").fromarray(np.ascontiguousarray(picture))
