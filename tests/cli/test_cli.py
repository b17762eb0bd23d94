"""The command line as a person types it: help, output, files, errors, Ctrl-C and missing extras."""

import builtins
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

import zograd as zo
from zograd.cli import main
from zograd.cli._options import descriptions, options_of
from zograd.cli._progress import progress
from zograd.problems import ALL, plateau
from zograd.report._folder import FILES

SMALL = ["demo", "picture", "--shapes", "3", "--size", "16", "--evaluations", "200"]

HELP = {
    (): """\
Usage: zograd [OPTIONS] COMMAND [ARGS]...

  Gradients for programs that have none.

Options:
  --version   Show the version and exit.
  -h, --help  Show this message and exit.

Commands:
  demo  Solve a ready-made problem, with live progress, and write a report.
""",
    ("demo",): """\
Usage: zograd demo [OPTIONS] [COMMAND] [ARGS]...

  Solve a ready-made problem, with live progress, and write a report.

  Without a name it is the picture. `zograd demo list` shows the others, and
  `zograd demo picture --help` the options.

Options:
  -h, --help  Show this message and exit.

Commands:
  caustic        Shape the surface of water so that light draws on the floor.
  cornell        Find the lamp and the blocks of a room from its picture.
  house          Find how many floors, windows and pickets a house was made
                 with, and how large all is.
  led            Switch the segments of LED displays until they show pi.
  list           Show the problems that there are.
  mesh           Make a sphere the shape that six shaded views show.
  mnist_weights  Find the weights of a network whose output is a given digit.
  picture        Reproduce a photograph through a renderer without a gradient.
  plateau        Walk down a staircase whose slope is zero almost everywhere.
  rocket         Land a rocket whose engines are either on or off.
  rosenbrock     Follow a narrow, curved valley to its end.
  strokes        Teach a network to write digits with a pen that has no
                 derivative.
  texture        Find every value of a picture from its distance to a
                 photograph.
  toy            Find the deeper of two valleys along a line.
""",
    ("demo", "picture"): """\
Usage: zograd demo picture [OPTIONS]

  Reproduce a photograph through a renderer without a gradient.

Options:
  --image PATH           A picture file of your own, of any size and shape;
                         transparent parts count as white.
  --shapes INTEGER       How many ellipses.  [default: 150]
  --size INTEGER         The longer side, in pixels, of the picture that is
                         compared; the shorter follows from the photograph.
                         [default: 64]
  --evaluations INTEGER  How often the program may be run.  [default: as the
                         problem needs]
  --by [loss|outputs]    What is modelled: the loss, or every output, where
                         there are several.  [default: loss]
  --seed INTEGER         Same seed, same run.  [default: 0]
  --out PATH             The folder for the report.  [default: demo-picture]
  -h, --help             Show this message and exit.
""",
    ("demo", "rosenbrock"): """\
Usage: zograd demo rosenbrock [OPTIONS]

  Follow a narrow, curved valley to its end.

Options:
  --dimension INTEGER    The number of parameters, d.  [default: 2]
  --squared BOOLEAN      Whether the loss is f(x)^2, from a random start; f(x)
                         by default, from (-1.2, 1, -1.2, ...).  [default:
                         False]
  --evaluations INTEGER  How often the program may be run.  [default: as the
                         problem needs]
  --by [loss|outputs]    What is modelled: the loss, or every output, where
                         there are several.  [default: loss]
  --seed INTEGER         Same seed, same run.  [default: 0]
  --out PATH             The folder for the report.  [default: demo-
                         rosenbrock]
  -h, --help             Show this message and exit.
""",
}


@pytest.fixture
def zograd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Type a command in an empty folder; what comes back is the exit code and both streams."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def type_(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(list(words))
        return (int(end.value.code or 0), *capsys.readouterr())

    return type_


@pytest.mark.parametrize("words", HELP, ids=" ".join)
def test_help_is_pinned(zograd: Any, words: tuple[str, ...]) -> None:
    code, out, _ = zograd(*words, "--help")
    assert code == 0
    # Releases of click break lines a little differently.
    assert out.split() == HELP[words].split()


def test_version(zograd: Any) -> None:
    assert zograd("--version") == (0, f"zograd {zo.__version__}\n", "")


