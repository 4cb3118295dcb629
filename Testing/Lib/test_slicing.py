import dataclasses
import tracemalloc

import numpy as np
import pytest

from VolumeSegmanticsLib import slicing
from VolumeSegmanticsLib.slicing import (
    FEW_PLANES,
    FEW_VOXELS,
    HoldOut,
    LabelledVoxels,
    Slab,
    are_strokes,
    axis_shares,
    hold_out,
    labelled_counts,
    plane_counts,
    plane_density,
    planes,
)
from VolumeSegmanticsLib.volume import UNLABELLED, Grid, LabelMap

_ = UNLABELLED

# Which planes -----------------------------------------------------------------------------------------------------


PLANES = {
    "a cube": ((6, 7, 8), (1, 1, 1), "zyx"),
    "a little anisotropic": ((6, 7, 8), (3, 1, 1), "zyx"),
    "strongly anisotropic": ((6, 7, 8), (3.1, 1, 1), "z"),
    "thin along the columns": ((6, 7, 8), (1, 1, 10), "x"),
    "three spacings": ((6, 7, 8), (1, 2, 4), "zx"),
    "no plane is good": ((6, 7, 8), (1, 4, 16), "x"),
    "one slice": ((1, 7, 8), (1, 1, 1), "z"),
    "one thick slice": ((1, 7, 8), (100, 1, 1), "z"),
    "one slice of Y": ((6, 1, 8), (1, 1, 1), "y"),
    "one slice of X": ((6, 7, 1), (1, 1, 1), "x"),
    "one line": ((1, 1, 8), (1, 1, 1), "z"),
    "one voxel": ((1, 1, 1), (1, 1, 1), "z"),
    "one slice of long pixels": ((1, 7, 8), (1, 9, 1), "z"),
    "in metres": ((6, 7, 8), (1e-8, 1e-9, 1e-9), "z"),
}


@pytest.mark.parametrize(("shape", "spacing", "expected"), PLANES.values(), ids=PLANES)
def test_planes_worth_learning_have_pixels_that_are_nearly_square(shape, spacing, expected):
    assert planes(Grid(shape, spacing), "all") == expected


@pytest.mark.parametrize(("axes", "expected"), [("x", "x"), ("XZ", "zx"), ("zyx", "zyx")])
def test_planes_that_are_asked_for_stay(axes, expected):
    assert planes(Grid((1, 7, 8), (100, 1, 1)), axes) == expected


def test_some_plane_is_always_left(rng):
    for _ in range(200):
        grid = Grid(tuple(rng.integers(1, 4, 3)), tuple(10 ** rng.uniform(-3, 3, 3)))
        assert planes(grid, "all")


# Counting ---------------------------------------------------------------------------------------------------------


def test_planes_are_counted_as_by_hand():
    labels = LabelMap.of(np.array([[[1, 1, 2], [_, 1, _]], [[_, _, 2], [_, _, _]]], np.uint8))
    of_z, of_y, of_x = plane_counts(labels.array, (1, 2, 9))
    assert of_z.tolist() == [[3, 1, 0], [0, 1, 0]]
    assert of_y.tolist() == [[2, 2, 0], [1, 0, 0]]
    assert of_x.tolist() == [[1, 0, 0], [2, 0, 0], [0, 2, 0]]


def test_planes_are_counted_as_numpy_does(rng):
    labels = LabelMap.of(rng.choice(np.array([0, 1, 2, _], np.uint8), (6, 7, 8)))
    for axis, counts in enumerate(plane_counts(labels.array, (2, 0))):
        others = tuple({0, 1, 2} - {axis})
        for n, value in enumerate((2, 0)):
            np.testing.assert_array_equal(counts[:, n], (labels.array == value).sum(axis=others))
    assert [counts.shape for counts in plane_counts(labels.array, ())] == [(6, 0), (7, 0), (8, 0)]


# Holding out ------------------------------------------------------------------------------------------------------


