"""Steps from measured noise: what a table of differences tells, and gradients where the default step sees nothing."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nn_networks import by_autograd, flat_grad, make
from torch import nn

import zograd as zo
from zograd.nn._noise import noise_along, noise_level, step_along

OFFSETS = torch.arange(7, dtype=torch.float64)


def test_the_noise_of_a_table() -> None:
    drawn = np.random.default_rng(0)
    found = []
    for _ in range(200):
        values = (1 + 0.01 * OFFSETS).sin() + 1e-4 * torch.from_numpy(drawn.standard_normal(7))
        found.append(noise_level(values))
    told = torch.tensor([level for level in found if level is not None])
    assert len(told) > 150
    assert 0.7e-4 < float(told.square().mean().sqrt()) < 1.4e-4


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([0.0, 0, 0, 0, 1, 1, 1]),  # one level of a quantiser: too close
        (OFFSETS * 0.9).exp(),  # too far: differences do not shrink, and do not change their sign
        torch.tensor([0.0, 1, 0, math.nan, 1, 0, 1]),
    ],
)
def test_a_table_that_tells_nothing(values: torch.Tensor) -> None:
    assert noise_level(values) is None


def test_tables_get_wider_until_a_quantiser_is_seen() -> None:
    def along(offsets: torch.Tensor) -> torch.Tensor:
        return torch.stack([((offsets + shift) * 10).round() / 10 for shift in (0.0, 0.03, 0.071)])

    noise, spacing, looked = noise_along(along, 1e-5, 1.0)
    assert 0.005 < noise < 0.1  # 0.1 / sqrt(12) is 0.029
    assert spacing > 0.01
    assert looked == 7 * (1 + round(math.log(spacing / 1e-5, 7.3)))
    assert noise_along(lambda offsets: torch.zeros(3, len(offsets)), 1e-5, 1.0)[0] == 0.0


@pytest.mark.parametrize("noise", [1e-8, 1e-5, 1e-3])
def test_the_step_balances_noise_and_bias(noise: float) -> None:
    drawn = np.random.default_rng(1)

    def along(offsets: torch.Tensor) -> torch.Tensor:
        values = torch.stack([offsets + offsets**3] * 8)  # third derivative 6
        return values + noise * torch.from_numpy(drawn.standard_normal(values.shape))

    step, told, third, looked = step_along(along, 1e-8, 1.0)
    assert told == pytest.approx(noise, rel=0.6)
    assert third == pytest.approx(6.0, rel=0.5)
    assert step == pytest.approx((3 * noise / 6) ** (1 / 3), rel=0.4)
    assert looked < 60


def test_what_noise_hides_is_stepped_over() -> None:
    drawn = np.random.default_rng(1)
    step, _, third, _ = step_along(
        lambda t: torch.stack([t] * 4) + 0.1 * torch.from_numpy(drawn.standard_normal((4, len(t)))), 1e-8, 2.0
    )
    assert step >= 0.25
    assert third < 10
    assert step_along(lambda t: torch.zeros(4, len(t)), 1e-8, 2.0)[0] >= 0.5
    lost = step_along(lambda t: torch.where(t.abs() > 0.1, math.nan, t.expand(4, -1)), 1e-8, 2.0)[0]
    assert lost < 0.1


class Device(nn.Module):
    """A layer on simulated hardware: weights and biases on ``levels`` to a unit, noise that torch does not draw."""

    def __init__(self, inner: int, outer: int, levels: int, noise: float) -> None:
        super().__init__()
        self.linear, self.levels, self.noise = nn.Linear(inner, outer), levels, noise
        self.drawn = np.random.default_rng(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = (
            (p.detach() * self.levels).round() / self.levels if self.levels else p.detach()
            for p in self.linear.parameters()
        )
        y = F.linear(x.detach(), weight, bias).numpy()
        return torch.from_numpy(y + self.noise * self.drawn.standard_normal(y.shape).astype(y.dtype))


def on_hardware(levels: int, noise: float) -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The network, a batch, its classes, and the gradient without quantiser and noise."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)]
    ideal = nn.Sequential(*layers)
    x, classes = torch.randn(64, 8), torch.randint(4, (64,))
    gradient = torch.autograd.grad(F.cross_entropy(ideal(x), classes), list(ideal.parameters()))
    model = copy.deepcopy(ideal)
    for at in (0, 2, 4):
        device = Device(1, 1, levels, noise)
        device.linear = model[at]
        model[at] = device
    return model, x, classes, torch.cat([g.flatten() for g in gradient])


@pytest.mark.parametrize(("levels", "noise"), [(8, 0.0), (0, 1e-2), (16, 1e-2)])
def test_where_the_default_step_sees_nothing(levels: int, noise: float) -> None:
    model, x, classes, expected = on_hardware(levels, noise)

    def loss_fn(output: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(output, classes)

    before = copy.deepcopy(model.state_dict())
    steps = zo.nn.layer_steps(model, loss_fn, x)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert len(steps.layers) == 6
    assert "0.linear.weight" in str(steps)
    assert f"{steps.evaluations:,} evaluations" in str(steps)
    assert steps.evaluations <= 4 * 80 * 6
    cosine = {}
    for name, step in (("default", None), ("measured", steps.step)):
        model.zero_grad()
        zo.backward(model, loss_fn, x, estimator=zo.CoordinateGradient(step=step))
        cosine[name] = float(F.cosine_similarity(flat_grad(model), expected, 0))
    assert cosine["measured"] > 0.9
    assert abs(cosine["default"]) < 0.5
    for method in ("reuse", "plain"):
        model.zero_grad()
        zo.nn.backward(model, loss_fn, x, method=method, step=steps.step)
        assert float(F.cosine_similarity(flat_grad(model), expected, 0)) > 0.9


@pytest.mark.parametrize("reuse", [False, True])
def test_smooth_losses_lose_nothing(reuse: bool) -> None:
    case = make("mlp")
    steps = zo.nn.layer_steps(case.model, case.loss_fn, case.inputs, reuse=reuse, generator=torch.Generator())
    zo.backward(case.model, case.loss_fn, case.inputs, estimator=zo.CoordinateGradient(step=steps.step))
    found = flat_grad(case.model)
    expected = by_autograd(case)
    assert float((found - expected).norm() / expected.norm()) < 1e-6


def test_the_cost_is_what_is_said() -> None:
    calls: list[int] = []
    model = nn.Linear(3, 2).double()
    model.register_forward_hook(lambda *_: calls.append(1))
    steps = zo.nn.layer_steps(model, lambda y: y.square().mean(), torch.ones(2, 3).double(), reuse=False, samples=2)
    assert steps.evaluations == len(calls)
    assert steps.evaluations <= 2 * 80 * 2


@pytest.mark.parametrize(
    ("structure", "reach"), [("elementwise", None), ("samplewise", None), ("local", 1), (None, None)]
)
def test_the_step_of_a_part(structure: str | None, reach: int | None) -> None:
    noise = np.random.default_rng(0)

    def sensor(x: torch.Tensor) -> torch.Tensor:
        y = x.sin().numpy()
        return torch.from_numpy((y * 64).round() / 64 + 1e-3 * noise.standard_normal(y.shape))

    x = torch.randn(16, 2, 3, 3, dtype=torch.float64)
    part = zo.nn.Opaque(sensor, structure=structure, reach=reach)
    front = nn.Conv2d(2, 2, 1).double()
    expected = torch.autograd.grad(front(x).sin().square().mean(), list(front.parameters()))
    cosine = []
    for step in (None, part.measured_step(front(x), samples=3, generator=torch.Generator())):
        part.step = step
        front.zero_grad()
        zo.nn.backward(nn.Sequential(front, part), lambda y: y.square().mean(), x, method="contraction")
        flat = torch.cat([g.flatten() for g in expected])
        cosine.append(float(F.cosine_similarity(flat_grad(front), flat, 0)))
    assert cosine[1] > 0.9
    assert part.step > 0.01


@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments() -> None:
    model, x = nn.Linear(2, 1), torch.ones(1, 2)
    good = {"model": model, "loss_fn": torch.sum, "inputs": x}
    for wrong, match in (
        ({"model": 3}, "`model` must be an nn.Module"),
        ({"loss_fn": 3}, "`loss_fn` must be callable"),
        ({"samples": 0}, "`samples` must be a whole number"),
        ({"reuse": False, "stages": [model]}, "`stages` must be left out"),
    ):
        with pytest.raises(zo.ArgumentError, match=match):
            zo.nn.layer_steps(**{**good, **wrong})
    for how, match in (
        ({"method": "reuse", "step": torch.ones(2)}, "`step` must have one entry for each of 3 parameters"),
        ({"step": torch.ones(3)}, "`step` must be one number but with method="),
        ({"method": "plain", "step": -torch.ones(3)}, "`step` must have positive entries"),
    ):
        with pytest.raises(zo.ArgumentError, match=match):
            zo.nn.backward(**good, **how)
    with pytest.raises(zo.ArgumentError, match="which needs no step"):
        zo.nn.Opaque(torch.sin, structure="linear").measured_step(x)
    with pytest.raises(zo.ArgumentError, match="`samples` must be a whole number"):
        zo.nn.Opaque(torch.sin).measured_step(x, samples=0)
