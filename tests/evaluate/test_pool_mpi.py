"""MPI's executor: one process that decides and two that work, on a network of their own that has only loopback."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import zograd as zo

# Open MPI's launcher listens on every network that it can see, and no setting ends that.
ALONE = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
LAUNCHER = ["mpiexec", "--oversubscribe", "--mca", "btl", "self,vader", "-n", "3"]
LONG = 300.0

FAULTS = """
import json, os, sys, time
import torch
import zograd as zo
from mpi4py.futures import MPIPoolExecutor

def faulty(x):
    match int(x[0]):
        case 3:
            time.sleep(1000.0)
        case 7:
            os._exit(3)
        case 9:
            raise ValueError("nine")
    return [float(x[0]), float(torch.rand(()))]

if __name__ == "__main__":
    wave = [zo.Probes(torch.zeros(1), zo.Dense(torch.arange(12.0)[:, None]))]
    with MPIPoolExecutor() as executor:
        pool = zo.Pool(executor=executor, timeout=5.0, seed=5)
        pieces = {row: piece for piece in pool.stream(zo.pointwise(faulty), wave) for row in piece.rows}
    told = {row: (piece.status, piece.values.tolist() if piece.values is not None else None)
            for row, piece in sorted(pieces.items())}
    print(json.dumps(told))
"""

KILLED = """
import pathlib, sys, time
import psutil
import zograd as zo
from mpi4py.futures import MPIPoolExecutor

folder = pathlib.Path(sys.argv[1])

def program(x):
    count = len(list(folder.glob("*.done")))
    if count == 30 and not (folder / "killed").exists():
        (folder / "killed").touch()
        psutil.Process().parents()[1].kill()  # it runs in a child of the server that the rank has started
        time.sleep(1000.0)
    value = abs(x[0] - 0.3) + (x[1] + 1.0) ** 2
    (folder / f"{float(x[0]).hex()} {float(x[1]).hex()}.done").touch()
    return value

if __name__ == "__main__":
    with MPIPoolExecutor() as executor:
        result = zo.minimize(program, [1.0, 1.0], evaluations=60, executor=executor, run=folder / "run")
    print(result.fun.hex(), result.nfev)
"""


def possible() -> bool:
    """Whether there is MPI, and a network of its own for it."""
    tools = all(map(shutil.which, ("mpiexec", "unshare", "ip")))
    if not tools or importlib.util.find_spec("mpi4py") is None:
        return False
    return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not possible(), reason="needs mpi4py, mpiexec, and unshare for a network of its own")


def started(script: Path, *words: str) -> subprocess.CompletedProcess:
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = [*ALONE, *LAUNCHER, sys.executable, "-m", "mpi4py.futures", str(script), *words]
    return subprocess.run(
        command, env={**os.environ, **root}, capture_output=True, text=True, timeout=LONG, check=False
    )


def test_faults_lose_one_row_and_no_worker(tmp_path) -> None:
    script = tmp_path / "faults.py"
    script.write_text(FAULTS)
    ended = started(script)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    lost = {"3": "timeout", "7": "crashed", "9": "failed"}
    assert {row: status for row, (status, _) in told.items()} == {str(r): lost.get(str(r), "ok") for r in range(12)}
    wave = [zo.Probes(torch.zeros(1), zo.Dense(torch.arange(12.0)[:, None]))]
    with zo.Pool(workers=1, seed=5) as pool:
        pieces = list(pool.stream(zo.pointwise(lambda x: [float(x[0]), float(torch.rand(()))]), wave))
    expected = torch.cat([piece.values for piece in sorted(pieces, key=lambda piece: piece.rows.start)])
    assert all(told[str(row)][1] == [expected[row].tolist()] for row in range(12) if str(row) not in lost)


def test_a_rank_that_is_killed_ends_the_job_and_the_run_goes_on(tmp_path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    assert started(script, str(tmp_path)).returncode != 0
    assert (tmp_path / "killed").exists()
    done = len(list(tmp_path.glob("*.done")))
    ended = started(script, str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    fun, evaluations = ended.stdout.split()
    alone = zo.minimize(lambda x: abs(x[0] - 0.3) + (x[1] + 1.0) ** 2, [1.0, 1.0], evaluations=60)
    assert (float.fromhex(fun), int(evaluations)) == (alone.fun, alone.nfev)
    assert 0 < done < 60
