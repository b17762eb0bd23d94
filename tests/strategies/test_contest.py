"""Contest: who is fastest leads, the others are tried again, and a state goes on bit for bit."""

import functools
import itertools
import math

import pytest
import torch

import zograd as zo
from zograd.strategies import Contest, Contestant

START = torch.full((6,), 0.5).double()


def sphere(points):
    return (points**2).sum(1)


def contestant(name, rate, seed=0, estimator=None):
    adam = functools.partial(torch.optim.Adam, lr=rate)
    estimator = estimator or zo.RandomGradient(4, step=1e-3)
    return Contestant(name, lambda: zo.Descent(START, estimator=estimator, optimizer=adam, seed=seed), rate)


def blocks(seed=0, furthest=0.3, step=0.05):
    newton = functools.partial(zo.optim.BlockNewton, block=2, furthest=furthest)
    return Contestant(
        "blocks", lambda: zo.Descent(START, estimator=zo.CoordinateGradient(step), optimizer=newton, seed=seed)
    )


def make(*contestants, heat=16, budget=4000, report=None, sweeping=False):
    return Contest(zo.Parameters(START), contestants, heat, budget, report, sweeping)


def drive(contest, fun, evaluations):
    steps = []
    while contest.evaluations < evaluations:
        steps.append(contest.tell(fun(contest.ask().points())))
    return steps


def leaders(contest):
    return contest.state_dict()["said"]


def test_all_begin_at_the_start_and_the_fastest_goes_on_from_where_it_is():
    contest = make(contestant("slow", 1e-4), contestant("fast", 1e-2), contestant("slower", 1e-5))
    begun = []
    while not leaders(contest):
        if contest.state_dict()["spent"] == 0:
            begun.append(contest.ask().center.clone())
        contest.tell(sphere(contest.ask().points()))
    assert all(torch.equal(center, START) for center in begun)
    assert len(begun) == 4  # the value of the start, and three heats
    assert leaders(contest) == f"fast from {contest.evaluations} on"
    assert contest.evaluations == 1 + 3 * (16 + 1)
    assert float(sphere(contest.ask().center[None])) < float(sphere(START[None]))


def test_a_contest_gets_down():
    said = []
    contest = make(contestant("directions", 1e-2), blocks(), report=said.append)
    steps = drive(contest, sphere, 600)
    assert contest.best_value < 1e-6
    assert said
    assert said[-1] == leaders(contest)
    assert [step.number for step in steps] == list(range(1, len(steps) + 1))
    assert steps[-1].evaluations == contest.evaluations
    assert all(one.best_value >= two.best_value for one, two in itertools.pairwise(steps))
    assert torch.equal(contest.answer[0], contest.best_point)
    assert float(sphere(contest.best_point[None])) == pytest.approx(contest.best_value)


def test_a_heat_never_ends_between_a_gradient_and_its_trial():
    contest = make(blocks(), heat=1)
    for _ in range(40):
        was = contest.state_dict()["measuring"]
        contest.tell(sphere(contest.ask().points()))
        if contest.state_dict()["measuring"] and not was:
            assert not contest.current.optimizer.trying


def test_learning_rates_fall_with_the_budget_and_begin_again_lower_beyond_it():
    contest = make(contestant("only", 1e-2), budget=400)
    drive(contest, sphere, 200)
    (group,) = contest.current.optimizer.param_groups
    assert 0.4e-2 < group["lr"] < 0.6e-2
    drive(contest, sphere, 410)
    assert 0 < contest.current.optimizer.param_groups[0]["lr"] <= 0.25e-2


@pytest.mark.filterwarnings("ignore:all .* values are equal:zograd.ZogradWarning")
def test_a_stalled_leader_is_tried_with_a_smaller_rate():
    def terraces(points):
        return torch.where(points.norm(dim=1) < 1.0, 0.0, sphere(points))

    contest = make(contestant("a", 0.05), contestant("b", 1e-6), budget=10**5)
    rates = set()
    for _ in range(400):
        contest.tell(terraces(contest.ask().points()))
        rates.add(round(contest.state_dict()["turn"][1], 9))
    assert round(0.05 / 3, 9) in rates


def cliff(points):
    """Nobody gets below 1."""
    return torch.maximum(sphere(points), torch.tensor(1.0).double())


@pytest.mark.filterwarnings("ignore:all .* values are equal:zograd.ZogradWarning")
def test_where_nobody_gets_on_blocks_begin_anew_at_the_start_once():
    said = []
    contest = make(contestant("directions", 2e-2), blocks(furthest=1e-3, step=1e-3), report=said.append, budget=3000)
    contest.tell(cliff(contest.ask().points()))
    best = math.inf
    anew = 0
    for _ in range(300):
        before = contest.state_dict()["anew"]
        contest.tell(cliff(contest.ask().points()))
        assert contest.best_value <= best
        best = contest.best_value
        if contest.state_dict()["anew"] and not before:
            anew += 1
            assert torch.equal(contest.ask().center, START)
            assert contest.current.optimizer.__class__ is zo.optim.BlockNewton
    assert anew == 1
    assert contest.best_value == 1.0


def test_lost_values_lose_a_heat_and_nothing_else():
    def fun(points):
        values = sphere(points)
        return torch.where(points[:, 0] > 0.5005, torch.nan, values) if len(points) == 1 else values

    wild = contestant("wild", 0.5)
    contest = make(wild, contestant("calm", 1e-3))
    steps = drive(contest, lambda points: fun(points), 60)
    assert math.isfinite(contest.best_value)
    assert sum(step.lost for step in steps) <= 2
    contest = make(contestant("calm", 1e-3))
    step = contest.tell(torch.tensor([torch.nan]).double())
    assert (step.lost, step.value, step.best_value) == (1, None, math.inf)


