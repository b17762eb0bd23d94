"""A black box inside a PyTorch graph."""

import copy
import io
import math
import pickle
import random

import pytest
import torch
from torch import nn

import zograd as zo
from zograd.evaluate import Evaluator, InProcess

IMAGES = torch.randn(4, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
FORWARD_MODE = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def smooth_image(x: torch.Tensor) -> torch.Tensor:
    return torch.sin(torch.einsum("d,dhw->hw", x, IMAGES)) * torch.exp(x[0])


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def centers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()


class Counted(Evaluator):
    """Counts waves, and finishes in an order that nobody asked for."""

    def __init__(self) -> None:
        self.waves: list[list[int]] = []

    def stream(self, blackbox, probes):
        self.waves.append([len(p) for p in probes])
        finished = list(InProcess().stream(blackbox, probes))
        random.Random(len(self.waves)).shuffle(finished)
        yield from finished


@pytest.mark.parametrize("batch", [(), (3,), (3, 5), (1, 2, 2)])
@pytest.mark.parametrize(
    "box",
    [
        smooth_image,
        zo.batched(lambda x: torch.stack([smooth_image(row) for row in x])),
        zo.torch_function(smooth_image),
    ],
)
def test_agrees_with_autograd_on_a_batch_of_images(box, batch) -> None:
    layer = zo.differentiable(box, estimator=zo.CoordinateGradient(), evaluator=Counted())
    x = centers(*batch, 4)
    y = layer(x)
    assert y.shape == (*batch, 6, 7)
    weights = torch.randn_like(y)
    (found,) = torch.autograd.grad((y * weights).square().sum(), x)
    exact = torch.stack([smooth_image(row) for row in x.reshape(-1, 4)]).reshape(y.shape)
    (expected,) = torch.autograd.grad((exact * weights).square().sum(), x)
    torch.testing.assert_close(y, exact)
    assert relative_error(found, expected) < 1e-6
    rows = math.prod(batch)
    assert layer.evaluator.waves == [[1] * rows, [8] * rows]
    assert layer.evaluations == 9 * rows


@FORWARD_MODE
def test_exact_directional_derivatives() -> None:
    estimator = zo.ForwardGradient(samples=4, directions="orthogonal")
    layer = zo.differentiable(zo.torch_function(smooth_image), estimator=estimator)
    x = centers(2, 4)
    (found,) = torch.autograd.grad(layer(x).square().sum(), x)
    (expected,) = torch.autograd.grad(torch.vmap(smooth_image)(x).square().sum(), x)
    assert relative_error(found, expected) < 1e-12


def test_a_random_estimate_is_right_on_average() -> None:
    box = zo.torch_function(smooth_image)
    layer = zo.differentiable(box, estimator=zo.RandomGradient(samples=4000, step=1e-4))
    x = centers(4)
    (found,) = torch.autograd.grad(layer(x).sum(), x)
    (expected,) = torch.autograd.grad(smooth_image(x).sum(), x)
    # (d + 1) / samples of the squared length is the variance.
    assert relative_error(found, expected) < 4 * (5 / 4000) ** 0.5


def test_a_batched_program_is_called_once_each_way() -> None:
    calls: list[int] = []

    def program(points: torch.Tensor) -> torch.Tensor:
        calls.append(len(points))
        return points.square()

    x = centers(3, 5, 4)
    zo.differentiable(zo.batched(program))(x).sum().backward()
    assert calls == [15, 15 * 8]
    torch.testing.assert_close(x.grad, 2 * x.detach())


@pytest.mark.parametrize("kind", [zo.pointwise, zo.batched])
def test_images_go_in_and_come_out(kind) -> None:
    shapes: set[tuple[int, ...]] = set()

    def program(image: torch.Tensor) -> torch.Tensor:
        shapes.add(tuple(image.shape[-3:]))
        return image.square().mean(-3)

    layer = zo.differentiable(kind(program), event_dims=3)
    x = centers(2, 3, 4, 5)
    y = layer(x)
    assert y.shape == (2, 4, 5)
    y.sum().backward()
    assert shapes == {(3, 4, 5)}
    assert x.grad.shape == x.shape
    torch.testing.assert_close(x.grad, 2 * x.detach() / 3)
    # Another size is another program: its outputs have another shape.
    assert layer(centers(1, 3, 2, 2)).shape == (1, 2, 2)
    assert layer(centers(0, 3, 4, 5)).shape == (0, 4, 5)


def test_numbers_are_points_too() -> None:
    layer = zo.differentiable(lambda number: math.sin(float(number)), event_dims=0)
    x = centers(2, 3)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, x.detach().cos())


