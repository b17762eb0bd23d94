"""ResNet-20 for CIFAR-10, which DeepZero and most of its figures are about."""

import torch.nn.functional as F
from torch import Tensor, nn

DENSE = 269_722
"""Its parameters."""


class Block(nn.Module):
    """Two convolutions and a shortcut without parameters."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        self.stride, self.extra = stride, (outer - inner) // 2

    def forward(self, x: Tensor) -> Tensor:
        """The block."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra, self.extra))
        return F.relu(out + x)


def resnet20() -> nn.Module:
    """The network of He et al. (2016) for CIFAR-10, with 269,722 parameters."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    inner = 16
    for outer in (16, 32, 64):
        for _ in range(3):
            layers.append(Block(inner, outer, 1 if inner == outer else 2))
            inner = outer
    model = nn.Sequential(*layers, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, 10))
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return model
