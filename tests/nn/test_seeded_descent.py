"""Descent along directions that exist only as seeds."""

import copy

import pytest
import torch
from torch import nn

import zograd as zo
from zograd.nn._moved import Directions, Moved, stochastic_round


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def points() -> torch.Tensor:
    return torch.randn(16, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().double() for p in model.parameters()])


def test_one_step_is_random_gradient_and_sgd() -> None:
    model, x = network(), points()
    reference = copy.deepcopy(model)
    optimizer = zo.nn.SeededDescent(model.parameters(), lr=0.1, samples=3, seed=5)
    loss = optimizer.step(lambda: model(x).square().mean().detach())
    reference(x).square().mean().backward()
    true = torch.cat([p.grad.flatten() for p in reference.parameters() if p.grad is not None])
    seeds = torch.randint(2**62, (3,), generator=torch.Generator().manual_seed(5))
    offsets = zo.Seeded(seeds, torch.ones(3))
    directions = torch.stack([offsets.direction(int(s), torch.zeros(len(true))) for s in seeds]).double()
    expected = (directions @ true) @ directions / 3
    moved = (flat(reference) - flat(model)) / 0.1
    assert float((moved - expected).norm() / expected.norm()) < 1e-4
    assert loss == pytest.approx(float(reference(x).detach().square().mean()), rel=1e-3)


def test_reads_a_parameter_wherever_it_is_used_and_never_writes_it() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(5, 4)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, words: torch.Tensor) -> torch.Tensor:
            x = self.words(words)
            x = x + self.attention(x, x, x, need_weights=False)[0]
            return nn.functional.linear(x, self.words.weight.view(5, 4))

    torch.manual_seed(0)
    model = Tied()
    words = torch.tensor([[0, 3, 1], [2, 2, 4]])
    parameters = list(model.parameters())
    directions = Directions(parameters, "rademacher")
    before = flat(model)
    with torch.no_grad(), Moved(directions, 7, 0.1):
        seen = model(words)
    assert torch.equal(flat(model), before)
    with torch.no_grad():
        for which, p in enumerate(parameters):
            directions.add(7, 0.1, which, p)
        assert torch.allclose(model(words), seen, atol=1e-6)
        assert not torch.equal(flat(model), before)


def test_pieces_are_those_of_the_whole_direction(monkeypatch) -> None:
    monkeypatch.setattr("zograd._probes.BLOCK_ENTRIES", 7)
    parameters = [torch.zeros(3), torch.zeros(4, 5), torch.zeros(())]
    directions = Directions(parameters, "gaussian")
    for which, p in enumerate(parameters):
        directions.add(11, 2.0, which, p.view(-1) if p.ndim == 0 else p)
    offsets = zo.Seeded(torch.tensor([11]), torch.tensor([2.0]))
    expected = offsets.dense(torch.zeros(24))[0]
    assert torch.equal(torch.cat([p.flatten() for p in parameters]), expected)
    assert len(set(expected.tolist())) == 24  # no block repeats another


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_learns_with_dropout_in_any_precision(dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 1)).to(dtype)
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    y = x.sum(1, keepdim=True).float()
    optimizer = zo.nn.SeededDescent(model.parameters(), lr=0.01, samples=2, step=0.01, directions="rademacher")
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 100, 0.5)
    losses = []
    for _ in range(200):
        losses.append(optimizer.step(lambda: (model(x).float() - y).square().mean()))
        schedule.step()
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])
    assert optimizer.param_groups[0]["lr"] == 0.0025


def test_every_probe_sees_one_mask_and_the_step_draws_as_one_pass() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), torch.ones(2, 4)
    masks = []

    def loss() -> torch.Tensor:
        output = model(x)
        masks.append(output == 0)
        return output.sum().detach()

    optimizer = zo.nn.SeededDescent(model.parameters(), lr=1e-9, samples=2)
    torch.manual_seed(3)
    optimizer.step(loss)
    after = torch.get_rng_state()
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    torch.manual_seed(3)
    model(x)
    assert torch.equal(torch.get_rng_state(), after)


