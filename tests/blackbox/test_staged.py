"""Coordinates of a module in stages, which may be any Python: each stage runs from its kept input."""

import copy

import pytest
import torch
from torch import nn

import zograd as zo
from zograd.blackbox import ModuleLoss, StagedLoss, TracedLoss, own_stages


class Leaving(nn.Module):
    """A layer that no record can be made of: what it does depends on the values."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        y = self.inner(x)
        return y * 1.5 if float(y.mean()) > 0 else y - 0.1


def network() -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        Leaving(nn.Linear(3, 4)),
        nn.Sequential(nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Dropout(0.3)),
        Leaving(nn.Linear(4, 4)),
        nn.Flatten(),
        nn.Tanh(),
        nn.Dropout(0.2),
        Leaving(nn.Linear(4, 2)),
    )
    return model.double(), torch.randn(6, 3, dtype=torch.float64)


def loss_fn(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def gradients(model: nn.Module, x: torch.Tensor, **how: object) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The gradient by zo.backward, and the state that it leaves; the model is as before."""
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.zero_grad()
    zo.backward(model, loss_fn, x, estimator=zo.CoordinateGradient(), **how)
    after = [*copy.deepcopy(model.state_dict()).values(), torch.get_rng_state()]
    model.load_state_dict(state)
    torch.set_rng_state(random)
    return torch.cat([p.grad.flatten() for p in model.parameters()]), after


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_the_gradient_of_whole_passes_bit_for_bit(training: bool, given: bool) -> None:
    model, x = network()
    model.train(training)
    plain, state = gradients(model, x, reuse=False)
    whole = sum(child.calls for child in model if isinstance(child, Leaving))
    for child in model:
        if isinstance(child, Leaving):
            child.calls = 0
    stages = [*model[:2], model[2:4], lambda y: model[6](model[5](model[4](y)))] if given else None
    found, after = gradients(model, x, stages=stages)
    assert torch.equal(found, plain)
    assert all(torch.equal(a, b) for a, b in zip(state, after, strict=True))
    rows = [2 * sum(p.numel() for p in model[at].parameters()) for at in (0, 1, 2, 6)]
    # One pass for the loss, one kept, two compared, one that looks who owns what (not what comes after the last owner).
    calls = [model[at].calls for at in (0, 2, 6)]
    tried = 0 if given else 1  # a record was tried
    owners = [5, 5, 4]
    assert calls == [
        rows[0] + owners[0] + tried,
        rows[0] + rows[1] + rows[2] + owners[1] + 0,
        sum(rows) + owners[2],
    ]
    assert sum(calls) < whole


def test_zograd_nn_takes_them_too() -> None:
    model, x = network()
    model.eval()
    plain, _ = gradients(model, x, reuse=False)
    for how in ({"method": "reuse"}, {"method": "reuse", "stages": list(model)}):
        model.zero_grad()
        zo.nn.backward(model, loss_fn, x, **how)
        assert torch.equal(torch.cat([p.grad.flatten() for p in model.parameters()]), plain)
    plan = zo.nn.plan(model, loss_fn, x)
    assert {part.method for part in plan.parts} == {"reuse"}
    assert plan.totals["reuse"].seconds < plan.totals["plain"].seconds
    with pytest.warns(UserWarning, match=r"one by one, with a part of a forward pass .* leaves torch"):
        plan.backward()
    with pytest.raises(zo.GradientError, match="no record"):
        zo.nn.backward(model, loss_fn, x, method="contraction")


