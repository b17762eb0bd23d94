import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import zograd as zo
from zograd._probes import draw

DISTRIBUTIONS = ("gaussian", "sphere", "rademacher")


def make(kind, rows, dimension, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.randn(rows, dtype=torch.float64, generator=generator)
    if kind == "dense":
        return zo.Dense(torch.randn(rows, dimension, dtype=torch.float64, generator=generator))
    if kind == "coordinates":
        return zo.Coordinates(torch.randint(dimension, (rows,), generator=generator), scale)
    return zo.Seeded(torch.randint(max(1, rows // 2), (rows,), generator=generator), scale, kind)


KINDS = ("dense", "coordinates", *DISTRIBUTIONS)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    rows=st.integers(1, 9),
    dimension=st.integers(1, 7),
    seed=st.integers(0, 2**20),
    single=st.booleans(),
)
def test_structured_offsets_agree_with_dense_ones(kind, rows, dimension, seed, single):
    dtype = torch.float32 if single else torch.float64
    center = torch.randn(dimension, generator=torch.Generator().manual_seed(seed)).to(dtype)
    probes = zo.Probes(center, make(kind, rows, dimension, seed))
    weights = torch.randn(rows, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    oracle = probes.offsets.dense(center)
    assert oracle.shape == (rows, dimension)
    assert oracle.dtype == dtype
    close = {"rtol": 1e-4, "atol": 1e-4} if single else {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(probes.weighted_sum(weights), weights.to(dtype) @ oracle, **close)
    torch.testing.assert_close(probes.points(), center + oracle)
    if kind != "gaussian":
        torch.testing.assert_close(probes.offsets.squared_norms(center), oracle.square().sum(1), **close)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(kind=st.sampled_from(KINDS), rows=st.integers(1, 9), piece=st.integers(1, 10))
def test_pieces_are_the_whole(kind, rows, piece):
    probes = zo.Probes(torch.ones(4).double(), make(kind, rows, 4))
    pieces = list(probes.split(piece))
    assert [len(p) for p in pieces] == [min(piece, rows - i) for i in range(0, rows, piece)]
    assert torch.equal(torch.cat([p.points() for p in pieces]), probes.points())
    weights = torch.arange(rows).double()
    total = sum(p.weighted_sum(w) for p, w in zip(pieces, weights.split(piece), strict=True))
    torch.testing.assert_close(total, probes.weighted_sum(weights))


def test_splitting_needs_a_row():
    with pytest.raises(zo.ArgumentError, match="`rows`"):
        list(zo.Probes(torch.ones(2), zo.Dense(torch.zeros(3, 2))).split(0))


def test_pieces_keep_what_is_asked():
    probes = zo.Probes(torch.ones(2), zo.Dense(torch.zeros(3, 2)), quantity="derivative")
    assert [p.quantity for p in probes.split(2)] == ["derivative", "derivative"]


def test_gaussian_seeds_tell_the_expected_norm():
    norms = make("gaussian", 4, 9).squared_norms(torch.zeros(9).double())
    torch.testing.assert_close(norms, make("gaussian", 4, 9).scale.square() * 9)


def test_rows_with_one_seed_share_one_direction():
    offsets = zo.Seeded(torch.tensor([5, 6, 5]), torch.tensor([1.0, 1.0, -2.0]))
    rows = offsets.dense(torch.zeros(4))
    torch.testing.assert_close(rows[2], -2 * rows[0])
    assert not torch.allclose(rows[0], rows[1])


def test_seeds_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    make("gaussian", 3, 4).dense(torch.zeros(4).double())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_directions_have_unit_covariance(distribution):
    u = draw(distribution, 40000, 3, torch.float64, torch.Generator().manual_seed(0))
    assert float((u.T @ u / len(u) - torch.eye(3)).abs().max()) < 0.03
    assert float(u.mean(0).abs().max()) < 0.03
    if distribution != "gaussian":
        torch.testing.assert_close(u.square().sum(1), torch.full((40000,), 3.0).double())


def test_a_distribution_that_is_not_known_is_refused(unchecked):
    with pytest.raises(zo.ArgumentError, match="`distribution` must be one of 'gaussian', 'sphere', 'rademacher'"):
        zo.Seeded(torch.tensor([1]), torch.ones(1), "cube")


def test_there_is_one_weight_for_each_row():
    with pytest.raises(zo.ArgumentError, match="one entry for each of the 3 rows"):
        zo.Probes(torch.ones(2), zo.Dense(torch.zeros(3, 2))).weighted_sum(torch.ones(2))


def test_the_dimension_and_length():
    probes = zo.Probes(torch.ones(2), zo.Dense(torch.zeros(3, 2)))
    assert (probes.dimension, len(probes)) == (2, 3)
    assert probes.nbytes == 4 * 2 + 4 * 6


def test_a_tenth_of_a_network_stays_small():
    center = torch.zeros(270_000)
    active = torch.randperm(270_000, generator=torch.Generator().manual_seed(0))[:27_000]
    probes = zo.CoordinateGradient(step=1e-3, active=active, central=False).propose(center, torch.Generator())
    assert len(probes) == 27_001
    assert probes.nbytes < 5e6
    assert probes.offsets.nbytes <= 12 * 27_001
    probes = zo.CoordinateGradient(step=1e-3, active=active).propose(center.double(), torch.Generator())
    assert len(probes) == 54_000
    assert probes.nbytes < 5e6


def test_a_piece_of_a_structure_costs_no_row():
    probes = zo.Probes(torch.zeros(270_000), zo.Coordinates(torch.arange(27_000), torch.ones(27_000)))
    tracemalloc.start()
    pieces = list(probes.split(100))
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(pieces) == 270
    assert held < 5e6  # Python's side
    assert len({p.offsets.step.untyped_storage().data_ptr() for p in pieces}) == 1  # torch's side: views of one storage


class LivePeak(TorchDispatchMode):
    """The most bytes of tensors alive at once. (A process's peak also counts what its allocator keeps.)"""

    def __init__(self):
        super().__init__()
        self.live, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.live = {key: kept for key, kept in self.live.items() if not kept[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return found


def test_the_peak_is_measured():
    with LivePeak() as memory:
        for _ in range(3):
            first = torch.zeros(1000)
            second = torch.zeros(1000)
            second.add_(first[:500].sum())
    assert 8000 <= memory.peak < 17000


@pytest.mark.parametrize("central", [True, False])
def test_a_random_gradient_of_a_million_parameters_needs_memory_for_a_few(central):
    center, estimator = torch.zeros(1_000_000), zo.RandomGradient(samples=64, central=central)
    slopes = torch.linspace(0, 1, len(center))
    with LivePeak() as memory:
        probes = estimator.propose(center, torch.Generator().manual_seed(0))
        values = torch.cat([piece.points() @ slopes for piece in probes.split(2)])
        gradient = estimator.gradient(probes, values).gradient
    assert memory.peak < 10 * center.nbytes  # rows that are kept would be 128 or 65
    assert float(gradient @ slopes / (slopes @ slopes)) == pytest.approx(1, abs=4 * (2 / 64) ** 0.5)
