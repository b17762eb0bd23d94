"""What every problem must keep, and what each is."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zograd as zo
from zograd.problems import (
    ALL,
    Problem,
    caustic,
    cornell,
    house,
    led,
    mesh,
    mnist_weights,
    picture,
    plateau,
    rocket,
    rosenbrock,
    strokes,
    texture,
    toy,
)
from zograd.problems._drawing import module


def made() -> list[Problem]:
    return [
        picture(shapes=5, size=16),
        plateau(),
        rosenbrock(3),
        toy(),
        led(1),
        caustic(8, 24, 12),
        texture(size=12),
        mnist_weights(),
        strokes(pictures=3),
        mesh(1, 12),
        cornell(16),
        house(16),
        rocket(4),
    ]


@pytest.mark.parametrize(
    "problem",
    [*made(), rosenbrock(2, squared=True), caustic(8, 24, 12, noise=True)],
    ids=lambda problem: f"{problem.name}{len(problem.details)}",
)
def test_rows_of_a_wave_stand_alone(problem: Problem) -> None:
    if not isinstance(problem.fun, zo.BlackBox):
        pytest.skip("its program takes one point")
    parameters = problem.parameters()
    generator = torch.Generator().manual_seed(1)
    moved = 0.05 * torch.randn(5, parameters.dimension, generator=generator, dtype=torch.float64)
    points = parameters.clip(parameters.initial + moved)
    box = problem.fun.over(parameters)  # type: ignore[attr-defined]
    torch.manual_seed(0)
    together = box(points)
    assert together.shape == (5,)
    for row, point in enumerate(points):
        torch.manual_seed(0)  # what a noisy one draws, once a call
        torch.testing.assert_close(box(point[None])[0], together[row], rtol=1e-5, atol=1e-7)
    assert len(together.unique()) > 1


@pytest.mark.parametrize("problem", made(), ids=lambda problem: problem.name)
def test_what_every_problem_keeps(problem: Problem) -> None:
    start = problem.value(problem.x0)
    assert isinstance(start, float)
    assert np.isfinite(start)
    assert (problem.value(problem.x0) == start) is not problem.noise
    parameters = problem.parameters()
    assert problem.noise or problem.value(parameters.decode(parameters.initial)) == pytest.approx(start, abs=1e-6)
    if problem.residuals is not None and not problem.noise:
        differences = problem.residual(problem.x0)
        assert differences.dtype.is_floating_point
        assert differences.ndim >= 1
        assert start == pytest.approx(float((differences.double() ** 2).mean()), rel=1e-5)
    picture = problem.draw(problem.x0, 60)
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert max(picture.shape) == 60
    assert problem.name in [make.__name__ for make in ALL]
    assert problem.minimum is None or problem.minimum <= start


def lines() -> Problem:
    """Two lines through points, with a whole number: what a batched program of a structure looks like."""
    places = torch.arange(5.0)

    def residuals(points: dict[str, torch.Tensor]) -> torch.Tensor:
        return points["slope"][:, None] * places + points["offset"][:, None] - 3.0 * places

    return Problem(
        name="lines",
        summary="two numbers",
        fun=zo.batched(lambda points: (residuals(points) ** 2).mean(1)),
        residuals=zo.batched(residuals),
        x0={"slope": 1.0, "offset": 2},
        bounds={"slope": (-9, 9), "offset": (-9, 9)},
        integers=("offset",),
        loss="error",
        draw=lambda point, size: np.zeros((size, size, 3), np.uint8),
        evaluations=300,
    )


def test_a_batched_program_is_worth_the_mean_of_its_squared_residuals() -> None:
    problem = lines()
    assert problem.residual(problem.x0).tolist() == [2.0, 0.0, -2.0, -4.0, -6.0]
    assert problem.value(problem.x0) == 12.0
    assert problem.value({"slope": 3.0, "offset": 1}) == 1.0
    result = problem.solve(300)
    assert result.fun < 0.2
    assert isinstance(result.x["offset"], int)


def test_a_program_of_one_number_has_no_residuals() -> None:
    with pytest.raises(zo.ArgumentError, match="`problem` must have residuals, found 'plateau'"):
        plateau().residual(0.0)
    with pytest.raises(zo.ArgumentError, match="found 'plateau'"):
        plateau().fit()


def test_fit_models_the_outputs_and_solve_the_loss() -> None:
    assert lines().fit(100).fun < 1e-20
    problem = caustic(8, 24, 12)
    fitted, solved = problem.fit(400), problem.solve(400)
    assert "Gauss-Newton on 144 outputs of 64 parameters" in fitted.message
    assert fitted.nfev <= 400
    assert fitted.fun < solved.fun


@pytest.mark.parametrize(("name", "shape"), [("caustic", (12, 12)), ("texture", (12, 12, 3)), ("cornell", (16, 16, 3))])
def test_outputs_that_are_a_picture_have_its_shape(name: str, shape: tuple[int, ...]) -> None:
    problem = next(problem for problem in made() if problem.name == name)
    assert problem.residual(problem.x0).shape == shape


def test_every_problem_is_listed_once() -> None:
    assert [problem.name for problem in made()] == [make.__name__ for make in ALL]


def test_solve_passes_its_settings_on_and_lets_them_be_replaced() -> None:
    problem = plateau()
    assert problem.solve().fun == problem.minimum
    # Central differences over a thousandth see a plateau, and stay.
    with pytest.warns(zo.ZogradWarning, match="all 20 values are equal"):
        stuck = problem.solve(40, estimator=zo.CoordinateGradient(step=1e-3), optimizer=None)
    assert stuck.fun == problem.fun(problem.x0)
    assert stuck.nfev <= 40


@pytest.mark.parametrize("squared", [False, True])
def test_rosenbrock_gradient_is_that_of_central_differences(squared: bool) -> None:
    problem = rosenbrock(4, squared)
    point = np.random.default_rng(0).normal(size=4)
    step = 1e-6 * np.eye(4)
    differences = [(problem.value(point + row) - problem.value(point - row)) / 2e-6 for row in step]
    assert problem.gradient is not None
    np.testing.assert_allclose(problem.gradient(point), differences, rtol=1e-5)
    assert problem.value(np.ones(4)) == 0.0
    assert problem.value(point) == pytest.approx(float((problem.residual(point) ** 2).mean()))
    np.testing.assert_array_equal(problem.gradient(np.ones(4)), np.zeros(4))


def test_plateau_has_no_derivative_and_as_many_levels_as_asked() -> None:
    problem = plateau(levels=5)
    heights = {problem.fun(x) for x in np.linspace(-10, 10, 4001)}
    np.testing.assert_allclose(sorted(heights), [0, 0.2, 0.4, 0.6, 0.8])
    assert problem.gradient is not None
    assert problem.gradient(0.0) == 0.0


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (plateau, {"levels": 1}),
        (rosenbrock, {"dimension": 1}),
        (picture, {"shapes": 0}),
        (picture, {"size": 4}),
        (picture, {"shapes": True}),
        (mesh, {"level": 7}),
        (mesh, {"size": 4}),
        (cornell, {"size": 4}),
        (house, {"size": 4}),
        (rocket, {"bursts": 1}),
        (led, {"displays": 13}),
        (caustic, {"control": 3}),
        (texture, {"size": 0}),
        (mnist_weights, {"number": -1}),
        (strokes, {"pictures": 0}),
    ],
)
def test_wrong_numbers_say_what_must_hold(make: type, arguments: dict[str, int], unchecked: None) -> None:
    name, value = next(iter(arguments.items()))
    with pytest.raises(zo.ArgumentError, match=rf"`{name}` must be a whole number from .* found {value}\. .*try") as e:
        make(**arguments)
    assert e.value.argument == name
    assert e.value.found == value


class TestPicture:
    def test_the_loss_is_the_mean_squared_error_of_the_bytes(self) -> None:
        problem = picture(shapes=7, size=24)
        assert problem.target is not None
        drawn, wanted = problem.draw(problem.x0, 24) / 255, problem.target(24) / 255
        assert problem.fun(problem.x0) == pytest.approx(((drawn - wanted) ** 2).mean(), rel=1e-5)

    def test_the_loss_is_a_staircase(self) -> None:
        problem = picture(shapes=3, size=16)
        moved = {name: value.copy() for name, value in problem.x0.items()}
        moved["color"][0, 0] += 1e-7
        assert problem.fun(moved) == problem.fun(problem.x0)
        moved["color"][0, 0] += 0.2
        assert problem.fun(moved) != problem.fun(problem.x0)

    def test_an_opaque_ellipse_covers_where_it_is_said_to(self) -> None:
        problem = picture(shapes=1, size=64)
        point = {
            "center": np.array([[0.25, 0.25]]),
            "axes": np.array([[0.2, 0.05]]),
            "angle": np.array([90.0]),
            "color": np.array([[1.0, 0.0, 0.0]]),
            "opacity": np.array([1.0]),
        }
        drawn = problem.draw(point, 64)
        red = (drawn == [255, 0, 0]).all(2)
        rows, columns = np.nonzero(red)
        # A quarter from the left and from the top, and upright: turned by 90 degrees.
        assert abs(rows.mean() - 15.5) < 1
        assert abs(columns.mean() - 15.5) < 1
        assert np.ptp(rows) > 2.5 * np.ptp(columns)
        assert 0.8 < red.sum() / (np.pi * 0.2 * 0.05 * 64**2) <= 1.0

    def test_the_background_is_the_mean_colour_and_later_shapes_lie_on_top(self) -> None:
        problem = picture(shapes=2, size=32)
        assert problem.target is not None
        mean = problem.target(32).reshape(-1, 3).mean(0)
        point = {
            "center": np.array([[0.5, 0.5], [0.5, 0.5]]),
            "axes": np.full((2, 2), 0.1),
            "angle": np.zeros(2),
            "color": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
            "opacity": np.array([1.0, 1.0]),
        }
        drawn = problem.draw(point, 32)
        np.testing.assert_allclose(drawn[0, 0], mean, atol=0.51)
        assert drawn[16, 16].tolist() == [0, 0, 255]

    def test_seed_says_the_start_and_the_photograph_does_not(self, tmp_path: Path) -> None:
        Image.new("RGB", (30, 30), "red").save(tmp_path / "red.png")
        first, same, other = picture(shapes=4), picture(tmp_path / "red.png", shapes=4), picture(shapes=4, seed=1)
        for name in first.x0:
            np.testing.assert_array_equal(first.x0[name], same.x0[name])
        assert not np.array_equal(first.x0["center"], other.x0["center"])

    def test_it_can_be_sent_to_another_process(self) -> None:
        problem = picture(shapes=4, size=16)
        before = problem.fun(problem.x0)
        assert pickle.loads(pickle.dumps(problem.fun))(problem.x0) == before

    def test_optimisation_lowers_it(self) -> None:
        problem = picture(shapes=4, size=16)
        result = problem.solve(1500)
        assert result.fun < 0.8 * problem.fun(problem.x0)
        assert result.x["center"].shape == (4, 2)


class TestPhotograph:
    @pytest.mark.parametrize(("size", "shape"), [((200, 100), (32, 64)), ((10, 1000), (64, 1)), ((20, 10), (10, 20))])
    def test_the_shape_is_kept_and_nothing_is_enlarged(
        self, tmp_path: Path, size: tuple[int, int], shape: tuple[int, int]
    ) -> None:
        Image.new("RGB", size, "green").save(tmp_path / "a.png")
        problem = picture(tmp_path / "a.png", shapes=2)
        assert problem.fun.pixels.shape[:2] == shape
        assert np.isfinite(problem.fun(problem.x0))

    @pytest.mark.parametrize(
        ("mode", "color", "seen"),
        [
            ("L", 200, (200, 200, 200)),
            ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
            ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
            ("LA", (10, 255), (10, 10, 10)),
            ("1", 1, (255, 255, 255)),
            ("P", 0, (0, 0, 0)),
        ],
    )
    def test_every_kind_of_pixel(self, tmp_path: Path, mode: str, color: object, seen: tuple[int, ...]) -> None:
        Image.new(mode, (12, 12), color).save(tmp_path / "a.png")
        problem = picture(tmp_path / "a.png", shapes=1)
        assert problem.fun.pixels[5, 5].tolist() == list(seen)

    def test_sixteen_bits_are_not_cut_off(self, tmp_path: Path) -> None:
        levels = np.linspace(0, 65535, 144).reshape(12, 12).astype(np.uint16)
        Image.fromarray(levels).save(tmp_path / "a.png")
        pixels = picture(tmp_path / "a.png", shapes=1).fun.pixels
        assert (pixels[0, 0, 0], pixels[-1, -1, 0]) == (0, 255)
        assert 100 < pixels[6, 0, 0] < 155

    def test_cameras_say_which_side_is_up(self, tmp_path: Path) -> None:
        image = Image.new("RGB", (20, 10), "blue")
        tags = Image.Exif()
        tags[0x0112] = 6  # turned by a quarter
        image.save(tmp_path / "a.jpg", exif=tags)
        assert picture(tmp_path / "a.jpg", shapes=1).fun.pixels.shape[:2] == (20, 10)

    def test_what_is_no_picture_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
        (tmp_path / "text.png").write_text("not a picture")
        for path, found in [
            (tmp_path / "none.png", "no such file"),
            (tmp_path / "broken.png", "cannot be read"),
            (tmp_path / "text.png", "cannot be read"),
            (tmp_path, "a folder"),
        ]:
            with pytest.raises(zo.ArgumentError, match=f"`image` must be a picture file, found .*{found}") as error:
                picture(path)
            assert error.value.found == path


def test_a_missing_extra_is_named() -> None:
    with pytest.raises(zo.MissingExtraError, match=r"zograd\[report\]"):
        module("no_such_package_at_all", "no-such-package")


def test_a_broken_package_is_not_taken_for_a_missing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_another.py").write_text("import no_such_package_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError) as error:
        module("needs_another")
    assert not isinstance(error.value, zo.MissingExtraError)
