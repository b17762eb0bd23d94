"""One of the networks of `nn_networks`, by name."""

import pytest
from nn_networks import Case, make


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    """The network that the test is parametrized with."""
    return make(request.param)
