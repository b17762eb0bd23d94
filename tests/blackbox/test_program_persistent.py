"""Persistent workers: the line protocol, their templates, and every way of breaking it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import zograd as zo
from zograd.blackbox._program_results import from_image, from_json, from_npy, numbers
from zograd.blackbox._program_worker import Answer
from zograd.evaluate import Finished, InProcess

WORKERS = Path(__file__).parents[2] / "examples" / "workers"
PYTHON = [sys.executable, "-S", "-E", "-c"]
LOOP = "import json,os,sys,time\nfor line in sys.stdin:\n    asked = json.loads(line)\n    {}\n    sys.stdout.flush()\n"


def points(*rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def worker(body: str, **keywords) -> zo.Program:
    return zo.Program([*PYTHON, LOOP.format(body.replace("\n", "\n    "))], persistent=True, **keywords)


def stream(program: zo.Program, *rows: float) -> list[Finished]:
    return list(
        InProcess().stream(program, [zo.Probes(torch.zeros(1).double(), zo.Dense(points(*[[r] for r in rows])))])
    )


def children() -> set[psutil.Process]:
    return {p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE}


@pytest.fixture(autouse=True)
def scratch(monkeypatch, tmp_path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> str:
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    built = tmp_path_factory.mktemp("built") / "worker"
    subprocess.run(["g++", "-O0", "-std=c++17", str(WORKERS / "worker.cpp"), "-o", str(built)], check=True)
    return str(built)


@pytest.mark.parametrize(
    "command", [[sys.executable, "-S", str(WORKERS / "worker.py")], ["sh", str(WORKERS / "worker.sh")]]
)
def test_the_templates_answer(command, scratch) -> None:
    before = children()
    with zo.Program(command, persistent=True, timeout=30.0) as program:
        for _ in range(3):
            torch.testing.assert_close(program(points([1.5, 0.5], [0.5, 2.5])), points([1.0, 4.0])[0])
        assert len(children() - before) == 1
        assert len(list(scratch.iterdir())) == 1
    assert children() == before
    assert list(scratch.iterdir()) == []


def test_the_compiled_template_answers_with_raw_arrays(compiled) -> None:
    with zo.Program([compiled], persistent=True, timeout=30.0) as program:
        assert program(points([1.5, 0.5, 0.0], [0.5, 2.5, 1.0])).tolist() == [[1.0, 0.0, 0.25], [0.0, 4.0, 0.25]]


def test_arrays_travel_as_raw_bytes() -> None:
    body = (
        "told = {'id': asked['id'], 'arrays': [{'name': 'b', 'dtype': '<f4', 'shape': [2, 1]},"
        " {'name': 'a', 'dtype': '|u1', 'shape': [3]}]}\n"
        "sys.stdout.write(json.dumps(told) + chr(10)); sys.stdout.flush()\n"
        "sys.stdout.buffer.write(b'\\0\\0\\x80\\x3f\\0\\0\\0\\x40abc')"
    )
    with worker(body, timeout=30.0) as program:
        assert program(points([0.0], [1.0])).tolist() == [[97.0, 98.0, 99.0, 1.0, 2.0]] * 2
        assert program.outputs is not None
        assert program.outputs.unpack(program(points([0.0])))["b"].tolist() == [[[1.0], [2.0]]]


def test_the_seed_and_the_scratch_directory_are_told() -> None:
    body = (
        "path = os.path.join(asked['scratch'], 'out.json')\n"
        "open(path, 'w').write(json.dumps([asked['seed'], len(os.listdir(asked['scratch']))]))\nprint('{}')"
    )
    with worker(body, file="out.json", timeout=30.0) as program:
        assert program(points([0.0], [1.0])).tolist() == [[0.0, 1.0], [0.0, 1.0]]


def test_an_error_is_one_lost_evaluation_and_the_worker_goes_on() -> None:
    body = (
        "x = asked['parameters'][0]\n"
        "print(json.dumps({'error': 'diverged'} if x == 1 else {'result': [float('nan'), os.getpid()][x != 2]}))"
    )
    with worker(body, timeout=30.0) as program:
        first, failed, invalid, last = stream(program, 0.0, 1.0, 2.0, 3.0)
        assert failed.status == "failed"
        assert "the worker says: diverged" in failed.error
        assert invalid.status == "invalid"
        assert first.values is not None
        assert torch.equal(first.values, last.values)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("print('hello')", "invalid", "a JSON object was due"),
        ("print('[' * 5000)", "invalid", "a JSON object was due"),
        ("print('[1]')", "invalid", "a JSON object was due"),
        ("print('{}')", "invalid", 'no "result"'),
        ("print(json.dumps({'id': 77, 'result': 1}))", "invalid", "its id must be"),
        ("print(json.dumps({'result': 'x'}))", "invalid", "numbers were due"),
        ("print(json.dumps({'error': {'a': 1}}))", "failed", "the worker says"),
        ("print(json.dumps({'result': 1}) + chr(10) + 'more')", "invalid", "bytes follow its answer"),
        ("sys.stdout.write('x' * 17 * 2**20); sys.stdout.flush(); time.sleep(60)", "invalid", "its line has more"),
        ("print(json.dumps({'arrays': [{'dtype': '|O8', 'shape': [1]}]}))", "invalid", "must say its dtype"),
        ("print(json.dumps({'arrays': [{'dtype': '<f8', 'shape': [10**14]}]}))", "invalid", "more than"),
        ("print(json.dumps({'arrays': [{'dtype': '<f8', 'shape': [-1]}]}))", "invalid", "must say its dtype"),
        ("print(json.dumps({'arrays': [{'dtype': '<f8', 'shape': 3}]}))", "invalid", "must say its dtype"),
        ("print(json.dumps({'arrays': [{'dtype': '<f8', 'shape': [0]}]}))", "invalid", "empty array"),
        ("print(json.dumps({'arrays': 3}))", "invalid", "must say its dtype"),
        ("print(json.dumps({'arrays': [{'dtype': '<f8', 'shape': [1]}] * 2}))", "invalid", "different names"),
        ("print('why', file=sys.stderr); sys.exit(4)", "failed", r"with 4 .*did not answer. Its last lines: why"),
        ("sys.exit(0)", "failed", "did not answer"),
        ("os.close(1); time.sleep(60)", "crashed", "did not answer"),
        ("os.kill(os.getpid(), 9)", "crashed", "SIGKILL"),
    ],
)  # fmt: skip
def test_a_worker_that_breaks_the_protocol_is_replaced(body, status, message) -> None:
    before = children()
    good = "print(json.dumps({'result': 1}))"
    with worker(f"if asked['parameters'][0]:\n    {body}\nelse:\n    {good}", timeout=30.0) as program:
        finished = stream(program, 0.0, 1.0, 0.0)
        assert [f.status for f in finished] == ["ok", status, "ok"]
        with pytest.raises(zo.EvaluationError, match=message):
            program(points([1.0]))
    assert children() == before


def test_a_hung_worker_is_killed_with_what_it_started() -> None:
    before = children()
    body = (
        "import subprocess\n"
        "if asked['parameters'][0]: subprocess.Popen(['sleep', '7401']); time.sleep(60)\n"
        "print(json.dumps({'result': 1}))"
    )
    with worker(body, timeout=1.5) as program:
        assert [f.status for f in stream(program, 0.0, 1.0, 0.0)] == ["ok", "timeout", "ok"]
    assert children() == before


def test_a_worker_that_leaks_is_recycled() -> None:
    with worker("print(json.dumps({'result': os.getpid()}))", recycle_after=2, timeout=30.0) as program:
        pids = program(points([0.0], [0.0], [0.0], [0.0], [0.0])).tolist()
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]


def test_a_worker_that_died_while_it_waited_is_replaced() -> None:
    with worker("print(json.dumps({'result': os.getpid()}))", timeout=30.0) as program:
        first = int(program(points([0.0])))
        process = psutil.Process(first)
        process.kill()
        psutil.wait_procs([process], timeout=30)
        assert int(program(points([0.0]))) != first


def test_parameters_in_the_words_of_a_worker_are_a_mistake() -> None:
    program = zo.Program(["cat", "{x[0]}"], persistent=True)
    with pytest.raises(zo.ArgumentError, match="take no parameters in its words"):
        program(points([0.0]))


# --- hostile bytes ---------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
ANSWER = st.fixed_dictionaries(
    {},
    optional={
        "id": st.just(3) | JSON,
        "result": JSON,
        "error": JSON,
        "arrays": JSON
        | st.lists(
            st.fixed_dictionaries(
                {}, optional={"name": JSON, "dtype": st.sampled_from(["<f4", "<f8", "|u1", "O", "V3"]) | JSON,
                              "shape": st.lists(st.integers(-1, 2**60) | st.integers(0, 3), max_size=3) | JSON}
            ), max_size=3
        ),
    },
)  # fmt: skip


def read(data: bytes) -> object:
    answer = Answer(3, 10_000)
    if not answer.complete(bytearray(data)):
        return None
    return answer.result(bytearray(data))


def outcome(attempt):
    """What it returns, or the one error that it may raise."""
    try:
        return attempt()
    except zo.EvaluationError as error:
        return error


def is_numbers(result: object) -> bool:
    if isinstance(result, dict):
        return all(is_numbers(value) for value in result.values())
    return isinstance(result, float) or (isinstance(result, np.ndarray) and result.dtype.kind in "biuf")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60) | st.tuples(ANSWER, st.binary(max_size=20)))
def test_any_bytes_of_a_worker_are_numbers_or_an_error(said) -> None:
    data = said if isinstance(said, bytes) else json.dumps(said[0]).encode() + b"\n" + said[1]
    result = outcome(lambda: read(data))
    if isinstance(result, zo.EvaluationError):
        assert result.status in ("invalid", "failed")
    else:
        assert result is None or is_numbers(result)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_json_is_numbers_or_an_error(data) -> None:
    result = outcome(lambda: numbers(from_json(data)))
    if isinstance(result, zo.EvaluationError):
        assert result.status == "invalid"
    else:
        assert is_numbers(result)


def npy(header: bytes, data: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


HEADER = st.builds(
    lambda dtype, shape, order: repr({"descr": dtype, "fortran_order": order, "shape": shape}).encode() + b"\n",
    st.sampled_from(["<f8", "<i4", "|u1", "|O", "|V0", "<U3", "|S0", [("a", "<f8")], "<M8[s]"]),
    st.lists(st.integers(-2, 2**62) | st.integers(0, 3), max_size=4).map(tuple),
    st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60) | st.builds(npy, st.binary(max_size=60) | HEADER, st.binary(max_size=64)))
def test_any_npy_is_an_array_of_numbers_or_an_error(data) -> None:
    array = outcome(lambda: from_npy(data))
    if isinstance(array, zo.EvaluationError):
        assert array.status == "invalid"
    else:
        assert array.dtype in (np.float32, np.float64)
        assert array.nbytes <= 8 * len(data)


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=60)
    | st.builds(
        lambda m, b: m + b,
        st.sampled_from([b"\x89PNG\r\n\x1a\n", b"P6 9 9 255\n", b"BM", b"II*\0", b"\xff\xd8\xff"]),
        st.binary(max_size=60),
    )
)
def test_any_image_is_an_array_of_numbers_or_an_error(data) -> None:
    array = outcome(lambda: from_image(data, 10_000))
    if isinstance(array, zo.EvaluationError):
        assert array.status == "invalid"
    else:
        assert array.dtype == np.float64


def test_a_pickle_in_an_array_file_is_never_opened(tmp_path) -> None:
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.save(tmp_path / "a.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(zo.EvaluationError, match="dtype object"):
        from_npy((tmp_path / "a.npy").read_bytes())
    assert not (tmp_path / "sprung").exists()