def scribbles(shape=(20, 21, 22), **boxes: tuple) -> LabelMap:
    """Labels of boxes: ``c1=(z, y, x)`` paints class 1 there."""
    array = np.full(shape, _, np.uint8)
    for name, box in boxes.items():
        array[box] = int(name[1])
    return LabelMap.of(array)


ALL = slice(None)
HALVES = {"c1": (ALL, slice(0, 10), ALL), "c2": (ALL, slice(10, 21), ALL)}


def held_share(labels: LabelMap, slab: Slab | None, value: int) -> float:
    """Which part of a class's voxels a slab holds."""
    held = np.count_nonzero(slab.of(labels.array) == value) if slab else 0
    return held / max(1, np.count_nonzero(labels.array == value))


LAYOUTS = {
    "all labelled": scribbles(**HALVES),
    "three slices": scribbles(c1=([3, 9, 15], slice(0, 10)), c2=([3, 9, 15], slice(10, 21))),
    "one slice": scribbles(c1=(7, slice(0, 10)), c2=(7, slice(10, 21))),
    "one stroke each": scribbles(c1=(7, 3, slice(2, 20)), c2=(7, 15, slice(2, 20))),
    "a rare class in one voxel": scribbles(**HALVES, c3=(4, 4, 4)),
    "a rare class in one plane": scribbles(**HALVES, c3=(4,)),
    "a rare class in two voxels far apart": scribbles(**HALVES, c3=([1, 18], [1, 19], [1, 20])),
    "classes at the two ends": scribbles(c1=(slice(0, 3),), c2=(slice(17, 20),)),
    "a diagonal": LabelMap.of(np.where(np.eye(20, dtype=bool)[None], np.arange(20)[:, None] % 2 + 1, _)),
    "checkers": LabelMap.of(np.indices((6, 7, 8)).sum(axis=0) % 2),
    "one voxel each": scribbles(c1=(1, 1, 1), c2=(9, 9, 9)),
    "one voxel": scribbles(c1=(1, 1, 1)),
    "nothing": scribbles(),
    "one slice of a volume of one slice": scribbles((1, 21, 22), c1=(0, slice(0, 10)), c2=(0, slice(10, 21))),
    "a volume of one voxel": scribbles((1, 1, 1), c1=(0, 0, 0)),
}
every_layout = pytest.mark.parametrize("labels", LAYOUTS.values(), ids=LAYOUTS)


@every_layout
@pytest.mark.parametrize("part", [0.01, 0.2, 0.5])
def test_at_least_half_of_every_class_remains(labels, part):
    values = [c.value for c in labels.classes]
    chosen = hold_out([labels.array], values, part)
    slab = chosen.slabs[0] if chosen else None
    assert all(held_share(labels, slab, value) <= 0.5 for value in values)


@every_layout
def test_a_slab_lies_in_the_volume_and_holds_labels(labels):
    chosen = hold_out([labels.array], [c.value for c in labels.classes], 0.2)
    if chosen:
        (slab,) = chosen.slabs
        assert 0 <= slab.start < slab.stop <= labels.array.shape[slab.axis]
        assert (slab.of(labels.array) != UNLABELLED).any()


@pytest.mark.parametrize("name", ["all labelled", "three slices", "one slice", "checkers", "one stroke each"])
def test_about_a_fifth_of_every_class_is_held_out(name):
    labels = LAYOUTS[name]
    chosen = hold_out([labels.array], [c.value for c in labels.classes], 0.2)
    for label_class in labels.classes:
        assert 0.1 <= held_share(labels, chosen.slabs[0], label_class.value) <= 0.35


@pytest.mark.parametrize("name", ["one voxel each", "one voxel", "nothing", "a volume of one voxel"])
def test_nothing_is_held_out_where_a_class_would_be_lost(name):
    labels = LAYOUTS[name]
    assert hold_out([labels.array], [c.value for c in labels.classes], 0.2) is None


def test_a_part_of_0_holds_nothing_out():
    assert hold_out([LAYOUTS["all labelled"].array], (1, 2), 0) is None
    assert hold_out([], (1, 2), 0.2) is None


