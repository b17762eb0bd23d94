"""The gradient of a network's loss without a backward pass."""

import copy
import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import zograd as zo

COORDINATES = zo.CoordinateGradient()
FORWARD_MODE = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def small_cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(),
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Tanh(),
        nn.Flatten(), nn.Linear(16, 3),
    ).double()  # fmt: skip


def images() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(8, 1, 7, 7, dtype=torch.float64), torch.randint(3, (8,))


def gradient(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])


def agreement(model: nn.Module, reference: nn.Module) -> float:
    found, expected = gradient(model), gradient(reference)
    return float((found - expected).norm() / expected.norm())


def same_state(model: nn.Module, reference: nn.Module) -> bool:
    states = zip(model.state_dict().items(), reference.state_dict().items(), strict=True)
    modes = zip(model.modules(), reference.modules(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in states) and all(
        m.training == r.training for m, r in modes
    )


@pytest.mark.parametrize("training", [True, False])
def test_agrees_with_backpropagation_and_leaves_one_forward_pass(training) -> None:
    model = small_cnn()
    x, y = images()
    model(x)  # so that running statistics are not at their start
    model.train(training)
    reference = copy.deepcopy(model)
    random = torch.get_rng_state()
    loss = zo.backward(model, lambda output: F.cross_entropy(output, y), x, estimator=COORDINATES)
    expected = F.cross_entropy(reference(x), y)
    expected.backward()
    assert torch.equal(loss, expected.detach())
    assert loss.shape == ()
    assert not loss.requires_grad
    assert agreement(model, reference) < 1e-5
    assert same_state(model, reference)
    assert int(model[1].num_batches_tracked) == 1 + training
    assert torch.equal(torch.get_rng_state(), random)


@FORWARD_MODE
@pytest.mark.parametrize("training", [True, False])
def test_forward_gradients_are_exact(training) -> None:
    model = small_cnn().train(training)
    x, y = images()
    reference = copy.deepcopy(model)

    def loss_fn(output: torch.Tensor, net: nn.Module = model) -> torch.Tensor:
        return F.cross_entropy(output, y) + 0.1 * sum(p.square().sum() for p in net.parameters())

    count = sum(p.numel() for p in model.parameters())
    zo.backward(model, loss_fn, x, estimator=zo.ForwardGradient(count, directions="orthogonal"))
    loss_fn(reference(x), reference).backward()
    assert agreement(model, reference) < 1e-12
    assert same_state(model, reference)


@FORWARD_MODE
def test_forward_gradients_of_a_loss_without_parameters_are_zero() -> None:
    model = nn.Linear(2, 1)
    zo.backward(model, lambda _: torch.ones(()), torch.ones(1, 2), estimator=zo.ForwardGradient(2))
    assert model.weight.grad.tolist() == [[0.0, 0.0]]
    other = nn.Parameter(torch.ones(1))
    with pytest.raises(zo.ArgumentError, match="be those of the model"):
        zo.backward(model, torch.sum, torch.ones(1, 2), estimator=zo.ForwardGradient(), parameters=[other])


@pytest.mark.parametrize("samples", [500])
def test_random_directions_are_right_on_average(samples) -> None:
    model = nn.Linear(3, 2).double()
    reference = copy.deepcopy(model)
    x = torch.randn(4, 3, dtype=torch.float64)
    zo.backward(model, lambda o: o.square().mean(), x, estimator=zo.RandomGradient(samples))
    reference(x).square().mean().backward()
    assert agreement(model, reference) < 4 * (9 / samples) ** 0.5


def test_directions_from_seeds(monkeypatch) -> None:
    monkeypatch.setattr("zograd.estimators._directions.SEEDED_ENTRIES", 0)
    monkeypatch.setattr("zograd.estimators._directions.SEEDED_DIMENSION", 0)
    model, samples = nn.Linear(3, 2).double(), 500
    reference = copy.deepcopy(model)
    x = torch.randn(4, 3, dtype=torch.float64)
    zo.backward(model, lambda o: o.square().mean(), x, estimator=zo.RandomGradient(samples))
    reference(x).square().mean().backward()
    assert agreement(model, reference) < 4 * (9 / samples) ** 0.5
    assert same_state(model, reference)


@pytest.mark.parametrize("estimator", [COORDINATES, zo.RandomGradient(2)])
def test_parameters_come_back_bit_for_bit(estimator) -> None:
    model = nn.Linear(5, 3)
    with torch.no_grad():
        model.weight.mul_(1e-7).add_(1 / 3)
    before = [p.clone() for p in model.parameters()]
    pending = model(torch.ones(2, 5)).sum()  # a graph that somebody holds
    for _ in range(3):
        zo.backward(model, torch.sum, torch.randn(2, 5), estimator=estimator)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    pending.backward()


def test_gradients_are_added_to_what_is_there() -> None:
    model = nn.Linear(2, 1).double()
    x = torch.ones(1, 2, dtype=torch.float64)
    zo.backward(model, torch.sum, x, estimator=COORDINATES)
    kept = model.weight.grad
    zo.backward(model, torch.sum, x, estimator=COORDINATES)
    assert model.weight.grad is kept
    torch.testing.assert_close(kept, torch.full_like(kept, 2.0))


def test_gradients_have_the_layout_of_their_parameters() -> None:
    model = nn.Conv2d(2, 3, 3).double().to(memory_format=torch.channels_last)
    reference = copy.deepcopy(model)
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64)
    zo.backward(model, lambda o: o.sin().sum(), x, estimator=COORDINATES)
    reference(x).sin().sum().backward()
    assert agreement(model, reference) < 1e-5
    assert model.weight.grad.stride() == model.weight.stride()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.unused = nn.Parameter(torch.ones(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.second(self.first(x).tanh())


def test_tied_scalar_and_empty_parameters() -> None:
    model = Tied().double()
    reference = copy.deepcopy(model)
    x = torch.randn(4, 3, dtype=torch.float64)
    zo.backward(model, lambda o: o.square().sum(), x, estimator=COORDINATES)
    reference(x).square().sum().backward()
    assert model.scale.grad.shape == ()
    assert model.unused.grad.shape == (0,)
    assert agreement(model, reference) < 1e-7


def test_frozen_parameters_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)).double()
    model[0].requires_grad_(False)
    reference = copy.deepcopy(model)
    x = torch.randn(4, 3, dtype=torch.float64)
    zo.backward(model, lambda o: o.square().sum(), x, estimator=COORDINATES)
    reference(x).square().sum().backward()
    assert model[0].weight.grad is None
    assert agreement(model, reference) < 1e-7


