from __future__ import annotations

import numpy as np
import pytest

from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.events import Log
from VolumeSegmanticsLib.prepare import prepare
from VolumeSegmanticsLib.volume import UNLABELLED, Grid, LabelMap, Volume

SHAPE = (6, 7, 8)
PORE, FIBRE = LabelClass(1, "Pore", (1.0, 0.0, 0.0)), LabelClass(2, "Fibre")


@pytest.fixture
def an_image(rng) -> Volume:
    return Volume.of(rng.random(SHAPE, np.float32))


def labels_of(classes, *, grid=None) -> LabelMap:
    """One plane a class, in their order; the rest unlabelled."""
    array = np.full(SHAPE, UNLABELLED, np.uint8)
    for plane, label_class in zip(array, classes, strict=False):
        plane[...] = label_class.value
    return LabelMap(array, grid or Grid(SHAPE), tuple(classes))


def warnings_in(heard) -> list[str]:
    return [event.text for event in heard if isinstance(event, Log) and event.level == "warning"]


def test_output_channels_follow_the_class_values(an_image):
    prepared = prepare([an_image], [labels_of([LabelClass(7, "a"), LabelClass(3, "b")])])
    assert [c.value for c in prepared.classes] == [3, 7]
    assert np.unique(prepared.examples[0].labels).tolist() == [0, 1, UNLABELLED]
    assert prepared.examples[0].labels[0, 0, 0] == 1  # value 7 is painted in the first plane


def test_a_value_without_a_class_is_told(an_image):
    labels = labels_of([PORE, FIBRE])
    labels.array[5, 0, 0] = 7
    with pytest.raises(InputError, match=r"none of their classes: \[7\]"):
        prepare([an_image], [labels])


def test_the_same_names_are_the_same_classes_whatever_their_values(an_image, heard):
    """In the second volume Pore and Fibre have each other's values."""
    exchanged = (LabelClass(1, "Fibre"), LabelClass(2, "Pore"))
    prepared = prepare([an_image] * 2, [labels_of([PORE, FIBRE]), labels_of(exchanged)], report=heard.append)
    assert [(c.value, c.name) for c in prepared.classes] == [(1, "Pore"), (2, "Fibre")]
    first, second = (example.labels[:2, 0, 0].tolist() for example in prepared.examples)
    assert first == [0, 1]
    assert second == [1, 0]
    assert len(warnings_in(heard)) == 2
    assert '"Fibre", 1 in label file 2, is 2 in the model.' in warnings_in(heard)


def test_other_names_of_the_same_value_are_other_classes(an_image):
    prepared = prepare([an_image] * 2, [labels_of([PORE, FIBRE]), labels_of([LabelClass(1, "Resin"), FIBRE])])
    assert sorted(c.name for c in prepared.classes) == ["Fibre", "Pore", "Resin"]
    assert len({c.value for c in prepared.classes}) == 3


def test_values_do_not_shift_where_all_agree(an_image, heard):
    classes = (LabelClass(0, "Background"), LabelClass(200, "high"))
    prepared = prepare([an_image], [labels_of(classes)], report=heard.append)
    assert prepared.classes == classes
    assert not [text for text in warnings_in(heard) if "in the model" in text]


def test_the_classes_of_an_earlier_model_stay_and_give_their_names(an_image):
    """A label array knows values only; the model knows what they are called, and one class more."""
    known = (PORE, FIBRE, LabelClass(3, "Crack"))
    prepared = prepare([an_image], [labels_of([LabelClass.plain(1), LabelClass.plain(2)])], known=known)
    assert [(c.value, c.name) for c in prepared.classes] == [(1, "Pore"), (2, "Fibre"), (3, "Crack")]


def test_an_added_class_joins_those_of_an_earlier_model(an_image):
    prepared = prepare([an_image], [labels_of([PORE, LabelClass(2, "Crack"), FIBRE][:2])], known=(PORE, FIBRE))
    assert {c.name for c in prepared.classes} == {"Pore", "Fibre", "Crack"}


def test_classes_that_nobody_painted_are_left_out(an_image):
    labels = labels_of([PORE, FIBRE])
    more = LabelMap(labels.array, labels.grid, (*labels.classes, LabelClass(9, "unused")))
    assert [c.name for c in prepare([an_image], [more]).classes] == ["Pore", "Fibre"]


