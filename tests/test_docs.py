"""Every code block of the documentation and every docstring example is run, page by page."""

import re
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE
from pathlib import Path
from typing import Any

import pytest
import torch
from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.myst import PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser

import zograd

ROOT = Path(__file__).parent.parent
SOURCE = Path(zograd.__file__).parent
FLAGS = ELLIPSIS | NORMALIZE_WHITESPACE

PAGES = Sybil(parsers=[PythonCodeBlockParser(doctest_optionflags=FLAGS)], patterns=["*.md"])
MODULES = Sybil(
    parsers=[DocTestParser(FLAGS)], patterns=["*.py"], document_types={".py": PythonDocStringDocument}, path=str(SOURCE)
)


def pages() -> list[Path]:
    """The pages that hold Python blocks."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in found if "_build" not in path.parts and "```python" in path.read_text()]


def modules() -> list[Path]:
    """The modules whose docstrings hold examples."""
    return [path for path in sorted(SOURCE.rglob("*.py")) if ">>>" in path.read_text()]


def run(sybil: Sybil, path: Path) -> int:
    """Run the examples of one file in order, in one namespace, and count them."""
    examples = list(sybil.parse(path).examples())
    for example in examples:
        example.evaluate()
    return len(examples)


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    torch.manual_seed(0)


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_page(path: Path) -> None:
    text = path.read_text()
    assert run(PAGES, path) == text.count("```python\n") + text.count("invisible-code-block: python\n")


def sides(difference: str) -> tuple[str, str]:
    """The code before and after a difference, which is the lines of a diff block."""
    lines = difference.splitlines()
    return tuple("\n".join(line[1:] for line in lines if line[:1] in (" ", mark)) + "\n" for mark in "-+")


@pytest.mark.parametrize("loop", [0, 1], ids=["residual network", "transformer"])
def test_five_lines_change_a_training_loop(loop: int) -> None:
    text = (ROOT / "docs/howto/train.md").read_text()
    added, *loops = re.findall(r"```diff\n(.*?)```", text, re.DOTALL)
    changed = [line for line in (added + loops[loop]).splitlines() if line[0] in "+-"]
    assert len(changed) <= 5
    before, after = sides(loops[loop])
    script = "".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[: loop + 1])
    assert added[1:] in script
    assert after in script
    losses = []
    for code in (script, script.replace(after, before)):
        torch.manual_seed(0)
        names: dict[str, Any] = {}
        exec(code, names)
        losses.append(names["loss"].item())
    # Backpropagation before, function values after: the same training.
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_docstrings(path: Path) -> None:
    assert run(MODULES, path) > 0


def test_a_wrong_example_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError):
        run(PAGES, page)


def test_every_picture_is_there() -> None:
    missing = []
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for line in page.read_text().splitlines():
            if line.startswith("![") and "](http" not in line:
                target = line.split("](")[1].split(")")[0]
                if not (page.parent / target).exists():
                    missing.append(f"{page.relative_to(ROOT)}: {target}")
    assert missing == []


def test_every_public_name_is_in_the_reference() -> None:
    text = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    documented = set(re.findall(r"^\.\. auto[a-z]+:: zograd\.(\w+)$", text, re.MULTILINE))
    assert sorted(set(zograd.__all__) - documented) == []
