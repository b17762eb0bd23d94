"""The one number of a step that a progress line shows."""

import pytest

from zograd._telling import telling


@pytest.mark.parametrize(
    ("diagnostics", "words"),
    [
        ({"signal_to_noise": 3.14159, "half_cosine": 0.5, "gradient_norm": 9.0}, "S/N 3.1"),
        ({"half_cosine": -0.5}, "cosine -0.5"),
        ({"signal_to_noise": 3.0, "r_squared": 0.931}, "R² 0.93"),
        ({"step_length": 0.0}, ""),
    ],
)
def test_the_most_telling_number_is_shown(diagnostics, words):
    assert telling(diagnostics) == words
