"""Step rules that know the noise: `torch.optim.Optimizer` classes that also see the estimate."""

from zograd.optim._annealed_adam import AnnealedAdam
from zograd.optim._block_newton import BlockNewton
from zograd.optim._quasi_newton import QuasiNewton
from zograd.optim._step_rule import StepRule
from zograd.optim._surrogate_adam import SurrogateAdam
from zograd.optim._trust_region import TrustRegion

__all__ = ["AnnealedAdam", "BlockNewton", "QuasiNewton", "StepRule", "SurrogateAdam", "TrustRegion"]
