"""Networks of every shape that gradients are checked on, small, in 64 bits."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


class Case(NamedTuple):
    model: nn.Module
    inputs: torch.Tensor
    loss_fn: Callable[[torch.Tensor], torch.Tensor]


class PaperCNN(nn.Module):
    """The network of the poster's first figure: convolution, BatchNorm, ReLU, pooling, ``depth`` times."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [nn.Conv2d(width if i else 3, width, 3, padding=1), nn.BatchNorm2d(width)]
            layers += [nn.ReLU(inplace=True), nn.MaxPool2d(2, 2)]
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), 1)
        return self.fc(x.view(x.size(0), -1))


class Block(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.stride, self.extra = stride, (outer - inner) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        short = x
        if self.stride > 1:
            short = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra, self.extra))
        out += short
        return F.relu(out)


def resnet(blocks: int, width: int) -> nn.Module:
    """ResNet-20 where ``blocks`` is 3 and ``width`` 16."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    inner = width
    for stage in range(3):
        for block in range(blocks):
            layers.append(Block(inner, width * 2**stage, 2 if stage and not block else 1))
            inner = width * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inner, 10))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(1, 5)
        self.up = nn.ConvTranspose2d(5, 3, 2, stride=2)
        self.out = nn.Conv2d(6, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = F.silu(self.down1(x))
        second = F.leaky_relu(self.norm(self.down2(first)))
        return self.out(torch.cat([first, self.up(second).tanh()], 1))


class Shared(nn.Module):
    """One layer used three times, and a weight tied to another's transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(4, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).tanh()
        for _ in range(3):
            x = self.again(x).sigmoid()
        return F.linear(x, self.first.weight.T)


def transformer() -> nn.Module:
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=True, activation="gelu")
    return nn.Sequential(nn.Embedding(7, 8), nn.TransformerEncoder(layer, 2), nn.Linear(8, 7))


def _squared(target: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda output: F.mse_loss(output, target)


def _class(classes: int, *shape: int) -> Callable[[torch.Tensor], torch.Tensor]:
    target = torch.randint(classes, shape)
    return lambda output: F.cross_entropy(output.flatten(0, -2), target.flatten())


def make(name: str) -> Case:
    """A network, a batch, a loss."""
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    if name == "mlp":
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
        return Case(model.double(), torch.randn(5, 4).double(), _squared(torch.randn(5, 2).double()))
    if name.startswith("cnn"):
        return Case(PaperCNN(int(name[3:]), 18).double(), images, _class(10, 4))
    if name.startswith("resnet"):
        model = resnet(3, 16).double()
        model(images)
        return Case(model.train("eval" not in name), images[:2], _class(10, 2))
    if name == "transformer":
        return Case(transformer().double(), torch.randint(7, (3, 5)), _class(7, 3, 5))
    if name == "unet":
        x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
        return Case(UNet().double(), x, _squared(torch.randn(2, 1, 8, 8).double()))
    return Case(Shared().double(), torch.randn(5, 4).double(), _squared(torch.randn(5, 4).double()))


SMALL = ["mlp", "cnn1", "cnn2", "transformer", "unet", "shared"]
ALL = [*SMALL, "cnn3", "cnn4", "cnn5", "resnet train", "resnet eval"]


def by_autograd(case: Case) -> torch.Tensor:
    """The gradient by autograd, flat, with everything left as it was."""
    random = torch.get_rng_state()
    state = copy.deepcopy(case.model.state_dict())
    found = torch.autograd.grad(case.loss_fn(case.model(case.inputs)), list(case.model.parameters()))
    case.model.load_state_dict(state)
    torch.set_rng_state(random)
    return torch.cat([g.reshape(-1).double() for g in found])


def flat_grad(model: nn.Module) -> torch.Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in model.parameters()])


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative, by norm."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())