def test_labels_where_the_image_holds_no_number_are_left_out(an_image, heard):
    image = an_image.array.copy()
    image[0, 0, :3] = np.nan, np.inf, -np.inf
    labels = labels_of([PORE, FIBRE])
    prepared = prepare([Volume.of(image)], [labels], report=heard.append)
    assert prepared.examples[0].labels[0, 0].tolist() == [UNLABELLED] * 3 + [0] * 5
    assert warnings_in(heard)[0].startswith("3 labelled voxels")
    assert (labels.array[0] == 1).all()  # what was given is left alone


def test_a_colour_that_is_no_number_hides_its_voxel():
    image = np.zeros((*SHAPE, 3), np.float32)
    image[0, 0, 0, 2] = np.nan
    prepared = prepare([Volume.of(image)], [labels_of([PORE, FIBRE])])
    assert prepared.examples[0].labels[0, 0, 0] == UNLABELLED


def test_a_class_painted_on_nan_only_is_no_class(an_image):
    image = an_image.array.copy()
    image[1] = np.nan
    with pytest.raises(InputError, match=r"Only one class is painted \(Pore\)"):
        prepare([Volume.of(image)], [labels_of([PORE, FIBRE])])


def test_few_voxels_are_told(an_image, heard):
    prepare([an_image], [labels_of([PORE, FIBRE])], report=heard.append)
    assert '"Pore" has only 56 labelled voxels: paint more.' in warnings_in(heard)


def refused_by(case, image):
    nan = Volume.of(np.full(SHAPE, np.nan, np.float32))
    rgb = Volume.of(np.zeros((*SHAPE, 3), np.uint8))
    both = labels_of([PORE, FIBRE])
    return {
        "other grid": ([image], [labels_of([PORE, FIBRE], grid=Grid(SHAPE, (2.0, 1.0, 1.0)))], "spacing"),
        "other shape": ([Volume.of(image.array[:5])], [both], r"\(5, 7, 8\) against \(6, 7, 8\)"),
        "moved": ([image], [labels_of([PORE, FIBRE], grid=Grid(SHAPE, origin=(5.0, 0.0, 0.0)))], "origin"),
        "one class": ([image], [labels_of([PORE])], "Only one class"),
        "no labels": ([image], [labels_of([])], "No voxel is labelled"),
        "no painted voxel": ([image], [LabelMap(labels_of([]).array, Grid(SHAPE), (PORE, FIBRE))], "No voxel"),
        "only on NaN": ([nan], [both], "NaN"),
        "nothing at all": ([], [], "0 images"),
        "no pair": ([image, image], [both], "2 images and 1 label maps"),
        "grey and colour": ([image, rgb], [both, both], r"different numbers of channels: \[1, 3\]"),
    }[case]


REFUSED = (
    "other grid", "other shape", "moved", "one class", "no labels", "no painted voxel", "only on NaN", "nothing at all",
    "no pair", "grey and colour",
)  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_learned_is_refused_with_a_remedy(case, an_image):
    images, labels, words = refused_by(case, an_image)
    with pytest.raises(InputError, match=words) as told:
        prepare(images, labels)
    assert told.value.hint


@pytest.mark.parametrize(
    ("shape", "spacing", "axes", "expected"),
    [
        pytest.param((6, 7, 8), (1, 1, 1), "all", "zyx", id="all three"),
        pytest.param((6, 7, 8), (1, 1, 1), "xz", "zx", id="as asked"),
        pytest.param((1, 7, 8), (1, 1, 1), "all", "z", id="a single slice"),
        pytest.param((6, 7, 8), (5, 1, 1), "all", "z", id="thick slices"),
        pytest.param((6, 7, 8), (2, 1, 1), "all", "zyx", id="slightly thicker slices"),
        pytest.param((6, 7, 8), (5, 1, 1), "zyx", "zyx", id="thick slices, asked for"),
    ],
)
def test_the_planes_to_learn_are(shape, spacing, axes, expected, rng):
    grid = Grid(shape, spacing)
    image = Volume(rng.random(shape, np.float32), grid)
    labels = LabelMap.of(rng.integers(0, 2, shape), grid)
    assert prepare([image], [labels], axes=axes).examples[0].axes == expected
