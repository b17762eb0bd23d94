"""A suite that cannot fail proves nothing: each fault that this field has shipped must be caught, by name."""

import random
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

import zograd as zo
from zograd._probes import Offsets
from zograd.testing import assert_conforms

# Thousands of gradients a case: shapes are checked in tests/estimators.
pytestmark = pytest.mark.usefixtures("unchecked")


@dataclass
class Honest(zo.GradientEstimator):
    """Central differences along Gaussian directions, written plainly; each fault below changes one thing."""

    step: float = 1e-3
    samples: int = 8

    def directions(self, center, generator):
        return torch.randn(self.samples, len(center), dtype=center.dtype, generator=generator)

    def propose(self, center, generator):
        offsets = self.step * self.directions(center, generator)
        return zo.Probes(center, zo.Dense(torch.cat([offsets, -offsets])))

    def contributions(self, probes, ahead, behind):
        u = probes.offsets.dense(probes.center)[: self.samples] / self.step
        return ((ahead - behind).to(u) / (2 * self.step))[:, None] * u

    def mean(self, contributions):
        kept = contributions[contributions.isfinite().all(1)]
        if not len(kept):
            raise zo.GradientError("no survivor")
        return kept.mean(0)

    def gradient(self, probes, values):
        return zo.Estimate(self.mean(self.contributions(probes, *values.chunk(2))))

    def evaluations(self, dimension):
        return 2 * self.samples


class OffByTheStep(Honest):
    def mean(self, contributions):
        return super().mean(contributions) * self.step


class OffByTheStepSquared(Honest):
    def mean(self, contributions):
        return super().mean(contributions) * self.step**2


class OffByTheDimension(Honest):
    def mean(self, contributions):
        return super().mean(contributions) / contributions.shape[1]


class SumForMean(Honest):
    def mean(self, contributions):
        return super().mean(contributions) * self.samples


class HalfOfThePairFlipped(Honest):
    def contributions(self, probes, ahead, behind):
        return super().contributions(probes, ahead, -behind)


class LostRowsCountAsZero(Honest):
    def mean(self, contributions):
        super().mean(contributions)
        return contributions.nan_to_num().mean(0)


class LostValuesCountAsZero(Honest):
    def contributions(self, probes, ahead, behind):
        if ahead.isnan().all():
            raise zo.GradientError("no survivor")
        return super().contributions(probes, ahead.nan_to_num(), behind.nan_to_num())


class LostRowsSpread(Honest):
    def mean(self, contributions):
        super().mean(contributions)
        return contributions.mean(0)


class NeverFinite(Honest):
    def mean(self, contributions):
        return super().mean(contributions).index_fill(0, torch.tensor([0]), torch.nan)


class AllLostIsZero(Honest):
    def mean(self, contributions):
        kept = contributions[contributions.isfinite().all(1)]
        return kept.sum(0) / max(1, len(kept))


class PairsOffByOne(Honest):
    def contributions(self, probes, ahead, behind):
        return super().contributions(probes, ahead, behind.roll(1))


class UnitDirections(Honest):
    def directions(self, center, generator):
        u = super().directions(center, generator)
        return u / u.norm(dim=1, keepdim=True)


class NoBaseline(Honest):
    """Forward differences that forget to subtract the centre: right in the mean, useless."""

    def contributions(self, probes, ahead, behind):
        return 2 * super().contributions(probes, ahead, torch.zeros_like(behind))


class DividedByTheLevel(Honest):
    def contributions(self, probes, ahead, behind):
        level = (ahead.nanmean() + behind.nanmean()) / 2
        return super().contributions(probes, ahead / level, behind / level)


class Rounded(Honest):
    """Right to three decimals, and so not in proportion to the function."""

    def mean(self, contributions):
        return super().mean(contributions).mul(1e3).round() / 1e3


class Saturated(Honest):
    """Half as steep where the level is high."""

    def contributions(self, probes, ahead, behind):
        return super().contributions(probes, ahead, behind) * (0.5 if float(ahead.nanmean()) > 8 else 1.0)


class GlobalGenerator(Honest):
    def directions(self, center, generator):
        return torch.randn(self.samples, len(center), dtype=center.dtype)


class GlobalNumpy(Honest):
    def directions(self, center, generator):
        draw = np.random.standard_normal((self.samples, len(center)))  # noqa: NPY002
        return torch.from_numpy(draw).to(center)


class GlobalPython(Honest):
    def directions(self, center, generator):
        random.random()
        return super().directions(center, generator)


class OwnGenerator(Honest):
    """Draws from a generator of its own, so that no seed brings the probes back."""

    def directions(self, center, generator):
        own = torch.Generator()
        own.seed()
        return super().directions(center, own)


class SameDirectionsAlways(Honest):
    def directions(self, center, generator):
        return super().directions(center, torch.Generator().manual_seed(0))


class WritesIntoTheCentre(Honest):
    def propose(self, center, generator):
        probes = super().propose(center, generator)
        center += self.step
        return probes


class WritesIntoTheValues(Honest):
    def gradient(self, probes, values):
        return super().gradient(probes, values.sub_(values.nanmean()))


