import pytest
import torch

from zograd import ArgumentError
from zograd._checks import count, instance, one_of, positive, require, vector


def test_require_says_what_must_hold_what_was_found_and_what_to_do():
    require(True, "a", "hold", None)
    with pytest.raises(ArgumentError, match=r"^`step` must be positive, found -0.1. Try 1e-3.$") as caught:
        require(False, "step", "be positive", -0.1, "Try 1e-3.")
    assert (caught.value.argument, caught.value.found) == ("step", -0.1)
    with pytest.raises(ArgumentError, match=r"found 'x'.$"):
        require(False, "step", "be positive", "x")


def test_long_things_are_cut_and_tensors_described():
    with pytest.raises(ArgumentError, match=r"found '1{116}\.\.\.\.$"):
        require(False, "text", "be short", "1" * 200)
    with pytest.raises(ArgumentError, match=r"a tensor of shape \(2, 3\) and dtype torch.float32"):
        require(False, "x", "be a vector", torch.zeros(2, 3))


@pytest.mark.parametrize("good", [1, 0.5, 1e-300])
@pytest.mark.usefixtures("unchecked")
def test_positive_numbers(good):
    assert positive("step", good) == good
    assert isinstance(positive("step", good), float)


@pytest.mark.parametrize("bad", [0, -1.0, float("inf"), float("nan"), True, "1", None])
@pytest.mark.usefixtures("unchecked")
def test_what_is_not_a_positive_number(bad):
    with pytest.raises(ArgumentError, match="`step` must be a positive number"):
        positive("step", bad)


def test_counts():
    assert count("samples", 3) == 3
    assert count("samples", 0, least=0) == 0


@pytest.mark.parametrize("bad", [0, -2, 1.0, True, "3", None])
@pytest.mark.usefixtures("unchecked")
def test_what_is_not_a_count(bad):
    with pytest.raises(ArgumentError, match="`samples` must be a whole number of at least 1"):
        count("samples", bad)


def test_one_of():
    assert one_of("mode", "a", ("a", "b")) == "a"
    with pytest.raises(ArgumentError, match=r"`mode` must be one of 'a', 'b', found 'c'\."):
        one_of("mode", "c", ("a", "b"))


def test_instance():
    assert instance("flag", True, bool, "True or False") is True
    with pytest.raises(ArgumentError, match="`flag` must be True or False, found 1"):
        instance("flag", 1, bool, "True or False")


def test_vectors():
    good = torch.ones(3)
    assert vector("center", good) is good


@pytest.mark.parametrize("bad", [torch.ones(2, 2), torch.ones(0), torch.ones(2, dtype=torch.int64), [1.0], None])
@pytest.mark.usefixtures("unchecked")
def test_what_is_not_a_vector(bad):
    with pytest.raises(ArgumentError, match=r"`center` must be a floating tensor of shape \(d,\)"):
        vector("center", bad)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_vectors_are_finite(bad):
    with pytest.raises(ArgumentError, match="`center` must have finite entries only"):
        vector("center", torch.tensor([1.0, bad]))
