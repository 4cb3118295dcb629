import struct
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from VolumeSegmanticsLib import report
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.events import EpochEnded
from VolumeSegmanticsLib.metrics import score
from VolumeSegmanticsLib.report import evaluation_picture, overview_picture, training_picture
from VolumeSegmanticsLib.volume import Grid, LabelClass, LabelMap, Volume

GRID = Grid((6, 14, 16), (2.0, 1.0, 1.0))
RED, GREEN = LabelClass(1, "Red", (1.0, 0.0, 0.0)), LabelClass(2, "Green", (0.0, 1.0, 0.0))


@pytest.fixture
def an_image() -> Volume:
    return Volume(np.random.default_rng(0).normal(100, 10, GRID.shape).astype(np.float32), GRID)


@pytest.fixture
def a_truth() -> LabelMap:
    array = np.ones(GRID.shape, np.uint8)
    array[:, :, 8:], array[:, :, 15] = 2, 255
    return LabelMap(array, GRID, (RED, GREEN))


@pytest.fixture
def a_prediction(a_truth) -> LabelMap:
    array = np.where(a_truth.array == 255, np.uint8(1), a_truth.array)
    array[4, :7] = 1
    return LabelMap(array, GRID, (RED, GREEN))


@pytest.fixture
def scribbles() -> LabelMap:
    array = np.full(GRID.shape, 255, np.uint8)
    array[5, 3, 2:6], array[5, 3:5, 10], array[1, 8, 7] = 1, 2, 1
    return LabelMap(array, GRID, (RED, GREEN))


@pytest.fixture
def a_history() -> list[EpochEnded]:
    return [EpochEnded(n, 1 / n, 1.1 / n, 1 - 0.5 / n, 1e-3, n == 3) for n in range(1, 6)]


def size_px(path: Path) -> tuple[int, int]:
    start = path.read_bytes()[:24]
    assert start.startswith(b"\x89PNG")
    return struct.unpack(">II", start[16:24])


def pixels_of(path: Path, color: tuple[float, float, float]) -> int:
    picture = matplotlib.image.imread(path)[..., :3]
    return int((np.abs(picture - color).max(axis=-1) < 0.02).sum())


def test_the_overview_is_a_png_about_1600_pixels_wide(tmp_path, an_image, scribbles, a_prediction, a_truth):
    path = overview_picture(
        tmp_path / "new" / "o.png", an_image, scribbles=scribbles, prediction=a_prediction, truth=a_truth
    )
    wide, high = size_px(path)
    assert wide == 1620
    assert 600 < high < 2400


@pytest.mark.parametrize("left_out", ["scribbles", "prediction", "truth"])
def test_an_overview_lacks_the_columns_of_what_is_not_given(tmp_path, an_image, a_truth, left_out, monkeypatch):
    titles = []
    monkeypatch.setattr(report.Axes, "set_title", lambda axes, title, **style: titles.append(title))
    given = {"scribbles": a_truth, "prediction": a_truth, "truth": a_truth, left_out: None}
    overview_picture(tmp_path / "o.png", an_image, **given)
    shown = {"scribbles": "Strokes", "prediction": "Result", "truth": "Truth"}
    del shown[left_out]
    assert titles == ["Image", *shown.values()]


def test_strokes_are_shown_in_the_pure_colours_of_their_classes(tmp_path, an_image, scribbles):
    without = overview_picture(tmp_path / "a.png", an_image)
    painted = overview_picture(tmp_path / "b.png", an_image, scribbles=scribbles)
    assert pixels_of(without, RED.color) == 0
    assert pixels_of(painted, RED.color) > 4000
    assert pixels_of(painted, GREEN.color) > 2000


def test_an_overview_shows_the_slices_with_most_strokes(scribbles):
    assert report._slices_with_most(scribbles, GRID.shape) == (5, 3, 10)
    assert report._slices_with_most(None, GRID.shape) == (3, 7, 8)


def test_slices_keep_their_shape_in_the_world(an_image):
    figure, axes = report._rows_of_slices(GRID, columns=2)
    ratios = []
    for axis in range(3):
        report._show(axes[axis][0], report._displayable(an_image, axis, 1, (0.0, 200.0)), GRID, axis)
    figure.canvas.draw()
    for axis in range(3):
        box = axes[axis][0].get_window_extent()
        ratios.append(box.height / box.width)
    np.testing.assert_allclose(ratios, [14 / 16, 12 / 16, 12 / 14], rtol=0.02)


