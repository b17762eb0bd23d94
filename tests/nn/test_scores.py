"""What weights are worth: GraSP from function values beside autograd's."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import zograd as zo
from zograd import ArgumentError, EvaluationError


def smooth() -> tuple[nn.Module, torch.Tensor, partial]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3)).double()
    x, y = torch.randn(32, 4).double(), torch.randint(3, (32,))
    return model, x, partial(nn.functional.cross_entropy, target=y)


def by_autograd(model: nn.Module, loss_fn: partial, x: torch.Tensor) -> dict[str, torch.Tensor]:
    weights = {name: p for name, p in model.named_parameters() if p.ndim >= 2}
    gradients = torch.autograd.grad(loss_fn(model(x)), list(weights.values()), create_graph=True)
    length = sum((g * g.detach()).sum() for g in gradients)
    products = torch.autograd.grad(length, list(weights.values()))
    return {name: -p.detach() * hg for (name, p), hg in zip(weights.items(), products, strict=True)}


def test_grasp_is_that_of_autograd_with_its_sign_and_size() -> None:
    model, x, loss_fn = smooth()
    model[3].p = 0.0
    right = by_autograd(model, loss_fn, x)
    scores = zo.nn.grasp_scores(model, loss_fn, x, step=1e-4)
    assert list(scores) == ["0.weight", "4.weight"]
    for name, score in scores.items():
        assert (score - right[name]).norm() < 1e-4 * right[name].norm()


def test_nothing_is_left_behind() -> None:
    model, x, loss_fn = smooth()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    zo.nn.grasp_scores(model, loss_fn, x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert model[4].weight.grad is None


def test_random_directions_are_the_same_in_all_three_gradients() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    x, loss_fn = torch.randn(16, 2).double(), partial(nn.functional.mse_loss, target=torch.ones(16, 1).double())
    right = torch.cat([value.flatten() for value in by_autograd(model, loss_fn, x).values()])
    estimator = zo.RandomGradient(100, step=1e-4)

    def scores(seed: int) -> torch.Tensor:
        drawn = torch.Generator().manual_seed(seed)
        found = zo.nn.grasp_scores(model, loss_fn, x, step=1e-2, estimator=estimator, generator=drawn)
        return torch.cat([value.flatten() for value in found.values()])

    found = scores(1)
    assert torch.equal(found, scores(1))
    assert torch.corrcoef(torch.stack([found, right]))[0, 1] > 0.8


def test_magnitudes() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    scores = zo.nn.magnitude_scores(model)
    assert list(scores) == ["0.weight"]
    assert torch.equal(scores["0.weight"], model[0].weight.detach().abs())


def test_wrong_arguments(unchecked: None) -> None:
    model, x, loss_fn = smooth()
    with pytest.raises(EvaluationError, match="gradient must not be zero"):
        zo.nn.grasp_scores(model, lambda y: 0.0 * y.sum(), x)
    with pytest.raises(ArgumentError, match="step"):
        zo.nn.grasp_scores(model, loss_fn, x, step=0.0)
    with pytest.raises(ArgumentError, match="two dimensions or more"):
        zo.nn.magnitude_scores(nn.LayerNorm(3))
    scores = zo.nn.magnitude_scores(model)
    with pytest.raises(ArgumentError, match="at most 1"):
        zo.nn.layer_ratios(scores, keep=1.5)
    with pytest.raises(ArgumentError, match="order"):
        zo.nn.layer_ratios(scores, keep=0.5, order="best")
    with pytest.raises(ArgumentError, match="finite"):
        zo.nn.layer_ratios({"a": torch.tensor([1.0, float("nan")])}, keep=0.5)
    with pytest.raises(ArgumentError, match="at least one tensor"):
        zo.nn.layer_ratios({}, keep=0.5)


def test_an_order_is_what_it_says() -> None:
    scores = {"a": torch.tensor([-9.0, 1.0]), "b": torch.tensor([2.0, 8.0])}
    assert zo.nn.layer_ratios(scores, 0.5) == {"a": 1.0, "b": 0.0}
    assert zo.nn.layer_ratios(scores, 0.5, "highest") == {"a": 0.0, "b": 1.0}
    assert zo.nn.layer_ratios(scores, 0.5, "largest") == {"a": 0.5, "b": 0.5}


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.floats(0.01, 1.0), st.integers(0, 99))
def test_ratios_come_to_what_is_kept(sizes: list[int], keep: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {str(at): torch.randn(size, generator=generator) for at, size in enumerate(sizes)}
    ratios = zo.nn.layer_ratios(scores, keep)
    kept = sum(ratios[name] * score.numel() for name, score in scores.items())
    assert abs(kept - max(1, round(keep * sum(sizes)))) < 1e-6
