"""Which coordinates of a network are differentiated: drawn anew each epoch or each step."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from zograd._checks import require
from zograd.nn._scores import share, weights_of


@final
@dataclass(frozen=True, eq=False)
class Active:
    """The coordinates that are differentiated now.

    Args:
        index: int64 of shape (k,): coordinates of the flat vector of the parameters that require a gradient.
        weights: What their gradients are multiplied by, shape (k,), or None for 1.
    """

    index: Tensor
    weights: Tensor | None = None


class Masks(ABC):
    """Draws the coordinates that are differentiated.

    Args:
        model: The network. Its parameters of fewer than two dimensions (biases, normalisations) are always active.
    """

    every: Literal["epoch", "step"] = "epoch"

    def __init__(self, model: nn.Module) -> None:
        weights = weights_of(model)
        self.sizes: dict[str, int] = {}
        starts, at = {}, 0
        for name, p in model.named_parameters():
            if p.requires_grad:
                starts[name] = at
                at += p.numel()
                self.sizes[name] = p.numel()
        self.total = at
        self.slices = {name: slice(starts[name], starts[name] + weights[name].numel()) for name in weights}

    @abstractmethod
    def draw(self, generator: torch.Generator) -> Active:
        """The next set of coordinates, drawn from ``generator`` (on the CPU)."""

    @abstractmethod
    def observe(self, gradient: Tensor, active: Active) -> None:
        """Learn from a gradient, the flat vector of shape (d,), of which the active coordinates are known."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What has been learnt, as tensors."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""


