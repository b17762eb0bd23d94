"""Curves, pictures, tables and the page, from real runs and from steps made up for their edges."""

import csv
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zograd as zo
from zograd import report
from zograd.report._animation import moments
from zograd.report._extras import module
from zograd.report._folder import FILES
from zograd.report._html import MARK


def step(number: int, best: float, value: float | None = None, **diagnostics: float) -> zo.Step:
    return zo.Step(number, 10 * number, value, best, torch.full((2,), best, dtype=torch.float64), 0, diagnostics)


def sphere(evaluations: int = 60) -> tuple[zo.Parameters, zo.Result]:
    parameters = zo.Parameters({"x": [3.0, -2.0]}, bounds=(-5, 5))
    fields = {"estimator": zo.CoordinateGradient(step=1e-3), "optimizer": partial(torch.optim.SGD, lr=0.005)}
    return parameters, zo.minimize(
        lambda p: 1 + sum(x**2 for x in p["x"]), parameters, evaluations=evaluations, **fields
    )


def square(point: dict[str, list[float]], size: int) -> np.ndarray:
    drawn = np.zeros((size, size, 3), np.uint8)
    drawn[:, :, 0] = int(min(255, 40 * abs(point["x"][0])))
    return drawn


def outputs(folder: Path, **fields: object) -> report.Outputs:
    return report.Outputs(folder, "A <run> & more", sphere()[0], **fields)


class TestTable:
    def test_it_reads_back_as_it_was(self, tmp_path: Path) -> None:
        steps = [step(1, 0.1, 0.2, gradient_norm=1 / 3), step(2, 0.05, None, step_length=2.0)]
        path = report.write_history(steps, tmp_path / "history.csv")
        rows = list(csv.DictReader(path.read_text().splitlines()))
        assert [row["evaluations"] for row in rows] == ["10", "20"]
        assert float(rows[0]["gradient_norm"]) == 1 / 3
        assert (rows[0]["step_length"], rows[1]["value"], rows[1]["step_length"]) == ("", "", "2.0")

    def test_no_steps_is_a_header(self, tmp_path: Path) -> None:
        assert report.write_history([], tmp_path / "h.csv").read_text().split() == [
            "step,evaluations,value,best_value,lost"
        ]


class TestCurves:
    @pytest.mark.parametrize(
        "steps",
        [
            [step(1, 5.0, 6.0), step(2, 1e-3, 2.0)],
            [step(1, 5.0), step(2, 4.0)],
            [step(1, 0.0), step(2, -1.0)],
            [step(1, float("inf"))],
            [step(1, float("inf"), 3.0)],
        ],
        ids=["decades", "best only", "not positive", "all lost", "centre only"],
    )
    def test_every_kind_of_history_is_drawn(self, tmp_path: Path, steps: list[zo.Step]) -> None:
        path = report.loss_curve(steps, tmp_path / "loss.png", label="error")
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        assert pixels.shape[0] > 300
        assert pixels.min() < 100 < pixels.max()

    def test_the_axis_may_be_chosen_and_the_start_is_drawn(self, tmp_path: Path) -> None:
        steps = [step(1, 5.0, 6.0), step(2, 1.0, 2.0)]
        drawn = [
            report.loss_curve(steps, tmp_path / f"{name}.png", log=log, start=start).read_bytes()
            for name, log, start in [("a", None, None), ("b", True, None), ("c", False, None), ("d", None, 9.0)]
        ]
        assert drawn[0] == drawn[1]
        assert len(set(drawn)) == 3

    def test_a_vector_format(self, tmp_path: Path) -> None:
        assert "<svg" in report.loss_curve([step(1, 1.0)], tmp_path / "loss.svg").read_text()

    def test_nothing_to_draw_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(zo.ArgumentError, match="`history` must hold at least one step, found"):
            report.loss_curve([], tmp_path / "loss.png")

    def test_diagnostics_are_drawn_where_there_are_any(self, tmp_path: Path) -> None:
        assert report.diagnostics_curves([step(1, 1.0), step(2, 1.0)], tmp_path / "none.png") is None
        assert not (tmp_path / "none.png").exists()
        one = [step(n, 1.0, gradient_norm=float(n)) for n in range(1, 9)]
        two = [step(n, 1.0, gradient_norm=float(n), signal_to_noise=1.0 / n, other=1.0) for n in range(1, 200)]
        six = [
            step(n, 1.0, gradient_norm=1.0, step_length=1.0, signal_to_noise=1.0, half_cosine=-0.5, r_squared=-3.0)
            for n in range(1, 9)
        ]
        for name, steps in (("one", one), ("two", two), ("six", six)):
            path = report.diagnostics_curves(steps, tmp_path / f"{name}.png")
            assert path is not None
            with Image.open(path) as image:
                image.verify()


