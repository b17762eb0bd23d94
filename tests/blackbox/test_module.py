"""The loss of a module as a black box over its parameters."""

import copy
import gc

import pytest
import torch
from torch import nn

import zograd as zo
from zograd.blackbox import ModuleLoss
from zograd.evaluate import FailurePolicy, InProcess, evaluate


def box_of(model: nn.Module, x: torch.Tensor) -> ModuleLoss:
    return ModuleLoss(model, lambda output: output.square().sum(), x, list(model.parameters()))


def three(dtype: torch.dtype = torch.float64) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2, bias=False)).to(dtype)
    return model, torch.randn(5, 3, dtype=dtype)


def loss_at(model: nn.Module, x: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    moved = copy.deepcopy(model)
    nn.utils.vector_to_parameters(point, moved.parameters())
    with torch.no_grad():
        return moved(x).square().sum()


OFFSETS = [
    lambda d: zo.Coordinates(torch.arange(d), torch.linspace(-1, 1, d).double()),
    lambda d: zo.Dense(torch.randn(7, d, dtype=torch.float64)),
    lambda d: zo.Seeded(torch.arange(7), torch.linspace(-1, 1, 7).double()),
]


@pytest.mark.parametrize("make", OFFSETS)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_structure_changes_the_price_and_not_the_value(make, elsewhere) -> None:
    model, x = three()
    before = [p.clone() for p in model.parameters()]
    box = box_of(model, x)
    center = box.center + 1 if elsewhere else box.center.detach()
    probes = zo.Probes(center, make(len(center)))
    expected = torch.stack([loss_at(model, x, point) for point in probes.points()])
    torch.testing.assert_close(box.probe(probes), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(box(probes.points()), expected, rtol=1e-12, atol=0)
    (values,) = evaluate(InProcess(), box, [probes], FailurePolicy())
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=0)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_no_rows() -> None:
    model, x = three()
    box = box_of(model, x)
    assert box(box.center.new_empty(0, len(box.center))).shape == (0,)
    assert repr(box) == "ModuleLoss(Sequential, 24 parameters)"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_coordinate_moves_by_exactly_one_entry(dtype) -> None:
    model, x = three(dtype)
    seen: list[torch.Tensor] = []
    model.register_forward_pre_hook(lambda *_: seen.append(nn.utils.parameters_to_vector(model.parameters()).clone()))
    box = box_of(model, x)
    probes = zo.CoordinateGradient().propose(box.center, torch.Generator())
    box.probe(probes)
    assert torch.equal(torch.stack(seen), probes.points())


def test_memory_does_not_grow_with_the_rows() -> None:
    model = nn.Linear(1000, 100).float()
    box = ModuleLoss(model, torch.sum, torch.ones(1, 1000), list(model.parameters()))
    peaks: list[int] = []
    held: list[int] = []
    # Torch allocates outside of Python: what is alive is counted instead, in each forward pass.
    model.register_forward_pre_hook(lambda *_: held.append(_tensor_bytes()))
    for rows in (2, 6):
        offsets = zo.Seeded(torch.arange(rows), torch.full((rows,), 1e-3))
        held.clear()
        box.probe(zo.Probes(box.center, offsets))
        peaks.append(max(held))
    assert peaks[1] <= peaks[0] + 1000


def _tensor_bytes() -> int:
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, nn.Parameter) and thing.layout == torch.strided:
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return sum(storages.values())


def test_derivatives_are_those_at_the_parameters() -> None:
    model, x = three()
    box = box_of(model, x)
    with pytest.raises(zo.ArgumentError, match="around the parameters as they are"):
        box.probe(zo.Probes(box.center + 1, zo.Dense(torch.ones(1, 24).double()), "derivative"))


def test_a_row_of_a_wave_may_fail_by_itself() -> None:
    model, x = three()
    calls: list[int] = []

    def loss_fn(output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("second")
        return output.sum()

    box = ModuleLoss(model, loss_fn, x, list(model.parameters()))
    probes = zo.Probes(box.center, zo.Dense(torch.zeros(3, 24).double()))
    (values,) = evaluate(InProcess(), box, [probes], FailurePolicy())
    assert values.isnan().tolist() == [False, True, False]