def test_functions_of_structures_take_their_parameters() -> None:
    parameters = zo.Parameters({"a": 1.0, "b": 2.0})
    layer = zo.differentiable(zo.pointwise(lambda v: v["a"] * v["b"]).over(parameters))
    x = centers(3, 2)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, x.detach().flip(1))


@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
@pytest.mark.parametrize("kind", [zo.pointwise, zo.batched])
def test_every_leaf_of_a_structure_has_a_gradient(kind, batch) -> None:
    def program(x: torch.Tensor) -> dict:
        return {"energy": x.square().sum(-1), "parts": (x * 2, x[..., :1, None].expand(*x.shape[:-1], 2, 3) ** 3)}

    layer = zo.differentiable(kind(program))
    x = centers(*batch, 4)
    y = layer(x)
    assert list(y) == ["energy", "parts"]
    energy, (double, cube) = y["energy"], y["parts"]
    assert (energy.shape, double.shape, cube.shape) == (batch, (*batch, 4), (*batch, 2, 3))
    assert all(leaf.grad_fn is not None for leaf in (energy, double, cube))
    (found,) = torch.autograd.grad(energy.sum(), x, retain_graph=True)
    torch.testing.assert_close(found, 2 * x.detach())
    (found,) = torch.autograd.grad(double.sum() + cube.sum(), x)
    expected = torch.full_like(x, 2.0)
    expected[..., 0] += 18 * x.detach()[..., 0] ** 2
    torch.testing.assert_close(found, expected)


def test_what_needs_no_gradient_costs_no_probe() -> None:
    layer = zo.differentiable(smooth_image)
    x = centers(3, 4)
    with torch.no_grad():
        assert layer(x).grad_fn is None
    with torch.inference_mode():
        layer(x)
    assert layer(x.detach()).grad_fn is None
    assert layer.evaluations == 9
    y = layer(x)
    assert layer.evaluations == 12
    y[1].sum().backward()
    assert layer.evaluations == 12 + 8
    assert bool((x.grad[[0, 2]] == 0).all())
    (layer(x) * 0).sum().backward()
    assert layer.evaluations == 20 + 3


def test_an_empty_batch() -> None:
    layer = zo.differentiable(lambda x: (x, x[0]))
    with pytest.raises(zo.ArgumentError, match="at least one row in the first call"):
        layer(centers(0, 4))
    layer(centers(2, 4))
    x = centers(5, 0, 4)
    image, number = layer(x)
    assert (image.shape, number.shape) == ((5, 0, 4), (5, 0))
    image.sum().backward()
    assert x.grad.shape == x.shape
    assert layer.evaluations == 2


