"""Dask's executor: two worker processes over loopback, one of which is killed."""

import os
import time
from collections.abc import Iterator

import psutil
import pytest
import torch

import zograd as zo
from zograd.evaluate import Pool, evaluate, failure_policy

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore")

LIMIT = 5.0
"""Seconds a row: those that are well take a thousandth of it, and still wait for a processor on a crowded machine."""


@pytest.fixture(scope="module")
def client() -> Iterator[object]:
    keywords = {"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
    with distributed.LocalCluster(**keywords, silence_logs=50) as cluster, distributed.Client(cluster) as client:
        yield client


def wave() -> list[zo.Probes]:
    rows = torch.arange(16, dtype=torch.float64)[:, None]
    return [zo.Probes(torch.zeros(1, dtype=torch.float64), zo.Dense(rows))]


def listening(client) -> set[str]:
    """The addresses that the cluster's processes listen on."""
    pids = [os.getpid(), *client.run(os.getpid).values()]
    found = [connection for pid in pids for connection in psutil.Process(pid).net_connections("tcp")]
    return {connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN}


def test_faults_lose_one_row_and_no_worker(client) -> None:
    def faulty(x: torch.Tensor) -> float:
        match int(x[0]):
            case 3:
                time.sleep(1000.0)
            case 7:
                os._exit(3)
            case 9:
                raise ValueError("nine")
        return float(x[0])

    before = set(client.run(os.getpid).values())
    executor = client.get_executor(pure=False)
    pieces = list(Pool(workers=2, executor=executor, timeout=LIMIT).stream(zo.pointwise(faulty), wave()))
    found = {piece.rows.start: piece.status for piece in pieces}
    assert found == {row: {3: "timeout", 7: "crashed", 9: "failed"}.get(row, "ok") for row in range(16)}
    assert set(client.run(os.getpid).values()) == before
    assert listening(client) <= {"127.0.0.1"}


def test_a_worker_that_is_killed_in_mid_run_changes_nothing(client) -> None:
    def noisy(x: torch.Tensor) -> list[float]:
        time.sleep(0.3)
        return [float(x[0]), float(torch.rand(()))]

    box, executor = zo.pointwise(noisy), client.get_executor(pure=False)
    pieces = Pool(workers=2, executor=executor, seed=5).stream(box, wave())
    found = [next(pieces)]
    psutil.Process(next(iter(client.run(os.getpid).values()))).kill()
    found += pieces
    with Pool(workers=2, seed=5) as pool:
        (expected,) = evaluate(pool, box, wave(), failure_policy("raise"))
    assert [piece.status for piece in found] == ["ok"] * 16
    values = torch.cat([piece.values for piece in sorted(found, key=lambda piece: piece.rows.start)])
    assert torch.equal(values, expected)


def test_a_network_has_the_same_gradient_to_the_last_bit(client) -> None:
    def trained(evaluator: Pool | None) -> torch.Tensor:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Dropout(0.4), torch.nn.Linear(5, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(3):
            optimizer.zero_grad()
            x = torch.randn(4, 3)
            zo.backward(model, torch.mean, x, estimator=zo.CoordinateGradient(), evaluator=evaluator)
            optimizer.step()
            if evaluator is not None and step == 1:  # a worker is lost with its copy
                psutil.Process(next(iter(client.run(os.getpid).values()))).kill()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    pool = Pool(workers=2, executor=client.get_executor(pure=False))
    assert torch.equal(trained(pool), trained(None))
    assert listening(client) <= {"127.0.0.1"}
