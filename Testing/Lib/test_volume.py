import dataclasses
import tracemalloc

import numpy as np
import pytest

from VolumeSegmanticsLib.classes import UNLABELLED, LabelClass
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.volume import Grid, LabelMap, Volume, value_counts

SHAPE = (6, 7, 8)
_ = UNLABELLED


def grid_along(x, y, z, shape=SHAPE) -> Grid:
    """A grid whose indices grow along the three vectors, brought to length 1."""
    unit = [tuple(np.array(vector) / np.linalg.norm(vector)) for vector in (z, y, x)]
    return Grid(shape, (2.5, 0.7, 0.4), (10.1, -20.2, 30.3), tuple(unit))


GRIDS = {
    "plain": Grid(SHAPE),
    "anisotropic": grid_along((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "oblique": grid_along((1, 0.2, 0), (-0.2, 1, 0), (0, 0, 1)),
    "left-handed": grid_along((-1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "sheared": grid_along((1, 0, 0), (0.3, 1, 0), (0, 0.4, 1)),
    "axes exchanged": grid_along((0, 0, 1), (1, 0, 0), (0, -1, 0)),
    "in metres": Grid(SHAPE, (1e-9, 1e-9, 1e-9), (1e-6, 2e-6, 3e-6)),
    "of one voxel": Grid((1, 1, 1), (5, 1, 1)),
    "far away": Grid(SHAPE, (1e-3, 1e-3, 1e-3), (1e6, 0, 0)),
}
every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


# Grids ------------------------------------------------------------------------------------------------------------


def test_a_grid_says_where_every_voxel_lies():
    grid = grid_along((0, 0, 1), (1, 0, 0), (0, -1, 0))
    z, y, x = 1, 2, 3
    expected = (10.1 + 2 * 0.7, -20.2 - 1 * 2.5, 30.3 + 3 * 0.4, 1)
    np.testing.assert_allclose(grid.affine @ (z, y, x, 1), expected)


@every_grid
def test_a_grid_survives_its_affine(grid):
    again = Grid.from_affine(grid.shape, grid.affine)
    assert again == grid
    np.testing.assert_allclose(again.spacing, grid.spacing)
    np.testing.assert_allclose(again.direction, grid.direction, atol=1e-12)


@every_grid
def test_a_grid_stored_in_single_precision_is_the_same(grid):
    if grid is GRIDS["far away"]:
        pytest.skip("a micrometre in a kilometre is beyond single precision")
    single = np.float32(grid.affine).astype(float)
    assert Grid.from_affine(grid.shape, single) == grid
    assert grid.difference(Grid.from_affine(grid.shape, single)) == ""


@every_grid
@pytest.mark.parametrize("axis", range(3))
def test_a_tenth_of_a_voxel_makes_another_grid(grid, axis):
    moved = grid.affine.copy()
    moved[:3, 3] += 0.1 * moved[:3, axis]
    other = Grid.from_affine(grid.shape, moved)
    assert grid != other
    assert grid.offset_voxels(other) == pytest.approx(0.1, rel=1e-5)
    assert grid.difference(other).startswith("origin [")


@every_grid
def test_another_spacing_makes_another_grid_seen_from_both_sides(grid):
    for axis in range(3):
        spacing = tuple(s * (1.5 if a == axis else 1) for a, s in enumerate(grid.spacing))
        other = dataclasses.replace(grid, spacing=spacing)
        assert grid != other
        assert other != grid
        assert grid.difference(other).startswith("spacing (Z, Y, X) [")
        assert "origin" not in grid.difference(other)


@every_grid
def test_a_flipped_axis_makes_another_grid(grid):
    flipped = (tuple(-v for v in grid.direction[0]), *grid.direction[1:])
    other = dataclasses.replace(grid, direction=flipped)
    assert grid != other
    assert "direction [[" in grid.difference(other)
    assert "\n" not in grid.difference(other)


def test_another_shape_makes_another_grid():
    assert Grid(SHAPE) != Grid((6, 8, 7))
    assert Grid(SHAPE).difference(Grid((6, 8, 7))) == "shape (Z, Y, X) (6, 7, 8) against (6, 8, 7)"


def test_a_difference_too_small_to_print_is_told_in_voxels():
    long = Grid((100_000, 2, 2))
    other = dataclasses.replace(long, spacing=(1 + 5e-7, 1, 1))
    assert long != other
    assert long.difference(other).endswith("(0.05 voxels apart)")


def test_a_grid_is_plain_where_only_its_shape_says_anything():
    assert Grid(SHAPE).is_plain
    assert not Grid(SHAPE, origin=(0.5, 0, 0)).is_plain
    assert not GRIDS["of one voxel"].is_plain
    assert not Grid(SHAPE, direction=((0, 0, -1), (0, 1, 0), (1, 0, 0))).is_plain


def test_grids_of_numpy_numbers_become_plain():
    grid = Grid(np.array(SHAPE), np.float32([1, 1, 2]), np.zeros(3), np.eye(3)[::-1])
    assert type(grid.shape[0]) is int
    assert type(grid.spacing[2]) is float
    assert type(grid.direction[0]) is tuple
    assert grid == Grid(SHAPE, (1, 1, 2))


def test_a_grid_is_frozen_and_no_key_as_its_equality_has_a_tolerance():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Grid(SHAPE).shape = (1, 1, 1)
    with pytest.raises(TypeError, match="unhashable"):
        hash(Grid(SHAPE))
    assert Grid(SHAPE) != "a grid"


NO_GRIDS = {
    "no voxel": {"shape": (0, 7, 8)},
    "two sides": {"shape": (7, 8)},
    "four sides": {"shape": (6, 7, 8, 3)},
    "spacing 0": {"spacing": (0, 1, 1)},
    "negative spacing": {"spacing": (-1, 1, 1)},
    "spacing NaN": {"spacing": (np.nan, 1, 1)},
    "endless spacing": {"spacing": (np.inf, 1, 1)},
    "two spacings": {"spacing": (1, 1)},
    "origin NaN": {"origin": (np.nan, 0, 0)},
    "endless origin": {"origin": (0, -np.inf, 0)},
    "a flat origin": {"origin": (0, 0)},
    "direction NaN": {"direction": ((np.nan, 0, 1), (0, 1, 0), (1, 0, 0))},
    "endless direction": {"direction": ((np.inf, 0, 1), (0, 1, 0), (1, 0, 0))},
    "two directions": {"direction": ((0, 0, 1), (0, 1, 0))},
    "flat directions": {"direction": ((0, 1), (1, 0), (1, 1))},
    "ragged directions": {"direction": ((0, 0, 1), (0, 1), (1, 0, 0))},
    "parallel axes": {"direction": ((0, 0, 1), (0, 0, 1), (1, 0, 0))},
    "axes of length 0": {"direction": ((0, 0, 0), (0, 1, 0), (1, 0, 0))},
}


@pytest.mark.parametrize("values", NO_GRIDS.values(), ids=NO_GRIDS)
def test_what_is_no_grid_is_refused(values):
    with pytest.raises(InputError):
        Grid(**{"shape": SHAPE, **values})


def test_an_affine_that_is_flat_or_no_number_is_refused():
    for broken in (np.diag([1.0, 0, 1, 1]), np.full((4, 4), np.nan)):
        with pytest.raises(InputError):
            Grid.from_affine(SHAPE, broken)


# Volumes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["?", "u1", "i1", ">u2", "<i4", "u8", "f2", ">f4", "f8"])
def test_every_real_type_is_an_intensity_and_stays_as_it_is(kind):
    array = np.zeros(SHAPE, kind)
    assert Volume.of(array).array is array


def test_a_volume_may_have_channels(rng):
    volume = Volume.of(rng.random((*SHAPE, 3)))
    assert volume.channels == 3
    assert volume.grid == Grid(SHAPE)
    assert Volume.of(rng.random(SHAPE)).channels == 1


def test_a_memory_mapped_volume_stays_on_the_disk(tmp_path):
    array = np.memmap(tmp_path / "a.raw", "u1", "w+", shape=SHAPE)
    assert isinstance(Volume.of(array).array, np.memmap)


@pytest.mark.parametrize(
    "array",
    [np.zeros((7, 8)), np.zeros(5), 3, np.zeros((0, 7, 8)), np.zeros((*SHAPE, 0)), np.zeros((*SHAPE, 1, 1)), [], None],
    ids=["2D", "1D", "a number", "no voxel", "no channel", "5D", "an empty list", "None"],
)
def test_what_has_not_three_axes_is_no_volume(array):
    with pytest.raises(InputError):
        Volume.of(array)


@pytest.mark.parametrize("kind", ["c8", "O", "U3", "M8[s]", [("r", "u1"), ("g", "u1")]])
def test_what_is_no_real_number_is_no_intensity(kind):
    with pytest.raises(InputError, match="no intensities"):
        Volume.of(np.zeros(SHAPE, kind))


def test_an_array_does_not_lie_on_a_grid_of_another_shape():
    with pytest.raises(InputError, match=r"\(6, 7, 8\).*\(6, 8, 7\)"):
        Volume.of(np.zeros(SHAPE), Grid((6, 8, 7)))


# Label maps -------------------------------------------------------------------------------------------------------


@pytest.fixture
def strokes() -> np.ndarray:
    return np.array([[[0, 1, 1, _], [0, 4, 0, _]]], np.uint8)


def test_values_without_a_name_get_a_plain_one(strokes):
    labels = LabelMap.of(strokes, classes=(LabelClass(4, "Pore"), LabelClass(2, "nowhere")))
    assert [(c.value, c.name) for c in labels.classes] == [
        (0, "Background"), (1, "Class 1"), (2, "nowhere"), (4, "Pore"),
    ]  # fmt: skip
    assert labels.counts() == {0: 3, 1: 2, 2: 0, 4: 1}
    assert labels.array is strokes


def test_ignored_unpainted_voxels_are_unlabelled(strokes):
    before = strokes.copy()
    labels = LabelMap.of(strokes, classes=(LabelClass(0, "Air"), LabelClass(1, "Pore")), unpainted="ignore")
    assert labels.array.tolist() == [[[_, 1, 1, _], [_, 4, _, _]]]
    assert [c.value for c in labels.classes] == [1, 4]
    assert labels.unpainted == "ignore"
    np.testing.assert_array_equal(strokes, before)


def test_labels_without_a_0_are_not_copied():
    array = np.full(SHAPE, 3, np.uint8)
    assert LabelMap.of(array, unpainted="ignore").array is array


def test_labels_of_nothing_have_no_classes():
    labels = LabelMap.of(np.full(SHAPE, _, np.uint8))
    assert labels.classes == ()
    assert labels.counts() == {}
    assert LabelMap.of(np.zeros(SHAPE, np.uint8), unpainted="ignore").classes == ()


@pytest.mark.parametrize("kind", ["u1", "i1", ">u2", "<i4", "u8", "i8", "f2", ">f4", "f8"])
def test_whole_numbers_of_every_type_are_labels(kind):
    array = np.zeros(SHAPE, kind)
    array[0, 0, 0] = 3
    labels = LabelMap.of(array)
    assert labels.array.dtype == np.uint8
    assert labels.counts() == {0: 335, 3: 1}


def test_a_mask_has_two_classes():
    assert LabelMap.of(np.eye(3, dtype=bool)[None]).counts() == {0: 6, 1: 3}


@pytest.mark.parametrize("value", [-1, 256, 2**40, -(2**40), 0.5, 1e300, np.nan, np.inf, -np.inf])
def test_values_that_are_no_labels_are_refused(value):
    array = np.zeros(SHAPE, np.float64 if isinstance(value, float) else np.int64)
    array[1, 2, 3] = value
    with pytest.raises(InputError):
        LabelMap.of(array)


@pytest.mark.parametrize("kind", ["c8", "O", "U3", "M8[s]"])
def test_types_that_are_no_labels_are_refused(kind):
    with pytest.raises(InputError, match="no labels"):
        LabelMap.of(np.zeros(SHAPE, kind))


@pytest.mark.parametrize("kind", ["u1", "i8", "f8", "?"])
@pytest.mark.parametrize("shape", [(7, 8), (0, 7, 8), (6, 7, 0), (*SHAPE, 1)], ids=str)
def test_shapes_that_are_no_labels_are_refused(shape, kind):
    with pytest.raises(InputError):
        LabelMap.of(np.zeros(shape, kind))


def test_two_classes_of_one_value_are_refused(strokes):
    with pytest.raises(InputError, match="share a value"):
        LabelMap(strokes, Grid(strokes.shape), (LabelClass(1, "a"), LabelClass(1, "b")))


@pytest.mark.parametrize("meaning", ["auto", "Ignore", "", None])
def test_the_unpainted_value_means_one_of_two_things(strokes, meaning):
    with pytest.raises(InputError, match="unpainted"):
        LabelMap.of(strokes, unpainted=meaning)


def test_a_label_map_is_of_bytes_and_lies_on_its_grid(strokes):
    for array, grid in ((strokes, Grid(SHAPE)), (strokes.astype(np.uint16), Grid(strokes.shape))):
        with pytest.raises(InputError, match="do not lie on"):
            LabelMap(array, grid, ())


def test_every_value_but_unlabelled_needs_a_class():
    array = np.full((2, 3, 4), UNLABELLED, np.uint8)
    array[0, 0, :2] = 1, 9
    one = LabelClass(1, "one")
    with pytest.raises(InputError, match=r"none of their classes: \[9\]"):
        LabelMap(array, Grid(array.shape), (one,)).check()
    LabelMap(array, Grid(array.shape), (one, LabelClass(4, "nowhere"), LabelClass(9, "nine"))).check()


def test_other_names_leave_the_voxels_alone(strokes):
    labels = LabelMap.of(strokes, unpainted="ignore")
    renamed = labels.with_classes((LabelClass(4, "b"), LabelClass(1, "a")))
    assert renamed.array is labels.array
    assert [c.name for c in renamed.classes] == ["a", "b"]
    assert renamed.unpainted == "ignore"


def test_values_are_counted_whatever_the_layout(rng):
    labels = rng.integers(0, 256, SHAPE, np.uint8)
    expected = np.bincount(labels.ravel(), minlength=256)
    for seen in (labels, labels.T, labels[::-1, :, ::-1], np.asfortranarray(labels)):
        np.testing.assert_array_equal(value_counts(seen), expected)
    assert value_counts(labels[:0]).tolist() == [0] * 256


def test_counting_needs_less_memory_than_the_labels_themselves(rng):
    array = rng.integers(0, 4, (64, 128, 128), np.uint8)
    tracemalloc.start()
    LabelMap.of(array).counts()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * array.size
