"""Python functions as black boxes."""

import copy
import pickle

import numpy as np
import pytest
import torch

import zograd as zo
from zograd import Parameters
from zograd.blackbox import Batched, BlackBox, Pointwise, TorchFunction, as_blackbox

# Torch's own, when forward-mode AD is first used in a process.
FORWARD_MODE = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

POINTS = torch.tensor([[3.0, 0.0], [4.0, 1.0], [5.0, 2.0]], dtype=torch.float64)
SQUARES = POINTS.square().sum(1)


def probes_at(points: torch.Tensor) -> zo.Probes:
    center = points.mean(0)
    return zo.Probes(center, zo.Dense(points - center))


def square(x: torch.Tensor) -> float:
    return float(x.square().sum())


@pytest.mark.parametrize(
    "box",
    [
        zo.pointwise(square),
        zo.pointwise(lambda x: x.square().sum()),
        zo.pointwise(lambda x: np.sum(x.numpy() ** 2)),
        zo.batched(lambda x: x.square().sum(1)),
        zo.batched(lambda x: (x.numpy() ** 2).sum(1).astype("float32")),
        zo.batched(lambda x: x.square().sum(1).tolist()),
        zo.torch_function(lambda x: x.square().sum()),
        zo.torch_function(lambda x: x.square().sum(), vectorize=False),
    ],
)
def test_every_kind_says_the_same(box: BlackBox) -> None:
    for values in (box(POINTS), box.probe(probes_at(POINTS))):
        assert values.dtype == POINTS.dtype
        torch.testing.assert_close(values, SQUARES)


def test_a_program_that_writes_into_its_argument_changes_nothing() -> None:
    points = POINTS.clone()
    zo.pointwise(lambda x: x.mul_(0).sum())(points)
    zo.batched(lambda x: x.mul_(0).sum(1))(points)
    assert torch.equal(points, POINTS)


def test_as_blackbox() -> None:
    box = zo.batched(square)
    assert as_blackbox(box) is box
    assert isinstance(as_blackbox(square), Pointwise)


def test_repr_names_the_function() -> None:
    assert repr(zo.pointwise(square)) == "Pointwise(square)"
    assert repr(zo.batched(np.vectorize(square))).startswith("Batched(")


def test_a_structure_is_remembered_and_must_stay() -> None:
    box = zo.pointwise(lambda x: {"a": x[0]} if x[0] < 5 else {"b": x[0]})
    values = box(POINTS[:2])
    assert values.shape == (2, 1)
    assert box.outputs is not None
    assert box.outputs.unpack(values)["a"].tolist() == [3.0, 4.0]
    with pytest.raises(zo.EvaluationError, match="one structure every time") as caught:
        box(POINTS)
    assert caught.value.status == "invalid"


def test_a_shape_must_stay() -> None:
    box = zo.pointwise(lambda x: torch.zeros(int(x[0])))
    with pytest.raises(zo.EvaluationError, match=r"shape \(4,\) after an output of shape \(3,\)"):
        box(POINTS)


@pytest.mark.parametrize("wrong", [lambda x: x.sum(), lambda x: x[:1, 0], lambda x: 1.0])
def test_a_batched_function_must_return_one_row_a_point(wrong) -> None:
    with pytest.raises(zo.EvaluationError, match=r"one row a point, shape \(3, \.\.\.\)"):
        zo.batched(wrong)(POINTS)


def test_over_decodes_points_into_what_the_program_takes() -> None:
    parameters = Parameters({"width": 3.0, "angle": 0.5})
    seen: list = []

    def program(values) -> float:
        seen.append(values)
        return values["width"] * 2

    original = zo.pointwise(program)
    box = original.over(parameters)
    assert original.parameters is None
    assert box(parameters.initial[None]).tolist() == [6.0]
    assert seen == [{"width": 3.0, "angle": 0.5}]
    many = zo.batched(lambda values: values["width"] * 2).over(parameters)
    assert many(parameters.initial.repeat(4, 1)).tolist() == [6.0] * 4


@FORWARD_MODE
def test_directional_derivatives_are_exact() -> None:
    center = POINTS[1]
    offsets = zo.Dense(torch.tensor([[1.0, 0.0], [0.5, -2.0]], dtype=torch.float64))
    expected = offsets.rows @ (2 * center)
    for vectorize in (True, False):
        box = zo.torch_function(lambda x: x.square().sum(), vectorize=vectorize)
        torch.testing.assert_close(box.probe(zo.Probes(center, offsets, "derivative")), expected)


@FORWARD_MODE
def test_directional_derivatives_go_through_parameters() -> None:
    parameters = Parameters(torch.tensor([1.0, 2.0], dtype=torch.float64), scale=2.0)
    box = zo.torch_function(lambda x: x.square().sum()).over(parameters)
    offsets = zo.Coordinates(torch.tensor([0, 1]), torch.ones(2, dtype=torch.float64))
    slopes = box.probe(zo.Probes(parameters.initial, offsets, "derivative"))
    torch.testing.assert_close(slopes, torch.tensor([4.0, 8.0], dtype=torch.float64))


@pytest.mark.parametrize("kind", [zo.pointwise, zo.batched])
def test_only_torch_functions_have_derivatives(kind) -> None:
    derivative = zo.Probes(POINTS[0], zo.Dense(POINTS), "derivative")
    with pytest.raises(zo.ArgumentError, match=r"zo\.torch_function"):
        kind(square).probe(derivative)


def test_probe_materialises_a_few_rows_at_a_time(monkeypatch) -> None:
    monkeypatch.setattr("zograd.blackbox._blackbox.ROWS_AT_ONCE_BYTES", 2 * 16)
    sizes: list[int] = []

    def program(points: torch.Tensor) -> torch.Tensor:
        sizes.append(len(points))
        return points.square().sum(1)

    torch.testing.assert_close(zo.batched(program).probe(probes_at(POINTS)), SQUARES)
    assert sizes == [2, 1]


@pytest.mark.parametrize("kind", [Pointwise, Batched, TorchFunction])
def test_boxes_are_copied_and_pickled(kind) -> None:
    box = kind(torch.sum if kind is not Batched else torch.clone)
    box(POINTS)
    for twin in (copy.deepcopy(box), pickle.loads(pickle.dumps(box))):
        assert twin.outputs == box.outputs
        assert torch.equal(twin(POINTS), box(POINTS))
