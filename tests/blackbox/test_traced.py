"""Coordinates of a module, with every feature reused that they do not reach."""

import copy
import gc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zograd as zo
from zograd.blackbox import ModuleLoss, TracedLoss


def network(dtype: torch.dtype = torch.float64) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.AvgPool2d(2), nn.Dropout(0.2),
        nn.Conv2d(3, 4, 3, stride=2, bias=False), nn.GroupNorm(2, 4), nn.GELU(), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    return model.to(dtype), torch.randn(4, 2, 6, 6, dtype=dtype)


def loss_fn(output: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output.float() if output.dtype == torch.bfloat16 else output, torch.arange(4) % 3)


def boxes(relative: bool, dtype: torch.dtype = torch.float64) -> tuple[ModuleLoss, TracedLoss]:
    model, x = network(dtype)
    plain = ModuleLoss(model, loss_fn, x, list(model.parameters()))
    return plain, TracedLoss(plain, relative)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_values_are_the_module_s(relative, training) -> None:
    model, x = network()
    model.train(training)
    plain = ModuleLoss(model, loss_fn, x, list(model.parameters()))
    before = [tensor.clone() for tensor in model.state_dict().values()]
    box = TracedLoss(plain, relative)
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    order = torch.randperm(2 * len(plain.center))
    index = torch.arange(len(plain.center)).repeat(2)[order]
    step = torch.tensor([1e-3, -0.3]).double().repeat_interleave(len(plain.center))[order]
    probes = zo.Probes(plain.center, zo.Coordinates(index, step))
    expected = plain.probe(probes)
    base = plain.probe(zo.Probes(plain.center, zo.Coordinates(index[:1], torch.zeros(1).double())))
    torch.testing.assert_close(box.probe(probes), expected - base * relative, rtol=1e-11, atol=1e-14)
    assert box.rows_per_call is None
    assert "operations" in repr(box)


