from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from VolumeSegmanticsLib.volume import Grid, LabelClass, LabelMap, Volume

SHAPE = (6, 7, 8)


def rotation(about_z: float, about_x: float) -> np.ndarray:
    """Columns are the directions of the x, y and z index."""
    turn_z = [[np.cos(about_z), -np.sin(about_z), 0], [np.sin(about_z), np.cos(about_z), 0], [0, 0, 1]]
    turn_x = [[1, 0, 0], [0, np.cos(about_x), -np.sin(about_x)], [0, np.sin(about_x), np.cos(about_x)]]
    return np.array(turn_z) @ np.array(turn_x)


def grid_along(columns: np.ndarray, shape=SHAPE) -> Grid:
    return Grid(shape, (2.5, 0.7, 0.4), (10.1, -20.2, 30.3), tuple(map(tuple, np.asarray(columns).T[::-1])))


OBLIQUE = rotation(0.3, 0.5)
GRIDS = {
    "plain": Grid(SHAPE),
    "anisotropic": grid_along(np.eye(3)),
    "oblique": grid_along(OBLIQUE),
    "left-handed": grid_along(OBLIQUE @ np.diag([1, 1, -1])),
    "axes exchanged": grid_along(np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])),
}
SHEARED = grid_along(OBLIQUE + [[0, 0.2, 0], [0, 0, 0], [0, 0, 0]])


@pytest.fixture
def a_folder(tmp_path) -> Path:
    """A folder whose name no format may stumble over."""
    folder = tmp_path / "Proben für Ümit"
    folder.mkdir()
    return folder


@pytest.fixture
def an_array() -> np.ndarray:
    """Every value occurs once, so that no exchange of axes goes unseen."""
    return np.arange(np.prod(SHAPE), dtype=np.uint16).reshape(SHAPE)


@pytest.fixture
def a_volume(an_array) -> Volume:
    return Volume(an_array, GRIDS["oblique"])


@pytest.fixture
def some_labels() -> LabelMap:
    """Strokes of three classes; their values have gaps, everything else is unlabelled."""
    array = np.full(SHAPE, 255, np.uint8)
    array[1, 2:5, 3] = 2
    array[2:5, 6, 1:3] = 5
    array[5, 0, :] = 7
    classes = (
        LabelClass(2, "Pöre | größer", (0.123456789, 1 / 3, 0.5)),
        LabelClass(5, "C:\\new", (1.0, 0.0, 0.25), "Context~SCT^1^Tissue~SCT^2^Böne~^^~Anatomic~^^~^^"),
        LabelClass(7, "Matrix\nzwei", (0.9, 0.1, 0.7)),
        LabelClass(9, "nowhere", (0.2, 0.2, 0.2)),
    )
    return LabelMap(array, GRIDS["oblique"], classes, "ignore")


@pytest.fixture
def heard():
    """A list of the events that ``heard.append`` was given as a report."""
    return []
