"""Planes through nearest neighbours."""

import pytest
import torch

import zograd as zo


def visit(estimator, function, center, generator, times=1):
    for _ in range(times):
        probes = estimator.propose(center, generator)
        estimate = estimator.gradient(probes, function(probes.points()))
    return estimate


def test_the_number_of_neighbours_follows_the_rule(generator):
    estimator, center = zo.NearestNeighbourGradient(samples=50), torch.zeros(2).double()
    told = [visit(estimator, lambda x: x.sum(1), center, generator).diagnostics for _ in range(4)]
    assert [d["neighbours"] for d in told] == [22, 35, 45, 55]  # n to the power 4 / 6
    assert told[-1]["bandwidth"] < 0.2
    few = zo.NearestNeighbourGradient(samples=4)
    assert visit(few, lambda x: x.sum(1), center, generator).diagnostics["neighbours"] == 6  # 2 d + 2
    fixed = zo.NearestNeighbourGradient(samples=4, neighbours=3)
    assert visit(fixed, lambda x: x.sum(1), center, generator).diagnostics["neighbours"] == 3


@pytest.mark.usefixtures("unchecked")
def test_old_samples_count_where_they_are_near(generator):
    estimator, noise = zo.NearestNeighbourGradient(samples=4, neighbours=400), torch.Generator().manual_seed(1)
    slopes, center = torch.tensor([2.0, -1.0]).double(), torch.zeros(2).double()
    first = visit(estimator, lambda x: x @ slopes + 0.1 * torch.randn(8, generator=noise), center, generator)
    last = visit(estimator, lambda x: x @ slopes + 0.1 * torch.randn(8, generator=noise), center, generator, times=100)
    assert float((last.gradient - slopes).norm()) < float((first.gradient - slopes).norm())
    assert last.squared_error < 0.3 * first.squared_error
    few = zo.NearestNeighbourGradient(samples=4)
    few.load_state_dict(estimator.state_dict())
    away = visit(few, lambda x: -(x @ slopes), center + 100, generator, times=20)
    torch.testing.assert_close(away.gradient, -slopes, atol=0.1, rtol=0)


def test_fewer_neighbours_than_parameters_tell_a_share(generator):
    slopes = torch.ones(30).double()
    estimate = visit(zo.NearestNeighbourGradient(samples=3), lambda x: x @ slopes, torch.zeros(30).double(), generator)
    assert 0 < float(estimate.gradient @ slopes) < 30
    assert estimate.squared_error is None


def test_lost_rows_are_left_out(generator):
    estimator = zo.NearestNeighbourGradient(samples=6)
    probes = estimator.propose(torch.zeros(2).double(), generator)
    values = probes.points().sum(1)
    values[[1, 5, 8]] = torch.nan
    estimate = estimator.gradient(probes, values)
    torch.testing.assert_close(estimate.gradient, torch.ones(2).double())
    assert len(estimator.state_dict()["replay"]["rows"]) == 9
    with pytest.raises(zo.GradientError, match="all 12 evaluations were lost"):
        estimator.gradient(probes, torch.full((12,), torch.nan))


def test_a_restored_estimator_tells_the_same(generator):
    first, second = zo.NearestNeighbourGradient(window=20), zo.NearestNeighbourGradient(window=20)
    assert first.state_dict() == {}
    visit(first, lambda x: x.sin().sum(1), torch.zeros(2), generator, times=3)
    second.load_state_dict(first.state_dict())
    other = torch.Generator()
    other.set_state(generator.get_state())
    ends = [visit(e, lambda x: x.sin().sum(1), torch.ones(2), g) for e, g in ((first, generator), (second, other))]
    assert torch.equal(ends[0].gradient, ends[1].gradient)
    assert len(first.state_dict()["replay"]["rows"]) == 20
    second.load_state_dict({})
    assert second.state_dict() == {}


@pytest.mark.parametrize("wrong", [{"spread": 0.0}, {"neighbours": 1}, {"window": 1}])
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments(wrong):
    with pytest.raises(zo.ArgumentError, match=f"`{next(iter(wrong))}` must"):
        zo.NearestNeighbourGradient(**wrong)