def test_no_class_is_lost_to_the_slabs_of_several_volumes():
    """Class 3 is one voxel in each of three volumes: a third of it is little, but the three slabs would take it all."""
    each = LAYOUTS["a rare class in one voxel"]
    chosen = hold_out([each.array] * 3, (1, 2, 3), 0.2)
    assert [held_share(each, slab, 3) for slab in chosen.slabs] == [0, 0, 0]


def test_random_labels_in_several_volumes_never_lose_most_of_a_class(rng):
    for _ in range(40):
        maps = []
        for _ in range(3):
            array = np.full(rng.integers(1, 9, 3), _, np.uint8)
            array[rng.random(array.shape) < 0.3] = 1
            array[rng.integers(len(array))] = 2
            array[..., rng.integers(array.shape[2])] = 3
            maps.append(LabelMap.of(array))
        chosen = hold_out([each.array for each in maps], (1, 2, 3), float(rng.uniform(0.05, 0.5)))
        for value in (1, 2, 3) if chosen else ():
            total = sum(np.count_nonzero(each.array == value) for each in maps)
            held = sum(
                held_share(m, s, value) * (m.array == value).sum() for m, s in zip(maps, chosen.slabs, strict=True)
            )
            assert held <= total / 2 + 1e-6


def test_a_volume_without_labels_has_no_slab():
    chosen = hold_out([LAYOUTS["nothing"].array, LAYOUTS["all labelled"].array], (1, 2), 0.2)
    assert chosen.slabs[0] is None
    assert chosen.slabs[1] is not None


@pytest.mark.parametrize(
    ("slices", "voxels", "for_good"),
    [
        pytest.param(FEW_PLANES - 1, FEW_VOXELS, False, id="few planes"),
        pytest.param(FEW_PLANES, FEW_VOXELS - 1, False, id="few voxels"),
        pytest.param(FEW_PLANES, FEW_VOXELS, True, id="enough of both"),
    ],
)
def test_with_few_labelled_planes_or_voxels_the_slab_is_only_borrowed(slices, voxels, for_good):
    assert hold_out([stripes(slices, voxels).array], (1, 2), 0.2).for_good is for_good