class TestPictures:
    def test_they_stand_side_by_side_at_one_height(self, tmp_path: Path) -> None:
        red, wide = np.zeros((10, 10, 3), np.uint8), np.zeros((10, 20, 3), np.uint8)
        red[..., 0], wide[..., 2] = 255, 255
        with Image.open(report.comparison({"a": red, "b": wide}, tmp_path / "c.png", height=50)) as image:
            sheet = np.asarray(image)
        assert sheet.shape == (50 + 26, 50 + 12 + 100, 3)
        assert sheet[25, 25].tolist() == [255, 0, 0]
        assert sheet[25, 56].tolist() == [255, 255, 255]
        assert sheet[25, 120].tolist() == [0, 0, 255]
        assert (sheet[50:] < 128).any(), "the names stand below"

    def test_what_is_no_picture_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(zo.ArgumentError, match="at least one picture"):
            report.comparison({}, tmp_path / "c.png")
        with pytest.raises(zo.ArgumentError, match=r"shape \(height, width, 3\) and dtype uint8"):
            report.save_picture(np.zeros((4, 4), np.uint8), tmp_path / "c.png")

    def test_an_animation_has_its_frames_and_rests_on_the_last(self, tmp_path: Path) -> None:
        frames = [np.full((8, 8, 3), level, np.uint8) for level in (0, 120, 255)]
        with Image.open(report.animation(frames, tmp_path / "a.gif", seconds=0.3)) as gif:
            assert gif.n_frames == 3
            gif.seek(2)
            assert gif.info["duration"] == 2500
            assert gif.convert("RGB").getpixel((4, 4)) == (255, 255, 255)
        with pytest.raises(zo.ArgumentError, match="at least one picture"):
            report.animation([], tmp_path / "a.gif")

    def test_moments_are_steps_that_improved_denser_at_first_with_the_last(self) -> None:
        steps = [step(n, 1 / n) for n in range(1, 101)]
        chosen = moments(steps, 10)
        assert len(chosen) == 10
        assert chosen[-1] is steps[-1]
        gaps = np.diff([one.number for one in chosen])
        assert gaps[0] < gaps[-1]
        flat = [step(1, float("inf")), step(2, 3.0), step(3, 3.0), step(4, 2.0), step(5, 2.0)]
        assert [one.number for one in moments(flat, 60)] == [2, 4]
        assert moments([], 5) == []


class TestPage:
    def test_it_is_escaped_and_holds_its_pictures(self, tmp_path: Path) -> None:
        report.save_picture(np.zeros((4, 4, 3), np.uint8), tmp_path / "p.png")
        section = report.Section("T", "x < y", {'a "caption"': tmp_path / "p.png"}, {"k": "<script>"}, "cmd && more")
        page = report.write_html(tmp_path / "r.html", "Title", [section], subtitle="S", numbers={"n": "1"}).read_text()
        assert "<script>" not in page
        assert "&lt;script&gt;" in page
        assert "x &lt; y" in page
        assert "cmd &amp;&amp; more" in page
        assert 'src="data:image/png;base64,' in page
        assert MARK in page

    def test_a_page_may_be_nearly_empty(self, tmp_path: Path) -> None:
        page = report.write_html(tmp_path / "r.html", "Title", [report.Section("Only a heading")]).read_text()
        assert "<img" not in page
        assert "<table" not in page

    def test_a_missing_picture_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(zo.ArgumentError, match=r"name files that are there, found .*none\.png"):
            report.write_html(tmp_path / "r.html", "T", [report.Section("S", pictures={"c": tmp_path / "none.png"})])