@final
class RandomMasks(Masks):
    r"""As many weights of each layer as its share says, drawn at random every epoch (DeepZero).

    Every weight has its turn: a dynamic pattern trains all weights with the gradients of a few. **Cost**: the kept
    share of the coordinates where a gradient is paid by the coordinate (``method="reuse"``, ``"plain"``); contraction
    costs the same with masks as without, so that masks gain nothing there. **Bias**: the step follows the gradient's
    projection on the active coordinates, not an unbiased estimate of it.

    Args:
        model: The network.
        ratios: For a parameter's name the share that is active, as `layer_ratios` gives them, or one share for all
            weights. Parameters without a name here are active wholly.

    Raises:
        ArgumentError: When a name is not that of a weight, or a share is not from 0 to 1.

    Example:
        >>> import torch, zograd as zo
        >>> masks = zo.nn.RandomMasks(torch.nn.Linear(4, 2), 0.25)
        >>> masks.draw(torch.Generator().manual_seed(0)).index
        tensor([0, 4, 8, 9])

    References:
        Chen et al., DeepZero, ICLR 2024, algorithm 1.
    """

    def __init__(self, model: nn.Module, ratios: Mapping[str, float] | float) -> None:
        super().__init__(model)
        hint = "Take zo.nn.layer_ratios(zo.nn.grasp_scores(...), keep=0.1), or one number."
        if isinstance(ratios, Mapping):
            unknown = sorted(set(ratios) - set(self.slices))
            require(not unknown, "ratios", "name weights of the model", unknown, hint)
            bad = {name: ratio for name, ratio in ratios.items() if not 0 <= ratio <= 1}
            require(not bad, "ratios", "be shares from 0 to 1", bad, hint)
            self.ratios = {name: float(ratio) for name, ratio in ratios.items()}
        else:
            self.ratios = dict.fromkeys(self.slices, share("ratios", ratios))

    def draw(self, generator: torch.Generator) -> Active:
        """A set with the right count in each layer."""
        mask = torch.ones(self.total, dtype=torch.bool)
        for name, ratio in self.ratios.items():
            size = self.sizes[name]
            piece = torch.zeros(size, dtype=torch.bool)
            piece[torch.randperm(size, generator=generator)[: round(ratio * size)]] = True
            mask[self.slices[name]] = piece
        return Active(mask.nonzero().squeeze(1))

    def observe(self, gradient: Tensor, active: Active) -> None:
        """Nothing is learnt."""

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take."""


@final
class ImportanceMasks(Masks):
    r"""Weights drawn by what their gradients were when last seen, each step; an unbiased gradient.

    .. math:: p_i = \min(1, c\,(\hat m_i + \lambda \bar m)), \quad \sum_i p_i = \kappa d, \qquad
       \hat g_i = \frac{g_i}{p_i}\,[i \text{ active}]

    with m the last magnitude seen of each, averaged with those before. **Bias**: none. **Variance**:
    :math:`\sum_i g_i^2 (1 / p_i - 1)`, least where p follows the true magnitudes; ``floor`` bounds what a wrong guess
    can cost. **Cost**: on average ``keep`` of the weights; the number of active ones varies from step to step.

    Args:
        model: The network.
        keep: The share of the weights that is active, on average.
        floor: :math:`\lambda`: how much of the mean is mixed into each magnitude.
        memory: The share of the old magnitude in the new one.

    Example:
        >>> import torch, zograd as zo
        >>> masks = zo.nn.ImportanceMasks(torch.nn.Linear(4, 2, bias=False), keep=0.5)
        >>> generator, everything = torch.Generator().manual_seed(0), zo.nn.Active(torch.arange(8))
        >>> masks.observe(torch.tensor([9.0, 0, 0, 0, 0, 0, 0, 9.0]), everything)
        >>> 0 in masks.draw(generator).index
        True

    References:
        - Zhao and Zhang, Stochastic optimization with importance sampling, ICML 2015.
        - Needell, Srebro and Ward, Stochastic gradient descent, weighted sampling, and the randomized Kaczmarz
          algorithm, Math. Program. 2016 (mixing with uniform).
    """

    every: Literal["epoch", "step"] = "step"

    def __init__(self, model: nn.Module, keep: float, *, floor: float = 0.2, memory: float = 0.5) -> None:
        super().__init__(model)
        self.keep = share("keep", keep)
        self.floor = share("floor", floor)
        require(0 <= memory < 1, "memory", "be at least 0 and below 1", memory)
        self.memory = float(memory)
        self.index = torch.cat([torch.arange(s.start, s.stop) for s in self.slices.values()])
        self._magnitudes = torch.zeros(self.total, dtype=torch.float64)

    def probabilities(self) -> Tensor:
        """Each weight's, in the order of ``index``; they add up to ``keep`` times their number."""
        m = self._magnitudes[self.index]
        mean = float(m.mean())
        m = m + self.floor * mean if mean > 0 else torch.ones_like(m)
        wanted = self.keep * len(m)
        p = torch.zeros_like(m)
        certain = torch.zeros_like(m, dtype=torch.bool)
        # Those that reach 1 leave the others a smaller budget; at most as many rounds as weights, two or three usually.
        while not certain.all():
            p = torch.where(certain, 1.0, m * ((wanted - int(certain.sum())) / float(m[~certain].sum())))
            if bool((p <= 1).all()):
                break
            certain |= p > 1
        return p.clamp(0, 1)

    def draw(self, generator: torch.Generator) -> Active:
        """Each weight by itself, with its probability."""
        p = self.probabilities()
        taken = torch.rand(len(p), generator=generator, dtype=torch.float64) < p
        weights = torch.ones(self.total, dtype=torch.float64)
        mask = torch.ones(self.total, dtype=torch.bool)
        mask[self.index] = taken
        weights[self.index] = 1 / p
        index = mask.nonzero().squeeze(1)
        return Active(index, weights[index])

    def observe(self, gradient: Tensor, active: Active) -> None:
        """Remember the magnitudes of the active coordinates."""
        seen = gradient.detach().cpu().double()[active.index].abs()
        old = self._magnitudes[active.index]
        new = torch.where(old > 0, self.memory * old + (1 - self.memory) * seen, seen)
        self._magnitudes[active.index] = new

    def state_dict(self) -> dict[str, Any]:
        """The magnitudes."""
        return {"magnitudes": self._magnitudes.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self._magnitudes = state["magnitudes"].clone()
