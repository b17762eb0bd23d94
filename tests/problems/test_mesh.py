"""The mesh: its surface, the rasteriser, and what can be done with them."""

import itertools

import numpy as np
import pytest
import torch

from zograd.problems import mesh
from zograd.problems._icosphere import hierarchy, icosphere, refined
from zograd.problems._rasteriser import DARK, LIGHT, rasterised, turned
from zograd.problems.mesh import fox


@pytest.mark.parametrize("level", [0, 1, 3])
def test_the_sphere_is_closed_round_and_faces_outwards(level: int) -> None:
    stencils, faces, places = icosphere(level)
    assert len(stencils) == level
    assert (len(places), len(faces)) == (10 * 4**level + 2, 20 * 4**level)
    np.testing.assert_allclose(np.linalg.norm(places, axis=1), 1.0)
    sides = [(int(a), int(b)) for face in faces for a, b in zip(face, np.roll(face, -1), strict=True)]
    # Every side belongs to two faces, which run along it in opposite directions.
    assert len(set(sides)) == len(sides)
    assert {(b, a) for a, b in sides} == set(sides)
    assert (np.linalg.det(places[faces]) > 0).all()


def test_a_stencil_is_the_edge_the_corners_across_and_the_wings() -> None:
    stencils, _, places = icosphere(2)
    neighbours = {tuple(sorted(pair)) for face in icosphere(1)[1] for pair in itertools.combinations(face.tolist(), 2)}
    for row, stencil in enumerate(stencils[1].tolist()):
        a, b, c, d, ac, bc, ad, bd = stencil
        for pair in [(a, b), (a, c), (b, c), (a, d), (b, d), (a, ac), (c, ac), (b, bc), (a, ad), (d, ad), (b, bd)]:
            assert tuple(sorted(pair)) in neighbours
        assert len({a, b, c, d}) == 4
        assert b not in (ac, ad)
        middle = places[a] + places[b]
        np.testing.assert_allclose(places[42 + row], middle / np.linalg.norm(middle))


def test_levels_and_displacements_are_the_same_thing() -> None:
    stencils, _, places = icosphere(2)
    moved = torch.randn(3, len(places), 3, generator=torch.Generator().manual_seed(0))
    offsets = hierarchy(moved, stencils)
    assert [part.shape[1] for part in offsets] == [12, 30, 120]
    torch.testing.assert_close(refined(offsets, stencils), moved)
    # Moving all corners alike moves all.
    shift = [torch.ones(1, 12, 3), torch.zeros(1, 30, 3), torch.zeros(1, 120, 3)]
    torch.testing.assert_close(refined(shift, stencils), torch.ones(1, 162, 3))


class TestRasteriser:
    front = torch.eye(3)[None]

    def test_a_triangle_covers_the_centres_inside_it_and_only_from_its_front(self) -> None:
        corners = torch.tensor([[[-0.8, -0.7, 0.0], [0.9, -0.2, 0.0], [0.1, 0.8, 0.0]]])
        seen = rasterised(corners, torch.tensor([[0, 1, 2]]), self.front, 32)[0, 0]
        spots = (torch.arange(32) + 0.5) / 16 - 1
        y, x = torch.meshgrid(-spots, spots, indexing="ij")
        inside = torch.ones(32, 32, dtype=torch.bool)
        for p, q in itertools.pairwise([*corners[0], corners[0, 0]]):
            inside &= (q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0]) >= 0
        assert inside.sum() > 100
        assert torch.equal(seen > 0, inside)
        assert seen.unique().tolist()[1] == pytest.approx(
            DARK + (1 - DARK) * LIGHT[2] / np.linalg.norm(LIGHT), abs=1e-5
        )
        assert not rasterised(corners, torch.tensor([[0, 2, 1]]), self.front, 32).any()

    def test_the_nearer_triangle_hides_the_other(self) -> None:
        square = torch.tensor([[-0.9, -0.9, 0.0], [0.9, -0.9, 0.0], [0.9, 0.9, 0.0]])
        tilted = square + torch.tensor([[0.0, 0.0, 0.4], [0.0, 0.0, 0.5], [0.0, 0.0, 0.9]])
        both = torch.cat([square, tilted])[None]
        for order in ([[0, 1, 2], [3, 4, 5]], [[3, 4, 5], [0, 1, 2]]):
            seen = rasterised(both, torch.tensor(order), self.front, 24)
            assert torch.equal(seen, rasterised(both, torch.tensor([[3, 4, 5]]), self.front, 24))
        behind = torch.cat([square, tilted - torch.tensor([0.0, 0.0, 2.0])])[None]
        seen = rasterised(behind, torch.tensor([[0, 1, 2], [3, 4, 5]]), self.front, 24)
        assert torch.equal(seen, rasterised(behind, torch.tensor([[0, 1, 2]]), self.front, 24))

    def test_a_sphere_is_a_disc_from_everywhere(self) -> None:
        _, faces, places = icosphere(3)
        cameras = torch.stack([turned(0.0, 0.0), turned(2.0, 0.3), turned(-1.0, -0.8)])
        torch.testing.assert_close(cameras @ cameras.transpose(1, 2), torch.eye(3).expand(3, 3, 3))
        seen = rasterised(torch.from_numpy(places).float()[None] * 0.7, torch.from_numpy(faces), cameras, 64)
        covered = (seen > 0).float().mean((0, 2, 3))
        torch.testing.assert_close(covered, torch.full((3,), np.pi * 0.7**2 / 4).float(), atol=0.01, rtol=0)

    def test_what_lies_outside_the_picture_is_cut_off(self) -> None:
        huge = torch.tensor([[[-9.0, -9.0, 0.0], [9.0, -9.0, 0.0], [0.0, 19.0, 0.0], [5.0, 5.0, 0.0], [7.0, 5.0, 0.0]]])
        assert (rasterised(huge, torch.tensor([[0, 1, 2]]), self.front, 8) > 0).all()
        assert not rasterised(huge, torch.tensor([[3, 4, 2]]), self.front, 8).any()


def test_the_sphere_can_become_the_target() -> None:
    problem = mesh(2, 16)
    assert problem.target is not None
    stencils, _, sphere = icosphere(2)
    ball = torch.from_numpy(sphere).float()
    wanted = hierarchy((fox(ball) - 0.55 * ball)[None], stencils)
    point = {name: part[0].double().numpy() for name, part in zip(problem.x0, wanted, strict=True)}
    assert problem.value(point) < 1e-5
    assert problem.value(problem.x0) > 0.01
    np.testing.assert_array_equal(problem.draw(point, 90), problem.target(90))


def test_descent_on_the_smoothed_loss_makes_it_lower() -> None:
    problem = mesh(1, 16)
    result = problem.solve(600)
    assert result.fun < 0.8 * problem.value(problem.x0)
