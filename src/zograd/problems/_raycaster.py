"""A box-shaped room with two blocks and a lamp, by casting one ray a pixel and one to the lamp: hard shadows."""

from functools import cached_property
from typing import final

import torch
from torch import Tensor

EYE = -3.4
"""Where the camera stands on the z axis; the room is [-1, 1]^3, open towards it."""
LAMP = 0.07
"""The radius of the lamp, as it is seen."""
STRENGTH, AMBIENT = 1.1, 0.15
WHITE, RED, GREEN, BLUE, GOLD = (0.75,) * 3, (0.7, 0.12, 0.1), (0.15, 0.55, 0.15), (0.35, 0.5, 0.75), (0.8, 0.65, 0.3)
HALF_WIDTH, TALL, SHORT = 0.3, 1.2, 0.6
FAR = 1e9
PIECE = 8
"""Pictures that are made at a time: more would not fit in the processor's cache."""


@final
class Room:
    """The ray-caster for pictures of one size. The walls, which never move, are cast once.

    It is made of torch operations, so that automatic differentiation runs through it; what comes out is the derivative
    of the shading inside every edge, and nothing of the edges themselves.

    Args:
        size: Pixels along each side.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, light: Tensor, tall: Tensor, short: Tensor) -> Tensor:
        """Pictures, shape (n, size, size, 3), channels in [0, 1].

        Args:
            light: Where the lamp is, shape (n, 3).
            tall: The tall block: x, z and angle (degrees) of its turn around the vertical, shape (n, 3).
            short: The short block, likewise.
        """
        starts = range(0, len(light), PIECE)
        pieces = [self._cast(*(each[start : start + PIECE] for each in (light, tall, short))) for start in starts]
        return torch.cat(pieces).reshape(-1, self.size, self.size, 3)

    @cached_property
    def _walls(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rays, and how far along each the wall is, with its normal and its colour."""
        spots = (torch.arange(self.size) + 0.5) * 2 / self.size - 1
        up, right = torch.meshgrid(-spots, spots, indexing="ij")
        # The picture shows a little more than the opening of the room.
        rays = torch.stack([1.02 * right, 1.02 * up, torch.full_like(up, -1.0 - EYE)], 2).flatten(0, 1)
        origin = torch.tensor([0.0, 0.0, EYE])
        distance = torch.full((len(rays),), FAR)
        normals, colors = torch.zeros_like(rays), torch.zeros_like(rays)
        walls = [(0, -1.0, RED), (0, 1.0, GREEN), (1, -1.0, WHITE), (1, 1.0, WHITE), (2, 1.0, WHITE)]
        for axis, side, color in walls:
            along = (side - origin[axis]) / rays[:, axis]
            hit = origin + along[:, None] * rays
            inside = (hit.abs() <= 1 + 1e-5).all(1) & (along > 0) & (along < distance)
            distance = torch.where(inside, along, distance)
            normals[inside] = torch.eye(3)[axis] * -side
            colors[inside] = torch.tensor(color)
        return rays, distance, normals, colors

    def _cast(self, light: Tensor, tall: Tensor, short: Tensor) -> Tensor:
        """Some pictures, shape (n, pixels, 3)."""
        rays, distance, normals, colors = self._walls
        origin = torch.tensor([0.0, 0.0, EYE])
        rays = rays[None]
        blocks = [(tall, TALL, BLUE), (short, SHORT, GOLD)]
        for place, height, color in blocks:
            enter, leave, normal = _slabs(origin.expand(1, 1, 3), rays, place, height)
            seen = (enter < leave) & (enter > 0) & (enter < distance)
            distance = torch.where(seen, enter, distance)
            normals = torch.where(seen[..., None], normal, normals)
            colors = torch.where(seen[..., None], torch.tensor(color), colors)
        hits = origin + distance[..., None] * rays
        towards = light[:, None] - hits
        dark = torch.zeros_like(distance, dtype=torch.bool)
        for place, height, _ in blocks:
            enter, leave, _ = _slabs(hits, towards, place, height)
            # Not the block on which the point lies itself: there the way in is behind or at the point.
            dark = dark | ((enter < leave) & (leave > 1e-3) & (enter < 1) & (enter > -1e-3) & (leave - enter > 1e-4))
        squared = towards.square().sum(2)
        facing = (towards * normals).sum(2).clamp(min=0) / squared.clamp(min=1e-4).sqrt()
        lit = torch.where(dark, 0.0, STRENGTH * facing / (squared + 0.4))
        picture = (colors * (AMBIENT + lit)[..., None]).clamp(max=1)
        picture = torch.where((distance >= FAR)[..., None], torch.zeros(3), picture)
        return torch.where(self._lamp(rays, origin, light, distance)[..., None], torch.ones(3), picture)

    def _lamp(self, rays: Tensor, origin: Tensor, light: Tensor, distance: Tensor) -> Tensor:
        """Where the lamp itself is seen."""
        gap = (light - origin)[:, None]
        along = (rays * gap).sum(2) / rays.square().sum(2)
        near = (gap - along[..., None] * rays).square().sum(2) < LAMP**2
        return near & (along < distance)


def _slabs(origin: Tensor, rays: Tensor, place: Tensor, height: float) -> tuple[Tensor, Tensor, Tensor]:
    """Where rays enter and leave a block, in lengths of the ray, and the normal where they enter."""
    angle = torch.deg2rad(place[:, 2])[:, None]
    cosine, sine = angle.cos(), angle.sin()
    x, y, z = (origin - torch.stack([place[:, 0], place[:, 1] * 0 - 1, place[:, 1]], 1)[:, None]).unbind(2)
    across, up, along = rays.unbind(2)
    starts = (cosine * x + sine * z, y - height / 2, cosine * z - sine * x)
    ways = (cosine * across + sine * along, up, cosine * along - sine * across)
    halves = (HALF_WIDTH, height / 2, HALF_WIDTH)
    near, far = [], []
    for start, way, half in zip(starts, ways, halves, strict=True):
        inverse = 1 / torch.where(way.abs() < 1e-9, 1e-9, way)
        middle, reach = -start * inverse, half * inverse.abs()
        near.append(middle - reach)
        far.append(middle + reach)
    enter = torch.maximum(torch.maximum(near[0], near[1]), near[2])
    leave = torch.minimum(torch.minimum(far[0], far[1]), far[2])
    first, second = (enter == near[0]).float() * -ways[0].sign(), (enter == near[2]).float() * -ways[2].sign()
    upright = (enter == near[1]).float() * -ways[1].sign()
    normal = torch.stack([cosine * first - sine * second, upright, sine * first + cosine * second], 2)
    return enter, leave, normal