def test_colours_lie_over_labelled_pixels_only():
    grey = np.full((1, 3, 3), 0.5)
    painted = report._painted(grey, np.array([[1, 255, 2]], np.uint8), (RED, GREEN), 0.5)
    np.testing.assert_allclose(painted[0], [[0.75, 0.25, 0.25], [0.5, 0.5, 0.5], [0.25, 0.75, 0.25]])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(GRID.shape, bool),
        np.full(GRID.shape, np.nan, np.float32),
        np.linspace(-3e4, 3e4, 6 * 14 * 16).reshape(GRID.shape).astype(np.int16),
        np.random.default_rng(0).integers(0, 255, (*GRID.shape, 3), np.uint8),
        np.random.default_rng(0).integers(0, 255, (*GRID.shape, 2), np.uint8),
    ],
    ids=["bool", "nan", "int16", "rgb", "two channels"],
)
def test_images_of_every_kind_become_colours_between_0_and_1(array):
    image = Volume(array, GRID)
    shown = report._displayable(image, 1, 3, report._grey_window(image))
    assert shown.shape == (6, 16, 3)
    assert shown.min() >= 0
    assert shown.max() <= 1


def test_labels_of_another_shape_are_refused(tmp_path, an_image):
    other = LabelMap.of(np.ones((2, 3, 4), np.uint8))
    with pytest.raises(InputError, match="shape"):
        overview_picture(tmp_path / "o.png", an_image, truth=other)


@pytest.mark.parametrize("with_image", [True, False])
def test_an_evaluation_marks_wrong_voxels_in_red(tmp_path, an_image, a_prediction, a_truth, with_image):
    scores = score(a_prediction, a_truth)
    image = an_image if with_image else None
    path = evaluation_picture(tmp_path / "e.png", a_prediction, a_truth, scores, image=image)
    perfect = evaluation_picture(tmp_path / "p.png", a_truth, a_truth, score(a_truth, a_truth), image=image)
    assert size_px(path)[0] == 1620
    assert pixels_of(path, report.ERROR.color) > 10_000
    assert pixels_of(perfect, report.ERROR.color) == 0


def test_an_evaluation_shows_the_slice_with_most_wrong_voxels(tmp_path, a_prediction, a_truth, monkeypatch):
    told = []
    monkeypatch.setattr("matplotlib.figure.SubFigure.suptitle", lambda figure, text, **style: told.append(text))
    evaluation_picture(tmp_path / "e.png", a_prediction, a_truth, score(a_prediction, a_truth))
    assert told == ["Slice with most wrong voxels: Z = 4, 49 wrong (23.3 %)"]  # 7 rows × 7 columns of 14 × 15


def test_the_classes_of_an_evaluation_have_the_colours_of_its_legend(tmp_path, a_truth):
    path = evaluation_picture(tmp_path / "e.png", a_truth, a_truth, score(a_truth, a_truth))
    for label in a_truth.classes:
        assert pixels_of(path, label.color) > 10_000


def test_an_evaluation_says_what_is_faint_where_something_is(tmp_path, a_truth, monkeypatch):
    told = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_xlabel", lambda axes, text, **style: told.append(text))
    everywhere = np.where(a_truth.array == 255, np.uint8(2), a_truth.array)
    for array in (everywhere, a_truth.array):
        truth = LabelMap(array, a_truth.grid, a_truth.classes)
        evaluation_picture(tmp_path / "e.png", a_truth, truth, score(a_truth, truth))
    assert [text for text in told if "faint" in text] == ["faint: unlabelled in the truth, not scored"]


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0.996, 1, ">0.99"),
        (1.0, 1, "1.00"),
        (0.994, 1, "0.99"),
        (99.97, 100, ">99.9"),
        (100.0, 100, "100.0"),
        (0, 1, "0.00"),
    ],
)
def test_only_the_whole_is_told_as_such(part, whole, text):
    assert report._part_text(part, whole) == text


def test_an_evaluation_can_have_many_classes_and_strange_names(tmp_path):
    array = np.arange(6 * 14 * 16, dtype=np.int64).reshape(GRID.shape) % 40
    names = tuple(LabelClass(v, f"_$x_{v}^ a very long name of a mineral") for v in range(41))
    labels = LabelMap(array.astype(np.uint8), GRID, names)
    assert evaluation_picture(tmp_path / "e.png", labels, labels, score(labels, labels)).exists()
    assert overview_picture(tmp_path / "o.png", Volume.of(array, GRID), truth=labels).exists()


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("epochs", [1, 5])
def test_training_curves_need_no_validation_and_no_second_epoch(tmp_path, a_history, validated, epochs):
    if not validated:
        a_history = [EpochEnded(e.epoch, e.train_loss, None, None, e.learning_rate, e.is_best) for e in a_history]
    path = training_picture(tmp_path / "t.png", a_history[:epochs])
    assert size_px(path)[0] == 1620
    assert (pixels_of(path, (0.878, 0.541, 0.118)) > 50) is validated


def test_an_empty_history_is_refused(tmp_path):
    with pytest.raises(InputError, match="No epoch"):
        training_picture(tmp_path / "t.png", [])


def test_a_picture_that_fails_leaves_the_old_one_and_nothing_else(tmp_path, a_history, monkeypatch):
    path = tmp_path / "t.png"
    path.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        training_picture(path, a_history)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