def test_the_planes_and_voxels_of_all_volumes_count():
    half = stripes(FEW_PLANES // 2, FEW_VOXELS // 2).array
    assert not hold_out([half], (1, 2), 0.2).for_good
    assert hold_out([half, half], (1, 2), 0.2).for_good


def stripes(slices: int, voxels: int) -> LabelMap:
    """Slices whose columns alternate between classes 1 and 2, with that many labelled voxels in all."""
    array = np.full((slices + 2, 60, 60), UNLABELLED, np.uint8)
    labelled = array[1:-1].reshape(-1)
    labelled[np.linspace(0, labelled.size - 1, voxels).astype(int)] = 1 + np.arange(voxels) % 2
    array[1:-1] = labelled.reshape(slices, 60, 60)
    return LabelMap.of(array)


def test_classes_that_do_not_count_are_not_looked_at():
    labels = scribbles(**HALVES, c3=(4, 4, 4)).array
    assert hold_out([labels], (1, 2), 0.2) == hold_out([scribbles(**HALVES).array], (1, 2), 0.2)
    assert hold_out([labels], (1, 2, 77), 0.2) == hold_out([labels], (1, 2), 0.2)


def test_the_labels_are_left_as_they_are():
    labels = LAYOUTS["three slices"]
    before = labels.array.copy()
    hold_out([labels.array], (1, 2), 0.2)
    np.testing.assert_array_equal(labels.array, before)


def test_a_slab_is_a_view_of_the_array(a_volume):
    for axis in range(3):
        seen = Slab(axis, 2, 5).of(a_volume.array)
        np.testing.assert_array_equal(seen, np.take(a_volume.array, range(2, 5), axis))
        assert np.shares_memory(seen, a_volume.array)


def test_what_is_held_out_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Slab(0, 1, 2).start = 0
    assert hash(HoldOut((Slab(0, 1, 2), None), True))


# How often which axis ---------------------------------------------------------------------------------------------


def test_axes_share_evenly_where_everything_is_labelled_or_nothing():
    for labels in (LAYOUTS["all labelled"], LAYOUTS["nothing"]):
        np.testing.assert_allclose(axis_shares(labels.array, "zyx"), [1 / 3] * 3)


def test_labelled_slices_are_learned_from_more_than_planes_across():
    shares = axis_shares(LAYOUTS["three slices"].array, "zyx")
    assert shares.sum() == pytest.approx(1)
    assert shares[0] > 1.5 * shares[1]
    assert axis_shares(LAYOUTS["three slices"].array, "y").tolist() == [1]


# Where the labels lie ---------------------------------------------------------------------------------------------


def test_every_labelled_voxel_is_found(rng):
    labels = rng.choice(np.array([0, 1, 7, _], np.uint8), (6, 7, 8))
    found = LabelledVoxels.of(labels, rng)
    assert set(found.by_class) == set(found.counts) == {0, 1, 7}
    for value, voxels in found.by_class.items():
        np.testing.assert_array_equal(voxels, np.argwhere(labels == value))
        assert voxels.dtype == np.int32
        assert found.counts[value] == len(voxels)


def test_without_labels_nothing_is_found(rng):
    found = LabelledVoxels.of(np.full((6, 7, 8), UNLABELLED, np.uint8), rng)
    assert (found.by_class, found.counts) == ({}, {})


def test_of_many_voxels_a_part_is_chosen_and_all_are_counted(rng, monkeypatch):
    monkeypatch.setattr(slicing, "_INDEXED_VOXELS", 1000)
    labels = np.zeros((20, 30, 40), np.uint8)
    labels[4, 5, 6] = 3
    found = LabelledVoxels.of(labels, rng)
    assert found.counts == {0: 23_999, 3: 1}
    assert found.by_class[3].tolist() == [[4, 5, 6]]
    assert 800 < len(found.by_class[0]) < 1200
    assert len(np.unique(found.by_class[0], axis=0)) == len(found.by_class[0])
    assert np.ptp(found.by_class[0], axis=0).tolist() == [19, 29, 39]


def test_the_same_seed_chooses_the_same_voxels(monkeypatch):
    monkeypatch.setattr(slicing, "_INDEXED_VOXELS", 100)
    labels = np.zeros((6, 7, 8), np.uint8)
    one, other = (LabelledVoxels.of(labels, np.random.default_rng(3)).by_class[0] for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_a_fully_labelled_volume_is_searched_in_little_memory(rng, monkeypatch):
    monkeypatch.setattr(slicing, "_INDEXED_VOXELS", 10_000)
    labels = rng.integers(0, 3, (64, 128, 128), np.uint8)
    tracemalloc.start()
    LabelledVoxels.of(labels, rng)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * labels.size


@pytest.mark.parametrize(
    ("painted", "strokes"),
    [
        pytest.param(np.s_[4, 3:5, 2:12], True, id="one stroke"),
        pytest.param(np.s_[4], False, id="a whole slice"),
        pytest.param(np.s_[:, 7], False, id="a whole slice of another axis"),
        pytest.param(np.s_[2:8, 4:12, 4:12], False, id="a region"),
    ],
)
def test_strokes_are_thin_in_every_plane(painted, strokes):
    labels = np.full((10, 20, 24), UNLABELLED, np.uint8)
    labels[painted] = 1
    assert are_strokes(labels) is strokes


def test_the_density_of_a_plane_is_that_which_a_labelled_voxel_meets():
    labels = np.full((2, 2, 4), UNLABELLED, np.uint8)
    labels[0, 0] = 1  # four voxels in a plane of eight
    labels[1, 0, 0] = 2  # and one
    assert plane_density(labelled_counts(labels), 0) == pytest.approx((4 * 4 / 8 + 1 * 1 / 8) / 5)
