"""The room: where shadows lie, what jumps, and what automatic differentiation does not see."""

import numpy as np
import pytest
import torch

from zograd.problems import cornell
from zograd.problems._raycaster import AMBIENT, Room
from zograd.problems.cornell import WANTED, batch, pictures


def away(light: tuple[float, float, float]) -> dict[str, torch.Tensor]:
    """A lamp, and the blocks where they are seen from nowhere."""
    return batch({"light": light, "tall": (50.0, 50.0, 0.0), "short": (-50.0, 50.0, 0.0)})


def test_the_empty_room_has_its_colours_and_no_shadow() -> None:
    picture = pictures(Room(33), away((0.0, 0.0, -0.5)))[0]
    left, right = picture[16, 2], picture[16, -3]
    assert left[0] > 2 * left[1]
    assert right[1] > 2 * right[0]
    torch.testing.assert_close(picture[10:23, :, 2], picture[10:23, :, 2].flip(1), atol=0.3, rtol=0)
    # The lamp itself, in the middle.
    assert picture[16, 16].tolist() == [1.0, 1.0, 1.0]


def test_a_block_casts_its_shadow_away_from_the_lamp() -> None:
    tall = {"tall": (0.0, 0.0, 0.0), "short": (-50.0, 50.0, 0.0)}
    # The bottom of the walls, seen beside the block.
    for x, dark, bright in ((-0.7, 46, 17), (0.7, 17, 46)):
        picture = pictures(Room(64), batch({"light": (x, 0.3, 0.0), **tall}))[0]
        row = 50
        assert picture[row, dark].max() <= AMBIENT
        assert picture[row, bright].max() > 2 * AMBIENT


def test_a_turn_by_a_quarter_changes_nothing() -> None:
    one = {**WANTED, "tall": [0.1, 0.2, 30.0]}
    other = {**WANTED, "tall": [0.1, 0.2, -60.0]}
    difference = (pictures(Room(32), batch(one)) - pictures(Room(32), batch(other))).abs()
    assert (difference > 1e-3).float().mean() < 0.01


def test_edges_jump_and_automatic_differentiation_does_not_see_them() -> None:
    room, wanted = Room(48), pictures(Room(48), batch(WANTED))
    light, tall = torch.tensor([WANTED["light"]]), torch.tensor([WANTED["tall"]])

    def loss(x: torch.Tensor) -> torch.Tensor:
        short = torch.stack([x, torch.tensor(-0.35), torch.tensor(20.0)])[None]
        return (room(light, tall, short) - wanted).square().mean()

    places = torch.linspace(-0.4, 0.4, 17)
    derivatives = torch.stack([torch.func.grad(loss)(place) for place in places])
    values = torch.stack([loss(place) for place in places])
    assert values[0] > values[-1] + 0.002
    # It says that the block should stay wherever it is: no more than a tenth of the descent is seen.
    assert float(derivatives.abs().mean() * 0.8) < 0.1 * float(values[0] - values[-1])


def test_the_answer_is_worth_nothing_and_the_start_is_far() -> None:
    problem = cornell(24)
    assert problem.value({name: np.array(values) for name, values in WANTED.items()}) == 0.0
    assert problem.target is not None
    np.testing.assert_array_equal(problem.target(20), problem.draw(WANTED, 20))
    assert problem.value(problem.x0) > 0.02


@pytest.mark.parametrize("seed", [0, 1])
def test_optimisation_finds_the_lamp(seed: int) -> None:
    problem = cornell(16)
    result = problem.solve(600, seed=seed)
    assert result.fun < 0.2 * problem.value(problem.x0)
    np.testing.assert_allclose(result.x["light"], WANTED["light"], atol=0.25)
