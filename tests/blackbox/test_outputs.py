"""What a program returned, as one tensor and back."""

from typing import NamedTuple

import numpy as np
import optree
import pytest
import torch

from zograd import EvaluationError
from zograd.blackbox import Outputs

LIKE = torch.zeros(1, dtype=torch.float64)


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


@pytest.mark.parametrize(
    ("result", "shape"),
    [
        (3, ()),
        (3.5, ()),
        (True, ()),
        (np.float32(2), ()),
        (np.arange(6, dtype=np.uint8).reshape(2, 3), (2, 3)),
        (torch.arange(4), (4,)),
        ([1, 2.0, 3], (3,)),
        (np.arange(6).reshape(2, 3).T, (3, 2)),
        (np.arange(4)[::-1], (4,)),
    ],
)
def test_one_number_or_array(result, shape) -> None:
    outputs, value = Outputs.pack(result, LIKE, None)
    assert outputs == Outputs(None, (shape,))
    assert value.dtype == LIKE.dtype
    assert value.tolist() == torch.as_tensor(np.ascontiguousarray(result)).reshape(shape).double().tolist()
    assert outputs.unpack(value) is value
    assert str(outputs) == f"an output of shape {shape}"


@pytest.mark.parametrize(
    "structure",
    [
        {"image": torch.rand(2, 3, 4), "energy": 2.5},
        (torch.rand(3), [1.0, torch.rand(2)]),
        Pair(torch.rand(2), torch.rand(())),
        [torch.rand(2, 2), torch.rand(2, 2)],
    ],
)
@pytest.mark.parametrize("batch", [(), (1,), (5, 2), (0,)])
def test_structures_come_out_as_they_went_in(structure, batch) -> None:
    outputs, flat = Outputs.pack(structure, LIKE, None)
    assert flat.ndim == 1
    back = outputs.unpack(flat.expand(*batch, len(flat)))
    assert optree.tree_structure(back) == optree.tree_structure(structure)
    for leaf, original in zip(optree.tree_leaves(back), optree.tree_leaves(structure), strict=True):
        original = torch.as_tensor(original).double()
        assert torch.equal(leaf, original.expand((*batch, *original.shape)))
    assert "structure of shapes" in str(outputs)


def test_ragged_lists_are_structures() -> None:
    outputs, flat = Outputs.pack([[1.0], [2.0, 3.0]], LIKE, None)
    assert flat.tolist() == [1.0, 2.0, 3.0]
    assert outputs.unpack(flat) == [[1.0], [2.0, 3.0]]


def test_a_batch_of_structures() -> None:
    outputs, flat = Outputs.pack({"a": torch.ones(4, 2, 3), "b": torch.zeros(4)}, LIKE, 4)
    assert flat.shape == (4, 7)
    assert outputs.shapes == ((2, 3), ())
    with pytest.raises(EvaluationError, match="one row a point"):
        Outputs.pack({"a": torch.ones(4, 2), "b": torch.zeros(3)}, LIKE, 4)


class Ragged:
    def __array__(self, *_, **__):
        return np.asarray([[1.0], [1.0, 2.0]])


@pytest.mark.parametrize("wrong", [None, "text", Ragged(), object(), 1j, {"a": None, "b": "c" * 200}, "c" * 200])
def test_what_is_no_number_is_invalid(wrong) -> None:
    with pytest.raises(EvaluationError, match="must return numbers") as caught:
        Outputs.pack(wrong, LIKE, None)
    assert caught.value.status == "invalid"
    assert len(str(caught.value)) < 200


def test_graphs_are_cut() -> None:
    leaf = torch.ones(2, requires_grad=True)
    _, value = Outputs.pack(leaf * 2, LIKE, None)
    assert not value.requires_grad
