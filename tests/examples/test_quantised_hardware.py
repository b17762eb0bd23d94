"""The network with an analogue chip inside: what the chip gives away, and that each way of training teaches it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parent.parent.parent / "examples" / "quantised_hardware"


@pytest.fixture(scope="module")
def example() -> tuple[ModuleType, ModuleType]:
    """The modules ``chip`` and ``run`` of the example; every example has a ``run``."""
    sys.path.insert(0, str(FOLDER))
    try:
        import chip

        spec = importlib.util.spec_from_file_location("quantised_hardware_run", FOLDER / "run.py")
        assert spec is not None
        assert spec.loader is not None
        run = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(run)
    finally:
        sys.path.remove(str(FOLDER))
    return chip, run


def test_the_chip_rounds_leaks_and_is_noisy(example: tuple[ModuleType, ModuleType]) -> None:
    chip = example[0]
    quiet = chip.Chip(noise=0.0, seed=1)
    drawn = np.random.default_rng(0)
    weights, voltages = drawn.uniform(-1, 1, (chip.OUTPUTS, chip.INPUTS)), drawn.standard_normal((5, chip.INPUTS))
    told = quiet.measure(weights, voltages)
    level = 2 / 15
    assert np.array_equal(quiet.measure(np.round((weights + 1) / level) * level - 1, voltages), told)
    assert not np.array_equal(quiet.measure(weights + level, voltages), told)
    np.testing.assert_allclose(quiet.measure(weights, 3 * voltages), 3 * told)
    assert np.abs(told - voltages @ weights.T).max() > 0.5  # not the chip that its maker meant
    assert (quiet.programmed, quiet.shown) == (4, 20)
    noisy = chip.Chip(noise=0.02, seed=1)
    shown = np.repeat(voltages[:1], 4000, 0)
    assert noisy.measure(weights, shown).std(0) == pytest.approx(np.full(chip.OUTPUTS, 0.02), rel=0.1)


def test_the_parts_promise_what_the_chip_keeps(example: tuple[ModuleType, ModuleType]) -> None:
    chip, run = example
    torch.manual_seed(0)
    x, y, _, _ = chip.digits(64)
    programmed = chip.Programmed(chip.Chip(noise=0.0))
    model, gradient, _ = run.opaque(programmed, x, y)
    gradient(x, y)
    found = programmed.weight.grad.clone()
    # The same by what is inside the chip, which only a test may look at: its true matrix, by autograd.
    inside = programmed.chip
    with torch.no_grad():
        voltages = model[1](model[0](x))
    weights = programmed.weight.detach().numpy()
    levels = inside._levels
    set_to = np.round((np.clip(weights, -1, 1) + 1) / 2 * levels) / levels * 2 - 1
    exact = torch.from_numpy(set_to).float().requires_grad_()
    cells, leak = (torch.from_numpy(part).float() for part in (inside._cells, inside._leak))
    currents = voltages @ leak.T @ (exact * cells).T
    torch.nn.functional.cross_entropy(model[4](model[3](currents)), y).backward()
    assert float(torch.nn.functional.cosine_similarity(found.flatten(), exact.grad.flatten(), 0)) > 0.9


@pytest.mark.parametrize(
    ("name", "steps", "least"),
    [
        ("straight through the ideal chip", 40, 0.5),
        ("zo.nn.Opaque, structure known", 12, 0.3),
        ("zo.differentiable, nothing known", 4, 0.0),
        ("zo.backward, whole network", 4, 0.0),
        ("chip and what is before it frozen", 30, 0.2),
    ],
)
def test_each_way_repeats_and_learns(
    example: tuple[ModuleType, ModuleType], name: str, steps: int, least: float
) -> None:
    chip, run = example
    data = chip.digits(300)
    rows = run.trained(name, data, steps, 0)
    again = run.trained(name, data, 2, 0)
    assert again[0]["accuracy"] == rows[0]["accuracy"]
    assert again[0]["programmed"] == rows[0]["programmed"]
    assert float(rows[-1]["accuracy"]) > least
    assert rows[-1]["programmed"] >= steps