class Twice(nn.Module):
    """One convolution used twice, its BatchNorm too, pooling, a shortcut that meets it, a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3, padding=1)
        self.shared, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.pool, self.last = nn.MaxPool2d(2), nn.Conv2d(3, 2, 2, groups=1)
        self.up = nn.ConvTranspose2d(2, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x)).relu()
        y = self.norm(self.shared(x)).sigmoid()
        y = self.shared(y) * 2 + y - x
        y = self.last(F.adaptive_avg_pool2d(self.pool(F.avg_pool2d(y, 1)).mul(0.5), 3))
        return self.up(y.clone()).flatten(1)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_following_one_channel(training, dtype, monkeypatch) -> None:
    monkeypatch.setattr("zograd.blackbox._traced.NARROW_ELEMENTS", 0)
    torch.manual_seed(0)
    model = Twice().to(dtype).train(training)
    wide = copy.deepcopy(model).double()
    x = torch.randn(3, 2, 6, 6).to(dtype)

    def loss_fn(output: torch.Tensor) -> torch.Tensor:
        return output.double().square().mean()

    expected = torch.autograd.grad(loss_fn(wide(x.double())), list(wide.parameters()))
    expected = torch.cat([g.flatten() for g in expected])
    box = TracedLoss(ModuleLoss(model, loss_fn, x, list(model.parameters())), relative=True)
    estimator = zo.CoordinateGradient(step=1e-5 if dtype == torch.float64 else 1e-3)
    probes = estimator.propose(box.center, torch.Generator())
    found = estimator.gradient(probes, box.probe(probes)).gradient.double()
    if dtype == torch.float64:
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    else:
        assert float(F.cosine_similarity(found, expected, 0)) > 0.98


def test_other_probes_and_other_centres_are_plain() -> None:
    plain, box = boxes(True)
    generator = torch.Generator().manual_seed(0)
    for probes in (
        zo.RandomGradient(2).propose(plain.center, generator),
        zo.Probes(plain.center + 1, zo.Coordinates(torch.tensor([0, 5]), torch.ones(2).double())),
    ):
        assert torch.equal(box.probe(probes), plain.probe(probes))
    assert torch.equal(box((plain.center + 1)[None]), plain((plain.center + 1)[None]))
    assert [piece.shape for piece in box.pieces(plain.center)] == [p.shape for p in plain.parameters]


def test_differences_survive_sixteen_bits() -> None:
    model, x = network(torch.bfloat16)
    model[4].p = 0.0
    wide = copy.deepcopy(model).double()
    expected = torch.autograd.grad(loss_fn(wide(x.double())), list(wide.parameters()))
    expected = torch.cat([g.flatten() for g in expected])
    cosine = {}
    for relative in (False, True):
        box = TracedLoss(ModuleLoss(model, loss_fn, x, list(model.parameters())), relative)
        assert box.center.dtype == torch.float32
        estimator = zo.CoordinateGradient(step=1e-3)
        probes = estimator.propose(box.center, torch.Generator())
        found = estimator.gradient(probes, box.probe(probes)).gradient
        cosine[relative] = float(F.cosine_similarity(found.double(), expected, 0))
    assert cosine[True] > 0.99
    assert cosine[False] < 0.7


def test_differences_allow_shorter_steps() -> None:
    model, x = network(torch.float32)
    model[4].p = 0.0
    wide = copy.deepcopy(model).double()
    expected = torch.autograd.grad(loss_fn(wide(x.double())), list(wide.parameters()))
    expected = torch.cat([g.flatten() for g in expected])
    error = {}
    for relative in (False, True):
        box = TracedLoss(ModuleLoss(model, loss_fn, x, list(model.parameters())), relative)
        estimator = zo.CoordinateGradient(step=1e-5)
        probes = estimator.propose(box.center, torch.Generator())
        found = estimator.gradient(probes, box.probe(probes)).gradient.double()
        error[relative] = float((found - expected).norm() / expected.norm())
    assert error[True] < 1e-3 < 1e-2 < error[False]


def test_a_penalty_stays_a_penalty() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)

    def root(output: torch.Tensor) -> torch.Tensor:
        return (output - 0.9).sqrt().sum()

    found = {}
    for reuse in (False, True):
        model.zero_grad()
        estimator = zo.CoordinateGradient(step=0.2)
        zo.backward(model, root, torch.ones(1, 1), estimator=estimator, on_failure=zo.value(7.0), reuse=reuse)
        found[reuse] = model.weight.grad.clone()
    torch.testing.assert_close(found[True], found[False], rtol=1e-4, atol=0)
    assert float(found[True]) < -10


def test_what_cannot_be_recorded_is_plain_and_says_so() -> None:
    model = nn.Linear(2, 1).double()
    x = torch.ones(3, 2).double()
    for loss, reason in (
        (lambda output: float(output.sum()) * output.mean(), "leaves torch"),
        (lambda output: output.sum() + hidden(model), "do not give the module's loss"),
        (lambda output: [][0], "raised IndexError"),
    ):
        box = TracedLoss(ModuleLoss(model, loss, x, list(model.parameters())))
        assert box.tape is None
        assert reason in box.reason
        assert box.rows_per_call == 1
        assert "plain" in repr(box)


def hidden(model: nn.Linear) -> torch.Tensor:
    """A dependence that no operation shows: memory read behind torch's back."""
    import ctypes

    address = torch._C._TensorBase.data_ptr.__get__(model.weight)
    with torch._C.DisableTorchFunction():
        place = address()
    return 100 * torch.tensor(ctypes.c_double.from_address(place).value).double()


def test_a_record_is_checked_once_for_each_sequence_of_operations() -> None:
    model = nn.Linear(2, 1).double()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    x = torch.ones(3, 2).double()
    for count in (3, 1, 1):
        calls.clear()
        TracedLoss(ModuleLoss(model, torch.sum, x, list(model.parameters())))
        assert len(calls) <= count


def test_memory_is_given_back() -> None:
    model = nn.Sequential(*(nn.Linear(200, 200) for _ in range(4)))
    x = torch.ones(500, 200)
    box = TracedLoss(ModuleLoss(model, torch.sum, x, list(model.parameters())))
    kept = box.tape.bytes()
    del box
    gc.collect()
    assert kept > 4 * 500 * 200 * 4


def test_noise_of_the_module_s_own_is_no_reason_against_a_record() -> None:
    noise = np.random.default_rng(0)

    def sensor(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.numpy() + 1e-2 * noise.standard_normal(x.shape))

    model = nn.Sequential(nn.Linear(2, 3), zo.nn.Opaque(sensor), nn.Linear(3, 1)).double()
    x = torch.randn(20, 2, dtype=torch.float64)
    parameters = list(model.parameters())
    box = TracedLoss(ModuleLoss(model, lambda output: output.square().mean(), x, parameters))
    assert box.tape is not None

    def also_hidden(output: torch.Tensor) -> torch.Tensor:
        return output.square().mean() + hidden(model[2])

    assert TracedLoss(ModuleLoss(model, also_hidden, x, parameters)).tape is None
