"""Every layer and loss that people use, against autograd: one rule or taken apart, never left out."""

import copy

import pytest
import torch
import torch.nn.functional as F
from nn_networks import Case, by_autograd, distance, flat_grad
from torch import nn

import zograd as zo
from zograd.nn import _contraction, _movement

LAYERS = [
    nn.BatchNorm2d(6), nn.BatchNorm2d(6, affine=False), nn.BatchNorm2d(6).eval(), nn.GroupNorm(3, 6),
    nn.InstanceNorm2d(6, affine=True), nn.LayerNorm([8, 8]), nn.RMSNorm(8), nn.LocalResponseNorm(2), nn.Dropout2d(0.3),
    nn.MaxPool2d(2), nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.AdaptiveAvgPool2d(3),
    nn.AdaptiveAvgPool2d(1), nn.LPPool2d(2, 2), nn.Upsample(scale_factor=2),
    nn.Upsample(scale_factor=1.5, mode="bilinear"),
    nn.Upsample(scale_factor=2, mode="bicubic"), nn.PixelShuffle(1), nn.Conv2d(6, 4, 3, 2, 1, groups=2),
    nn.Conv2d(6, 4, 3, 1, 2, dilation=2, padding_mode="reflect"), nn.Conv2d(6, 6, 3, padding="same", groups=6),
    nn.Conv2d(6, 4, 2, padding=1, padding_mode="circular"), nn.ConvTranspose2d(6, 4, 3, 2, 1, 1),
    nn.ConvTranspose2d(6, 4, 3, 1, 1, groups=2), nn.Unfold(2), nn.ChannelShuffle(2), nn.Softmax2d(),
    nn.PReLU(6), nn.GLU(1),
    nn.Hardswish(), nn.ReLU6(), nn.Threshold(0.1, 0.2), nn.AdaptiveMaxPool2d(3),
    nn.Sequential(nn.Flatten(2), nn.Conv1d(6, 2, 3)),
    nn.Sequential(nn.Flatten(2), nn.AvgPool1d(4), nn.Upsample(scale_factor=2, mode="linear")),
    nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Conv3d(2, 2, 2), nn.MaxPool3d((1, 2, 2))),
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_layers_of_images(layer: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), copy.deepcopy(layer), nn.Tanh()).double()
    check(Case(model, torch.randn(3, 3, 8, 8).double(), lambda y: y.square().mean()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("side", [8, 16, 32])
def test_a_convolution_in_sixteen_bits(dtype: torch.dtype, side: int) -> None:
    torch.manual_seed(0)
    case = Case(
        nn.Conv2d(3, 18, 3, padding=1).double(), torch.randn(4, 3, side, side).double(), lambda y: (y**3).mean()
    )
    expected = by_autograd(case)
    case.model.to(dtype)
    zo.nn.backward(case.model, lambda y: case.loss_fn(y.double()), case.inputs.to(dtype), method="contraction")
    assert float(F.cosine_similarity(flat_grad(case.model).double(), expected, 0)) > 0.999


SEQUENCES = [
    nn.GRU(6, 4, batch_first=True, num_layers=2), nn.LSTM(6, 3, batch_first=True, bidirectional=True),
    nn.RNN(6, 4, batch_first=True), nn.MultiheadAttention(6, 2, batch_first=True), nn.Bilinear(6, 6, 3),
]  # fmt: skip


@pytest.mark.parametrize("layer", SEQUENCES, ids=lambda layer: type(layer).__name__)
def test_layers_of_sequences(layer: nn.Module) -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.layer = nn.EmbeddingBag(5, 6, mode="sum"), copy.deepcopy(layer)
            self.scale = nn.Parameter(torch.ones(6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x * self.scale
            found = self.layer(x) if isinstance(self.layer, nn.RNNBase) else self.layer(*[x] * self.inputs())
            return found if isinstance(found, torch.Tensor) else found[0]

        def inputs(self) -> int:
            return 3 if isinstance(self.layer, nn.MultiheadAttention) else 2

    torch.manual_seed(0)
    model = Whole()
    del model.embed
    check(Case(model.double(), torch.randn(2, 5, 6).double(), lambda y: y.sin().sum()))


TARGET = torch.rand(12, 3, generator=torch.Generator().manual_seed(1)).double()
CLASSES = torch.randint(3, (12,), generator=torch.Generator().manual_seed(2))
WHERE = torch.arange(12) % 3
LOSSES = {
    "cross entropy, smoothed": lambda y: F.cross_entropy(y, CLASSES, label_smoothing=0.1),
    "cross entropy, weighted": lambda y: F.cross_entropy(y, CLASSES, weight=TARGET[0] + 0.1),
    "cross entropy, some ignored": lambda y: F.cross_entropy(y, CLASSES, ignore_index=1),
    "cross entropy, summed": lambda y: F.cross_entropy(y, CLASSES, reduction="sum"),
    "cross entropy, each": lambda y: F.cross_entropy(y, CLASSES, reduction="none").square().sum(),
    "cross entropy, probabilities": lambda y: F.cross_entropy(y, TARGET),
    "cross entropy, images": lambda y: F.cross_entropy(y.view(2, 3, 6), CLASSES.view(2, 6)),
    "one row": lambda y: F.nll_loss(F.log_softmax(y[0], 0), CLASSES[0]),
    "l1": lambda y: F.l1_loss(y, TARGET), "huber": lambda y: F.huber_loss(y, TARGET, delta=0.3),
    "smooth l1": lambda y: F.smooth_l1_loss(y, TARGET),
    "binary": lambda y: F.binary_cross_entropy(y.sigmoid(), TARGET),
    "binary, logits": lambda y: F.binary_cross_entropy_with_logits(y, TARGET),
    "divergence": lambda y: F.kl_div(y.log_softmax(1), TARGET, reduction="batchmean"),
    "poisson": lambda y: F.poisson_nll_loss(y, TARGET), "cosine": lambda y: F.cosine_similarity(y, TARGET).mean(),
    "distances": lambda y: torch.cdist(y, TARGET).mean(), "norm": lambda y: (y - TARGET).norm(dim=1).mean(),
    "spread": lambda y: y.std() + y.var(0).sum() + torch.var_mean(y, 1)[0].sum() + torch.std_mean(y)[0],
    "extremes": lambda y: y.max() * y.min() + y.max(1)[0].sum() + y.sort(0)[0][3].sum() + y.topk(2, 1)[0].sin().sum(),
    "kept extremes": lambda y: y.max(0, keepdim=True)[0].sum() + y.amin((0, 1)) + y.median(),
    "solved": lambda y: torch.linalg.solve(y[:3] + 4 * torch.eye(3).double(), TARGET[:3]).square().mean(),
    "indices": lambda y: y[[0, 0, 1]].square().sum() + y[y > 0].square().sum() + y[:, ::2].tril().square().sum(),
    "scattered": lambda y: torch.zeros(12, 3).double().scatter(1, WHERE[:, None], y[:, :1].exp()).square().sum(),
    "reduced by scattering": lambda y: y.exp().scatter_reduce(1, WHERE[:, None], y[:, :1], "sum").prod(1).sum(),
    "added at places": lambda y: torch.zeros(3, 3).double().index_add(0, WHERE, y, alpha=2.0).square().sum(),
    "added by scattering": lambda y: (y.exp().scatter_add(1, WHERE[:, None], y[:, :1])).square().sum(),
    "put": lambda y: y.index_put((WHERE,), y * 2, accumulate=True).square().sum()
    + y.index_put((WHERE[:3],), y[:3, :1]).prod(1).sum(),
    "split": lambda y: sum(part.sum().square() for part in y.split([5, 7])) + y.unbind(1)[1].prod(),
    "summed": lambda y: y.sum((0, 1)).square() + y.mean(-1).square().sum() + y.cumsum(0).square().mean() + y.sum(0)[1],
    "products": lambda y: torch.einsum("ij,kj,kl->il", y, TARGET, y).square().mean()
    + (y.T @ y[:, 0]).sum() + y[0] @ y[1],
    "masked": lambda y: F.scaled_dot_product_attention(y[None], y[None], y[None], is_causal=True).square().sum(),
    "powers": lambda y: (y.abs() + 0.1).pow(1.5).sum() + (2.0**y).sum()
    + torch.maximum(y, TARGET).sum() + y.clamp(-0.1, 0.1).sum(),
    "added": lambda y: torch.addmm(TARGET[:3], y[:3], y[3:6], beta=0.5, alpha=2.0).sin().sum() + (1 - y).square().sum(),
    "in 32 bits": lambda y: y.to(torch.float64).mul(TARGET).sum().reshape(1, 1).squeeze(),
    "not moved": lambda y: y.square().mean() + (y > 0).double().mean() + y.argmax(1).double().mean() + y.round().mean(),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_losses(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    check(Case(model, torch.randn(12, 4).double(), LOSSES[name]))


def test_a_rule_for_moving_notices_what_does_more(monkeypatch) -> None:
    monkeypatch.setitem(_contraction.RULES, "cumsum", _movement.moved)
    test_losses("summed")


def check(case: Case) -> None:
    expected = by_autograd(case)
    zo.nn.backward(case.model, case.loss_fn, case.inputs, method="contraction")
    assert distance(flat_grad(case.model), expected) < 1e-7
