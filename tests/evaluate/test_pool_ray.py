"""Ray's executor: two workers that only this machine can reach, one of which is killed."""

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future

import cloudpickle
import psutil
import pytest
import torch

import zograd as zo
from zograd.evaluate import Pool, RayExecutor, evaluate, failure_policy

LONG = 30.0

LIMIT = 5.0
"""Seconds a row: those that are well take a thousandth of it, and still wait for a processor on a crowded machine."""

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import a test


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("keywords", [{"workers": 0}, {"options": {"max_retries": 3}}])
def test_wrong_arguments(keywords) -> None:
    with pytest.raises(zo.ArgumentError, match=f"`{next(iter(keywords))}` must"):
        RayExecutor(**keywords)


def test_without_ray_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(zo.MissingExtraError, match=r"zograd\[ray\]"):
        RayExecutor()


class FakeRay:
    """As much of Ray as its adapter calls, in this process."""

    def __init__(self, address: str = "127.0.0.1", running: bool = False) -> None:
        self.address, self.running = address, running
        self.util, self.cancelled, self.tasks = self, [], []

    def get_node_ip_address(self) -> str:
        return self.address

    def is_initialized(self) -> bool:
        return self.running

    def init(self, address: str, **keywords) -> None:
        self.running, self.how = True, {"address": address, **keywords}

    def shutdown(self) -> None:
        self.running = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 3.0}

    def remote(self, **options):
        self.options = options

        def decorated(function):
            self.function = function
            return self.Task(self)

        return decorated

    def cancel(self, reference, force: bool) -> None:
        assert force
        self.cancelled.append(reference)

    class Task:
        def __init__(self, ray: "FakeRay") -> None:
            self.ray = ray

        def remote(self, *arguments):
            reference = FakeRay.Reference()
            self.ray.tasks.append((reference, arguments))
            return reference

    class Reference:
        def __init__(self) -> None:
            self.told: Future = Future()

        def future(self) -> Future:
            return self.told


@pytest.fixture
def fake(monkeypatch) -> FakeRay:
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def test_it_starts_ray_for_this_machine_only_and_ends_it(fake) -> None:
    with RayExecutor(2, options={"num_gpus": 1}) as executor:
        assert fake.how["address"] == "local"
        assert fake.how["include_dashboard"] is False
        assert fake.options == {"max_retries": 0, "num_gpus": 1}
        future = executor.submit(divmod, 7, 2)
        (reference, arguments), *_ = fake.tasks
        reference.told.set_result(fake.function(*arguments))
        assert future.result() == (3, 1)
    assert not fake.running
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(divmod, 7, 2)


def test_it_never_starts_what_others_can_reach(fake) -> None:
    fake.address = "192.0.2.7"
    with pytest.raises(zo.ArgumentError, match="before anything imports ray"):
        RayExecutor()
    assert not fake.running


def test_a_ray_that_runs_stays(fake) -> None:
    fake.address, fake.running = "192.0.2.7", True
    executor = RayExecutor()
    assert executor._max_workers == 3
    future = executor.submit(divmod, 7, 2)
    executor.shutdown(wait=False, cancel_futures=True)
    assert future.cancelled()
    assert fake.cancelled == [fake.tasks[0][0]]
    assert fake.running


# --- with Ray itself


@pytest.fixture(scope="module")
def executor() -> Iterator[RayExecutor]:
    if importlib.util.find_spec("ray") is None:  # not imported: that is the executor's to do
        pytest.skip("Ray is not installed")
    with RayExecutor(workers=2) as executor:
        yield executor


def wave() -> list[zo.Probes]:
    rows = torch.arange(16, dtype=torch.float64)[:, None]
    return [zo.Probes(torch.zeros(1, dtype=torch.float64), zo.Dense(rows))]


def noisy(x: torch.Tensor) -> list[float]:
    return [float(x[0]), float(torch.rand(()))]


def faulty(x: torch.Tensor) -> float:
    match int(x[0]):
        case 3:
            time.sleep(1000.0)
        case 7:
            os._exit(3)
        case 9:
            raise ValueError("nine")
    return float(x[0])


@pytest.mark.filterwarnings("ignore")
def test_only_this_machine_reaches_it(executor) -> None:
    executor.submit(abs, -1).result(LONG)
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = [connection for process in family for connection in process.net_connections("inet")]
    listening = {connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN}
    assert listening
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


@pytest.mark.filterwarnings("ignore")
def test_faults_lose_one_row_and_no_worker(executor) -> None:
    before = executor.submit(os.getpid).result(LONG)
    pieces = list(Pool(workers=2, executor=executor, timeout=LIMIT).stream(zo.pointwise(faulty), wave()))
    found = {piece.rows.start: piece.status for piece in pieces}
    assert found == {row: {3: "timeout", 7: "crashed", 9: "failed"}.get(row, "ok") for row in range(16)}
    assert psutil.pid_exists(before)


@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_is_killed_loses_its_row_and_a_retry_mends_it(executor, tmp_path) -> None:
    def killed_once(x: torch.Tensor) -> list[float]:
        if x[0] == 5 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return noisy(x)

    values = []
    with Pool(workers=2, seed=5) as pool:
        values += evaluate(pool, zo.pointwise(noisy), wave(), failure_policy("raise"))
    for retries in (0, 1):
        (tmp_path / "killed").unlink(missing_ok=True)
        pool = Pool(executor=executor, isolate=False, seed=5, retries=retries)
        pieces = {row: piece for piece in pool.stream(zo.pointwise(killed_once), wave()) for row in piece.rows}
        lost = [row for row, piece in pieces.items() if piece.status != "ok"]
        assert all(pieces[row].status == "crashed" for row in lost)
        if retries:
            assert lost == []
            values.append(torch.cat([pieces[row].values for row in range(16)]))
        else:
            assert lost
    assert torch.equal(values[0], values[1])


@pytest.mark.filterwarnings("ignore")
def test_what_is_cancelled_is_killed(executor, tmp_path) -> None:
    def slow(x: torch.Tensor) -> float:
        (tmp_path / str(os.getpid())).touch()
        time.sleep(1000.0)
        return 0.0

    futures = [executor.submit(slow, torch.zeros(1)) for _ in range(2)]
    deadline = time.monotonic() + LONG
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert [future.cancel() for future in futures] == [True, True]
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
