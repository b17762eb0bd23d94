"""Descent along directions that are kept as seeds: training in the memory of inference."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, final

import torch

from zograd._checks import count, instance, one_of, positive, require
from zograd._errors import EvaluationError
from zograd._probes import Dense, Probes
from zograd.estimators import RandomGradient
from zograd.nn._moved import Directions, Moved

SIXTEEN_BITS = (torch.bfloat16, torch.float16)


@final
class SeededDescent(torch.optim.Optimizer):
    r"""Stochastic descent along random directions that exist only as seeds (MeZO; RGE and SGD in one).

    .. math:: w \leftarrow w - \frac{\eta}{q} \sum_{k=1}^{q}
       \frac{f(w + h u_k) - f(w - h u_k)}{2h}\, u_k, \qquad u_k \text{ regenerated from its seed}

    A ``torch.optim.Optimizer`` whose ``step`` takes the loss as a closure, so that learning-rate schedulers work. There
    is no gradient to keep: a parameter is read as moved while an operation uses it, and moved in place, block by block,
    at the end. The parameters are never disturbed by a probe, which makes it exact in 16 bits too; the steps are
    rounded at random there, so that one below the last bit is taken at times instead of never.

    **Cost**: ``2 samples`` forward passes a step and ``2 samples + samples`` drawings of every direction.
    **Memory**: the parameters, the activations of one forward pass without a graph, one parameter's copy, and a few
    MiB; no gradient, no optimiser state. **Bias, variance**: those of `zograd.RandomGradient`: the variance is about
    ``(d + 1) / samples`` times the squared length of the gradient. **When**: the network fills the memory that there
    is, and starts near where it should be (fine-tuning); from scratch use `zograd.nn.backward`.

    Every probe of a step starts from the same random numbers (one mask for all), and the step leaves torch's random
    state as one forward pass does. Buffers such as running statistics are updated by every probe: put BatchNorm in
    ``eval()`` mode.

    Args:
        params: The parameters, as for any torch optimiser; float32, float64, bfloat16 or float16.
        lr: The learning rate :math:`\eta`. Of the order of 1/d of what suits the true gradient.
        samples: Directions a step, q.
        step: The distance h of a probe, in units of the parameters, per unit of direction.
        directions: ``"gaussian"`` or ``"rademacher"``.
        weight_decay: Shrinks the parameters by ``lr * weight_decay`` a step.
        seed: Of the directions.

    Raises:
        ArgumentError: When an argument is out of its range.

    Example:
        >>> import torch, zograd as zo
        >>> model, x = torch.nn.Linear(3, 1), torch.eye(3)
        >>> optimizer = zo.nn.SeededDescent(model.parameters(), lr=0.05, seed=1)
        >>> for _ in range(200):
        ...     loss = optimizer.step(lambda: (model(x) - 1).square().mean())
        >>> loss < 1e-2
        True

    References:
        Malladi et al., Fine-tuning language models with just forward passes, NeurIPS 2023, algorithm 1 (which moves
        the parameters in place and back, and so lets rounding errors gather).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-6,
        *,
        samples: int = 1,
        step: float = 1e-3,
        directions: Literal["gaussian", "rademacher"] = "gaussian",
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        positive("lr", lr, "It is the learning rate; try 1e-6 for fine-tuning.")
        one_of("directions", directions, ("gaussian", "rademacher"))
        require(weight_decay >= 0, "weight_decay", "be zero or more", weight_decay)
        self._estimator = RandomGradient(count("samples", samples), step=step)
        super().__init__(params, {"lr": float(lr), "weight_decay": float(weight_decay)})
        flat = [(p, group) for group in self.param_groups for p in group["params"]]
        for p, _ in flat:
            good = p.dtype in (torch.float32, torch.float64, *SIXTEEN_BITS) and p.is_contiguous()
            require(good, "params", "be contiguous floating tensors", p, "Use zo.backward for others.")
        self._directions = Directions([p for p, _ in flat], directions)
        self._groups = [group for _, group in flat]
        self._generator = torch.Generator().manual_seed(instance("seed", seed, int, "a whole number"))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> float:  # type: ignore[override]
        """One step.

        Args:
            closure: Computes the loss, one number, of the batch at hand; it is called ``2 samples`` times.

        Returns:
            The mean of the losses at the probes: the loss at the parameters, and a little curvature.

        Raises:
            ArgumentError: When the closure cannot be called.
            EvaluationError: When every pair lost a half to NaN or infinity; the parameters are as before.
        """
        hint = "Pass a function: step(lambda: loss_fn(model(x)))."
        require(callable(closure), "closure", "compute the loss", closure, hint)
        q, h = self._estimator.samples, self._estimator.step
        seeds = torch.randint(2**62, (q,), generator=self._generator).repeat(2).tolist()
        scales = [h] * q + [-h] * q
        drawn = _RandomState(p.device for p in self._directions.parameters)
        values = []
        for seed, scale in zip(seeds, scales, strict=True):
            drawn.restore()
            with Moved(self._directions, seed, scale):
                values.append(float(closure()))
        losses = torch.tensor(values, dtype=torch.float64)
        finite = losses.isfinite()
        if not (finite[:q] & finite[q:]).any():
            raise EvaluationError(
                f"no pair of probes gave two finite losses, found {values}. Look for a diverged step or a bad batch; "
                "a smaller step or learning rate helps.",
                status="invalid",
            )
        # The estimator's weights of the rows, told from rows that are the axes of a space of their own.
        rows = Probes(torch.zeros(2 * q, dtype=torch.float64), Dense(torch.eye(2 * q, dtype=torch.float64)))
        weights = self._estimator.gradient(rows, losses).gradient.tolist()
        self._move(seeds, [weight * scale for weight, scale in zip(weights, scales, strict=True)])
        return float(losses[finite].mean())

    def _move(self, seeds: list[int], amounts: list[float]) -> None:
        """Take the step along each direction, in place."""
        total: dict[int, float] = {}
        for seed, amount in zip(seeds, amounts, strict=True):
            total[seed] = total.get(seed, 0.0) + amount
        for which, (p, group) in enumerate(zip(self._directions.parameters, self._groups, strict=True)):
            if group["weight_decay"]:
                p.data.mul_(1.0 - group["lr"] * group["weight_decay"])
            for seed, amount in total.items():
                if amount == 0.0 or math.isnan(amount):
                    continue
                if p.dtype in SIXTEEN_BITS:
                    self._directions.add_rounded(seed, -group["lr"] * amount, which, p.data, self._generator)
                else:
                    self._directions.add(seed, -group["lr"] * amount, which, p.data)

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state and that of its random numbers."""
        return {**super().state_dict(), "generator": self._generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave: the next step is the same, bit for bit."""
        self._generator.set_state(state_dict["generator"])
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "generator"})
        self._groups = [group for group in self.param_groups for _ in group["params"]]


@final
class _RandomState:
    """Torch's random numbers, on the CPU and on the parameters' devices."""

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = {device: torch.cuda.get_rng_state(device) for device in set(devices) if device.type == "cuda"}

    def restore(self) -> None:
        """Draw the same numbers again."""
        torch.set_rng_state(self._cpu)
        for device, state in self._cuda.items():
            torch.cuda.set_rng_state(state, device)