def test_list_shows_every_problem_with_what_it_is(zograd: Any) -> None:
    code, out, _ = zograd("demo", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [make.__name__ for make in ALL]
    assert all(len(line.split()) > 4 for line in out.splitlines())


def test_the_picture_leaves_what_it_says(zograd: Any, tmp_path: Path) -> None:
    code, out, err = zograd(*SMALL, "--out", "deep/er")
    assert (code, err) == (0, "")
    *_, numbers, where = out.splitlines()
    assert where == "The report: deep/er/report.html"
    start, end = map(
        float, re.fullmatch(r"mean squared error of the pixels: (\S+) -> (\S+?)(?:, .*)?", numbers).groups()
    )
    assert end < start
    folder = tmp_path / "deep" / "er"
    assert {path.name for path in folder.iterdir()} == set(FILES)
    for picture in [*folder.glob("*.png"), *folder.glob("*.gif")]:
        with Image.open(picture) as image:
            image.verify()
    page = (folder / "report.html").read_text()
    assert "zograd demo picture --shapes 3 --size 16 --evaluations 200 --by loss --seed 0 --out deep/er" in page
    assert "https://" not in page


def test_same_seed_same_run_and_a_rerun_replaces_its_own_files(zograd: Any, tmp_path: Path) -> None:
    histories = []
    for seed in ("1", "1", "2"):
        assert zograd(*SMALL, "--seed", seed)[0] == 0
        histories.append((tmp_path / "demo-picture" / "history.csv").read_text())
    assert histories[0] == histories[1] != histories[2]


def test_your_own_image(zograd: Any, tmp_path: Path) -> None:
    Image.new("RGBA", (60, 30), (200, 30, 30, 255)).save(tmp_path / "my picture.png")
    code, _, _ = zograd(*SMALL, "--image", "my picture.png")
    assert code == 0
    with Image.open(tmp_path / "demo-picture" / "after.png") as after:
        assert after.size == (384, 192)
    assert "--image &#39;my picture.png&#39;" in (tmp_path / "demo-picture" / "report.html").read_text()


@pytest.mark.parametrize("name", ["plateau", "rosenbrock", "toy"])
def test_the_classics(zograd: Any, tmp_path: Path, name: str) -> None:
    code, out, _ = zograd("demo", name, "--evaluations", "60")
    assert code == 0
    assert out.splitlines()[-1] == f"The report: demo-{name}/report.html"
    assert (tmp_path / f"demo-{name}" / "run.gif").exists()
    assert not (tmp_path / f"demo-{name}" / "target.png").exists()


@pytest.mark.parametrize("words", [("led", "--displays", "1"), ("caustic", "--control", "4", "--photons", "24")])
def test_what_has_a_target_shows_it(zograd: Any, tmp_path: Path, words: tuple[str, ...]) -> None:
    code, out, _ = zograd("demo", *words, "--evaluations", "60")
    assert code == 0
    assert f"demo-{words[0]}/report.html" in out
    assert (tmp_path / f"demo-{words[0]}" / "target.png").exists()


def test_without_a_name_it_is_the_picture(zograd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from zograd.cli.demo import demo

    asked: dict[str, Any] = {}
    monkeypatch.setattr(demo.commands["picture"], "callback", lambda **options: asked.update(options) or 0)
    assert zograd("demo")[0] == 0
    options = {"evaluations": None, "by": "loss", "seed": 0, "out": None}
    assert asked == {"image": None, "shapes": 150, "size": 64, **options}


def test_by_outputs_every_output_is_modelled(zograd: Any, tmp_path: Path) -> None:
    code, out, _ = zograd(*SMALL, "--by", "outputs")
    assert code == 0
    assert "Gauss-Newton on" in out
    assert "--by outputs" in (tmp_path / "demo-picture" / "report.html").read_text()
    assert zograd("demo", "plateau", "--by", "outputs")[0] == 2


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--shapes", "0"], "zograd: --shapes must be a whole number from 1 to .*, found 0. .*try"),
            (["--image", "none.png"], "zograd: --image must be a picture file, found no such file: none.png"),
            (["--evaluations", "0"], "zograd: --evaluations must be a whole number of at least 1, found 0"),
            (["--evaluations", "1"], r"zograd: --evaluations must be enough for one step, found 1. Try \d+"),
            (["--shapes", "many"], "Invalid value for '--shapes': 'many' is not a valid integer"),
            (["--colour", "red"], "[Nn]o such option:? '?--colour"),
        ],
    )
    def test_a_wrong_argument_is_said_in_one_line(self, zograd: Any, words: list[str], said: str) -> None:
        code, _, err = zograd("demo", "picture", *words)
        assert code == 2
        assert re.search(said, err)
        assert "Traceback" not in err

    def test_nothing_is_evaluated_for_a_folder_that_cannot_be_used(self, zograd: Any, tmp_path: Path) -> None:
        (tmp_path / "demo-picture").mkdir()
        (tmp_path / "demo-picture" / "after.png").write_text("mine")
        code, out, err = zograd(*SMALL)
        assert (code, out) == (2, "")
        assert "--out must hold no files" in err
        assert (tmp_path / "demo-picture" / "after.png").read_text() == "mine"

    def test_an_unknown_problem(self, zograd: Any) -> None:
        code, _, err = zograd("demo", "nothing")
        assert code == 2
        assert "nothing" in err

    def test_a_failing_program_is_one_line(self, zograd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise zo.EvaluationError("every evaluation was lost")

        monkeypatch.setattr("zograd.cli._demonstration._solve", fail)
        assert zograd("demo", "plateau") == (1, "", "zograd: every evaluation was lost\n")


class TestInterrupt:
    def test_the_best_so_far_is_written_and_the_exit_code_says_so(
        self, zograd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from zograd.problems.picture import PictureError

        calls, whole = [], PictureError.__call__

        def interrupted(self: PictureError, ellipses: Any) -> float:
            calls.append(1)
            if len(calls) == 100:
                raise KeyboardInterrupt
            return whole(self, ellipses)

        monkeypatch.setattr(PictureError, "__call__", interrupted)
        code, out, _ = zograd(*SMALL)
        assert code == 130
        assert "Interrupted by the user" in out
        assert {path.name for path in (tmp_path / "demo-picture").iterdir()} >= {"after.png", "report.html", "run.gif"}
        assert out.splitlines()[-1] == "The report: demo-picture/report.html"

    def test_before_the_first_step(self, zograd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from zograd.problems.picture import PictureError

        calls, whole = [], PictureError.__call__

        def interrupted(self: PictureError, ellipses: Any) -> float:
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return whole(self, ellipses)

        monkeypatch.setattr(PictureError, "__call__", interrupted)
        assert zograd(*SMALL)[0] == 130
        assert (tmp_path / "demo-picture" / "report.html").exists()

    def test_anywhere_else_it_stops_without_a_traceback(self, zograd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("zograd.cli._demonstration.write_folder", interrupt)
        code, _, err = zograd("demo", "plateau", "--evaluations", "30")
        assert code == 130
        assert "zograd: interrupted" in err

    @pytest.mark.skipif(os.name == "nt", reason="signals are sent the POSIX way")
    def test_a_real_signal(self, tmp_path: Path) -> None:
        words = [sys.executable, "-m", "zograd", "demo", "picture", "--shapes", "3", "--size", "16"]
        words += ["--evaluations", "100000000"]
        with subprocess.Popen(
            words,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A job in the background of a shell is started deaf to Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process:
            try:
                # The first line of progress comes when the run is under way.
                assert process.stdout is not None
                lines = [process.stdout.readline()]
                while "evaluations," not in lines[-1]:
                    lines.append(process.stdout.readline())
                    assert lines[-1], process.communicate()
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=120)
            finally:
                process.kill()
        assert process.returncode == 130, err
        assert out.splitlines()[-1] == "The report: demo-picture/report.html"
        assert "Traceback" not in err


class TestMissing:
    @pytest.fixture
    def without(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
        whole = builtins.__import__

        def hide(package: str) -> None:
            def hidden(name: str, *rest: Any, **more: Any) -> ModuleType:
                if name.split(".")[0] == package:
                    raise ModuleNotFoundError(f"No module named {package!r}", name=package)
                return whole(name, *rest, **more)

            monkeypatch.setattr(builtins, "__import__", hidden)
            for name in [name for name in sys.modules if name.split(".")[0] == package]:
                monkeypatch.delitem(sys.modules, name)

        return hide

    @pytest.mark.parametrize("package", ["click", "rich"])
    def test_the_command_line(self, zograd: Any, without: Any, package: str) -> None:
        without(package)
        code, out, err = zograd("--version")
        assert (code, out) == (1, "")
        assert err == (
            f"zograd: this needs the package {package!r}, which is not installed; "
            'install it with: pip install "zograd[cli]"\n'
        )

    @pytest.mark.parametrize(("package", "name"), [("matplotlib", "matplotlib"), ("PIL", "pillow")])
    def test_the_report(self, zograd: Any, monkeypatch: pytest.MonkeyPatch, package: str, name: str) -> None:
        for module in [module for module in sys.modules if module.split(".")[0] == package]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, package, None)
        code, _, err = zograd(*SMALL)
        assert code == 1
        assert err.startswith(f"zograd: this needs the package {name!r}")
        assert 'pip install "zograd[report]"' in err


def test_the_core_imports_no_extra() -> None:
    code = (
        "import json, sys, zograd, zograd.cli, zograd.problems, zograd.report; print(json.dumps(sorted(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"click", "rich", "matplotlib", "PIL", "jinja2"}.isdisjoint(json.loads(run.stdout))


class TestProgress:
    @staticmethod
    def result(nfev: int, value: float | None, **diagnostics: float) -> zo.Result:
        import torch

        step, trial = (zo.Step(k, nfev, value, 0.25, torch.zeros(1), 0, n) for k, n in ((1, diagnostics), (2, {})))
        return zo.Result(None, 0.25, nfev, 1, True, 0, "", [step, trial], 0, 2.0)

    def test_lines_come_every_few_seconds_where_there_is_no_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import io

        from rich.console import Console

        now = [0.0]
        monkeypatch.setattr("zograd.cli._progress.time.monotonic", lambda: now[0])
        console = Console(file=io.StringIO(), width=200)
        with progress(console, 1000, 1.0) as show:
            show(self.result(100, 0.5))
            now[0] = 6.0
            show(self.result(200, 0.5))
            show(self.result(300, 0.5))
            now[0] = 12.0
            show(self.result(400, None, signal_to_noise=3.14, half_cosine=0.5))
        assert console.file.getvalue().splitlines() == [
            "200 of 1,000 evaluations, loss 0.5, best 0.25, 100 a second, 8 s left",
            "400 of 1,000 evaluations, best 0.25, S/N 3.1, 200 a second, 3 s left",
        ]

    def test_one_line_moves_on_a_terminal(self) -> None:
        import io

        from rich.console import Console

        console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
        with progress(console, 1000, 1.0) as show:
            show(self.result(600, 0.5))
            time.sleep(0.05)
        shown = console.file.getvalue()
        assert re.search(r"600 of 1,000 loss 0.5, best 0.25 300/s \S+ left", shown)

    @pytest.mark.parametrize(("width", "words"), [(80, r"R² 0\.93"), (100, r"R² 0\.93  300/s")])
    def test_how_good_the_gradients_are_comes_before_the_speed(self, width: int, words: str) -> None:
        import io

        from rich.console import Console

        console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
        with progress(console, 1000, 1.0) as show:
            show(self.result(600, 0.5, signal_to_noise=3.0, r_squared=0.93))
            time.sleep(0.05)
        assert re.search(rf"best 0.25 {words} \S+ left", console.file.getvalue())


class TestOptions:
    def test_every_argument_of_every_problem_is_described(self) -> None:
        for make in ALL:
            for option in options_of(make):
                assert option.help, f"{make.__name__} --{option.name}"

    def test_descriptions_span_lines_and_end_with_their_section(self) -> None:
        described = descriptions(
            """One line.

            Args:
                first: What it
                    is.
                second: Another: one.

            Raises:
                Error: When not.
            """
        )
        assert described == {"first": "What it is.", "second": "Another: one."}

    def test_a_problem_names_its_own_options(self) -> None:
        assert [option.name for option in options_of(plateau)] == ["levels", "evaluations", "by", "seed", "out"]