class Tied(nn.Module):
    """A weight that the first and the last stage share, one that only the loss reads, and one that nobody does."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.last = nn.Linear(3, 3), nn.Linear(3, 3)
        self.penalty, self.idle = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.ones(2))
        self.after = nn.BatchNorm1d(3)

    def first(self, x: torch.Tensor) -> torch.Tensor:
        return self.shared(x).relu_() * (1.0 + float(x.mean()))

    def second(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.after(self.last(x))
        return y, x.mul_(2.0)

    def third(self, both: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return self.shared(both[0]) + both[1] * float(self.shared.bias.sum())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.third(self.second(self.first(x)))


def test_owners_and_structures_between_stages() -> None:
    torch.manual_seed(0)
    model = Tied().double()
    x = torch.randn(5, 3, dtype=torch.float64)

    def loss_fn(output: torch.Tensor) -> torch.Tensor:
        return output.square().mean() * model.penalty.square()

    stages = [model.first, model.second, model.third]
    plain = ModuleLoss(model, loss_fn, x, list(model.parameters()))
    box = StagedLoss(plain, stages)
    names = [name for name, _ in model.named_parameters()]
    assert dict(zip(names, box.owners, strict=True)) == {
        "penalty": 3, "idle": 0, "shared.weight": 0, "shared.bias": 0, "last.weight": 1, "last.bias": 1,
        "after.weight": 1, "after.bias": 1,
    }  # fmt: skip
    assert "3 stages" in repr(box)
    assert box.nbytes > 0
    probes = zo.CoordinateGradient(step=0.25).propose(box.center, torch.Generator())
    assert torch.equal(box.probe(probes), plain.probe(probes))
    elsewhere = zo.Probes(box.center + 1, probes.offsets)
    assert torch.equal(box.probe(elsewhere), plain.probe(elsewhere))
    assert torch.equal(box((box.center + 1)[None]), plain((box.center + 1)[None]))
    assert [piece.shape for piece in box.pieces(box.center)] == [p.shape for p in model.parameters()]


def test_stages_that_are_not_the_model() -> None:
    model, x = network()
    model.eval()
    for stages, match in (
        (list(model)[:-1], r"give the output of the model.*found 'outputs of shapes \(\(6, 4\),\) and \(\(6, 2\),\)'"),
        ([*model, lambda y: y + 1e-9], "give the output of the model, one after the other, found 'other numbers'"),
    ):
        with pytest.raises(zo.ArgumentError, match=match):
            zo.backward(model, loss_fn, x, estimator=zo.CoordinateGradient(), stages=stages)
        assert all(p.grad is None for p in model.parameters())


def test_a_hidden_use_is_noticed() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).double()
    seen = memoryview(model[1].weight.detach().numpy())  # the same memory; no torch function is given the parameter

    def first(x: torch.Tensor) -> torch.Tensor:
        return model[0](x) * float(seen[0, 0])

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return model[1](first(x))

    with pytest.raises(zo.ArgumentError, match="use parameters that they can be seen to use, found 'stage 0'"):
        zo.backward(
            Whole(), loss_fn, torch.ones(3, 2).double(), estimator=zo.CoordinateGradient(), stages=[first, model[1]]
        )


def test_noise_of_the_model_s_own() -> None:
    noise = torch.Generator().manual_seed(0)

    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1e-3 * torch.randn(x.shape, generator=noise, dtype=x.dtype)

    model = nn.Sequential(nn.Linear(2, 3), Noisy(), nn.Linear(3, 1)).double()
    x = torch.ones(40, 2).double()
    parameters = list(model.parameters())
    box = StagedLoss(ModuleLoss(model, loss_fn, x, parameters), list(model))
    assert box.owners == [0, 0, 2, 2]
    with pytest.raises(zo.ArgumentError, match="give the output of the model"):
        StagedLoss(ModuleLoss(model, loss_fn, x, parameters), [*model, lambda y: y + 1])


def test_a_sequential_that_is_more_than_its_parts() -> None:
    model, x = network()
    model.eval()
    box = own_stages(ModuleLoss(model, loss_fn, x, list(model.parameters())))
    assert box is not None
    assert len(box.stages) == 9  # the Sequential within is taken apart
    model[1].register_forward_hook(lambda module, given, output: output + 1)
    box = own_stages(ModuleLoss(model, loss_fn, x, list(model.parameters())))
    assert box is not None
    assert len(box.stages) == 7
    model.register_forward_hook(lambda module, given, output: output + 1)
    assert own_stages(ModuleLoss(model, loss_fn, x, list(model.parameters()))) is None
    assert TracedLoss(ModuleLoss(model, loss_fn, x, list(model.parameters()))).tape is None

    class Other(nn.Sequential):
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return super().__call__(x) * 2

    other = Other(*network()[0]).eval()
    assert own_stages(ModuleLoss(other, loss_fn, x, list(other.parameters()))) is None


@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments() -> None:
    model, x = network()
    for stages, match in (([], "at least one stage"), ([3], "hold functions or modules")):
        with pytest.raises(zo.ArgumentError, match=match):
            zo.backward(model, loss_fn, x, estimator=zo.CoordinateGradient(), stages=stages)
    with pytest.raises(zo.ArgumentError, match="`stages` must be left out with reuse=False"):
        zo.backward(model, loss_fn, x, stages=list(model), reuse=False)
    with pytest.raises(zo.ArgumentError, match="`stages` must be given with method="):
        zo.nn.backward(model, loss_fn, x, stages=list(model), method="plain")
