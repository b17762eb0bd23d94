"""A black box inside a network is asked alone, as little as its structure allows."""

import pytest
import torch
import torch.nn.functional as F
from nn_networks import Case, by_autograd, distance, flat_grad
from torch import nn

import zograd as zo


class Counting:
    """A function that leaves torch, and counts the rows that it is asked for."""

    def __init__(self, function) -> None:
        self.function, self.calls = function, 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return torch.from_numpy(self.function(torch.from_numpy(x.numpy())).numpy())


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 2, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


KERNEL = torch.randn(2, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
MATRIX = torch.randn(70, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


CHAIN = sum(torch.eye(70, 70).roll(shift, 1) for shift in (0, 1, 2))[:68].bool()
"""Each output depends on three neighbours of 70 inputs."""


def chained(x: torch.Tensor) -> torch.Tensor:
    return (x[:, :-2] * x[:, 1:-1]).sin() + x[:, 2:].square()


@pytest.mark.parametrize(
    ("function", "arguments", "calls"),
    [
        (lambda x: x.sin() * 2, {"structure": "elementwise"}, 2),
        (lambda x: F.conv2d(x.tanh(), KERNEL, padding=1), {"structure": "local", "reach": 1}, 2 * 2 * 9),
        (lambda x: F.conv2d(x.tanh(), KERNEL.mean((2, 3), keepdim=True)), {"structure": "local", "reach": 0}, 2 * 2),
        (lambda x: x.flatten(1) @ MATRIX + 3, {"structure": "linear"}, 1 + 24),
        (lambda x: (x.flatten(1) @ MATRIX).tanh(), {"structure": "samplewise"}, 2 * 70),
        (lambda x: chained(x.flatten(1)), {"structure": "sparse", "pattern": CHAIN}, 2 * 3),
        (lambda x: (x.flatten(1) @ MATRIX).tanh(), {}, 3 + 2 * 70),
        (lambda x: x.mean(0, keepdim=True).sin() * x, {}, 2 + 2 * 210),
    ],
)
def test_each_structure(function, arguments, calls) -> None:
    torch.manual_seed(0)
    before = nn.Conv2d(2, 2, 3, padding=1).double()
    counting = Counting(function)
    inside = zo.nn.Opaque(counting, **arguments)
    expected = by_autograd(Case(before, images(), lambda y: function(y).square().mean()))
    model = nn.Sequential(before, inside)
    assert torch.equal(model(images()), function(before(images())))
    zo.nn.backward(model, lambda y: y.square().mean(), images())
    assert distance(flat_grad(before), expected) < 1e-7
    before.zero_grad()
    counting.calls = 0
    plan = zo.nn.plan(model, lambda y: y.square().mean(), images())
    assert plan.totals["contraction"].queries > 0
    counting.calls = 0
    plan.backward()
    assert counting.calls == calls
    assert distance(flat_grad(before), expected) < 1e-7


def test_the_rest_by_autograd() -> None:
    torch.manual_seed(0)
    front, back = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()
    inside = zo.nn.Opaque(Counting(torch.tanh), structure="elementwise")
    model = nn.Sequential(front, inside, nn.ReLU(), back)
    x = torch.randn(5, 3, dtype=torch.float64)
    expected = by_autograd(Case(nn.Sequential(front, nn.Tanh(), nn.ReLU(), back), x, torch.sum))
    plan = zo.nn.plan(model, torch.sum, x, autograd=True)
    plan.backward()
    assert distance(flat_grad(model), expected) < 1e-9


def test_parameters_inside_cost_two_calls_each() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor([0.5, 2.0], dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy((x * self.gain.detach()).numpy())

    model = nn.Sequential(nn.Linear(3, 2).double(), zo.nn.Opaque(Inner(), structure="elementwise"))
    x = torch.randn(4, 3, dtype=torch.float64)
    zo.nn.backward(model, lambda y: y.square().sum(), x)
    hidden = model[0](x).detach()
    torch.testing.assert_close(
        model[1].function.gain.grad, 2 * model[1].function.gain.detach() * hidden.square().sum(0)
    )


@pytest.mark.parametrize(("layer", "shape"), [(nn.Linear(3, 4), (5, 3)), (nn.Conv2d(2, 4, 3), (5, 2, 6, 5))])
def test_channels_are_moved_at_once(layer: nn.Module, shape: tuple[int, ...]) -> None:
    calls: list[int] = []

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer.double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            return torch.from_numpy(self.layer(x).tanh().numpy())

    x = torch.randn(shape, dtype=torch.float64)
    with torch.enable_grad():
        expected = by_autograd(Case(layer.double(), x, lambda y: y.tanh().square().mean()))
    model = nn.Sequential(zo.nn.Opaque(Inner(), structure="samplewise", channels=True))
    plan = zo.nn.plan(model, lambda y: y.square().mean(), x)
    before = len(calls)
    plan.backward()
    each = layer.weight[0].numel()
    assert len(calls) - before == 2 * each + 2  # the bias has one entry a channel
    assert distance(flat_grad(model), expected) < 1e-7
    assert plan.totals["contraction"].queries >= 2 * each + 2


def test_affine_parameters_cost_one_call_each() -> None:
    layer = nn.Linear(4, 3).double()
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    calls = 0

    class Device(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return torch.from_numpy(self.inner(x).detach().numpy())

    model = zo.nn.Opaque(Device(), structure="linear", affine=True)
    zo.nn.backward(model, lambda y: y.sin().sum(), x)
    found = flat_grad(model)
    layer.zero_grad()
    layer(x).sin().sum().backward()
    assert distance(found, flat_grad(layer)) < 1e-8
    model.zero_grad()
    calls = 0
    zo.nn.backward(model, lambda y: y.sin().sum(), x)
    asked = calls
    device = zo.nn.Opaque(model.function, structure="linear")
    zo.nn.backward(device, lambda y: y.sin().sum(), x)
    calls = 0
    zo.nn.backward(device, lambda y: y.sin().sum(), x)
    assert calls - asked == (2 * 12 + 2 * 3) - (13 + 4)  # twice each; once each, and the centre of each tensor


def test_patterns_that_do_not_fit() -> None:
    pattern = torch.ones(3, 3, dtype=torch.bool)
    model = nn.Sequential(nn.Linear(2, 2), zo.nn.Opaque(lambda x: x * 1, structure="sparse", pattern=pattern))
    with pytest.raises(zo.ArgumentError, match="`pattern` must have shape"):
        zo.nn.backward(model, torch.sum, torch.ones(1, 2))


def test_channels_that_do_not_fit() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :2] * float(self.gain.sum())

    model = zo.nn.Opaque(Inner(), channels=True)
    with pytest.raises(zo.ArgumentError, match=r"parameters of shape \(channels, ...\).*\(3,\) and outputs \(4, 2\)"):
        zo.nn.backward(model, torch.sum, torch.ones(4, 3).double(), method="contraction")


def test_a_wide_step_sees_over_the_levels() -> None:
    rounding = zo.nn.Opaque(lambda x: torch.from_numpy((x * 4).numpy().round() / 4), structure="elementwise", step=1.0)
    model = nn.Sequential(nn.Linear(2, 3).double(), rounding)
    x = torch.randn(6, 2, dtype=torch.float64)
    zo.nn.backward(model, torch.sum, x)
    torch.testing.assert_close(model[0].bias.grad, torch.full((3,), 6.0).double(), rtol=0.3, atol=0)


def test_without_dependence_it_is_a_constant() -> None:
    inside = zo.nn.Opaque(Counting(torch.sin))
    model = nn.Sequential(inside, nn.Linear(2, 1).double())
    x = torch.ones(3, 2, dtype=torch.float64)
    zo.nn.backward(model, torch.sum, x)
    torch.testing.assert_close(model[1].weight.grad, x.sin().sum(0, keepdim=True))
    identity = zo.nn.Opaque(lambda y: y, structure="elementwise")
    model = nn.Sequential(nn.Linear(2, 1).double(), identity)
    zo.nn.backward(model, torch.sum, x)
    torch.testing.assert_close(model[0].weight.grad, x.sum(0, keepdim=True))


def test_reuse_through_it() -> None:
    model = nn.Sequential(nn.Linear(2, 2).double(), zo.nn.Opaque(Counting(torch.sin)))
    x = torch.randn(3, 2, dtype=torch.float64)
    zo.nn.backward(model, torch.sum, x, method="reuse")
    expected = by_autograd(Case(model[0], x, lambda y: y.sin().sum()))
    assert distance(flat_grad(model), expected) < 1e-8


def test_a_differentiable_layer_asks_its_own_estimator() -> None:
    layer = zo.differentiable(lambda p: [float(p[0]) ** 2, float(p[0]) * float(p[1])])
    model = nn.Sequential(nn.Linear(3, 2).double(), layer, nn.Linear(2, 1).double())
    x = torch.randn(4, 3, dtype=torch.float64)
    expected = by_autograd(Case(model, x, lambda y: y.square().mean()))
    layer.evaluations = 0
    plan = zo.nn.plan(model, lambda y: y.square().mean(), x)
    assert [part.method for part in plan.parts] == ["contraction"] * 2
    plan.backward()
    assert distance(flat_grad(model), expected) < 1e-7
    model.zero_grad()
    layer.evaluations = 0
    zo.nn.backward(model, lambda y: y.square().mean(), x)
    assert layer.evaluations == 4 + 4 * 4  # the batch forward; two coordinates and two sides of each row
    model.zero_grad()
    zo.nn.backward(model, lambda y: y.square().mean(), x, method="reuse")
    assert distance(flat_grad(model), expected) < 1e-7


@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments() -> None:
    for wrong, match in (
        ({"function": 3}, "`function` must be callable"),
        ({"structure": "round"}, "`structure` must be one of"),
        ({"structure": "local"}, "`reach` must be given with"),
        ({"reach": 2}, "`reach` must be given with"),
        ({"step": -1.0}, "`step` must be a positive number"),
        ({"structure": "sparse"}, "`pattern` must be given with"),
        ({"pattern": torch.ones(2, 2).bool()}, "`pattern` must be given with"),
        ({"structure": "sparse", "pattern": torch.ones(2, 2)}, "`pattern` must be a boolean tensor"),
        ({"affine": 1}, "`affine` must be True or False"),
        ({"affine": True, "channels": True}, "`affine` must be False with"),
        ({"channels": 1}, "`channels` must be True or False"),
        ({"structure": "local", "reach": -1}, "`reach` must be a whole number"),
    ):
        with pytest.raises(zo.ArgumentError, match=match):
            zo.nn.Opaque(**{"function": torch.sin, **wrong})
    with pytest.raises(zo.ArgumentError, match="`function` must return a tensor"):
        zo.nn.Opaque(lambda x: 3)(torch.ones(1))
