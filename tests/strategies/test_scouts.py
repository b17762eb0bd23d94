"""Scouts: how far to look is learned on a few parameters, and silent ones are looked for as long as that pays."""

import pytest
import torch

from zograd.strategies._scouts import FARTHEST, SCOUTS, Scouts


def driven(needed):
    """The sizes of all portions, and how far each parameter was moved in the end, where that shows at ``needed``."""
    signs, farther = torch.ones(len(needed)), torch.ones(len(needed), dtype=torch.float64)
    scouts, seen, sizes = Scouts(signs), torch.zeros(len(needed), dtype=torch.bool), []
    while len(scouts.portion):
        portion = scouts.portion
        sizes.append(len(portion))
        seen[portion] |= farther[portion] >= needed[portion]
        scouts.told(seen, farther)
    return sizes, farther, seen


@pytest.mark.parametrize("far", [1.0, 2.0, 4.0, 8.0])
def test_all_others_are_moved_at_once_as_far_as_the_scouts_needed(far):
    sizes, farther, seen = driven(torch.full((100,), far))
    looks = int(torch.tensor(far).log2()) + 1
    assert sizes == [SCOUTS] * looks + [100 - SCOUTS]
    assert farther.tolist() == [far] * 100
    assert seen.all()


def test_one_that_needs_more_does_not_make_all_go_as_far_and_is_found_later():
    needed = torch.ones(100)
    needed[Scouts(needed).portion[3]] = 4.0
    sizes, farther, seen = driven(needed)
    assert sizes == [SCOUTS, 100 - SCOUTS + 1, 1]
    assert seen.all()
    assert (farther == 1.0).sum() == 99


def test_what_shows_nothing_anywhere_is_given_up():
    sizes, farther, seen = driven(torch.full((100,), 100.0))
    assert sizes == [SCOUTS] * 4 + [100]
    assert not seen.any()
    assert farther.tolist() == [FARTHEST] * 100


def test_the_silent_are_moved_farther_for_as_long_as_some_of_them_show():
    needed = torch.ones(1000)
    needed[Scouts(needed).portion[-1] + 1 :: 3] = 2.0
    needed[:5] = 100.0
    sizes, _, seen = driven(needed)
    assert seen.sum() == 995
    assert len(sizes) <= 6


def test_a_state_goes_on():
    scouts = Scouts(torch.ones(100))
    farther = torch.ones(100, dtype=torch.float64)
    scouts.told(torch.zeros(100, dtype=torch.bool), farther)
    again = Scouts.of(scouts.state_dict())
    assert torch.equal(again.portion, scouts.portion)
    seen = torch.ones(100, dtype=torch.bool)
    seen[50:60] = False
    for each in (scouts, again):
        each.told(seen, farther.clone())
    assert torch.equal(again.portion, scouts.portion)
    assert again.first == scouts.first