def test_networks_before_and_after() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 4), nn.Tanh(), zo.differentiable(lambda x: x.numpy() ** 2), nn.Linear(4, 2)
    ).double()
    exact = copy.deepcopy(model)

    class Square(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.square()

    exact[2] = Square()
    x = centers(7, 3)
    model(x).square().sum().backward()
    found, x.grad = x.grad, None
    exact(x).square().sum().backward()
    assert relative_error(found, x.grad) < 1e-6
    for parameter, other in zip(model.parameters(), exact.parameters(), strict=True):
        assert relative_error(parameter.grad, other.grad) < 1e-6


def test_double_backward_is_refused() -> None:
    layer = zo.differentiable(smooth_image)
    x = centers(4)
    (once,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    with pytest.raises(zo.GradientError, match=r"double|differentiated again.*Detach"):
        once.sum().backward()


def test_torch_func() -> None:
    layer = zo.differentiable(smooth_image)
    x = centers(3, 4).detach()
    found = torch.func.grad(lambda z: layer(z).sum())(x)
    expected = torch.func.grad(lambda z: torch.vmap(smooth_image)(z).sum())(x)
    assert relative_error(found, expected) < 1e-6
    with pytest.raises(RuntimeError, match="vmap"):
        torch.func.vmap(layer)(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(dtype) -> None:
    seen: set[torch.dtype] = set()

    def program(x: torch.Tensor) -> torch.Tensor:
        seen.add(x.dtype)
        return x.square().sum()

    x = torch.tensor([[1.0, 2.0]], dtype=dtype, requires_grad=True)
    y = zo.differentiable(program)(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == dtype
    assert seen == {torch.promote_types(dtype, torch.float32)}
    torch.testing.assert_close(x.grad, torch.tensor([[2.0, 4.0]], dtype=dtype), rtol=1e-2, atol=0)


def test_autocast_does_not_reach_the_program() -> None:
    seen: set[torch.dtype] = set()
    matrix = torch.eye(4)

    def program(x: torch.Tensor) -> torch.Tensor:
        seen.add((x @ matrix).dtype)
        return x @ matrix

    network = nn.Linear(4, 4)
    layer = zo.differentiable(zo.batched(program))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(network(torch.ones(2, 4)))
        assert y.dtype == torch.bfloat16
        y.sum().backward()
    assert seen == {torch.float32}
    torch.testing.assert_close(network.bias.grad, torch.full((4,), 2.0), rtol=2e-2, atol=0)


def test_own_generator() -> None:
    before = torch.get_rng_state()

    def gradients(layer: nn.Module) -> list[torch.Tensor]:
        x = centers(2, 4)
        return [torch.autograd.grad(layer(x).sum(), x)[0] for _ in range(3)]

    def make(seed: int) -> nn.Module:
        return zo.differentiable(smooth_image, estimator=zo.RandomGradient(samples=2), seed=seed)

    first, again, other = gradients(make(0)), gradients(make(0)), gradients(make(1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], first[1])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "state_dict"])
def test_state_goes_on(how) -> None:
    layer = zo.differentiable(torch.square, estimator=zo.RandomGradient(samples=2))
    x = centers(2, 4)
    layer(x).sum().backward()
    if how == "state_dict":
        twin = zo.differentiable(torch.square, estimator=zo.RandomGradient(samples=2), seed=7)
        file = io.BytesIO()
        torch.save(nn.Sequential(layer).state_dict(), file)
        file.seek(0)
        nn.Sequential(twin).load_state_dict(torch.load(file, weights_only=True))
    else:
        twin = copy.deepcopy(layer) if how == "deepcopy" else pickle.loads(pickle.dumps(layer))
    assert twin.evaluations == layer.evaluations == 2 + 8
    assert torch.equal(*(torch.autograd.grad(each(x).sum(), x)[0] for each in (layer, twin)))
    assert twin.evaluations == 20


def test_state_without_an_estimator() -> None:
    layer, twin = zo.differentiable(torch.square), zo.differentiable(torch.square)
    layer(centers(2, 4))
    twin.load_state_dict(layer.state_dict())
    assert twin.evaluations == 2


@pytest.mark.parametrize(("dimension", "price"), [(64, 128), (65, 64)])
def test_the_default_estimator_follows_the_dimension(dimension, price) -> None:
    layer = zo.differentiable(zo.batched(lambda x: x.sum(1)))
    layer(centers(dimension)).backward()
    assert layer.evaluations == 1 + price


def breaking(where: str):
    """A program that is lost at negative first entries, one way or another."""

    def program(x: torch.Tensor) -> object:
        if x[0] < 0:
            match where:
                case "raises":
                    raise ZeroDivisionError("at a negative point")
                case "none":
                    return None
                case "nan":
                    return [float(x[1]), math.nan]
                case "shape":
                    return float(x[0])
        return [float(x[1]), float(x[0] + x[1])]

    return program


@pytest.mark.parametrize("where", ["raises", "none", "nan"])
@pytest.mark.parametrize("policy", ["drop", "raise"])
def test_a_row_that_is_lost_forwards_raises(where, policy) -> None:
    layer = zo.differentiable(breaking(where), on_failure=policy)
    x = torch.tensor([[1.0, 1.0], [-1.0, 2.0]], requires_grad=True)
    with pytest.raises(zo.EvaluationError, match=r"row 1 of the batch.*zo\.value") as caught:
        layer(x)
    assert caught.value.row == 1
    assert caught.value.status == ("failed" if where == "raises" else "invalid")
    assert isinstance(caught.value.__cause__, ZeroDivisionError) == (where == "raises")
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("where", ["raises", "none", "nan", "shape"])
def test_a_lost_probe_is_left_out(where) -> None:
    layer = zo.differentiable(breaking(where), estimator=zo.CoordinateGradient(step=0.1))
    x = torch.tensor([[0.05, 1.0], [1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    layer(x).sum().backward()  # x[0, 0] - 0.1 is negative: the other half is compared with the mean
    torch.testing.assert_close(x.grad, torch.tensor([[1.0, 2.0], [1.0, 2.0]], dtype=torch.float64))
    strict = zo.differentiable(breaking(where), estimator=zo.CoordinateGradient(step=0.1), on_failure="raise")
    with pytest.raises(zo.EvaluationError, match="call 0") as caught:
        strict(x).sum().backward()
    assert isinstance(caught.value.__cause__, ZeroDivisionError) == (where == "raises")


class Shrinking(zo.BlackBox):
    """A black box of one's own; what it returns depends on where it is asked."""

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        return points.new_ones(len(points), 2 if bool((points[:, 0] == 1).all()) else 3)


def test_a_black_box_of_ones_own_gets_flat_points_and_must_keep_its_shape() -> None:
    layer = zo.differentiable(Shrinking(), event_dims=2)
    x = torch.ones(4, 1, 3, requires_grad=True)
    y = layer(x)
    assert y.shape == (4, 2)
    with pytest.raises(zo.EvaluationError, match=r"must return shape \(2,\), as at the centre, found \(3,\)"):
        y.sum().backward()


def test_a_value_stands_in_for_every_entry_of_the_output() -> None:
    estimator = zo.CoordinateGradient(step=0.1)
    layer = zo.differentiable(breaking("raises"), estimator=estimator, on_failure=zo.value(10.0))
    x = torch.tensor([[0.05, 1.0], [-1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    y = layer(x)
    torch.testing.assert_close(y.detach(), torch.tensor([[1.0, 1.05], [10.0, 10.0]], dtype=torch.float64))
    (y * torch.tensor([1.0, 3.0])).sum().backward()
    ahead, behind = 1.0 + 3 * 1.15, 10.0 + 3 * 10.0
    torch.testing.assert_close(x.grad[0, 0].item(), (ahead - behind) / 0.2)
    assert x.grad[1].tolist() == [0.0, 0.0]


@FORWARD_MODE
def test_a_value_is_no_slope() -> None:
    box = zo.torch_function(lambda x: x.sqrt())
    layer = zo.differentiable(box, estimator=zo.ForwardGradient(4), on_failure=zo.value(10.0))
    x = torch.zeros(1, 1, requires_grad=True)
    with pytest.raises(zo.EvaluationError, match="every one of the 4 probes"):
        layer(x).sum().backward()


def test_what_is_lost_is_tried_again() -> None:
    calls = []

    def fragile(x):
        calls.append(x)
        if len(calls) % 2:
            raise OSError("no licence")
        return float(x[0]) ** 2

    layer = zo.differentiable(fragile, on_failure=zo.retry(1, wait=1e-3))
    x = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    layer(x).backward()
    torch.testing.assert_close(x.grad, torch.tensor([6.0], dtype=torch.float64))
    assert len(calls) == 2 * layer.evaluations == 6


def test_everything_lost_backwards() -> None:
    calls = []

    def program(x: torch.Tensor) -> float:
        calls.append(x)
        return float(x[0]) if len(calls) <= 2 else 1 / 0

    layer = zo.differentiable(program)
    x = centers(2, 3)
    y = layer(x)
    with pytest.raises(zo.EvaluationError, match=r"all|every one of the 6 probes of row 0.*division by zero") as caught:
        y.sum().backward()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert torch.is_grad_enabled()


def test_an_incoming_gradient_that_is_not_finite_is_handed_on() -> None:
    layer = zo.differentiable(torch.square)
    x = centers(3, 2)
    y = layer(x)
    y.backward(torch.tensor([[1.0, 1.0], [math.inf, 1.0], [math.nan, 0.0]]))
    assert x.grad.isfinite().all(1).tolist() == [True, False, False]
    assert layer.evaluations == 3 + 4


def test_the_input_is_checked() -> None:
    layer = zo.differentiable(torch.square, event_dims=2)
    for wrong in (torch.ones(3, dtype=torch.long)[None], torch.ones(3)):
        with pytest.raises(zo.ArgumentError, match="at least 2 dimensions"):
            layer(wrong)
    with pytest.raises(zo.ArgumentError, match="at least one entry"):
        layer(torch.ones(2, 3, 0))
    with pytest.raises(zo.ArgumentError, match="finite entries"):
        layer(torch.full((2, 3, 4), math.nan))
    assert layer.evaluations == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"event_dims": -1}, "event_dims"), ({"seed": -1}, "seed"), ({"on_failure": "x"}, "on_failure")],
)
def test_arguments_are_checked(wrong, message) -> None:
    with pytest.raises(zo.ArgumentError, match=message):
        zo.differentiable(torch.square, **wrong)


def test_repr() -> None:
    layer = zo.differentiable(smooth_image, estimator=zo.RandomGradient(), event_dims=2)
    assert "Pointwise(smooth_image), estimator=RandomGradient(" in repr(layer)
    assert "event_dims=2" in repr(layer)
    with pytest.raises(zo.EvaluationError):
        layer(torch.ones(4, 1))
    assert "smooth_image" in repr(layer._box((4, 1)))


def test_an_input_changed_in_place_is_noticed() -> None:
    layer = zo.differentiable(torch.square)
    x = centers(2) * 1
    y = layer(x)
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_network_learns_around_a_program_with_steps() -> None:
    torch.manual_seed(0)
    levels = 7

    def program(x: torch.Tensor) -> torch.Tensor:
        return (x.clamp(0, 1) * levels).round() / levels

    estimator = zo.RandomGradient(samples=8, step=0.2, directions="orthogonal")
    layer = zo.differentiable(zo.batched(program), estimator=estimator)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 8), nn.Sigmoid(), layer, nn.Linear(8, 1))
    inputs = torch.rand(16, 2) * 2 - 1
    targets = inputs.square().sum(1, keepdim=True)

    def losses(parameters, steps: int) -> list[float]:
        optimizer = torch.optim.Adam(parameters, lr=0.06)
        found = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (model(inputs) - targets).square().mean()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    start = model.state_dict()
    start = {name: copy.deepcopy(value) for name, value in start.items()}
    # Without a gradient through the program only the layer behind it learns.
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    behind = losses(model[5].parameters(), 40)[-1]
    model.load_state_dict(start)
    model.requires_grad_(True)
    through = losses(model.parameters(), 40)
    assert through[-1] < 0.7 * behind < 0.7 * through[0]
