"""A copy of a network follows the original by what has changed."""

import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

import zograd as zo
from zograd.blackbox import ModuleLoss, TracedLoss
from zograd.evaluate._apart import Settings, taken_apart
from zograd.evaluate._pool_messages import Answered, Missing, asked_of
from zograd.evaluate._pool_worker import Boxes
from zograd.evaluate._replica import Around, Change, Delta, NetworkParcel, Original, Replica, digest


def network(model: nn.Module, x: torch.Tensor, loss_fn: Callable = torch.mean, traced: bool = True):
    with torch.no_grad():
        plain = ModuleLoss(model, loss_fn, x, list(model.parameters()))
        return TracedLoss(plain) if traced else plain


def change_of(parcel: NetworkParcel, known: list[str]) -> Change:
    return pickle.loads(parcel.message(known))


def follow(replica: Replica, parcel: NetworkParcel, known: list[str]) -> Change:
    change = change_of(parcel, known)
    replica.apply(change)
    assert torch.equal(replica.loss.center, parcel.blackbox.center)
    with torch.no_grad():
        offsets = zo.Coordinates(torch.arange(3), torch.full((3,), 0.1))
        here, there = (box.probe(zo.Probes(box.center, offsets)) for box in (parcel.blackbox, replica.loss))
    assert torch.equal(here, there)
    return change


def test_what_has_changed_and_nothing_else() -> None:
    model, x = nn.Sequential(nn.Linear(40, 10), nn.Tanh(), nn.Linear(10, 1)), torch.randn(6, 40)
    original, replica = Original(), Replica()
    first = original.parcel(network(model, x))
    whole = follow(replica, first, [])
    assert whole.base == -1
    assert change_of(first, [first.before]).slots.keys() == whole.slots.keys()  # the first has nothing before it

    still = original.parcel(network(model, x))
    change = follow(replica, still, [first.key])
    assert (change.base, change.slots, change.model, change.call, change.views) == (0, {}, None, None, None)

    kept = replica.loss.plain.model
    with torch.no_grad():
        model[0].weight[3, 7] += 1.0
        model[2].weight += 1.0
    moved = original.parcel(network(model, x))
    change = follow(replica, moved, [still.key])
    assert [type(what) for what in change.slots.values()] == [Delta, type(whole.slots[0])]
    assert change.slots[0].places.tolist() == [3 * 40 + 7]
    assert replica.loss.plain.model is kept

    smaller = original.parcel(network(model, x[:2]))
    change = follow(replica, smaller, [moved.key])
    assert change.views is not None
    assert replica.loss.plain.model is kept  # another batch, the same model

    squared = original.parcel(network(model, x[:2], lambda output: output.square().mean(), traced=False))
    change = follow(replica, squared, [smaller.key])
    assert (change.model, change.reuse) == (None, None)
    assert replica.loss.model is kept

    other = nn.Sequential(nn.Linear(40, 1))
    replaced = original.parcel(network(other, x))
    change = follow(replica, replaced, [squared.key])
    assert change.model is not None
    follow(Replica(), replaced, [])  # a worker that is new


def test_views_keep_their_memory_in_common() -> None:
    data = torch.arange(1000.0)
    model = nn.Linear(5, 2, bias=False)
    apart = taken_apart(network(model, data[100:110].view(2, 5), traced=False))
    assert [view.bytes for view in apart.views[:1]] == [40]
    assert max(view.bytes for view in apart.views[1:]) < 6000  # not the whole of what the batch was cut from
    transposed = model.weight.detach().T
    shared = taken_apart(network(model, data[:5], lambda output: (output + transposed.sum()).sum(), traced=False))
    assert len(shared.slots) == len(shared.views) - 1
    assert shared.views[0].slot == shared.views[1].slot


def test_a_digest_is_of_all_that_the_loss_depends_on() -> None:
    model, x = nn.Linear(3, 1), torch.ones(2, 3)
    boxes = [network(model, x), network(model, x.clone(), traced=False), network(model, x + 1)]
    found = [digest(box) for box in boxes]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probes_without_their_centre(dtype) -> None:
    center = torch.zeros(50, dtype=dtype)
    index = torch.tensor([3, 4, 5, 9, 20, 21, 3, 0])
    for offsets in (
        zo.Coordinates(index, torch.rand(8, dtype=dtype)),
        zo.Coordinates(index[:0], torch.rand(0, dtype=dtype)),
        zo.Coordinates(torch.arange(300) % 50, torch.rand(300, dtype=dtype)),
        zo.Dense(torch.rand(2, 50, dtype=dtype)),
        zo.Seeded(torch.tensor([1, 2]), torch.rand(2, dtype=dtype), "rademacher"),
    ):
        probes = zo.Probes(center, offsets)
        packed = Around.of(probes)
        again = pickle.loads(pickle.dumps(packed)).probes(center)
        assert again.center is center
        assert len(packed) == len(again) == len(probes)
        if len(probes):
            assert torch.equal(again.points(), probes.points())
    long = Around.of(zo.Probes(torch.zeros(10**6), zo.Coordinates(torch.arange(10**6), torch.ones(10**6))))
    assert len(pickle.dumps(long)) < 4.1 * 10**6  # a range of indices, and the steps


def test_a_worker_says_what_it_does_not_know() -> None:
    model, x = nn.Linear(3, 1), torch.ones(2, 3)
    original, boxes = Original(), Boxes()
    parcels = []
    for _ in range(3):
        box = network(model, x, traced=False)
        parcels.append(original.parcel(box))
    probes = zo.Probes(box.center, zo.Coordinates(torch.tensor([0]), torch.ones(1)))
    asked = [asked_of(parcel.key, parcel.points(probes), [1], True) for parcel in parcels]
    boxes.learn(parcels[1].key, parcels[1].message([parcels[0].key]))  # a change of what it does not have
    assert boxes.answer(asked[1]) == Missing(())
    boxes.learn(parcels[1].key, parcels[1].message([]))
    assert isinstance(boxes.answer(asked[1]), Answered)
    boxes.learn(parcels[2].key, parcels[2].message([parcels[1].key]))
    (outcome,) = boxes.answer(asked[2]).outcomes
    assert outcome.values[0] == box.probe(probes)[0]
    assert boxes.answer(asked[1]) == Missing((parcels[2].key,))


def test_a_model_that_cannot_be_recorded_there_is_said() -> None:
    model = nn.Linear(3, 1)
    change = change_of(Original().parcel(network(model, torch.ones(2, 3))), [])
    boxes = Boxes()
    other = Original().parcel(network(model, torch.ones(2, 3), lambda out: out.mean() * float(out.sum()), traced=False))
    changed = change_of(other, [])._replace(reuse=True)
    boxes.learn("a:0", pickle.dumps(changed))
    said = boxes.answer(asked_of("a:0", torch.ones(1, 1), [1], True))
    assert "the model cannot be recorded in a worker" in said
    assert "leaves torch" in said
    assert change.reuse is False


def test_settings_are_for_a_while() -> None:
    before = Settings.here()
    settings = Settings(torch.float64, "medium", {"cpu": torch.bfloat16, "cuda": None})
    with settings.applied():
        assert Settings.here() == settings
        assert torch.ones(1).dtype == torch.float64
    assert Settings.here() == before
