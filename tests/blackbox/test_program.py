"""A command line as a black box: what it is told, what it says, and every way in which it is lost."""

import contextlib
import json
import os
import pickle
import re
import sys
import tempfile
import threading
import time
import tracemalloc
from pathlib import Path

import cloudpickle
import numpy as np
import psutil
import pytest
import torch

import zograd as zo
from zograd.blackbox._processes import MARK, Child, how_it_ended
from zograd.blackbox._program_results import numbers
from zograd.evaluate import Finished, InProcess

PYTHON = [sys.executable, "-S", "-E", "-c"]


def points(*rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def lost(program: zo.Program, row=(1.0,)) -> Finished:
    """The one evaluation of ``program``, which must be lost."""
    wave = [zo.Probes(points(row)[0], zo.Dense(torch.zeros(1, len(row), dtype=torch.float64)))]
    (finished,) = InProcess().stream(program, wave)
    assert finished.values is None
    return finished


def named_sleeps(seconds: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cmdline() == ["sleep", seconds] and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture(autouse=True)
def scratch(monkeypatch, tmp_path) -> Path:
    """Where the scratch directories are made in a test."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


# --- what it is told -------------------------------------------------------------------------------------------------


def test_json_on_stdin_as_x0_was_given() -> None:
    parameters = zo.Parameters({"a": 2.0, "b": np.array([1.0, 3.0]), "c": "wood"}, choices={"c": ("wood", "stone")})
    code = "import json,sys; x = json.load(sys.stdin); print(json.dumps(x['a'] + sum(x['b']) + (x['c'] == 'wood')))"
    program = zo.Program([*PYTHON, code]).over(parameters)
    assert program(parameters.initial[None]).tolist() == [7.0]


def test_arguments_are_whole_words_that_no_shell_sees(tmp_path) -> None:
    parameters = zo.Parameters(
        {"n": 1.0, "name": "$(touch gone); `id` *"}, choices={"name": ("$(touch gone); `id` *",)}
    )
    program = zo.Program(["printf", "%s\n", "{name} {n}"], result=re.compile(r"`id` \* (\S+)")).over(parameters)
    assert program(parameters.initial[None]).tolist() == [1.0]


def test_names_of_structures(tmp_path) -> None:
    parameters = zo.Parameters({"lens": {"r": [1.0, 2.0]}, "k": 3})
    program = zo.Program(["echo", "[{lens.r[0]}, {lens.r[1]}, {k}]"]).over(parameters)
    assert program(parameters.initial[None]).tolist() == [[1.0, 2.0, 3.0]]
    assert zo.Program(["echo", "{x}"]).over(zo.Parameters(0.25))(points([0.25])).tolist() == [0.25]


def test_a_template_is_rendered_and_what_is_no_parameter_stays(tmp_path) -> None:
    deck = tmp_path / "deck.cir"
    deck.write_text("w = ${width} ${HOME} $x ${seed}\n")
    program = zo.Program(["cat", "deck.cir"], templates=[deck], result=re.compile(r"w = (\S+) \$\{HOME\} \$x 0")).over(
        zo.Parameters({"width": 1.5})
    )
    assert program(points([1.5])).tolist() == [1.5]


def test_a_parameter_that_nothing_uses_is_a_mistake() -> None:
    program = zo.Program(["echo", "{a}"]).over(zo.Parameters({"a": 1.0, "b": 2.0}))
    with pytest.raises(zo.ArgumentError, match=r"nothing that uses b"):
        program(points([1.0, 2.0]))
    program = zo.Program(["echo", "{a}"], stdin=True).over(zo.Parameters({"a": 1.0, "b": 2.0}))
    assert program(points([1.0, 2.0])).tolist() == [1.0]


def test_braces_around_anything_else_stay() -> None:
    program = zo.Program(["awk", "BEGIN {print} END {}", "/dev/null"], then=lambda read: 1.0, result=re.compile("()"))
    assert lost(program).status == "invalid"  # it ran, and printed no number
    program = zo.Program(["echo", "{a}", "{c}"], result=re.compile(r"(\d)\S* \{c\}")).over(zo.Parameters({"a": 1.0}))
    assert program(points([1.0])).tolist() == [1.0]


def test_a_file_is_found_wherever_it_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text("import os; print(1.0 if os.getcwd() != '/' and not os.listdir() else 2.0)")
    program = zo.Program([sys.executable, "-S", "-E", "model.py"])
    monkeypatch.chdir("/")
    assert program(points([1.0])).tolist() == [1.0]


def test_environment_and_working_directory(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    command = ["sh", "-c", 'echo "[$OMP_NUM_THREADS, $MKL_NUM_THREADS, $A]"; pwd >&2; test "$PWD" = "$A_DIR"']
    program = zo.Program(command, env={"A": "5", "MKL_NUM_THREADS": "3", "A_DIR": str(tmp_path)}, cwd=tmp_path)
    assert program(points([1.0])).tolist() == [[1.0, 3.0, 5.0]]


def test_it_can_be_called_as_the_program_that_it_is(tmp_path) -> None:
    shown = zo.Program(["echo", "[{width}, {lens.radius[1]}]"], stdin=True, then=lambda read: read.tolist())
    assert shown({"width": 2.5, "lens": {"radius": np.array([1.0, 3.0])}}) == [2.5, 3.0]
    assert zo.Program(["echo", "{x}"])(4.0) == 4.0
    assert zo.Program(["echo", "{x[1]}"], stdin=True)(points(1.0, 7.0)) == 7.0
    assert zo.Program(["echo", "{x[1]}"], stdin=True)(points([1.0, 7.0], [0.0, 8.0])).tolist() == [7.0, 8.0]
    with pytest.raises(zo.EvaluationError, match="exited with 3"):
        zo.Program(["sh", "-c", "exit 3"])({"width": 1.0})


# --- what it says ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("2.5", 2.5),
        ("starting\n2.5\n", 2.5),
        ("[1, 2, 3]", [1, 2, 3]),
        ("[[1, 2], [3, 4]]", [[1, 2], [3, 4]]),
        ('{"b": 2, "a": [1, 5]}', [1, 5, 2]),
        ('{\n "a": 1\n}', [1]),
    ],
)
def test_json(said, expected) -> None:
    assert zo.Program(["printf", "%s", said])(points([1.0])).tolist() == [expected]


@pytest.mark.parametrize(
    "said",
    [
        "",
        "   ",
        "nan",
        "NaN",
        "[1, Infinity]",
        "[1, [2]]",
        "[]",
        "{}",
        '"2"',
        "null",
        "true",
        "[true]",
        "1e999",
        "[" * 9999,
        "1" * 5000,
        '{"a":' * 500 + "1" + "}" * 500,
        '[["a"]]',
        "[1, null]",
        "[true, 1]",
        '["1.5"]',
        '{"a": 1, "a": 2}',
        '[1, {"a": 1}]',
        "9" * 400,
        "\x00\xff",
    ],
)
def test_garbage_is_invalid(said) -> None:
    finished = lost(zo.Program([*PYTHON, f"print({said!r})"]))
    assert finished.status == "invalid", finished.error


def test_the_last_match_of_a_regular_expression_counts() -> None:
    text = "loss = 9\nloss = 4.5e-1\n"
    assert zo.Program(["printf", text], result=re.compile(r"loss = (\S+)"))(points([1.0])).tolist() == [0.45]
    pair = zo.Program(["printf", "3 by 4"], result=re.compile(r"(\d) by (\d)"))
    assert pair(points([1.0])).tolist() == [[3.0, 4.0]]
    named = zo.Program(
        ["printf", "3 by 4"], result=re.compile(r"(?P<w>\d) by (?P<h>\d)"), then=lambda m: m["w"] * m["h"]
    )
    assert named(points([1.0])).tolist() == [12.0]
    many = zo.Program(["printf", "3 by 4"], result={"w": r"(\d) by", "h": r"by (\d)"}, then=lambda m: m["w"] - m["h"])
    assert many(points([1.0])).tolist() == [-1.0]


@pytest.mark.parametrize("text", ["nothing of the kind", "loss = failed", "loss = nan", "loss = "])
def test_a_measurement_that_fails_is_invalid(text) -> None:
    finished = lost(zo.Program(["echo", text], result=re.compile(r"loss = ?(\S*)")))
    assert finished.status == "invalid"


def test_results_in_files(tmp_path) -> None:
    image = tmp_path / "given.png"
    from PIL import Image

    Image.fromarray(np.array([[0, 255], [51, 102]], np.uint8)).save(image)
    program = zo.Program(["cp", str(image), "out.png"], result="image", file="out.png")
    torch.testing.assert_close(program(points([1.0])), points([[0, 1], [0.2, 0.4]]).reshape(1, 2, 2))
    array = tmp_path / "given.npy"
    np.save(array, np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    program = zo.Program(["cp", str(array), "out.npy"], result="npy", file="out.npy")
    assert program(points([1.0])).tolist() == [[[0, 1, 2], [3, 4, 5]]]
    program = zo.Program(["sh", "-c", "mkdir -p a; echo 3 > a/out.json"], file="a/out.json")
    assert program(points([1.0])).tolist() == [3.0]


@pytest.mark.parametrize(
    "trick",
    [
        "ln -s /etc/hostname out",
        "ln -s ../../secret out",
        "ln -s out out",
        "d=$PWD; cd ..; rmdir $d; mkdir elsewhere; echo 1.5 > elsewhere/out; ln -s $PWD/elsewhere $d",
        "ln -s .. up; ln -s up/../../secret out",
        "mkdir out",
        "mkfifo out",
        "ln -s /dev/zero out",
        "true",
        "head -c 3000 /dev/zero | tr '\\0' 1 > out",
    ],
)
def test_tricks_with_the_file_are_invalid(trick, scratch) -> None:
    (scratch.parent / "secret").write_text("1.5")
    finished = lost(zo.Program(["sh", "-c", trick], file="out", max_output=2000, timeout=20.0))
    assert finished.status == "invalid", finished.error
    assert "1.5" not in finished.error


@pytest.mark.parametrize("file", ["/etc/passwd", "../out", "a/../../out", "", "a\0b"])
def test_a_file_outside_is_refused_at_once(file) -> None:
    with pytest.raises(zo.ArgumentError, match="within the scratch directory"):
        zo.Program(["true"], file=file)


# --- how it is lost --------------------------------------------------------------------------------------------------


def test_an_exit_code_is_a_failure_with_the_last_lines() -> None:
    finished = lost(zo.Program(["sh", "-c", "echo one >&2; echo no convergence >&2; exit 3"]))
    assert finished.status == "failed"
    assert re.search(r"sh exited with 3 after \S+ s\. Its last lines: one \| no convergence", finished.error)


def test_exit_codes_that_are_no_failure() -> None:
    as_code = zo.Program(["sh", "-c", 'echo 2; exit "${0%.*}"', "{x[0]}"], exit_codes=(0, 3))
    assert as_code(points([0.0], [3.0])).tolist() == [2.0, 2.0]
    assert lost(as_code, (1.0,)).status == "failed"
    assert lost(zo.Program(["sh", "-c", "kill -TERM $$"], exit_codes=(0, 15, 143))).status == "crashed"
    only = lost(zo.Program(["echo", "2"], exit_codes={3}))
    assert only.status == "failed"
    assert "ended after" in only.error


def test_a_signal_is_a_crash() -> None:
    finished = lost(zo.Program(["sh", "-c", "kill -SEGV $$"]))
    assert finished.status == "crashed"
    assert "SIGSEGV" in finished.error
    assert how_it_ended("a", -99, 1.0) == ("crashed", "a was killed by signal 99 after 1 s.")


def test_what_cannot_be_started_is_a_failure() -> None:
    finished = lost(zo.Program(["./no-such-program"]))
    assert finished.status == "failed"
    assert "no-such-program could not be started" in finished.error


def test_the_time_limit_ends_all_that_was_started() -> None:
    command = [
        "sh",
        "-c",
        "sleep 7301 & (setsid sleep 7301 & setsid sh -c 'sleep 7301 & :' & :); echo late >&2; sleep 7301",
    ]
    finished = lost(zo.Program(command, timeout=0.7))
    assert finished.status == "timeout"
    assert "late" in finished.error
    assert named_sleeps("7301") == []


def test_a_grandchild_that_holds_the_pipe_does_not_hold_us() -> None:
    began = time.monotonic()
    assert zo.Program(["sh", "-c", "sleep 7302 & echo 4"], timeout=60.0)(points([1.0])).tolist() == [4.0]
    assert time.monotonic() - began < 30
    assert named_sleeps("7302") == []


def test_too_much_output_is_invalid() -> None:
    finished = lost(zo.Program(["yes"], max_output=100_000, timeout=60.0))
    assert finished.status == "invalid"
    assert "more than 100,000 bytes" in finished.error


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
def test_the_memory_limit_holds() -> None:
    code = "import time; time.sleep(0.3); x = bytearray(2**30); print(1)"
    assert lost(zo.Program([*PYTHON, code], memory=2**29)).status == "failed"


def test_nothing_is_left_of_a_scratch_directory_unless_asked(scratch) -> None:
    assert lost(zo.Program(["sh", "-c", "touch a; exit 1"])).status == "failed"
    assert zo.Program(["sh", "-c", "touch a; echo 1"])(points([1.0])).tolist() == [1.0]
    assert list(scratch.iterdir()) == []
    finished = lost(zo.Program(["sh", "-c", "echo sorry >&2; touch a; exit 1"], keep_failed=True))
    (kept,) = scratch.iterdir()
    assert str(kept) in finished.error
    assert sorted(path.name for path in kept.iterdir()) == ["a", "parameters.json", "stderr.txt"]
    assert json.loads((kept / "parameters.json").read_text()) == [1.0]
    assert (kept / "stderr.txt").read_text() == "sorry\n"


def test_what_the_program_made_is_kept_as_it_is(scratch) -> None:
    own = "echo mine > parameters.json; ln -s ../../other stderr.txt; echo sorry >&2; exit 1"
    lost(zo.Program(["sh", "-c", own], keep_failed=True))
    (kept,) = scratch.iterdir()
    assert (kept / "parameters.json").read_text() == "mine\n"
    assert not (scratch.parent / "other").exists()
    moved = "d=$PWD; cd ..; rmdir $d; mkdir elsewhere; ln -s $PWD/elsewhere $d; exit 1"
    assert lost(zo.Program(["sh", "-c", moved], keep_failed=True)).status == "failed"
    assert list((scratch / "elsewhere").iterdir()) == []
    gone = lost(zo.Program(["sh", "-c", "rmdir $PWD; exit 3"], keep_failed=True))
    assert "exited with 3" in gone.error


def test_a_small_image_that_unfolds_is_refused(tmp_path) -> None:
    from PIL import Image

    Image.new("L", (3000, 2000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 20_000
    bomb = ["cp", str(tmp_path / "bomb.png"), "out.png"]
    finished = lost(zo.Program(bomb, result="image", file="out.png", max_output=2**20))
    assert finished.status == "invalid"
    assert "3000 x 2000 pixels" in finished.error


def test_text_among_numbers_costs_no_memory() -> None:
    wide = [["x" * 20_000] + [1] * 20_000]  # NumPy would make it 1.6 GB
    tracemalloc.start()
    with pytest.raises(zo.EvaluationError, match="an array of numbers was due"):
        numbers(wide)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_big_inputs_and_outputs_do_not_lock_up() -> None:
    code = "import json,sys; x = json.load(sys.stdin); sys.stderr.write('e' * 300000); print(json.dumps(x))"
    big = torch.arange(50_000, dtype=torch.float64)[None]
    assert torch.equal(zo.Program([*PYTHON, code], timeout=60.0)(big), big)


def test_a_program_that_reads_nothing_is_fed_anyway() -> None:
    assert zo.Program(["echo", "1"], stdin=True)(torch.zeros(1, 50_000)).tolist() == [1.0]


def test_an_interrupt_ends_what_runs() -> None:
    program = zo.Program(["sleep", "7303"])
    found: list[Finished] = []
    thread = threading.Thread(target=lambda: found.append(lost(program)))
    thread.start()
    while not named_sleeps("7303"):
        time.sleep(0.01)
    program.interrupt()
    thread.join(20.0)
    assert [finished.status for finished in found] == ["crashed"]


@pytest.mark.parametrize("persistent", [False, True])
def test_an_interrupt_before_the_process_is_known_ends_it_too(persistent, monkeypatch) -> None:
    program = zo.Program(["sleep", "7306"], persistent=persistent)

    class Interrupted(Child):
        def __init__(self, *words, **settings) -> None:
            super().__init__(*words, **settings)
            program.interrupt()

    monkeypatch.setattr("zograd.blackbox._program.Child", Interrupted)
    assert lost(program).status == "crashed"
    assert named_sleeps("7306") == []


def test_the_program_goes_with_minimize_and_differentiable() -> None:
    program = zo.Program(["awk", 'BEGIN { printf "%.17g", ({a} - 1) ^ 2 }'])
    result = zo.minimize(program, {"a": 0.0}, evaluations=24, progress=False)
    assert result.fun < 0.05
    layer = zo.differentiable(zo.Program(["awk", 'BEGIN { printf "%.17g", 3 * {x[0]} }']))
    x = points([2.0]).requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, points([3.0]), atol=1e-2, rtol=1e-2)


def test_it_travels_without_its_processes() -> None:
    program = pickle.loads(cloudpickle.dumps(zo.Program(["echo", "2"], then=lambda x: x + 1)))
    assert program(points([1.0])).tolist() == [3.0]
    assert repr(program) == "Program(['echo', '2'])"


def test_a_shorter_limit_wins() -> None:
    program = zo.Program(["sleep", "7304"], timeout=60.0)
    assert lost(program.limited(0.2)).status == "timeout"
    assert lost(zo.Program(["sleep", "7304"]).limited(0.2)).status == "timeout"
    assert lost(zo.Program(["sleep", "7304"], timeout=0.2).limited(60.0)).status == "timeout"


def test_without_the_kernels_help(monkeypatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    monkeypatch.delattr(os, "waitid")
    assert zo.Program(["sh", "-c", "sleep 0.1; echo 5"])(points([1.0])).tolist() == [5.0]
    assert lost(zo.Program(["sleep", "7305"], timeout=0.2)).status == "timeout"
    assert named_sleeps("7305") == []


def test_a_child_that_has_ended_can_be_stopped_again(tmp_path) -> None:
    child = Child(["true"], cwd=tmp_path, environment={**os.environ, MARK: "none"})
    assert child.stop() in (0, -9)
    child.kill()
    assert child.ended()
    assert child.stop() in (0, -9)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"command": "echo 1"}, "`command` must be words"),
        ({"command": []}, "`command` must be words"),
        ({"result": "xml"}, "`result` must be one of 'json', 'npy', 'image'"),
        ({"result": "npy"}, "`file` must be given"),
        ({"result": {}}, "name at least one pattern"),
        ({"result": re.compile("a")}, "have a group"),
        ({"result": re.compile(b"(a)")}, "have a group"),
        ({"timeout": -1}, "`timeout` must be a positive number"),
        ({"memory": 0}, "`memory` must"),
        ({"templates": "deck"}, "`templates` must be a list of files"),
        ({"templates": ["no such file"]}, "`templates` must be text files"),
        ({"exit_codes": 1}, "`exit_codes` must be numbers"),
        ({"exit_codes": ()}, "`exit_codes` must be numbers"),
        ({"exit_codes": (0, True)}, "`exit_codes` must be numbers"),
        ({"exit_codes": "01"}, "`exit_codes` must be numbers"),
        ({"exit_codes": (0, 1), "persistent": True}, "`exit_codes` must be left out"),
        ({"cwd": "/no/such"}, "`cwd` must be a directory"),
        ({"env": {"A": 1}}, "`env` must map names to strings"),
        ({"then": 1}, "`then` must be callable"),
        ({"recycle_after": 2}, "`persistent` must be True"),
        ({"persistent": True, "result": re.compile("(a)")}, "`result` must be"),
        ({"max_output": 0}, "`max_output` must"),
    ],
)
def test_wrong_arguments(keywords, message) -> None:
    with pytest.raises(zo.ArgumentError, match=message):
        zo.Program(**{"command": ["echo"], **keywords})


def test_no_shell_is_ever_used() -> None:
    source = Path(zo.blackbox.__file__).parent.rglob("*.py")
    assert not [path for path in source if re.search(r"shell\s*=|os\.system|popen\(", path.read_text())]
