"""CMAES: the package's own trajectory behind our interface, bounds, lost rows, restarts, and going on."""

import functools

import cmaes
import numpy as np
import pytest
import torch

import zograd as zo
from zograd._snapshot import pack, unpack
from zograd.strategies import CMAES


def sphere(points):
    return ((points - 0.3) ** 2).sum(1)


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def steps(strategy, count, fun=sphere):
    points = []
    for _ in range(count):
        probes = strategy.ask()
        points.append(probes.points())
        strategy.tell(fun(probes.points()))
    return points


@pytest.mark.parametrize(("separable", "kind"), [(False, "CMA"), (True, "SepCMA")])
def test_it_goes_where_the_package_goes(separable, kind):
    ours = CMAES(torch.zeros(4).double(), spread=0.5, separable=separable, seed=3)
    theirs = getattr(cmaes, kind)(mean=np.zeros(4), sigma=0.5, seed=3)
    for points in steps(ours, 20):
        rows = np.stack([theirs.ask() for _ in range(theirs.population_size)])
        np.testing.assert_allclose(points, rows, rtol=1e-9, atol=1e-12)
        theirs.tell([(row, float(sphere(torch.from_numpy(row)[None]))) for row in rows])
    assert ours.best_value < 0.1


@pytest.mark.parametrize("separable", [False, True])
def test_the_state_goes_on_bit_for_bit(separable):
    first = CMAES(torch.zeros(3), separable=separable, seed=1)
    steps(first, 7)
    state = unpack(pack(first.state_dict()))
    second = CMAES(torch.zeros(3), separable=separable, seed=1)
    steps(second, 2)
    second.load_state_dict(state)
    for ours, again in zip(steps(first, 40), steps(second, 40), strict=True):
        assert torch.equal(ours, again)
    assert (first.best_value, first.number, first.evaluations) == (
        second.best_value,
        second.number,
        second.evaluations,
    )


def test_two_of_one_seed_begin_alike_and_global_generators_are_left_alone():
    before = np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    first, second = (pack(CMAES(torch.zeros(3), seed=5).state_dict()) for _ in range(2))
    assert first == second
    assert np.random.get_state()[1].tolist() == before[0]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("d", [2, 40])
def test_points_stay_inside(d):
    strategy = CMAES(zo.Parameters(np.full(d, 0.9), bounds=(0.0, 1.0)), spread=2.0)
    for points in steps(strategy, 10):
        assert ((points >= -1e-12) & (points <= 1 + 1e-12)).all()


def test_lost_rows_count_as_worst():
    def with_holes(points):
        values = sphere(points)
        values[::3] = torch.nan
        return values

    def with_penalties(points):
        values = sphere(points)
        values[::3] = 1e9
        return values

    holes, penalties = CMAES(torch.zeros(3), seed=2), CMAES(torch.zeros(3), seed=2)
    for ours, expected in zip(steps(holes, 15, with_holes), steps(penalties, 15, with_penalties), strict=True):
        assert torch.equal(ours, expected)
    step = holes.tell(with_holes(holes.ask().points()))
    assert step.lost == 3
    assert step.diagnostics["samples"] == 7


def test_all_lost_is_an_error():
    strategy = CMAES(torch.zeros(3))
    with pytest.raises(zo.GradientError, match="all 7 evaluations were lost"):
        strategy.tell(torch.full((7,), torch.nan))


def test_it_starts_again_with_twice_the_points():
    strategy = CMAES([0.1, 0.1], samples=6)
    sizes = [len(points) for points in steps(strategy, 200)]
    assert sizes[0] == 6
    assert sizes[-1] == 6 * 2**strategy.restarts
    assert strategy.restarts > 0
    again = CMAES([0.1, 0.1], samples=6)
    again.load_state_dict(strategy.state_dict())
    assert torch.equal(again.ask().points(), strategy.ask().points())


def test_large_problems_get_a_diagonal_matrix():
    strategy = CMAES(torch.zeros(201))
    assert strategy.separable
    assert not CMAES(torch.zeros(200)).separable
    assert sum(tensor.numel() for tensor in strategy.state_dict()["search"].values() if torch.is_tensor(tensor)) < 3000


def test_one_parameter():
    assert zo.minimize(lambda x: (x - 0.4) ** 2, 0.0, evaluations=300, strategy=CMAES).fun < 1e-8


def test_a_fixed_parameter_stays_and_nothing_is_drawn_in_vain():
    bounds = [(-2, 2), (0.5, 0.5), (-2, 2)]
    strategy = CMAES(zo.Parameters([-1.2, 0.5, 1.0], bounds=bounds))
    assert strategy._search._n_max_resampling == 0  # no draw would be inside
    found = zo.minimize(
        lambda x: rosenbrock(x[::2]) + x[1], [-1.2, 0.5, 1.0], bounds=bounds, evaluations=900, strategy=CMAES
    )
    assert found.x[1] == 0.5
    assert found.fun < 0.5 + 1e-6


def test_minimize_takes_it_and_its_settings():
    strategy = functools.partial(CMAES, spread=0.5)
    first, second = (zo.minimize(rosenbrock, [-1.2, 1.0], evaluations=800, strategy=strategy, seed=4) for _ in range(2))
    assert first.fun < 1e-8
    assert (first.fun, first.nfev) == (second.fun, second.nfev)
    assert "Chosen" not in first.message


def test_a_durable_run_goes_on(tmp_path):
    settings = {"strategy": CMAES, "seed": 1}
    whole = zo.minimize(rosenbrock, [-1.2, 1.0], evaluations=300, **settings)
    zo.minimize(rosenbrock, [-1.2, 1.0], evaluations=120, run=tmp_path / "run", **settings)
    rest = zo.minimize(rosenbrock, [-1.2, 1.0], evaluations=300, run=tmp_path / "run", **settings)
    assert (rest.fun, rest.nfev) == (whole.fun, whole.nfev)
    assert rest.x == whole.x


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"strategy": 3}, "strategy"),
        ({"strategy": lambda parameters, seed: None}, "strategy"),
        ({"strategy": CMAES, "estimator": zo.RandomGradient()}, "strategy"),
        ({"strategy": functools.partial(CMAES, spread=-1.0)}, "spread"),
        ({"strategy": functools.partial(CMAES, samples=1)}, "samples"),
        ({"strategy": functools.partial(CMAES, separable=True)}, "separable"),
    ],
)
def test_wrong_arguments(settings, argument, unchecked):
    with pytest.raises(zo.ArgumentError) as error:
        zo.minimize(lambda x: x**2, 1.0, **settings)
    assert error.value.argument == argument


def test_wrong_values():
    with pytest.raises(zo.ArgumentError, match=r"`values` must have shape \(7,\)"):
        CMAES(torch.zeros(3)).tell(torch.zeros(2))