class TestFolder:
    def test_everything_is_there_and_loads_nothing_from_elsewhere(self, tmp_path: Path) -> None:
        parameters, result = sphere()
        there = report.Outputs(
            tmp_path / "deep" / "out",
            "A <run>",
            parameters,
            draw=square,
            target=lambda size: square({"x": [5.0]}, size),
        )
        page = report.write_folder(there, result, start=14.0)
        names = {path.name for path in page.parent.iterdir()}
        assert names == set(FILES)
        for name in names:
            if name.endswith((".png", ".gif")):
                with Image.open(page.parent / name) as image:
                    image.verify()
        text = page.read_text()
        assert "A &lt;run&gt;" in text
        sources = re.findall(r"(?:src|href)\s*=\s*[\"']?(.{5})", text)
        assert len(sources) >= 3
        assert set(sources) == {"data:"}
        assert not re.search(r"https?://|@import|url\(|<link|<script", text)
        rows = list(csv.DictReader((page.parent / "history.csv").read_text().splitlines()))
        assert len(rows) == result.nit
        assert float(rows[-1]["best_value"]) == result.fun

    def test_without_pictures_there_are_curves_and_numbers(self, tmp_path: Path) -> None:
        page = report.write_folder(outputs(tmp_path, command="zograd demo"), sphere()[1], start=14.0)
        assert not (tmp_path / "after.png").exists()
        assert (tmp_path / "loss.png").exists()
        assert "<pre>zograd demo</pre>" in page.read_text()

    def test_a_run_that_was_stopped_at_once_still_has_a_page(self, tmp_path: Path) -> None:
        parameters, _ = sphere()
        nothing = zo.Result({"x": [3.0, -2.0]}, 14.0, 0, 0, False, -1, "Interrupted.", [], 0, 0.0)
        there = report.Outputs(tmp_path, "T", parameters, draw=square)
        assert "Interrupted." in report.write_folder(there, nothing, start=14.0).read_text()
        assert not (tmp_path / "loss.png").exists()
        assert (tmp_path / "after.png").exists()

    def test_a_second_report_replaces_the_first_and_nothing_else(self, tmp_path: Path) -> None:
        result = sphere()[1]
        report.write_folder(outputs(tmp_path, draw=square), result, start=14.0)
        (tmp_path / "notes.txt").write_text("mine")
        report.write_folder(outputs(tmp_path), result, start=14.0)
        assert (tmp_path / "notes.txt").read_text() == "mine"
        assert not (tmp_path / "after.png").exists(), "a file of the run before would be taken for one of this run"

    @pytest.mark.parametrize("name", ["report.html", "after.png"])
    def test_files_of_others_are_not_replaced(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("mine")
        with pytest.raises(
            zo.ArgumentError, match=rf"`out` must hold no files .* found '{name} in .*Move them"
        ) as error:
            report.write_folder(outputs(tmp_path), sphere()[1], start=14.0)
        assert error.value.argument == "out"
        assert (tmp_path / name).read_text() == "mine"

    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        with pytest.raises(zo.ArgumentError, match="`out` must be a folder, found"):
            outputs(tmp_path / "file").prepare()
        with pytest.raises(zo.ArgumentError, match="`out` must be a folder that can be made"):
            outputs(tmp_path / "file" / "below").prepare()

    @pytest.mark.parametrize(("end", "shown"), [(7.0, True), (0.0, False), (-1.0, False)])
    def test_the_ratio_is_shown_where_it_means_something(self, tmp_path: Path, end: float, shown: bool) -> None:
        result = zo.Result({"x": [0.0, 0.0]}, end, 10, 1, True, 0, "Done.", [step(1, end)], 0, 1.0)
        page = report.write_folder(outputs(tmp_path), result, start=14.0).read_text()
        assert ("times lower" in page) == shown


def test_ratios_are_readable() -> None:
    assert [report.times_lower(1.0, end) for end in (0.1, 0.7, 3e-30)] == ["10.0", "1.4", "3.33e+29"]


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(zo.MissingExtraError, match=r"zograd\[report\]"):
        module("no_such_package_at_all", "no-such-package")
    (tmp_path / "needs_another.py").write_text("import no_such_package_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError) as error:
        module("needs_another", "needs-another")
    assert not isinstance(error.value, zo.MissingExtraError)
