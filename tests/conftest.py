"""Shape checks are on in the tests: every annotated call of zograd is checked at run time."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import config, install_import_hook

hook = install_import_hook("zograd", "beartype.beartype")

import pytest  # noqa: E402
import torch  # noqa: E402

import zograd  # noqa: E402, F401

hook.uninstall()
torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of its own, seeded."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run without the tests' type checks, as users do: wrong arguments then meet the library's own errors."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)
