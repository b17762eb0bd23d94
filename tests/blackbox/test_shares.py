"""Rows in shares: whole calls of equal predicted cost, the same whoever works."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zograd as zo
from zograd.blackbox import ModuleLoss, TracedLoss, _traced
from zograd.blackbox.graph import Replay, flops


def deep(dtype: torch.dtype = torch.float32) -> TracedLoss:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 3)).to(dtype)
    x, y = torch.randn(2, 4, 8, 8, dtype=dtype), torch.randint(3, (2,))
    with torch.no_grad():
        plain = ModuleLoss(model, lambda output: F.cross_entropy(output, y), x, list(model.parameters()))
        return TracedLoss(plain, relative=dtype == torch.float32)


def probes_of(box: TracedLoss, **keywords) -> zo.Probes:
    return zo.CoordinateGradient(**keywords).propose(box.center, torch.Generator())


@torch.no_grad()
@pytest.mark.parametrize("narrow", [False, True])
def test_shares_give_the_bits_of_one_call(monkeypatch, narrow) -> None:
    monkeypatch.setattr(_traced, "STACKED_ELEMENTS", {"cpu": 2**15})
    if narrow:
        monkeypatch.setattr(_traced, "NARROW_ELEMENTS", 0)
    box = deep()
    wave = probes_of(box, active=torch.randperm(box.center.numel())[:300])
    probes, order = box.arranged(wave)
    shares = box.shares(probes)
    assert [row for share in shares for row in share.rows] == list(range(len(probes)))
    assert len(shares) > 20
    found = torch.empty(len(probes))
    found[order] = torch.cat([box.probe(probes[share.rows.start : share.rows.stop]) for share in shares])
    assert torch.equal(found, box.probe(wave))
    again = box.shares(probes[shares[3].rows.start : shares[7].rows.stop])  # a part is divided no worse
    assert {share.rows.stop + shares[3].rows.start for share in again} >= {share.rows.stop for share in shares[3:8]}


@torch.no_grad()
def test_shares_are_of_equal_cost_as_far_as_calls_allow(monkeypatch) -> None:
    box = deep()
    calls = [share.cost for share in box.shares(box.arranged(probes_of(box))[0])]
    total = sum(calls)
    monkeypatch.setattr(_traced, "SHARES", 4)
    few = [share.cost for share in box.shares(box.arranged(probes_of(box))[0])]
    assert sum(few) == pytest.approx(total)
    assert len(few) < len(calls)
    assert max(few) <= max(total / 4, max(calls)) * (1 + 1e-9)
    monkeypatch.setattr(_traced, "SHARES", 10**9)
    every = box.shares(box.arranged(probes_of(box))[0])
    assert len(every) >= len(calls)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_coordinate_costs_less_the_later_it_is(dtype) -> None:
    box = deep(dtype)
    replay = Replay(box.tape)
    weights = [replay.tape.parameters[at] for at, p in enumerate(box.plain.parameters) if p.ndim > 1]
    costs = [replay.work(place, one_channel=False).row for place in weights]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 4 * costs[-1]
    narrow = [replay.work(place, one_channel=True).row for place in weights[:-1]]
    assert all(one < whole for one, whole in zip(narrow, costs, strict=False))


def test_products_are_counted() -> None:
    model = nn.Linear(5, 3, bias=False)
    with torch.no_grad():
        box = TracedLoss(ModuleLoss(model, torch.sum, torch.ones(7, 5), list(model.parameters())))
    counted = {node.name: flops(node, box.tape.values) for node in box.tape.nodes}
    assert counted["mm"] == 2 * 7 * 5 * 3
    assert counted["sum"] == 1


@torch.no_grad()
def test_other_probes_are_not_divided() -> None:
    box = deep()
    wave = zo.RandomGradient(2).propose(box.center, torch.Generator())
    assert box.shares(wave) == []
    same, order = box.arranged(wave)
    assert same is wave
    assert order.tolist() == [0, 1, 2, 3]
    elsewhere = zo.Probes(box.center.clone(), zo.Coordinates(torch.arange(3), torch.ones(3)))
    assert box.shares(elsewhere) == box.plain.shares(elsewhere) == []
