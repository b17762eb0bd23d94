"""Which outputs a parameter touches, and pictures among the outputs."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

LEAST_SIDE = 8
"""Outputs form a picture where both sides have at least so many pixels."""
MOST_CHANNELS = 4
FARTHEST = 8
"""Pixels between a footprint and what may still belong to it."""
REACH = 2
"""Pixels by which a footprint may grow between two measurements."""


@final
@dataclass(frozen=True, slots=True)
class Grid:
    """Outputs that are the pixels of a picture.

    Args:
        height: In pixels.
        width: In pixels.
        channels: Numbers a pixel.
        channels_first: Whether the shape is (channels, height, width).
    """

    height: int
    width: int
    channels: int = 1
    channels_first: bool = False

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> "Grid | None":
        """The picture that outputs of ``shape`` form, or ``None``."""
        if len(shape) == 2 and min(shape) >= LEAST_SIDE:
            return cls(*shape)
        if len(shape) == 3 and shape[2] <= MOST_CHANNELS and min(shape[:2]) >= LEAST_SIDE:
            return cls(shape[0], shape[1], shape[2])
        if len(shape) == 3 and shape[0] <= MOST_CHANNELS and min(shape[1:]) >= LEAST_SIDE:
            return cls(shape[1], shape[2], shape[0], channels_first=True)
        return None

    @property
    def pixels(self) -> int:
        """How many there are."""
        return self.height * self.width

    @property
    def sizes(self) -> list[int | bool]:
        """The fields, to make it again."""
        return [self.height, self.width, self.channels, self.channels_first]

    def pixel(self, output: Int[Tensor, " entries"]) -> Int[Tensor, " entries"]:
        """The pixel of each output."""
        return output % (self.height * self.width) if self.channels_first else output // self.channels

    def widened(self, pixels: Bool[Tensor, "n pixels"]) -> Bool[Tensor, "n pixels"]:
        """Marked pixels and those within `REACH` of them."""
        pictures = pixels.reshape(-1, 1, self.height, self.width).float()
        wide = functional.max_pool2d(pictures, 2 * REACH + 1, stride=1, padding=REACH)
        return wide.reshape(pixels.shape) > 0

    def nearest(self, owner: Int[Tensor, "n pixels"]) -> Int[Tensor, "n pixels"]:
        """Pixels without an owner (-1) given to that of a near one."""
        pictures = owner.reshape(-1, 1, self.height, self.width).float()  # exact for whole numbers below 2^24
        for _ in range(FARTHEST):
            grown = functional.max_pool2d(pictures, 3, stride=1, padding=1)
            pictures = torch.where(pictures < 0, grown, pictures)
        return pictures.long().reshape(owner.shape)

    def blurred(self, outputs: Float[Tensor, " m"], width: float) -> Float[Tensor, " m"]:
        """Outputs under a Gaussian of so many pixels: a symmetric map, so it is its own transpose."""
        reach = int(3 * width) + 1
        place = torch.arange(-reach, reach + 1, dtype=torch.float32)
        weights = torch.exp(-place.square() / (2 * width**2))
        weights = weights / weights.sum()
        shape = (self.channels, self.height, self.width)
        stacked = outputs.float().reshape(shape if self.channels_first else (self.height, self.width, self.channels))
        pictures = stacked if self.channels_first else stacked.movedim(2, 0)
        pictures = functional.conv2d(pictures[:, None], weights[None, None, :, None], padding=(reach, 0))
        pictures = functional.conv2d(pictures, weights[None, None, None, :], padding=(0, reach))[:, 0]
        return (pictures if self.channels_first else pictures.movedim(0, 2)).reshape(-1).double()