def test_some_parameters_and_those_of_the_loss() -> None:
    model = nn.Linear(3, 4).double()
    temperature = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
    x = torch.randn(2, 3, dtype=torch.float64)

    def loss_fn(output: torch.Tensor) -> torch.Tensor:
        return (output / temperature).square().mean()

    chosen = [model.bias, temperature, model.bias]
    zo.backward(model, loss_fn, x, estimator=COORDINATES, parameters=chosen)
    expected = torch.autograd.grad(loss_fn(model(x)), [model.bias, temperature])
    assert model.weight.grad is None
    torch.testing.assert_close(model.bias.grad, expected[0])
    torch.testing.assert_close(temperature.grad, expected[1])


def test_mixed_dtypes() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Linear(3, 4).double()
            self.narrow = nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.narrow(self.wide(x).tanh().float())

    model = Mixed()
    reference = copy.deepcopy(model)
    x = torch.randn(8, 3, dtype=torch.float64)
    for estimator in (COORDINATES, zo.RandomGradient(20, directions="orthogonal")):
        before = copy.deepcopy(model.state_dict())
        zo.backward(model, lambda o: o.square().mean(), x, estimator=estimator)
        assert model.wide.weight.grad.dtype == torch.float64
        assert model.narrow.weight.grad.dtype == torch.float32
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        reference.zero_grad()
        reference(x).square().mean().backward()
        if estimator is COORDINATES:
            assert agreement(model, reference) < 1e-3
        model.zero_grad()


@pytest.mark.parametrize("estimator", [COORDINATES, zo.CoordinateGradient(central=False)])
def test_dropout_draws_one_mask_for_all_probes(estimator) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)).double()
    reference = copy.deepcopy(model)
    x = torch.randn(4, 4, dtype=torch.float64)
    torch.manual_seed(3)
    zo.backward(model, lambda o: o.square().sum(), x, estimator=estimator)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    reference(x).square().sum().backward()
    assert torch.equal(torch.get_rng_state(), after)
    assert agreement(model, reference) < 1e-5