def test_an_interrupted_wave_is_noticed():
    contest = make(contestant("only", 1e-2))
    contest.notice(torch.tensor([7.0]).double())
    assert contest.best_value == 7.0
    contest.tell(torch.tensor([7.0]).double())
    contest.notice(torch.tensor([9.0, torch.nan, 3.0, *5 * [torch.nan]]).double())
    assert contest.best_value == 3.0
    assert torch.equal(contest.best_point, contest.ask().points()[2])


@pytest.mark.filterwarnings("ignore:all .* values are equal:zograd.ZogradWarning")
@pytest.mark.parametrize("sweeping", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 5, 12, 60, 150])
def test_a_state_goes_on_bit_for_bit(steps, sweeping, tmp_path):
    def field(seed):
        return contestant("directions", 2e-2, seed), contestant("others", 1e-3, seed), blocks(seed)

    said = []
    one, two = make(*field(0), sweeping=sweeping), make(*field(9), report=said.append, sweeping=sweeping)
    for _ in range(steps):
        one.tell(cliff(one.ask().points()))
    torch.save(one.state_dict(), tmp_path / "state.pt")
    two.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert said == ([leaders(one)] if leaders(one) else [])
    for _ in range(40):
        assert torch.equal(one.ask().points(), two.ask().points())
        first, second = one.tell(cliff(one.ask().points())), two.tell(cliff(two.ask().points()))
        assert (first.number, first.evaluations, first.best_value, first.value) == (
            second.number,
            second.evaluations,
            second.best_value,
            second.value,
        )


def test_wrong_arguments_are_refused():
    with pytest.raises(zo.ArgumentError, match="`contestants` must be one at least"):
        make()
    with pytest.raises(zo.ArgumentError, match=r"shape \(1,\)"):
        make(contestant("only", 1e-2)).tell(torch.zeros(2).double())


def test_minimize_says_who_led():
    result = zo.minimize(zo.batched(lambda points: ((points - 0.3) ** 2).mean(1)), torch.zeros(600), evaluations=2300)
    assert "Chosen for 600 parameters and 2300 evaluations: a contest" in result.message
    assert " from " in result.message
    assert "nobody" not in result.message
    assert result.fun < 1e-3
    assert result.nfev <= 2300


@pytest.mark.parametrize(("budget", "leads"), [(4000, "blocks"), (60, "directions")])
def test_blocks_count_more_while_a_sweep_is_left(budget, leads):
    contest = make(contestant("directions", 1e-2), blocks(), heat=16, budget=budget)
    contest._now.update(round="tried", gains=[(1.2, (0, 1e-2)), (1.0, (1, 0.0))], place=(START, 1.0), origin=2.0)
    contest.evaluations = 50
    contest._choose()
    assert contest.contestants[contest.state_dict()["leader"][0]].name == leads


def begun(contest, fun):
    """Drive it until somebody leads: who had heats, where their first step stood, and after how many evaluations."""
    heats = []
    while not leaders(contest):
        row, spent = contest.state_dict()["turn"][0], contest.state_dict()["spent"]
        if spent == 0 and contest.evaluations > 0:
            heats.append((row, contest.ask().center.clone(), contest.evaluations))
        contest.tell(fun(contest.ask().points()))
    return heats


def test_blocks_whose_first_sweep_satisfies_lead_before_anybody_else_has_begun():
    contest = make(contestant("directions", 1e-2), blocks(), heat=2, sweeping=True)
    ((row, center, _),) = begun(contest, sphere)
    assert (row, contest.contestants[row].name) == (1, "blocks")
    assert torch.equal(center, START)
    assert leaders(contest) == f"blocks from {contest.evaluations} on"
    assert contest.evaluations == 1 + 16 + 1  # the start, two blocks: 2 d evaluations though a heat is 2; the end


@pytest.mark.parametrize(("rate", "leads"), [(1e-2, "directions"), (1e-5, "blocks")])
def test_after_a_sweep_that_is_too_little_others_start_where_it_started_for_as_long(rate, leads):
    slow = blocks(furthest=1e-4, step=1e-4)
    contest = make(contestant("directions", rate), slow, heat=2, sweeping=True, budget=400)
    heats = begun(contest, sphere)
    assert [row for row, _, _ in heats] == [1, 0]
    assert all(torch.equal(center, START) for _, center, _ in heats)
    assert contest.evaluations - heats[1][2] >= 2 * len(START)
    assert leaders(contest).startswith(leads)
    assert float(sphere(contest.ask().center[None])) == pytest.approx(contest.state_dict()["place"][1])


@pytest.mark.parametrize(("level", "satisfied"), [(-1.0, True), (0.0, True), (0.5, True), (0.99, False), (1.1, False)])
def test_a_sweep_satisfies_if_its_pace_would_leave_a_hundredth_at_the_end(level, satisfied):
    contest = make(blocks(), sweeping=True, budget=100 * 12)  # half to the power of a hundred; 0.99 would leave a third
    contest._now["origin"] = 1.0
    assert contest._content(level) is satisfied
    contest._now["origin"] = -1.0  # a share of that says nothing
    assert not contest._content(-2.0)


def test_without_blocks_there_is_no_sweep():
    contest = make(contestant("a", 1e-2), contestant("b", 1e-3), sweeping=True)
    assert [row for row, _, _ in begun(contest, sphere)] == [0, 1]
    assert contest.evaluations == 1 + 2 * (16 + 1)
