"""Which coordinates are differentiated."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import zograd as zo
from zograd import ArgumentError


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 5, bias=False))


def test_each_layer_has_its_share(generator: torch.Generator) -> None:
    masks = zo.nn.RandomMasks(network(), {"0.weight": 0.25, "2.weight": 0.5})
    index = masks.draw(generator).index
    counts = [int(((index >= low) & (index < high)).sum()) for low, high in ((0, 80), (80, 90), (90, 140))]
    assert counts == [20, 10, 25]
    assert masks.draw(generator).weights is None
    assert not torch.equal(index, masks.draw(generator).index)
    repeated = zo.nn.RandomMasks(network(), {"0.weight": 0.25, "2.weight": 0.5})
    assert torch.equal(index, repeated.draw(torch.Generator().manual_seed(0)).index)


def test_layers_without_a_share_are_whole_and_frozen_ones_are_not_counted(generator: torch.Generator) -> None:
    model = network()
    model[0].bias.requires_grad_(False)
    index = zo.nn.RandomMasks(model, {"0.weight": 0.0}).draw(generator).index
    assert index.tolist() == list(range(80, 130))


def test_wrong_ratios() -> None:
    with pytest.raises(ArgumentError, match=r"name weights of the model.*3\.weight"):
        zo.nn.RandomMasks(network(), {"3.weight": 0.5})
    with pytest.raises(ArgumentError, match="shares from 0 to 1"):
        zo.nn.RandomMasks(network(), {"0.weight": -0.5})
    with pytest.raises(ArgumentError, match="memory"):
        zo.nn.ImportanceMasks(network(), 0.5, memory=1.0)


@given(st.floats(0.02, 1.0), st.integers(0, 50), st.floats(0.1, 4.0))
def test_probabilities_keep_the_budget(keep: float, seed: int, spread: float) -> None:
    masks = zo.nn.ImportanceMasks(network(), keep)
    everything = zo.nn.Active(torch.arange(140))
    normal = torch.randn(140, generator=torch.Generator().manual_seed(seed))
    masks.observe((spread * normal).exp(), everything)
    p = masks.probabilities()
    assert bool((p > 0).all())
    assert bool((p <= 1).all())
    assert float(p.sum()) == pytest.approx(keep * 130, rel=1e-9)


def test_importance_is_unbiased_and_less_noisy_than_uniform(generator: torch.Generator) -> None:
    model = network()
    gradient = torch.randn(140, generator=generator).exp() * torch.randn(140, generator=generator)

    def error(masks: zo.nn.ImportanceMasks) -> tuple[float, float]:
        total, squared = torch.zeros(140, dtype=torch.float64), 0.0
        for _ in range(2000):
            active = masks.draw(generator)
            estimate = torch.zeros(140, dtype=torch.float64)
            assert active.weights is not None
            estimate[active.index] = active.weights * gradient[active.index]
            total += estimate
            squared += float((estimate - gradient).square().sum()) / 2000
        return float((total / 2000 - gradient).square().sum()), squared

    uniform = zo.nn.ImportanceMasks(model, 0.2)
    learnt = zo.nn.ImportanceMasks(model, 0.2)
    learnt.observe(gradient, zo.nn.Active(torch.arange(140)))
    bias, noise = error(learnt)
    assert bias < 3 * noise / 2000  # what is left of the noise in a mean of 2000
    assert noise < 0.5 * error(uniform)[1]


def test_state() -> None:
    first, second = (zo.nn.ImportanceMasks(network(), 0.3) for _ in range(2))
    first.observe(torch.arange(140.0), zo.nn.Active(torch.arange(0, 140, 2)))
    first.observe(3 * torch.ones(140), zo.nn.Active(torch.arange(10)))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.probabilities(), second.probabilities())
    p = first.probabilities()
    assert p[9] > p[11]  # one was seen, the other never
    assert p[8] > p[4]  # 0.5 * 8 + 0.5 * 3 and 0.5 * 4 + 0.5 * 3
    drawn = [masks.draw(torch.Generator().manual_seed(1)).index for masks in (first, second)]
    assert torch.equal(*drawn)
    masks = zo.nn.RandomMasks(network(), 0.5)
    masks.load_state_dict(masks.state_dict())
    assert masks.state_dict() == {}
