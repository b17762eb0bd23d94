"""Ask and tell of outputs: the state is whole, lost rows do not hurt, whatever way the slopes are measured."""

import pytest
import torch

import zograd as zo

MIX = torch.randn(80, 30, generator=torch.Generator().manual_seed(3), dtype=torch.float64) / 9


def dense(points):
    return torch.tanh(points @ MIX) - 0.3


def apart(points):
    return points**3 + 0.2 * points - 0.1


def blobs(points):
    """Soft blobs in a row on a picture, in whole bytes; each parameter is the brightness of one or its place."""
    row, column = torch.meshgrid(torch.arange(12.0), torch.arange(240.0), indexing="ij")
    place = 3.0 + 6.0 * torch.arange(40)
    picture = torch.zeros(len(points), 12, 240)
    for each in range(40):
        middle = 5.0 + 2 * points[:, 40 + each, None, None].float()
        distance = (row - middle).square() + (column - place[each]).square()
        picture += points[:, each, None, None].float() * torch.exp(-distance)
    return ((255 * picture).round() / 255).double()


def noisy():
    noise = torch.Generator().manual_seed(1)
    return lambda points: dense(points) + 0.01 * torch.randn(len(points), 30, generator=noise, dtype=points.dtype)


def bent(points):
    """Blobs whose pixels all change a little with the first parameter: footprints leak."""
    return blobs(points) * (1 + 0.5 * points[:, :1, None])


def switches(points):
    """Every parameter in [0, 1] switches two outputs somewhere: most show nothing over a tenth."""
    on = (points > torch.linspace(0.02, 0.98, points.shape[1], dtype=points.dtype)).double()
    return torch.cat([on - 1, 0.5 * on - 0.5], 1)


def stairs(points):
    """Staircases of different widths: slopes are those of a smoothed program."""
    turned = points - 0.3 * points.roll(1, 1)
    return torch.cat([(turned * 40).round() / 40, (turned * 23).floor() / 23], 1)


CASES = {
    "switches": (switches, 80, 600),
    "stairs": (stairs, 6, 600),
    "dense": (dense, 80, 1000),
    "random": (dense, 80, 100),
    "apart": (apart, 70, 600),
    "blobs": (blobs, 80, 600),
    "bent": (bent, 80, 600),
    "few": (lambda points: dense(torch.nn.functional.pad(points, (0, 76))), 4, 80),
}

LEFT = {
    "switches": 1e-9,
    "stairs": 0.05,
    "random": 0.3,
    "few": 0.81,
    "dense": 1e-3,
    "apart": 1e-3,
    "blobs": 1e-3,
    "bent": 1e-3,
}
"""The share of the loss that may be left; of four parameters for thirty outputs most is."""


def make(name, seed=0):
    program, dimension, budget = CASES[name]
    start = torch.full((dimension,), 0.4, dtype=torch.float64)
    goal = blobs(torch.full((1, 80), 0.6))[0] if name in ("blobs", "bent") else None
    start = zo.Parameters(start, bounds=(0, 1)) if name == "switches" else start
    return zo.GaussNewton(start, goal=goal, evaluations=budget, seed=seed), program, budget


def advanced(fit, program, evaluations):
    steps = []
    while fit.evaluations < evaluations:
        probes = fit.ask()
        assert fit.ask() is probes
        steps.append(fit.tell(program(probes.points())))
    return steps


@pytest.mark.parametrize("name", CASES)
def test_it_descends_and_never_asks_for_more_than_the_budget(name):
    fit, program, budget = make(name)
    steps = advanced(fit, program, budget)
    assert fit.evaluations == budget
    first, last = steps[0].value, steps[-1].best_value
    assert last < LEFT[name] * first
    assert fit.losses(program(fit.answer[0][None])).item() == pytest.approx(last, rel=1e-9)
    assert str(fit.measurement.outputs) in fit.said


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("share", [0.05, 0.4, 0.8])
def test_a_state_dict_carries_on_bit_for_bit(name, share):
    one, program, budget = make(name)
    advanced(one, program, int(share * budget))
    two, _, _ = make(name, seed=9)
    two.load_state_dict(one.state_dict())
    for _ in range(4):
        if one.evaluations >= budget:
            break
        assert torch.equal(one.ask().points(), two.ask().points())
        outputs = program(one.ask().points())
        assert one.tell(outputs).best_value == two.tell(outputs).best_value