class AlwaysFloat32(Honest):
    def gradient(self, probes, values):
        return zo.Estimate(super().gradient(probes, values).gradient.float())


class AlwaysFloat64(Honest):
    def propose(self, center, generator):
        return super().propose(center.double(), generator)


class ShortGradient(Honest):
    def gradient(self, probes, values):
        return zo.Estimate(super().gradient(probes, values).gradient[:-1])


class PriceOfDirections(Honest):
    def evaluations(self, dimension):
        return self.samples


class EntriesRenamed(Honest):
    def mean(self, contributions):
        return super().mean(contributions).roll(1)


class OneCoordinateForgotten(Honest):
    def directions(self, center, generator):
        u = super().directions(center, generator)
        u[:, 0] = 0
        return u


@dataclass
class FavouredCoordinate(Honest):
    """A longer step in the first coordinate: right on linear functions, wrong by the curvature along that one."""

    samples: int = 6

    def directions(self, center, generator):
        axes = torch.eye(self.samples, dtype=center.dtype)
        axes[0] *= 1 / self.step
        return axes

    def contributions(self, probes, ahead, behind):
        u = self.directions(probes.center, None)
        return super().contributions(probes, ahead, behind) / u.norm(dim=1, keepdim=True) ** 2

    def mean(self, contributions):
        super().mean(contributions)
        return contributions.nan_to_num().sum(0)


class AllAtTheCentre(Honest):
    def directions(self, center, generator):
        return torch.zeros_like(super().directions(center, generator))


@dataclass(frozen=True)
class Unrepeatable(Offsets):
    """Rows that depend on the piece in which they are asked for."""

    rows: torch.Tensor

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, rows):
        return replace(self, rows=self.rows[rows].flip(1))

    def dense(self, center):
        return self.rows

    def weighted_sum(self, weights, center):
        return weights @ self.rows

    def squared_norms(self, center):
        return self.rows.square().sum(1)

    @property
    def nbytes(self):
        return self.rows.nbytes


class PiecesDiffer(Honest):
    def propose(self, center, generator):
        probes = super().propose(center, generator)
        return replace(probes, offsets=Unrepeatable(probes.offsets.rows))


@dataclass
class ForgetsWhatItLearned(Honest):
    """Its step shrinks with every gradient, and its state does not say so."""

    calls: int = field(default=0)

    def propose(self, center, generator):
        return Honest(self.step / (1 + self.calls), self.samples).propose(center, generator)

    def gradient(self, probes, values):
        self.calls += 1
        return Honest(self.step / self.calls, self.samples).gradient(probes, values)


class Remembers(ForgetsWhatItLearned):
    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


# The property that must catch each fault: if another one does, the message misleads.
FAULTS = [
    (OffByTheStep, "`right size`"),
    (OffByTheStepSquared, "`right size`"),
    (OffByTheDimension, "`right size`"),
    (SumForMean, "`right size`"),
    (HalfOfThePairFlipped, "`right size`"),
    (LostRowsCountAsZero, "`lost rows`"),
    (LostValuesCountAsZero, "`lost rows`"),
    (LostRowsSpread, "`lost rows`"),
    (NeverFinite, "`right size`.*not finite"),
    (AllLostIsZero, "`lost rows`"),
    (PairsOffByOne, "`right size`"),
    (UnitDirections, "`right size`"),
    (NoBaseline, "`right size`"),
    (DividedByTheLevel, "`right size`"),
    (Rounded, "`doubling`"),
    (Saturated, "`shift`"),
    (GlobalGenerator, "`purity`.*torch"),
    (GlobalNumpy, "`purity`.*NumPy"),
    (GlobalPython, "`purity`.*Python"),
    (OwnGenerator, "`purity`.*same seed"),
    (SameDirectionsAlways, "`right size`"),
    (WritesIntoTheCentre, "`purity`.*centre"),
    (WritesIntoTheValues, "`purity`.*values"),
    (AlwaysFloat32, "`dtype`"),
    (AlwaysFloat64, "`dtype`"),
    (ShortGradient, "`dtype`.*shape"),
    (PriceOfDirections, "`price`"),
    (EntriesRenamed, "`right size`"),
    (OneCoordinateForgotten, "`right size`"),
    (FavouredCoordinate, "`permutation`"),
    (AllAtTheCentre, "`right size`"),
    (PiecesDiffer, "`purity`.*rows at a time"),
    (ForgetsWhatItLearned, "`state`"),
]


