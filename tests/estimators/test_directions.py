import torch

import zograd as zo
from zograd.estimators._directions import SEEDED_DIMENSION, SEEDED_ENTRIES, orthogonal, scatter


def test_many_entries_are_regenerated_from_seeds():
    samples = SEEDED_ENTRIES // SEEDED_DIMENSION + 1
    center = torch.zeros(SEEDED_DIMENSION)
    offsets = scatter("gaussian", torch.ones(samples), center, torch.Generator(), mirrored=True)
    assert isinstance(offsets, zo.Seeded)
    assert torch.equal(offsets.seed[:samples], offsets.seed[samples:])
    assert offsets.nbytes < 100_000


def test_few_entries_and_short_rows_are_kept():
    assert isinstance(scatter("gaussian", torch.ones(2), torch.zeros(5), torch.Generator()), zo.Dense)
    many = SEEDED_ENTRIES // 4 + 1
    assert isinstance(scatter("rademacher", torch.ones(many), torch.zeros(4), torch.Generator()), zo.Dense)


def test_orthogonal_directions_are_always_kept(monkeypatch):
    monkeypatch.setattr("zograd.estimators._directions.SEEDED_ENTRIES", 0)
    monkeypatch.setattr("zograd.estimators._directions.SEEDED_DIMENSION", 1)
    assert isinstance(scatter("orthogonal", torch.ones(2), torch.zeros(5), torch.Generator()), zo.Dense)


def test_orthogonal_directions_are_uniform_on_the_sphere():
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([orthogonal(2, 3, torch.float64, generator) for _ in range(4000)])
    assert float(draws.mean(0).abs().max()) < 0.1
    for k in range(2):
        second_moment = draws[:, k].T @ draws[:, k] / len(draws)
        assert float((second_moment - torch.eye(3)).abs().max()) < 0.1