def test_state_gives_the_same_next_steps() -> None:
    model, x = network(), points()
    optimizer = zo.nn.SeededDescent(model.parameters(), lr=0.01, weight_decay=0.1, seed=2)
    optimizer.step(lambda: model(x).square().mean().detach())
    twin = copy.deepcopy(model)
    other = zo.nn.SeededDescent(twin.parameters(), lr=1.0, seed=9)
    other.load_state_dict(optimizer.state_dict())
    for _ in range(2):
        a = optimizer.step(lambda: model(x).square().mean().detach())
        b = other.step(lambda: twin(x).square().mean().detach())
        assert a == b
    assert torch.equal(flat(model), flat(twin))


def test_a_lost_half_leaves_its_pair_out_and_nothing_left_is_an_error() -> None:
    model, x = network(), points()
    calls = iter(range(100))

    def loss() -> torch.Tensor:
        value = model(x).square().mean().detach()
        return value * float("nan") if next(calls) == 0 else value

    optimizer = zo.nn.SeededDescent(model.parameters(), lr=0.01, samples=2)
    before = flat(model)
    assert optimizer.step(loss) > 0
    assert not torch.equal(flat(model), before)
    kept = flat(model)
    with pytest.raises(zo.EvaluationError, match="no pair of probes gave two finite losses"):
        optimizer.step(lambda: torch.tensor(float("inf")))
    assert torch.equal(flat(model), kept)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_at_random_is_right_in_the_mean(dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for value in (1.0003, -0.7771, 3.0e-3):
        values = torch.full((200_000,), value)
        rounded = stochastic_round(values, dtype, generator).float()
        spread = float(rounded.std()) / len(values) ** 0.5
        assert abs(float(rounded.mean()) - value) < 5 * spread
        assert len(rounded.unique()) == 2
    exact = torch.tensor([1.0, -2.5, 0.0])
    assert torch.equal(stochastic_round(exact, dtype, generator).float(), exact)


def test_small_steps_are_not_lost_in_16_bits() -> None:
    p = nn.Parameter(torch.ones(4000, dtype=torch.bfloat16))
    directions = Directions([p], "gaussian")
    target = torch.zeros(4000)
    directions.add(1, 1e-4, 0, target)
    moved = torch.zeros(4000)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        q = torch.ones(4000, dtype=torch.bfloat16)
        directions.add_rounded(1, 1e-4, 0, q, generator)
        moved += q.float() - 1
    assert float(torch.corrcoef(torch.stack([moved, target]))[0, 1]) > 0.2
    nearest = torch.ones(4000, dtype=torch.bfloat16)
    directions.add(1, 1e-4, 0, nearest)
    assert torch.equal(nearest, torch.ones(4000, dtype=torch.bfloat16))


def test_wrong_arguments(unchecked) -> None:
    p = [nn.Parameter(torch.ones(2))]
    with pytest.raises(zo.ArgumentError, match="`lr` must be a positive number"):
        zo.nn.SeededDescent(p, lr=-1.0)
    with pytest.raises(zo.ArgumentError, match="`directions` must be one of"):
        zo.nn.SeededDescent(p, directions="sphere")  # type: ignore[arg-type]
    with pytest.raises(zo.ArgumentError, match="`weight_decay` must be zero or more"):
        zo.nn.SeededDescent(p, weight_decay=-1.0)
    with pytest.raises(zo.ArgumentError, match="`params` must be contiguous floating tensors"):
        zo.nn.SeededDescent([nn.Parameter(torch.ones(3, 2).T)])
    with pytest.raises(zo.ArgumentError, match="`closure` must compute the loss"):
        zo.nn.SeededDescent(p).step(None)  # type: ignore[arg-type]
