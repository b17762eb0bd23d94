"""The gradient of a network from values of its operations: the same as by differences and as by autograd."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from nn_networks import ALL, SMALL, Case, by_autograd, distance, flat_grad, make
from torch import nn

import zograd as zo


@pytest.mark.parametrize("case", ALL, indirect=True)
@pytest.mark.parametrize("autograd", [False, True])
def test_contraction_agrees_with_autograd_and_leaves_one_forward_pass(case: Case, autograd: bool) -> None:
    expected = by_autograd(case)
    reference = copy.deepcopy(case.model)
    random = torch.get_rng_state()
    loss = zo.nn.backward(case.model, case.loss_fn, case.inputs, method="contraction", autograd=autograd)
    after = torch.get_rng_state()
    assert distance(flat_grad(case.model), expected) < 1e-8
    torch.set_rng_state(random)
    with torch.no_grad():
        assert torch.allclose(case.loss_fn(reference(case.inputs)), loss, rtol=1e-14)
    assert torch.equal(torch.get_rng_state(), after)
    pairs = zip(case.model.state_dict().values(), reference.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not loss.requires_grad


@pytest.mark.parametrize("case", ALL, indirect=True)
def test_reuse_is_plain_differences(case: Case) -> None:
    size = sum(p.numel() for p in case.model.parameters())
    active = torch.randperm(size, generator=torch.Generator().manual_seed(1))[:12]
    found = {}
    for method in ("reuse", "plain"):
        model = copy.deepcopy(case.model)
        random = torch.get_rng_state()
        zo.nn.backward(model, case.loss_fn, case.inputs, method=method, active=active)
        torch.set_rng_state(random)
        found[method] = flat_grad(model)
        assert (found[method] != 0).nonzero().numel() <= 12
    # The same differences of the same losses: what is left is the rounding of a loss over the step.
    torch.testing.assert_close(found["reuse"], found["plain"], rtol=1e-9, atol=1e-9)
    expected = by_autograd(case)
    torch.testing.assert_close(found["reuse"][active], expected[active], rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("case", ["mlp", "unet", "shared"], indirect=True)
def test_reuse_agrees_with_autograd(case: Case) -> None:
    expected = by_autograd(case)
    zo.nn.backward(case.model, case.loss_fn, case.inputs, method="reuse")
    assert distance(flat_grad(case.model), expected) < 1e-6


@pytest.mark.parametrize("case", SMALL, indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["contraction", "reuse"])
def test_fewer_bits(case: Case, dtype: torch.dtype, method: str) -> None:
    if method == "reuse" and (dtype == torch.bfloat16 or len(flat_grad(case.model)) > 600):
        case = make("mlp")
    expected = by_autograd(case)
    model = case.model.to(dtype)
    inputs = case.inputs.to(dtype) if case.inputs.is_floating_point() else case.inputs
    zo.nn.backward(model, lambda output: case.loss_fn(output.double()), inputs, method=method)
    assert next(model.parameters()).grad.dtype == dtype
    cosine = F.cosine_similarity(flat_grad(model).double(), expected, 0)
    assert float(cosine) > (0.9999 if dtype == torch.float32 else 0.98)


def test_gradients_are_added_and_only_active_ones() -> None:
    model = nn.Linear(3, 2).double()
    x = torch.randn(4, 3).double()
    expected = by_autograd(Case(model, x, lambda y: y.square().sum()))
    active = torch.tensor([1, 4, 7])
    for method in ("contraction", "reuse", "plain"):
        model.zero_grad()
        for _ in range(2):
            zo.nn.backward(model, lambda y: y.square().sum(), x, method=method, active=active)
        mask = torch.zeros(8, dtype=torch.double).index_fill_(0, active, 2.0)
        torch.testing.assert_close(flat_grad(model), mask * expected, rtol=1e-6, atol=1e-7)


def test_the_sweep_stops_at_the_first_active_parameter() -> None:
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)), nn.Tanh()).double()
    x = torch.randn(4, 3).double()
    queries = []
    for active in (None, torch.tensor([47, 40])):
        plan = zo.nn.plan(model, torch.sum, x, active=active)
        plan.backward()
        queries.append(sum(plan.inquiry.queries.values()) + plan.inquiry.work)
        model.zero_grad()
    assert queries[1] < queries[0]
    zo.nn.backward(model, torch.sum, x, active=torch.tensor([], dtype=torch.long))
    assert not flat_grad(model).any()


def test_frozen_and_chosen_parameters() -> None:
    case = make("mlp")
    expected = by_autograd(case)
    case.model[0].weight.requires_grad_(False)
    zo.nn.backward(case.model, case.loss_fn, case.inputs, parameters=[case.model[2].bias])
    assert [p.grad is None for p in case.model.parameters()] == [True, True, True, False, True, True]
    start = sum(p.numel() for p in list(case.model.parameters())[:3])
    torch.testing.assert_close(case.model[2].bias.grad, expected[start : start + 6])
    unused = nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)]).double()
    unused.forward = unused[0].forward
    zo.nn.backward(unused, torch.sum, torch.ones(1, 2).double())
    assert unused[1].weight.grad.tolist() == [[0.0, 0.0]]


UNARY = {
    "tanh": torch.tanh, "relu": F.relu, "gelu": F.gelu, "softmax": lambda x: x.softmax(-1),
    "exp": lambda x: (x / 4).exp(),
    "norm": lambda x: F.layer_norm(x, x.shape[-1:]), "turn": lambda x: x.roll(1, -1), "square": lambda x: x * x,
    "clamp": lambda x: x.clamp(-0.7, 0.9), "half": lambda x: x[..., ::2].repeat_interleave(2, -1), "neg": lambda x: -x,
    "cumsum": lambda x: x.cumsum(-1) / 3, "log": lambda x: (x.square() + 1).log(), "sort": lambda x: x.sort(-1)[0],
    "mean": lambda x: x - x.mean(0, keepdim=True), "std": lambda x: x / x.std(), "pad": lambda x: F.pad(x, (1, -1)),
    "max": lambda x: x - x.amax(-1, keepdim=True), "where": lambda x: torch.where(x > 0, x, x.square()),
    "in place": lambda x: x.clone().mul_(2).sigmoid_(), "mask": lambda x: x.masked_fill(x > 1, -1.0),
    "prod": lambda x: x + (x / 2).prod(-1, keepdim=True), "softplus": F.softplus,
    "logsumexp": lambda x: x - x.logsumexp(0),
}  # fmt: skip
BINARY = {
    "add": torch.add, "mul": torch.mul, "sub": torch.sub, "div": lambda a, b: a / (b.square() + 1),
    "matmul": lambda a, b: a @ b.T @ a / 9, "max": torch.maximum, "mse": lambda a, b: (a - b).square(),
    "cat": lambda a, b: torch.cat([a, b], 0)[1 : len(a) + 1], "stack": lambda a, b: torch.stack([a, b]).sum(0),
    "einsum": lambda a, b: torch.einsum("ij,kj->ik", a, b) @ b / 4,
}  # fmt: skip


class Random(nn.Module):
    """A graph drawn at random: each step takes earlier values, and three of them a parameter."""

    def __init__(self, steps: list[tuple[str, str, int, int]]) -> None:
        super().__init__()
        self.steps = steps
        self.weights = nn.ParameterList([torch.randn(4, 6) for _ in range(3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = [x + self.weights[0], F.linear(x, self.weights[1]) @ self.weights[2]]
        for one, two, i, j in self.steps:
            value = BINARY[two](UNARY[one](values[i % len(values)]), values[j % len(values)])
            values.append(value / (1 + value.square().mean()).sqrt())
        return sum(value.sin().mean() for value in values)


STEPS = st.lists(
    st.tuples(st.sampled_from(sorted(UNARY)), st.sampled_from(sorted(BINARY)), st.integers(0, 9), st.integers(0, 9)),
    min_size=1, max_size=5,
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(STEPS, st.integers(0, 2**31))
def test_random_graphs(steps: list[tuple[str, str, int, int]], seed: int) -> None:
    torch.manual_seed(seed)
    model = Random(steps).double()
    x = torch.randn(4, 6).double()
    case = Case(model, x, lambda output: output)
    expected = by_autograd(case)
    if not bool(expected.isfinite().all()):
        return
    zo.nn.backward(model, case.loss_fn, x, method="contraction")
    found = flat_grad(model)
    assert float((found - expected).norm()) < 1e-6 * max(1.0, float(expected.norm()))
    model.zero_grad()
    traced = zo.nn.plan(model, case.loss_fn, x, method="reuse")
    assert traced.reason == ""


def test_a_value_that_leaves_torch() -> None:
    class Leaves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return float(self.weight) ** 3 * x

    model, x = Leaves(), torch.ones(1).double()
    plan = zo.nn.plan(model, torch.sum, x)
    assert "leaves torch" in plan.reason
    assert "leaves torch" in str(plan)
    assert plan.parts[0].method == "plain"
    with pytest.warns(
        UserWarning, match="1 coordinates are found one by one, with a forward pass for each of 2 probes"
    ):
        plan.backward()
    torch.testing.assert_close(model.weight.grad, torch.tensor([12.0]).double(), rtol=1e-6, atol=0)
    for method in ("contraction", "reuse"):
        with pytest.raises(zo.GradientError, match=r"no record of the forward pass can be made: .*leaves torch"):
            zo.nn.backward(model, torch.sum, x, method=method)


def test_what_stands_in_the_way_is_reused_and_the_rest_contracted() -> None:
    class Spectral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = nn.Linear(4, 4), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.after(torch.fft.rfft(self.before(x)).abs())

    model = Spectral().double()
    case = Case(model, torch.randn(3, 4).double(), lambda y: y.square().mean())
    expected = by_autograd(case)
    plan = zo.nn.plan(model, case.loss_fn, case.inputs)
    assert [part.method for part in plan.parts] == ["reuse", "contraction"]
    assert "complex" in str(plan)
    with pytest.warns(UserWarning, match=r"20 coordinates are found one by one, with a part .* complex"):
        plan.backward()
    assert distance(flat_grad(model), expected) < 1e-7
    with pytest.raises(zo.GradientError, match="complex numbers"):
        zo.nn.backward(model, case.loss_fn, case.inputs, method="contraction")


def test_an_operation_that_nobody_knows() -> None:
    case = make("mlp")
    for size, alone in ((6, False), (6, True)):
        other = torch.randn(3, size).double()

        def loss_fn(y: torch.Tensor, other: torch.Tensor = other, alone: bool = alone) -> torch.Tensor:
            y = torch.cat([y, y, y], 1)
            return torch.cdist(y if alone else y[:3], other).square().mean() + torch.linalg.det(y[:6, :5].T @ y[:6, :5])

        whole = Case(case.model, case.inputs, loss_fn)
        expected = by_autograd(whole)
        case.model.zero_grad()
        zo.nn.backward(case.model, loss_fn, case.inputs, method="contraction")
        assert distance(flat_grad(case.model), expected) < 1e-6


def test_too_large_to_probe_falls_back() -> None:
    model = nn.Linear(2, 1).double()
    x = torch.randn(9000, 2).double()

    def loss_fn(y: torch.Tensor) -> torch.Tensor:
        return torch.cdist(y.T, torch.ones(1, 9000).double()).sum()

    expected = by_autograd(Case(model, x, loss_fn))
    with pytest.warns(UserWarning, match="no rule and 9000 elements"):
        zo.nn.backward(model, loss_fn, x)
    assert distance(flat_grad(model), expected) < 1e-6
    model.zero_grad()
    with pytest.raises(zo.GradientError, match="no rule and 9000 elements"):
        zo.nn.backward(model, loss_fn, x, method="contraction")


def test_what_turns_out_to_be_too_large_falls_back(monkeypatch) -> None:
    monkeypatch.setattr("zograd.nn._unknown.MOST_ELEMENTS", 3)
    case = make("mlp")

    def loss_fn(y: torch.Tensor) -> torch.Tensor:
        return torch.cdist(y.T, torch.ones(1, 5).double()).sum()

    expected = by_autograd(Case(case.model, case.inputs, loss_fn))
    with pytest.warns(UserWarning, match="10 elements to probe|5 elements to probe"):
        zo.nn.backward(case.model, loss_fn, case.inputs)
    assert distance(flat_grad(case.model), expected) < 1e-6
    with pytest.raises(zo.GradientError, match="elements to probe one by one"):
        zo.nn.backward(case.model, loss_fn, case.inputs, method="contraction")


def test_a_loss_that_is_not_finite_leaves_everything() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = copy.deepcopy(model.state_dict())
    for method in ("auto", "plain"):
        with pytest.raises(zo.EvaluationError, match="must be finite"):
            zo.nn.backward(model, lambda y: y.sum() * math.nan, torch.randn(3, 2), method=method)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert model[0].weight.grad is None


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"method": "fast"}, "`method` must be one of"),
        ({"step": 0.0}, "`step` must be a positive number"),
        ({"autograd": 1}, "`autograd` must be True or False"),
        ({"active": torch.tensor([3])}, "`active` must lie from 0 to 2"),
        ({"active": [1]}, "`active` must be an int64 tensor"),
        ({"parameters": []}, "`parameters` must hold at least one"),
        ({"loss_fn": 3}, "`loss_fn` must be callable"),
        ({"model": 3}, "`model` must be an nn.Module"),
    ],
)
def test_wrong_arguments(wrong: dict, match: str) -> None:
    arguments = {"model": nn.Linear(2, 1), "loss_fn": torch.sum, "inputs": torch.ones(1, 2), **wrong}
    with pytest.raises(zo.ArgumentError, match=match):
        zo.nn.backward(**arguments)


def test_training_with_it() -> None:
    case = make("mlp")
    optimizer = torch.optim.Adam(case.model.parameters(), 0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(zo.nn.backward(case.model, case.loss_fn, case.inputs).item())
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("case", ["cnn2", "unet"], indirect=True)
@pytest.mark.parametrize("method", ["contraction", "reuse"])
def test_channels_last(case: Case, method: str) -> None:
    size = sum(p.numel() for p in case.model.parameters())
    active = None if method == "contraction" else torch.arange(0, size, 1 + size // 40)
    zo.nn.backward(case.model, case.loss_fn, case.inputs, method=method, active=active)
    expected = flat_grad(case.model)
    case.model.zero_grad()
    model = case.model.to(memory_format=torch.channels_last)
    images = case.inputs.contiguous(memory_format=torch.channels_last)
    zo.nn.backward(model, case.loss_fn, images, method=method, active=active)
    # Reuse divides the rounding of a loss by a step of 6e-6.
    assert distance(flat_grad(model), expected) < (1e-9 if method == "contraction" else 1e-8)


def test_a_write_of_what_was_there_already_is_a_write() -> None:
    class Page(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            page = torch.ones(3, dtype=torch.float64)  # the very numbers that are written below
            before = page * self.weight
            page[:].copy_(self.weight)
            return x * (before + page * self.weight)

    model = Page()
    zo.nn.backward(model, torch.sum, torch.ones(3, dtype=torch.float64), method="contraction")
    assert model.weight.grad is not None
    assert torch.allclose(model.weight.grad, torch.full((3,), 3.0, dtype=torch.float64))