class Restless(nn.Module):
    """Everything that a forward pass may do to a module, and may be asked to fail."""

    def __init__(self, fail_at: int | None = None, error: type[BaseException] = ValueError) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("average", torch.zeros(2, dtype=torch.float64))
        self.seen: list[int] = []
        self.fail_at, self.error = fail_at, error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(int(self.count))
        self.count += 1
        self.average = 0.9 * self.average + x.mean(0)  # a new tensor, not the old one changed
        self.train(not self.training)
        torch.rand(3)
        if len(self.seen) - 1 == self.fail_at:
            raise self.error("broken")
        return (x * self.weight + self.average).sum(1)


@pytest.mark.parametrize("reuse", [False, True])
def test_every_probe_starts_from_the_same_state(reuse) -> None:
    model, reference = Restless(), Restless()
    x = torch.randn(3, 2, dtype=torch.float64)
    buffer = model.average
    loss = zo.backward(model, lambda o: o.square().sum(), x, estimator=COORDINATES, reuse=reuse)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    torch.randn(3, 2, dtype=torch.float64)
    expected = reference(x).square().sum()
    expected.backward()
    assert torch.equal(state, torch.get_rng_state())
    assert model.seen == [0] * (3 if reuse else 5)
    assert torch.equal(loss, expected.detach())
    assert agreement(model, reference) < 1e-7
    assert same_state(model, reference)
    assert model.average is not buffer


@pytest.mark.parametrize("fail_at", [0, 1, 3])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("estimator", [COORDINATES, zo.RandomGradient(2)])
def test_an_exception_leaves_everything_as_it_was(fail_at, error, estimator) -> None:
    model = Restless(fail_at, error)
    before, random = copy.deepcopy(model), torch.get_rng_state()
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = error if fail_at == 0 or error is KeyboardInterrupt else zo.EvaluationError
    with pytest.raises(expected, match="broken") as caught:
        zo.backward(model, torch.sum, x, estimator=estimator, on_failure="raise", reuse=False)
    if expected is zo.EvaluationError:
        assert isinstance(caught.value.__cause__, ValueError)
        assert caught.value.row == fail_at - 1
    assert same_state(model, before)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.weight.grad is None
    assert torch.is_grad_enabled()


def test_a_lost_probe_is_left_out_or_counted() -> None:
    x = torch.ones(1, 2, dtype=torch.float64)
    model = Restless(fail_at=1)
    zo.backward(model, torch.sum, x, estimator=zo.CoordinateGradient(step=0.5), reuse=False)
    torch.testing.assert_close(model.weight.grad, torch.ones(2, dtype=torch.float64))
    model = Restless(fail_at=1)
    estimator, penalty = zo.CoordinateGradient(step=0.5), zo.value(100.0)
    loss = zo.backward(model, torch.sum, x, estimator=estimator, on_failure=penalty, reuse=False)
    torch.testing.assert_close(model.weight.grad[0].item(), 100.0 - (float(loss) - 0.5))


def test_all_probes_lost() -> None:
    model = nn.Linear(2, 1)
    losses = iter([torch.ones(())] + [torch.tensor(math.nan)] * 6)
    with pytest.raises(zo.EvaluationError, match=r"every one of the 6 probes was lost \(6 invalid\)"):
        zo.backward(model, lambda _: next(losses), torch.ones(1, 2), reuse=False)


@FORWARD_MODE
def test_a_penalty_is_no_slope() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    with pytest.raises(zo.EvaluationError, match="every one of the 1 probes"):
        zo.backward(
            model, lambda o: o.sqrt().sum(), torch.ones(1, 1), estimator=zo.ForwardGradient(), on_failure=zo.value(1.0)
        )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite(bad) -> None:
    model = nn.Linear(2, 1)
    with pytest.raises(zo.EvaluationError, match=rf"must be finite, found {bad}"):
        zo.backward(model, lambda o: o.square().sum() * bad, torch.ones(1, 2))
    loss = zo.backward(model, lambda o: o.square().sum() * bad, torch.ones(1, 2), on_failure=zo.value(5.0))
    assert loss.item() == 5.0
    assert model.weight.grad.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("wrong", "found"),
    [(lambda o: o, r"a tensor of shape \(4, 1\)"), (lambda o: None, "None"), (lambda o: [1.0], r"\[1.0\]")],
)
def test_the_loss_must_be_one_number(wrong, found) -> None:
    model = nn.Linear(2, 1)
    with pytest.raises(zo.ArgumentError, match=rf"`loss_fn` must return one number, found {found}.*\.mean\(\)"):
        zo.backward(model, wrong, torch.ones(4, 2))