@pytest.mark.parametrize("name", CASES)
def test_every_ninth_row_may_be_lost(name):
    fit, program, budget = make(name)
    rows = 0

    def losing(points):
        nonlocal rows
        outputs = program(points)
        place = torch.arange(rows, rows + len(points))
        rows += len(points)
        outputs[place % 9 == 8] = float("nan")
        return outputs

    steps = advanced(fit, losing, budget)
    assert sum(step.lost for step in steps) == budget // 9
    assert steps[-1].best_value < max(0.5, LEFT[name]) * steps[0].value


def test_noise_is_averaged_out():
    program = noisy()
    fit = zo.GaussNewton(torch.full((4,), 0.4, dtype=torch.float64), evaluations=200)
    pad = torch.nn.functional.pad
    advanced(fit, lambda points: program(pad(points, (0, 76))), 200)
    exact = zo.GaussNewton(torch.full((4,), 0.4, dtype=torch.float64), evaluations=200)
    advanced(exact, lambda points: dense(pad(points, (0, 76))), 200)
    assert fit.pace.noisy
    assert not exact.pace.noisy
    assert fit.noise**0.5 == pytest.approx(0.01, rel=0.3)
    clean = dense(pad(fit.answer[0][None], (0, 76))).square().mean().item()
    assert clean == pytest.approx(exact.answer[1], rel=1e-2)
    assert fit.answer[1] == pytest.approx(clean + 1e-4, rel=0.05)


def test_shared_probes_are_fewer_and_come_back_one_by_one_when_they_gain_nothing():
    fit, program, budget = make("blobs")
    measured = [
        step.diagnostics["measured"] for step in advanced(fit, program, budget) if "measured" in step.diagnostics
    ]
    assert sum(measured[:2]) == 80
    assert 1 < measured[2] < 20
    assert max(measured[3:]) == 80


def test_switches_are_all_found_in_little_more_than_one_measurement():
    fit, program, _ = make("switches")
    steps = advanced(fit, program, 160)
    measured = [int(step.diagnostics["measured"]) for step in steps if "measured" in step.diagnostics]
    assert measured[0] == 16
    assert 60 < max(measured) <= 80
    assert fit.best_value == 0.0


def test_where_few_parameters_jump_the_best_point_is_the_centre():
    fit, program, budget = make("stairs")
    before = float("inf")
    while fit.evaluations < budget:
        probes = fit.ask()
        step = fit.tell(program(probes.points()))
        assert fit.value == step.best_value <= before
        assert torch.equal(fit.center, step.best_point)
        assert fit.losses(program(fit.center[None])).item() == fit.value
        before = fit.value


def test_where_the_last_measurement_led_nowhere_few_parameters_are_moved_each_as_far_as_chance_wants():
    fit, _, budget = make("stairs")
    lengths = []
    while fit.evaluations < budget // 2:
        probes, measuring = fit.ask(), fit.phase == "measure"
        if measuring:
            lengths.append(probes.offsets.dense(probes.center).abs().sum(1))
        outputs = stairs(probes.center[None]) if fit.evaluations else stairs(probes.points()[:1])
        fit.tell(outputs.expand(len(probes), -1))  # nothing that is tried shows anything
    assert lengths[0].std() < 1e-9
    assert all(length.std() > 0.1 * length.mean() for length in lengths[1:])
    assert len(lengths) > 2


def test_one_row_a_probe_is_asked_for():
    fit, _, _ = make("dense")
    with pytest.raises(zo.ArgumentError, match="6 rows"):
        fit.tell(torch.zeros(5, 3, dtype=torch.float64))
