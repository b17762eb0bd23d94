"""Parameters: what goes in comes out, bounds hold, and one step means the same everywhere."""

import copy
import math
import pickle
from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import optree
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds
from torch import nn

import zograd as zo
from zograd import ArgumentError, Parameters

Lens = namedtuple("Lens", "radius depth")


def same(left: Any, right: Any) -> bool:
    """Whether two structures are alike in containers, leaf types, dtypes, shapes and values, bit by bit."""
    one, other = (optree.tree_flatten(each, none_is_leaf=True) for each in (left, right))
    return one[1] == other[1] and all(map(alike, one[0], other[0]))


def alike(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and left.device == right.device and torch.equal(left, right)
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and np.array_equal(left, right)
    return left == right


STRUCTURES = {
    "float": 0.3,
    "tensor": torch.tensor([0.1, 0.2]),
    "double": torch.tensor([[0.1], [0.2]], dtype=torch.float64),
    "half": torch.tensor(0.1, dtype=torch.float16),
    "bfloat16": torch.tensor([0.1], dtype=torch.bfloat16),
    "array": np.array([0.1, 0.7]),
    "array32": np.array([[0.1, 0.7]], dtype=np.float32),
    "0-d": np.array(0.7),
    "scalar": np.float32(0.7),
    "float64 scalar": np.float64(0.7),
    "list": [0.1, 0.2, 0.3],
    "tuple": (0.1, torch.tensor([0.2])),
    "named": Lens(0.1, np.array([0.5])),
    "ordered": OrderedDict(b=0.1, a=0.2),
    "nested": {
        "b": {"z": 0.1, "y": [0.2, None, {}]},
        "a": torch.rand(2, 3, generator=torch.Generator().manual_seed(0)),
    },
    "empty leaf": {"a": torch.empty(0, 3), "b": 0.5},
}


@pytest.mark.parametrize("bounds", [None, (0.0, 0.9), (None, 0.9), (-0.7, None)])
@pytest.mark.parametrize("scale", [None, "log", 0.3])
@pytest.mark.parametrize("x0", STRUCTURES.values(), ids=STRUCTURES.keys())
def test_what_goes_in_comes_out(x0: Any, scale: Any, bounds: Any) -> None:
    if scale == "log" and bounds is not None and bounds[0] is not None:
        bounds = (0.01, bounds[1])
    parameters = Parameters(x0, bounds=bounds, scale=scale)
    assert same(parameters.decode(parameters.initial), x0)
    assert torch.equal(parameters.encode(x0), parameters.initial)
    assert parameters.initial.dtype == torch.float64
    assert len(parameters) == parameters.dimension == len(parameters.names) == len(set(parameters.names))
    if isinstance(x0, dict):
        assert list(parameters.decode(parameters.initial)) == list(x0)


def test_order_is_the_users_and_another_order_is_read_by_name() -> None:
    parameters = Parameters({"width": 1.0, "angle": 2.0})
    assert parameters.names == ("width", "angle")
    assert parameters.initial.tolist() == [1.0, 2.0]
    assert parameters.encode({"angle": 4.0, "width": 3.0}).tolist() == [3.0, 4.0]


def test_a_module_comes_out_by_name_and_runs() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    module[0].bias.requires_grad_(False)
    parameters = Parameters(module, bounds=(-2.0, 2.0))
    assert parameters.dimension == 6 + 2 + 2
    assert parameters.names[:2] == ("0.weight[0,0]", "0.weight[0,1]")
    assert parameters.names[-1] == "1.bias[1]"
    decoded = parameters.decode(parameters.initial)
    assert list(decoded) == ["0.weight", "1.weight", "1.bias"]
    x = torch.rand(4, 3)
    assert torch.equal(torch.func.functional_call(module, decoded, (x,)), module(x))
    assert not any(isinstance(weight, nn.Parameter) or weight.requires_grad for weight in decoded.values())
    assert torch.equal(parameters.encode(module), parameters.initial)
    with pytest.raises(ArgumentError, match="at least one number"):
        Parameters(nn.ReLU())


def test_decoded_memory_is_its_own() -> None:
    for x0 in (torch.zeros(3, dtype=torch.float64), np.zeros(3), {"n": None, "a": torch.zeros(2).double(), "b": 0.0}):
        parameters = Parameters(x0)
        center = parameters.initial.clone()
        decoded = parameters.decode(center)
        for leaf in optree.tree_leaves(decoded):
            if not isinstance(leaf, float):
                leaf += 1.0
        points = center.repeat(2, 1)
        for leaf in optree.tree_leaves(parameters.decode_batch(points)):
            leaf += 1.0
        assert center.eq(0).all()
        assert points.eq(0).all()
        assert same(parameters.decode(center), x0)


def test_decoding_each_is_decoding_one_by_one_in_memory_of_its_own() -> None:
    x0 = {"width": 2e-5, "count": 3, "kind": "b", "array": np.ones(2), "tensor": torch.zeros(2)}
    parameters = zo.Parameters(
        x0,
        bounds={"width": (1e-6, 4e-4), "count": (1, 8)},
        scale={"width": "log"},
        integers=("count",),
        choices={"kind": ("a", "b")},
    )
    points = torch.rand(5, parameters.dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points[3] = parameters.initial
    each = list(parameters.decode_each(points))
    each[0]["array"][:] = 7
    each[1]["tensor"].fill_(7)
    for row in (2, 3, 4):
        assert repr(each[row]) == repr(parameters.decode(points[row]))
    assert each[0]["tensor"].untyped_storage().data_ptr() != each[1]["tensor"].untyped_storage().data_ptr()


def test_one_unit() -> None:
    parameters = Parameters(
        {"bounded": 1.0, "log": 10.0, "plain": 4.0, "unit": 6.0, "decade": 100.0, "both": 6.0, "half": 0.5},
        bounds={"bounded": (0, 4), "log": (1, 100), "both": (2, 10), "half": (0, None)},
        scale={"log": "log", "unit": 3, "decade": "log", "both": 2.0, "plain": "linear", "half": None},
    )
    assert parameters.initial.tolist() == pytest.approx([0.25, 0.5, 4.0, 2.0, 2.0, 2.0, 0.5])
    assert parameters.lower.tolist() == [0.0, 0.0, -math.inf, -math.inf, -math.inf, 0.0, 0.0]
    assert parameters.upper.tolist() == [1.0, 1.0, math.inf, math.inf, math.inf, 4.0, math.inf]
    assert parameters.bounded.tolist() == [True, True, False, False, False, True, False]
    assert not parameters.fixed.any()
    assert not parameters.integer.any()
    assert not parameters.granularity.any()
    moved = parameters.decode(parameters.initial + 1.0)
    assert moved["plain"] == 5.0
    assert moved["unit"] == pytest.approx(9.0)
    assert moved["decade"] == pytest.approx(1000.0)
    assert moved["both"] == pytest.approx(8.0)
    assert parameters.decode(torch.full((7,), 0.5).double())["log"] == pytest.approx(10.0)


def test_what_the_black_box_sees_is_inside_the_bounds() -> None:
    lower, upper = np.array([-0.3, 0.1, 1e-6]), np.array([0.1, 0.7, 4e-4])
    for dtype in (np.float32, np.float64):
        for scale in ("linear", ["linear", "linear", "log"], [0.7, None, 0.1]):
            parameters = Parameters(np.array([0.0, 0.3, 1e-5], dtype), bounds=(lower, upper), scale=scale)
            draws = torch.randn(500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
            seen = parameters.decode_batch(draws)
            assert seen.dtype == dtype
            assert (seen >= lower.astype(dtype)).all()
            assert (seen <= upper.astype(dtype)).all()
            assert np.allclose(seen, parameters.decode_batch(parameters.clip(draws)), rtol=1e-7, atol=1e-15)
            assert np.array_equal(parameters.decode(draws[7]), seen[7])
            assert parameters.decode(torch.full((3,), -math.inf).double()).tolist() == lower.astype(dtype).tolist()
            assert parameters.decode(torch.full((3,), math.inf).double()).tolist() == upper.astype(dtype).tolist()
            if not isinstance(scale, list) or None not in scale:  # a scale of 0.7 does not divide the bounds exactly
                assert np.array_equal(seen, parameters.decode_batch(parameters.clip(draws)))
                assert parameters.decode(torch.ones(3).double()).tolist() == upper.astype(dtype).tolist()


def test_clip() -> None:
    parameters = Parameters(torch.zeros(2), bounds=[(-1, 1), None])
    assert parameters.clip(torch.tensor([2.0, 9.0])).tolist() == [1.0, 9.0]
    assert parameters.clip(torch.tensor([[-2.0, 9.0]])).dtype == torch.float32
    free = Parameters(torch.zeros(2))
    point = torch.tensor([2.0, 9.0])
    assert free.clip(point) is point
    with pytest.raises(ArgumentError, match="2 entries a row"):
        parameters.clip(torch.zeros(3))


@pytest.mark.parametrize(
    "bounds",
    [
        [(-1, 2), (-1, 2), (None, 5)],
        ((-1, 2), (-1, 2), (-np.inf, 5)),
        np.array([[-1, 2], [-1, 2], [-np.inf, 5]]),
        torch.tensor([[-1, 2], [-1, 2], [-math.inf, 5]]),
        Bounds([-1, -1, -np.inf], [2, 2, 5]),
        (np.array([-1, -1, -np.inf]), torch.tensor([2, 2, 5])),
    ],
)
@pytest.mark.parametrize("x0", [torch.zeros(3), [0.0, 0.0, 0.0], {"a": np.zeros(2), "b": 0.0}, np.zeros((3, 1))])
def test_scipys_forms_of_bounds(bounds: Any, x0: Any) -> None:
    parameters = Parameters(x0, bounds=bounds)
    assert parameters.lower.tolist() == [0.0, 0.0, -math.inf]
    assert parameters.upper.tolist() == [1.0, 1.0, 5.0]


@pytest.mark.parametrize("bounds", [(-1, 2), [-1, 2], np.array([-1, 2]), Bounds(-1, 2), Bounds([-1], [2])])
def test_one_pair_for_all(bounds: Any) -> None:
    for x0 in (0.0, torch.zeros(2, 2), {"a": 0.0, "b": [torch.zeros(2)]}, (0.0, 0.0)):
        parameters = Parameters(x0, bounds=bounds)
        assert parameters.lower.eq(0).all()
        assert parameters.upper.eq(1).all()
        assert torch.allclose(parameters.initial, torch.tensor(1 / 3).double())


def test_structures_of_bounds() -> None:
    x0 = {"lens": Lens(0.0, torch.zeros(2)), "pose": [0.0, np.zeros((2, 2))], "gain": 0.0}
    parameters = Parameters(
        x0,
        bounds={
            "lens": {"depth": [(0, 1), None]},
            "pose": [None, (np.array([[-1, -2], [-3, -4]]), 8.0)],
            "gain": Bounds(-3, 3),
        },
        scale={"pose": [2.0, np.array([[1.0, 2.0], [4.0, 8.0]])]},
    )
    inf = math.inf
    assert parameters.lower.tolist() == [-inf, 0.0, -inf, -inf, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert parameters.upper.tolist() == [inf, 1.0, inf, inf, 9.0, 5.0, 11 / 4, 12 / 8, 1.0]
    assert Parameters(x0, bounds={"lens": (-1, 1)}).upper[:4].tolist() == [1.0, 1.0, 1.0, inf]
    assert Parameters(x0, bounds={"lens": [(0, 1), (0, 2), (0, 3)]}).bounded.tolist() == [True] * 3 + [False] * 6
    assert Parameters(x0, bounds={"lens": ((0, 1), None)}).bounded.tolist() == [True] + [False] * 8
    assert Parameters([0.0, 0.0], bounds=((-1, 1), None)).bounded.tolist() == [True, False]
    assert Parameters(np.zeros((1, 2)), bounds=(np.zeros((1, 2)), 1.0)).bounded.all()
    assert Parameters(np.zeros((2, 1)), bounds=[(0, 1), (0, 2)]).bounded.all()


def test_fixed_parameters_have_no_effect() -> None:
    parameters = Parameters(
        {"a": 3.0, "b": 2, "c": 1.0, "d": "x", "e": 0.2},
        bounds={"a": (3, 3), "b": (2, 2), "c": (1, 1), "e": (0, 1)},
        scale={"c": "log"},
        integers=("b",),
        choices={"d": ("x",)},
    )
    assert parameters.fixed.tolist() == [True, True, True, True, False]
    assert parameters.initial.tolist() == [0.0, 0.0, 0.0, 0.0, 0.2]
    assert not parameters.granularity.any()
    assert parameters.decode(torch.full((5,), 7.3).double()) == {"a": 3.0, "b": 2, "c": 1.0, "d": "x", "e": 1.0}
    assert parameters.clip(torch.full((5,), 7.3)).tolist() == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert "fixed" in repr(parameters)


def test_integers_are_rounded_and_equally_wide() -> None:
    parameters = Parameters(
        {"count": 3, "free": 5.0, "x": 0.1}, bounds={"count": (0.5, 4.2)}, integers=("count", "free")
    )
    assert parameters.granularity.tolist() == [0.25, 1.0, 0.0]
    assert parameters.integer.tolist() == [True, True, False]
    points = torch.zeros(4000, 3, dtype=torch.float64)
    points[:, 0] = (torch.arange(4000) + 0.5) / 4000
    points[:, 1] = 2.6
    seen = parameters.decode_batch(points)
    assert seen["count"].dtype == torch.int64
    assert torch.bincount(seen["count"]).tolist() == [0, 1000, 1000, 1000, 1000]
    assert seen["free"].eq(3.0).all()
    one = parameters.decode(torch.tensor([0.99, 7.4, 0.0]).double())
    assert one == {"count": 4, "free": 7.0, "x": 0.0}
    assert isinstance(one["count"], int)
    assert isinstance(one["free"], float)
    assert isinstance(Parameters([2], bounds=(1, 5)).decode(torch.tensor([0.5]).double())[0], float)


def test_integers_on_a_log_scale() -> None:
    parameters = Parameters(16, bounds=(1, 1024), scale="log", integers=True)
    step = float(parameters.granularity)
    below, above = (parameters.decode(parameters.initial + sign * 0.51 * step) for sign in (-1, 1))
    assert (below, above) == (15, 17)
    assert {parameters.decode(torch.tensor([z]).double()) for z in (0.0, 1.0)} == {1, 1024}
    free = Parameters(1, scale="log", integers=True)
    assert free.decode(torch.tensor([-9.0]).double()) == 1
    assert free.lower.tolist() == [pytest.approx(math.log10(0.5))]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_integer_dtypes_are_kept_and_never_wrap(dtype: torch.dtype) -> None:
    x0 = torch.tensor([[3, 4]], dtype=dtype)
    parameters = Parameters(x0, integers=True)
    assert same(parameters.decode(parameters.initial), x0)
    info = torch.iinfo(dtype)
    far = torch.full((2,), 1e30, dtype=torch.float64)
    assert parameters.decode(far).tolist() == [[min(info.max, 2**53 - 1)] * 2]
    assert parameters.decode(-far).tolist() == [[max(info.min, -(2**53) + 1)] * 2]
    assert not parameters.bounded.any()
    assert parameters.initial.tolist() == [3.0, 4.0]
    array = x0.numpy()
    assert same(Parameters(array, integers=[True, True]).decode(parameters.initial), array)
    assert same(Parameters(array[0, 0], integers=True).decode(parameters.initial[:1]), array[0, 0])
    with pytest.raises(ArgumentError, match=r"`x0` must have a floating dtype at 'x'.*integers="):
        Parameters(x0)


def test_which_are_integers() -> None:
    x0 = {"a": {"m": 1.0, "n": 2.0}, "b": torch.ones(2), "ab": 1.0}
    for said, whole in [
        ("a.m", [1, 0, 0, 0, 0]),
        (["a"], [1, 1, 0, 0, 0]),
        ({"b", "ab"}, [0, 0, 1, 1, 1]),
        (True, [1, 1, 1, 1, 1]),
        (False, [0, 0, 0, 0, 0]),
        ((), None),
        ({"a": True}, [1, 1, 0, 0, 0]),
        ({"a": {"m": True, "n": False}, "b": [False, True]}, [1, 0, 0, 1, 0]),
        ([True, False, True, False, False], [1, 0, 1, 0, 0]),
        (np.array([True, False, True, False, False]), [1, 0, 1, 0, 0]),
    ]:
        if whole is None:
            with pytest.raises(ArgumentError, match="each of its 5 entries"):
                Parameters(x0, integers=said)
        else:
            assert Parameters(x0, integers=said).integer.int().tolist() == whole


def test_choices() -> None:
    options = (None, "wood", 3, True, len)
    parameters = Parameters({"skin": "wood", "x": 0.5}, choices={"skin": options}, bounds=(0, 1))
    assert parameters.names == ("skin", "x")
    assert parameters.lower.tolist() == [0.0, 0.0]
    assert parameters.upper.tolist() == [1.0, 1.0]
    assert parameters.granularity.tolist() == pytest.approx([0.2, 0.0])
    points = torch.zeros(1000, 2, dtype=torch.float64)
    points[:, 0] = (torch.arange(1000) + 0.5) / 1000
    seen = parameters.decode_batch(points)["skin"]
    assert [seen.count(option) for option in (None, "wood", 3, True, len)] == [200] * 5
    assert [type(option) for option in seen[::200]] == [type(option) for option in options]
    for option in options:
        there = parameters.decode(parameters.encode({"skin": option, "x": 0.5}))
        assert there["skin"] is option
    for wrong in ("stone", 1, 3.0):
        with pytest.raises(ArgumentError, match=r"be one of None, 'wood', 3, True, .* at 'skin'"):
            parameters.encode({"skin": wrong, "x": 0.5})
    alone = Parameters("b", choices=("a", "b"))
    assert alone.decode(alone.initial) == "b"
    both = Parameters(["a", None, False], choices=[("a", "b"), None, (False, True)])
    assert both.decode(torch.ones(2).double()) == ["b", None, True]
    assert both.decode(both.initial) == ["a", None, False]


def test_names() -> None:
    parameters = Parameters(torch.zeros(2), names=("alpha", "beta"), bounds=[(-1, 1), None])
    assert parameters.names == ("alpha", "beta")
    with pytest.raises(ArgumentError, match="'alpha'"):
        parameters.encode(torch.tensor([3.0, 0.0]))
    assert Parameters(1.0).names == ("x",)
    assert Parameters(torch.zeros(2, 1)).names == ("x[0,0]", "x[1,0]")
    assert Parameters([1.0, {"a": 1.0}, None, torch.zeros(1)]).names == ("x[0]", "x[1].a", "x[3][0]")
    assert Parameters({"lens": Lens(1.0, np.zeros(2)), 3: {4: 0.0}}).names == (
        "lens.radius",
        "lens.depth[0]",
        "lens.depth[1]",
        "x[3][4]",
    )
    for wrong in (("a",), ("a", "a")):
        with pytest.raises(ArgumentError, match="2 different strings"):
            Parameters(torch.zeros(2), names=wrong)


def test_a_million_entries_without_work_for_each() -> None:
    parameters = Parameters({"a": torch.zeros(1000, 1000), "b": 1.0}, bounds=(-5, 4.9), scale={"a": "linear"})
    assert parameters.name(1000001 - 2) == "a[999,999]"
    assert "names" not in vars(parameters)
    text = repr(parameters)
    assert "names" not in vars(parameters)
    assert text.count("\n") == 12
    assert "999,991 more" in text
    decoded = parameters.decode(parameters.initial)
    assert decoded["a"].shape == (1000, 1000)
    assert decoded["b"] == 1.0


def test_repr_is_a_table() -> None:
    parameters = Parameters(
        {"width": 2e-5, "count": 3, "big": 7, "texture": "wood", "half": 0.5},
        bounds={"width": (1e-6, 4e-4), "count": (1, 8), "half": (None, 2)},
        scale={"width": "log"},
        integers=("count", "big"),
        choices={"texture": ("wood", "stone")},
    )
    assert repr(parameters).splitlines() == [
        "Parameters(dimension=5)",
        "  name     kind     value   bounds           scale   one unit",
        "  width    real     2e-05   [1e-06, 0.0004]  log     x 400",
        "  count    integer  3       [1, 8]           linear  8",
        "  big      integer  7       -                linear  1",
        "  texture  choice   'wood'  wood | stone     linear  2",
        "  half     real     0.5     [-inf, 2]        linear  1",
    ]


# torch itself calls what it has deprecated, at its first forward-mode derivative.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_decoding_is_differentiable_and_maps_over_rows() -> None:
    parameters = Parameters(
        {"a": torch.tensor([0.3, 2.0]).double(), "b": torch.tensor([5.0])},
        bounds={"a": [(-5, 4.9), (1, 10)]},
        scale={"a": ["linear", "log"], "b": 3.0},
    )

    def function(vector: torch.Tensor) -> torch.Tensor:
        decoded = parameters.decode(vector)
        return torch.cat([decoded["a"], decoded["b"].double()])

    direction = torch.tensor([1.0, -2.0, 3.0]).double()
    slopes = torch.tensor([9.9, 2.0 * math.log(10), 3.0]).double()
    assert torch.allclose(torch.func.jvp(function, (parameters.initial,), (direction,))[1], slopes * direction)
    assert torch.allclose(torch.autograd.functional.jacobian(function, parameters.initial), torch.diag(slopes))
    rows = parameters.initial + torch.arange(3).double()[:, None] * 0.01
    batch = parameters.decode_batch(rows)
    assert torch.equal(torch.vmap(function)(rows)[:, :2], batch["a"])
    alone = Parameters(np.array([0.3]), bounds=(-5, 4.9))
    assert alone.decode(alone.initial.clone().requires_grad_()).tolist() == [0.3]


def test_pickle_and_copy() -> None:
    parameters = Parameters({"a": torch.tensor([0.3]), "c": "x"}, choices={"c": ("x", "y")}, bounds=(0, 1))
    for twin in (pickle.loads(pickle.dumps(parameters)), copy.deepcopy(parameters)):
        assert same(twin.decode(parameters.initial), {"a": torch.tensor([0.3]), "c": "x"})
        assert repr(twin) == repr(parameters)


@pytest.mark.parametrize(
    ("x0", "match"),
    [
        (True, r"real numbers at 'x', found True. .*choices="),
        ({"a": {"b": "wood"}}, r"real numbers at 'a.b', found 'wood'.*choices="),
        ([1.0, 2j], r"real numbers at 'x\[1\]'"),
        (torch.zeros(2, dtype=torch.bool), "real numbers at 'x'"),
        (torch.zeros(2, dtype=torch.complex64), "real numbers at 'x'"),
        (torch.zeros(2).to_sparse(), "real numbers at 'x'"),
        (np.array([True]), "real numbers at 'x'"),
        (np.array(["a"]), "real numbers at 'x'"),
        (np.array([object()]), "real numbers at 'x'"),
        ({"net": nn.Linear(1, 1)}, "real numbers at 'net'.*one nn.Module"),
        ({}, "at least one number"),
        (None, "at least one number"),
        ([None, torch.empty(0)], "at least one number"),
        ({"a": [0.0, math.nan]}, r"be finite at 'a\[1\]', found nan"),
        (torch.tensor([[0.0, math.inf]]), r"be finite at 'x\[0,1\]', found inf"),
        (10**400, "be finite at 'x'"),
    ],
)
def test_leaves_that_are_no_numbers(x0: Any, match: str) -> None:
    with pytest.raises(ArgumentError, match=match) as caught:
        Parameters(x0)
    assert caught.value.argument == "x0"


PAIR = {"a": 1.0, "b": torch.ones(2)}


@pytest.mark.parametrize(
    ("keywords", "match"),
    [
        ({"bounds": {"aa": (0, 1)}}, r"`bounds` must name only what is in `x0`, found 'aa'. Did you mean 'a'\?"),
        ({"bounds": {"width": (0, 1)}}, r"There are: 'a', 'b'"),
        ({"bounds": {"a": {"b": (0, 1)}}}, r"be a pair .* at 'a'"),
        ({"bounds": [(0, 1)]}, "each of its 3 entries"),
        ({"bounds": 3.0}, "each of its 3 entries"),
        ({"bounds": {"b": [(0, 1), 3]}}, r"pair .* 2 of them, at 'b', found 3"),
        ({"bounds": {"b": [(0, 1)]}}, r"pair .* 2 of them, at 'b'"),
        ({"bounds": {"b": np.zeros((2, 3))}}, r"pair .* 2 of them, at 'b'"),
        ({"bounds": {"b": (np.zeros(3), 1.0)}}, r"pair .* 2 of them, at 'b'"),
        ({"bounds": {"a": (0, "1")}}, r"pair .* at 'a'"),
        ({"bounds": {"a": (2, 1)}}, r"lower <= upper at 'a'.*found \(2.0, 1.0\)"),
        ({"bounds": {"b": [(0, 1), (math.nan, 1)]}}, "lower <= upper at 'b'"),
        ({"bounds": {"a": (math.inf, None)}}, "lower <= upper at 'a'"),
        ({"bounds": {"a": (None, -math.inf)}}, "lower <= upper at 'a'"),
        ({"bounds": (2, 3)}, r"`x0` must lie within its bounds \[2, 3\] at 'a', found 1.0. Move"),
        ({"bounds": {"b": [None, (None, 0.1)]}}, r"within its bounds \[-inf, 0.1.*\] at 'b\[1\]'"),
        ({"bounds": {"a": (-1.7e308, 1.7e308)}}, "finite distance apart at 'a'"),
        ({"bounds": {"a": (0.2, 0.8)}, "integers": ("a",)}, "whole number within them at 'a'"),
        ({"scale": "lin"}, '"linear", "log", a positive number'),
        ({"scale": {"a": -1.0}}, "positive number .* at 'a', found -1.0"),
        ({"scale": {"a": 0}}, "positive number .* at 'a'"),
        ({"scale": {"a": math.inf}}, "positive number .* at 'a'"),
        ({"scale": {"b": [1.0, "cube"]}}, "positive number .* at 'b', found 'cube'"),
        ({"scale": {"b": [1.0, 0.0]}}, "positive number .* at 'b'"),
        ({"scale": {"b": [1.0]}}, "positive number .* at 'b'"),
        ({"scale": {"b": np.ones(3)}}, "positive number .* at 'b'"),
        ({"scale": {"a": object()}}, "positive number .* at 'a'"),
        ({"scale": "log", "bounds": (0, 2)}, "`bounds` must be positive on a log scale at 'a', found 0.0. Give"),
        ({"integers": ("c",)}, "name only parameters, which are 'a', 'b', found 'c'"),
        ({"integers": {"a": 1}}, "true or false.* at 'a'"),
        ({"integers": {"b": [True]}}, "true or false.* at 'b'"),
        ({"choices": ("x", "y")}, "`choices` must have the structure of `x0`"),
        ({"choices": {"a": "xy"}}, "sequence of different, hashable options at 'a'"),
        ({"choices": {"a": ()}}, "sequence of different, hashable options at 'a'"),
        ({"choices": {"a": ("x", "x")}}, "sequence of different, hashable options at 'a'"),
        ({"choices": {"a": ("x", [1])}}, r"hashable options at 'a', found \[1\]. Give the options as strings"),
        ({"choices": {"a": ("x", "y")}}, "`x0` must be one of 'x', 'y' at 'a', found 1.0"),
        ({"choices": {"a": (1.0, 2.0)}, "bounds": {"a": (0, 1)}}, "say nothing of 'a', which is a choice"),
    ],
)
def test_wrong_keywords(keywords: dict[str, Any], match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        Parameters(PAIR, **keywords)


def test_wrong_numbers_for_the_keywords() -> None:
    with pytest.raises(ArgumentError, match=r"`x0` must be a whole number at 'x', found 2.5"):
        Parameters(2.5, integers=True)
    with pytest.raises(ArgumentError, match=r"whole number|finite"):
        Parameters(2**60, integers=True)
    with pytest.raises(ArgumentError, match="whole number"):
        Parameters(torch.tensor([2**60]), integers=True)
    with pytest.raises(ArgumentError, match=r"`x0` must be positive on a log scale at 'x', found 0.0"):
        Parameters(0.0, scale="log")
    many = {f"p{index}": 0.0 for index in range(9)}
    with pytest.raises(ArgumentError, match=r"'p7', \.\.\."):
        Parameters(many, bounds={"zzz": (0, 1)})


def test_wrong_vectors_and_structures() -> None:
    parameters = Parameters({"a": 1.0, "b": torch.ones(2), "c": None}, bounds=(0, 2))
    with pytest.raises(ArgumentError, match=r"`vector` must have shape \(3,\)"):
        parameters.decode(torch.ones(2))
    with pytest.raises(ArgumentError, match=r"`points` must have shape \(n, 3\)"):
        parameters.decode_batch(torch.ones(3, 2))
    good = {"a": 1.0, "b": torch.ones(2), "c": None}
    for change, match in [
        ({"a": 5.0}, r"`structure` must lie within its bounds \[0, 2\] at 'a', found 5.0"),
        ({"a": math.nan}, "`structure` must be finite at 'a'"),
        ({"a": "x"}, "`structure` must hold real numbers at 'a'"),
        ({"b": torch.ones(3)}, r"`structure` must have shape \(2,\) at 'b'"),
        ({"c": 1.0}, "be None at 'c', as in x0"),
        ({"d": 1.0}, "have the structure of x0: .*extra key"),
    ]:
        with pytest.raises(ArgumentError, match=match):
            parameters.encode(good | change)
    with pytest.raises(ArgumentError, match="have the structure of x0"):
        parameters.encode([1.0])
    assert torch.equal(parameters.encode(good | {"b": np.ones(2)}), parameters.initial)
    whole = Parameters([1, 0.0], integers=[True, False])
    for vector in (torch.tensor([math.nan, 0.0]), torch.tensor([0.0, math.inf])):
        with pytest.raises(ArgumentError, match="be finite, for there are integers"):
            whole.decode(vector)


@st.composite
def leaves(draw: st.DrawFn) -> tuple[Any, Any, Any, Any, Any]:
    """A leaf with what is said of it: x0, bounds, scale, whether whole, options."""
    kind = draw(st.sampled_from(["float", "tensor", "array", "scalar", "int", "choice"]))
    if kind == "choice":
        options = tuple(draw(st.lists(st.one_of(st.text(max_size=3), st.none()), min_size=1, max_size=5, unique=True)))
        return draw(st.sampled_from(options)), None, None, None, options
    whole = kind == "int"
    log = draw(st.booleans())
    size = 10.0 ** draw(st.integers(-3 if not whole else 1, 4))
    width: dict[str, Any] = {"allow_nan": False, "width": 32}
    numbers = st.floats(0.0078125 if log else -1, 1, **width).map(lambda value: value * size)
    if whole:
        numbers = st.integers(1 if log else -int(size), int(size))
    shape = draw(st.sampled_from([(), (1,), (2,), (2, 3)]))
    values = draw(st.lists(numbers, min_size=math.prod(shape), max_size=math.prod(shape)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    x0: Any = np.array(values, dtype).reshape(shape)
    if kind == "tensor":
        x0 = torch.from_numpy(x0)
    elif kind == "scalar":
        x0 = dtype(values[0])
    elif kind == "float":
        x0 = float(values[0])
    elif kind == "int":
        x0 = int(values[0])
    lower = draw(st.sampled_from([None, (0.001 if not whole else 1.0) if log else -2 * size]))
    upper = draw(st.sampled_from([None, 2 * size]))
    if log and lower is not None:
        lower = min(lower, float(np.asarray(x0).min()))
    scale = "log" if log else draw(st.sampled_from([None, "linear", 0.37 * size]))
    return x0, (lower, upper), scale, whole, None


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(leaves(), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_round_trips(drawn: list[tuple[Any, Any, Any, Any, Any]], random: Any) -> None:
    def structure(column: int) -> Any:
        inner = [leaf[column] for leaf in drawn]
        return {"first": inner[0], "rest": {f"k{i}": each for i, each in enumerate(inner[1:])}}

    parameters = Parameters(
        structure(0), bounds=structure(1), scale=structure(2), integers=structure(3), choices=structure(4)
    )
    assert same(parameters.decode(parameters.initial), structure(0))
    assert torch.equal(parameters.clip(parameters.initial), parameters.initial)
    seed = torch.Generator().manual_seed(random.randrange(2**31))
    rows = parameters.initial + torch.randn(8, len(parameters), dtype=torch.float64, generator=seed) * 0.3
    batch = parameters.decode_batch(rows)
    real = ~parameters.integer & ~parameters.fixed
    tree = optree.tree_structure(structure(0), none_is_leaf=True)
    columns = [leaf.tolist() if hasattr(leaf, "tolist") else leaf for leaf in tree.flatten_up_to(batch)]
    for index, row in enumerate(rows):
        decoded = parameters.decode(row)
        again = parameters.encode(decoded)
        assert torch.allclose(again[real], parameters.clip(row)[real], rtol=1e-5, atol=1e-4)
        # A whole number comes back as the middle of its bin, and decodes to itself.
        for leaf, other in zip(tree.flatten_up_to(decoded), tree.flatten_up_to(parameters.decode(again)), strict=True):
            assert isinstance(leaf, float | np.ndarray | np.generic | torch.Tensor) or leaf == other
        singly = [leaf.tolist() if hasattr(leaf, "tolist") else leaf for leaf in tree.flatten_up_to(decoded)]
        assert singly == [column[index] for column in columns]


def test_is_public() -> None:
    assert zo.Parameters is Parameters