def test_losses_of_any_kind_of_number() -> None:
    model = nn.Linear(2, 1)
    x = torch.ones(4, 2)
    assert zo.backward(model, lambda o: 3.0 * float(o.sum()), x, estimator=COORDINATES).shape == ()
    torch.testing.assert_close(model.bias.grad, torch.tensor([12.0]), rtol=1e-3, atol=0)
    assert zo.backward(model, lambda o: o.sum()[None, None], x, estimator=COORDINATES).shape == ()
    errors = zo.backward(model, lambda o: (o > 0).sum(), x, estimator=COORDINATES)
    assert errors.is_floating_point()


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor, y: torch.Tensor | float = 1.0, *, power: int = 1) -> dict:
        if isinstance(x, list):
            x = x[0]
        return {"result": [(self.weight * x * y) ** power]}


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (torch.tensor(3.0), 6.0),
        ((torch.tensor(3.0), torch.tensor(2.0)), 12.0),
        ({"x": torch.tensor(3.0), "power": 2}, 36.0),
        ([torch.tensor(3.0)], 6.0),
    ],
)
def test_inputs_and_outputs_of_any_kind(inputs, expected) -> None:
    loss = zo.backward(Keywords(), lambda output: output["result"][0], inputs)
    assert loss.item() == expected


def test_the_default_estimator_follows_the_number_of_parameters() -> None:
    for size, price in ((63, 128), (64, 64)):
        calls = []
        model = nn.Linear(size, 1)
        model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        zo.backward(model, torch.sum, torch.ones(1, size), reuse=False)
        assert len(calls) == 1 + price


def test_directions_repeat_with_the_seed_and_change_between_calls() -> None:
    def gradients(seed: int, generator: torch.Generator | None = None) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        model = nn.Linear(3, 2)
        nn.init.ones_(model.weight)
        nn.init.ones_(model.bias)
        found = []
        for _ in range(2):
            model.zero_grad()
            zo.backward(model, torch.sum, torch.ones(1, 3), estimator=zo.RandomGradient(2), generator=generator)
            found.append(model.weight.grad)
        return found

    first, again, other = gradients(0), gradients(0), gradients(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])
    given = [gradients(seed, torch.Generator().manual_seed(5)) for seed in (0, 1)]
    assert torch.equal(given[0][0], given[1][0])


def test_a_model_is_not_kept_alive() -> None:
    model = nn.Linear(2, 1)
    zo.backward(model, torch.sum, torch.ones(1, 2))
    alive = weakref.ref(model)
    del model
    assert alive() is None


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_what_cannot_be_estimated_is_said() -> None:
    x = torch.ones(1, 2)
    with pytest.raises(zo.ArgumentError, match="float32 or float64"):
        zo.backward(nn.Linear(2, 1).half(), torch.sum, x)
    with pytest.raises(zo.ArgumentError, match="at least one parameter"):
        zo.backward(nn.ReLU(), torch.sum, x)
    with pytest.raises(zo.ArgumentError, match="that require a gradient"):
        zo.backward(nn.Linear(2, 1), torch.sum, x, parameters=[torch.ones(2)])
    with pytest.raises(zo.ArgumentError, match="known shape"):
        zo.backward(nn.LazyLinear(1), torch.sum, x)


def test_a_network_learns_digits() -> None:
    digits, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(digits[:256] / 16, dtype=torch.float32), torch.tensor(labels[:256])
    model = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = zo.backward(model, lambda o: F.cross_entropy(o, y), x, estimator=zo.RandomGradient(12))
        optimizer.step()
        losses.append(float(loss))
    accuracy = float((model(x).argmax(1) == y).float().mean())
    assert losses[-1] < 0.5 * losses[0]
    assert accuracy > 0.6


def test_stages_are_of_this_process():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    given = {"stages": list(model), "evaluator": zo.evaluate.InProcess()}
    for backward in (zo.backward, zo.nn.backward):
        with pytest.raises(zo.ArgumentError, match="`stages` must be left out with an evaluator"):
            backward(model, torch.sum, torch.ones(4, 2), **given)
