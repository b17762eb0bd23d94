import pickle

import pytest

import zograd as zo


@pytest.mark.parametrize(
    ("error", "also"),
    [
        (zo.ArgumentError, ValueError),
        (zo.EvaluationError, RuntimeError),
        (zo.GradientError, RuntimeError),
        (zo.RunError, RuntimeError),
        (zo.MissingExtraError, ImportError),
    ],
)
def test_every_error_is_a_zograd_error_and_a_standard_one(error, also):
    assert issubclass(error, zo.ZogradError)
    assert issubclass(error, also)


def test_errors_carry_their_data():
    error = zo.ArgumentError("wrong", argument="step", found=-1)
    assert (error.argument, error.found, str(error)) == ("step", -1, "wrong")
    error = zo.EvaluationError("lost", status="invalid", call=3, row=7, result="best")
    assert (error.status, error.call, error.row, error.result) == ("invalid", 3, 7, "best")


def test_errors_have_defaults():
    assert zo.ArgumentError("wrong").argument == ""
    error = zo.EvaluationError("lost")
    assert (error.status, error.call, error.row, error.result) == ("failed", 0, 0, None)


def test_a_missing_extra_says_how_to_get_it():
    error = zo.MissingExtraError("matplotlib", "report")
    assert (error.package, error.extra) == ("matplotlib", "report")
    assert 'pip install "zograd[report]"' in str(error)


@pytest.mark.parametrize("error", [zo.ArgumentError("a", argument="b"), zo.EvaluationError("a"), zo.GradientError("a")])
def test_errors_survive_a_process_boundary(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