@pytest.mark.parametrize(("fault", "name"), FAULTS, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_a_planted_fault_is_caught(fault, name):
    with pytest.raises(AssertionError, match=f"{fault.__name__}.* fails {name}"):
        assert_conforms(fault(), order=2)


@pytest.mark.parametrize("honest", [Honest, Remembers])
def test_the_plain_estimator_without_a_fault_conforms(honest):
    assert_conforms(honest(), order=2)


def test_an_order_that_is_not_reached_is_caught():
    with pytest.raises(AssertionError, match="order of bias"):
        assert_conforms(zo.CoordinateGradient(step=1e-3, central=False), order=2)


def test_a_bias_that_does_not_fall_with_the_step_is_caught():
    with pytest.raises(AssertionError, match="halving the step"):
        assert_conforms(zo.RandomGradient(), order=2, rescale=lambda estimator, factor: estimator)


def test_a_fault_without_a_step_is_caught():
    @dataclass
    class Half(zo.GradientEstimator):
        def propose(self, center, generator):
            return zo.ForwardGradient(8).propose(center, generator)

        def gradient(self, probes, values):
            return zo.Estimate(zo.ForwardGradient(8).gradient(probes, values).gradient / 2)

        def evaluations(self, dimension):
            return 8

    with pytest.raises(AssertionError, match="right size"):
        assert_conforms(Half())


def test_coordinates_outside_active_must_stay_zero():
    with pytest.raises(AssertionError, match="right size"):
        assert_conforms(zo.CoordinateGradient(), active=[0, 1])


def test_a_score_function_without_a_baseline_may_vary_with_the_level():
    @dataclass
    class Score(zo.GradientEstimator):
        spread: float = 1.0
        samples: int = 512

        def propose(self, center, generator):
            offsets = torch.randn(self.samples, len(center), dtype=center.dtype, generator=generator)
            return zo.Probes(center, zo.Dense(self.spread * offsets))

        def gradient(self, probes, values):
            kept = values.isfinite()
            if not kept.any():
                raise zo.GradientError("no survivor")
            return zo.Estimate(probes.weighted_sum(values.nan_to_num() / self.spread**2 / kept.sum()))

        def evaluations(self, dimension):
            return self.samples

    assert_conforms(Score(), order=2, dimension=2)


@dataclass
class Learner(Honest):
    """The mean of the gradients so far: the plainest surrogate. Each fault below changes one thing."""

    memory: list[torch.Tensor] = field(default_factory=list)

    def learned(self, new):
        self.memory.append(new)
        return torch.stack(self.memory[-8:]).mean(0)

    def gradient(self, probes, values):
        return zo.Estimate(self.learned(super().gradient(probes, values).gradient))

    def state_dict(self):
        return {"memory": torch.stack(self.memory[-8:])} if self.memory else {}

    def load_state_dict(self, state):
        self.memory = list(state["memory"]) if state else []


class Ascends(Learner):
    """Fits the square of the differences, which is blind to their sign."""

    def contributions(self, probes, ahead, behind):
        return super().contributions(probes, (ahead - behind).abs(), torch.zeros_like(behind))


class GrowsStale(Learner):
    """Better at first than at last: every gradient adds noise that stays."""

    def learned(self, new):
        self.memory.append(new)
        return new + len(self.memory) * torch.ones_like(new)


class ForgetsItsMemory(Learner):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        self.memory = []


class LosesItsScale(Learner):
    """A lost row counts as a value of zero."""

    def gradient(self, probes, values):
        if values.isnan().all():
            raise zo.GradientError("no survivor")
        return super().gradient(probes, values.nan_to_num())


class KnowsOneLevel(Learner):
    """Expects values of order one, as a network does whose targets are not normalised."""

    def gradient(self, probes, values):
        return super().gradient(probes, values.clamp(max=5.0))


class DividesByTheScale(Learner):
    def gradient(self, probes, values):
        kept = values[values.isfinite()]
        scale = kept.abs().mean() if len(kept) else 1.0
        return super().gradient(probes, values / scale)


class KnowsAnOrder(Learner):
    """Believes a slope only where its sign is that of the coordinate it was written for."""

    def learned(self, new):
        signs = 1 - 2 * (torch.arange(len(new)) % 2).to(new)
        return super().learned(torch.where(new * signs > 0, new, 0.0))


class StandsStill(Learner):
    """Points the right way on the spot, from values that it saw at its first centre."""

    def gradient(self, probes, values):
        found = super().gradient(probes, values).gradient
        return zo.Estimate(self.memory[0] if len(self.memory) % 100 > 2 and self.moved(probes) else found)

    def moved(self, probes):
        self.first = getattr(self, "first", probes.center.clone())
        return not torch.equal(self.first, probes.center)


LEARNING_FAULTS = [
    (Ascends, "`cosine`"),
    (GrowsStale, "`cosine`"),
    (ForgetsItsMemory, "`state`.*the gradient is"),
    (LosesItsScale, "`lost rows`"),
    (KnowsOneLevel, "`shift`"),
    (DividesByTheScale, "`(shift|doubling)`"),
    (KnowsAnOrder, "`permutation`"),
    (StandsStill, "`descent`"),
    (GlobalGenerator, "`purity`"),
    (AllLostIsZero, "`lost rows`"),
    (PriceOfDirections, "`price`"),
]


@pytest.mark.parametrize(("fault", "name"), LEARNING_FAULTS, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_a_planted_fault_of_a_surrogate_is_caught(fault, name):
    with pytest.raises(AssertionError, match=f"{fault.__name__}.* fails {name}"):
        assert_conforms(fault(), surrogate=True)


def test_the_plain_surrogate_without_a_fault_conforms():
    assert_conforms(Learner(), surrogate=True)
    assert_conforms(DividesByTheScale(), surrogate=True, level_free=False)
