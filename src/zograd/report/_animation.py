"""The run as a moving picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zograd._checks import positive, require
from zograd.report._extras import module
from zograd.report._pictures import _image
from zograd.strategies import Step

LAST_FRAME_SECONDS = 2.5


def animation(frames: Sequence[NDArray[np.uint8]], path: str | Path, *, seconds: float = 6.0) -> Path:
    """Write an animated GIF that stays on its last frame for a while, and repeats.

    Args:
        frames: Pictures of one shape (height, width, 3), one byte a channel; at least one.
        path: Where to; an existing file is replaced.
        seconds: How long it runs before it rests.

    Raises:
        ArgumentError: When there is no frame.
        MissingExtraError: When Pillow is not installed.
    """
    require(len(frames) > 0, "frames", "hold at least one picture", list(frames))
    positive("seconds", seconds)
    images = [_image(frame) for frame in frames]
    each = max(20, round(1000 * seconds / len(images)))
    pauses = [*[each] * (len(images) - 1), round(1000 * LAST_FRAME_SECONDS)]
    # One palette for all frames, from the first and last together: colours that jump between frames flicker.
    ends = _image(np.concatenate([frames[0], frames[len(frames) // 2], frames[-1]]))
    palette = ends.quantize(256, dither=module("PIL.Image", "pillow").Dither.NONE)
    images = [image.quantize(palette=palette, dither=module("PIL.Image", "pillow").Dither.NONE) for image in images]
    images[0].save(path, save_all=True, append_images=images[1:], duration=pauses, loop=0, optimize=True)
    return Path(path)


def moments(history: Sequence[Step], frames: int) -> list[Step]:
    """At most ``frames`` steps, the last among them, dense at the start, where most happens.

    The k-th lies at the share ``(k / frames)^2`` of the evaluations; steps that did not improve the best show the
    same picture as the one before, and are left out; so are those whose best point was not kept.
    """
    improved, best = [], np.inf
    for step in history:
        if step.best_value < best and not bool(step.best_point.isnan().any()):
            improved.append(step)
            best = step.best_value
    if not improved:
        return []
    reached = np.array([step.evaluations for step in improved])
    wanted = reached[-1] * (np.arange(1, frames + 1) / frames) ** 2
    return [improved[index] for index in sorted(set(np.searchsorted(reached, wanted).tolist()))]
