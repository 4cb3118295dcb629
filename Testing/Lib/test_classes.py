import dataclasses
import json

import numpy as np
import pytest

from VolumeSegmanticsLib.classes import LabelClass, merge_classes
from VolumeSegmanticsLib.errors import InputError


def named(**values: int) -> tuple[LabelClass, ...]:
    return tuple(LabelClass(value, name) for name, value in values.items())


def plain(*values: int) -> tuple[LabelClass, ...]:
    return tuple(LabelClass.plain(value) for value in values)


def names(classes: tuple[LabelClass, ...]) -> dict[int, str]:
    return {c.value: c.name for c in classes}


# One class --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1, 255, 256, 10**30, 1.0, 1.5, float("nan"), "1", None, [1]])
def test_a_value_that_no_class_can_have_is_refused(value):
    with pytest.raises(InputError, match="0 to 254"):
        LabelClass(value, "Pore")


@pytest.mark.parametrize("value", [0, 254])
def test_the_ends_of_the_range_are_classes(value):
    assert LabelClass(value, "Pore").value == value


def test_numbers_of_numpy_become_plain_so_that_they_go_into_json():
    label_class = LabelClass(np.uint8(3), "Pore", np.array([1, 0.5, 0], np.float32))
    assert json.loads(json.dumps(label_class.to_dict()))["value"] == 3
    assert label_class == LabelClass(3, "Pore", (1.0, 0.5, 0.0))


def test_a_class_is_frozen_and_can_be_a_key():
    label_class = LabelClass(1, "Pore")
    with pytest.raises(dataclasses.FrozenInstanceError):
        label_class.value = 2
    assert {label_class: 5}[LabelClass(1, "Pore")] == 5


@pytest.mark.parametrize("name", ["Pöre | größer", "孔隙", "", " ", 'a "b"\n', "\ud800"])
def test_a_class_survives_json_whatever_its_name(name):
    label_class = LabelClass(7, name, (0.1, 1 / 3, 1.0), "Context~SCT^1^Tissue")
    assert LabelClass.from_dict(json.loads(json.dumps(label_class.to_dict()))) == label_class


def test_a_class_of_which_only_value_and_name_are_known_is_grey():
    assert LabelClass.from_dict({"value": 1, "name": "Pore"}) == LabelClass(1, "Pore", (0.5, 0.5, 0.5))


def test_plain_classes_say_their_value_and_differ_in_colour():
    classes = plain(*range(9))
    assert [c.name for c in classes[:3]] == ["Background", "Class 1", "Class 2"]
    assert len({c.color for c in classes}) == 9


def test_a_class_is_plain_only_where_its_name_says_its_own_value():
    assert LabelClass(3, "Class 3", (1, 0, 0)).is_plain
    assert not LabelClass(4, "Class 3").is_plain
    assert not LabelClass(3, "Background").is_plain


# Several groups ---------------------------------------------------------------------------------------------------


MERGED = {
    "nothing": ([], {}, []),
    "one empty group": ([()], {}, [{}]),
    "one group stays as it is": ([named(Pore=2, Iron=7)], {2: "Pore", 7: "Iron"}, [{2: 2, 7: 7}]),
    "same names under other values": (
        [named(Pore=1, Iron=2), named(Iron=1, Pore=2)],
        {1: "Pore", 2: "Iron"},
        [{1: 1, 2: 2}, {1: 2, 2: 1}],
    ),
    "another name under the same value": ([named(Pore=1), named(Iron=1)], {1: "Pore", 2: "Iron"}, [{1: 1}, {1: 2}]),
    "a free value is kept": ([named(Pore=1), named(Iron=9)], {1: "Pore", 9: "Iron"}, [{1: 1}, {9: 9}]),
    "a new value is none of the group's own": (
        [named(Pore=1), named(Iron=1, Clay=2)],
        {1: "Pore", 2: "Clay", 3: "Iron"},
        [{1: 1}, {1: 3, 2: 2}],
    ),
    "two new values": (
        [named(Pore=1, Sand=2), named(Iron=1, Clay=2)],
        {1: "Pore", 2: "Sand", 3: "Iron", 4: "Clay"},
        [{1: 1, 2: 2}, {1: 3, 2: 4}],
    ),
    "an array means the class of its value": ([named(Pore=1), plain(1)], {1: "Pore"}, [{1: 1}, {1: 1}]),
    "a name that comes later is not lost": ([plain(1), named(Pore=1)], {1: "Pore"}, [{1: 1}, {1: 1}]),
    "and is known from there on": (
        [plain(1), named(Pore=1), named(Pore=2)],
        {1: "Pore"},
        [{1: 1}, {1: 1}, {2: 1}],
    ),
    "a name counts more than a value": (
        [named(Pore=1), (LabelClass.plain(1), LabelClass(2, "Pore"))],
        {1: "Pore", 2: "Class 1"},
        [{1: 1}, {1: 2, 2: 1}],
    ),
    "two segments of one name stay two": ([named(Pore=1) + named(Pore=2)], {1: "Pore", 2: "Pore"}, [{1: 1, 2: 2}]),
    "of two of one name the one of the same value is meant": (
        [named(Pore=1) + named(Pore=2), named(Pore=2)],
        {1: "Pore", 2: "Pore"},
        [{1: 1, 2: 2}, {2: 2}],
    ),
    "a painted background is the unpainted one": (
        [plain(0, 1), named(Background=4)],
        {0: "Background", 1: "Class 1"},
        [{0: 0, 1: 1}, {4: 0}],
    ),
    "the background keeps to itself": (
        [named(Air=1), (LabelClass.plain(0), LabelClass(1, "Iron"))],
        {0: "Background", 1: "Air", 2: "Iron"},
        [{1: 1}, {0: 0, 1: 2}],
    ),
    "names are taken as typed": ([named(Pore=1), named(pore=1)], {1: "Pore", 2: "pore"}, [{1: 1}, {1: 2}]),
}


@pytest.mark.parametrize(("groups", "expected", "changes"), MERGED.values(), ids=MERGED)
def test_the_same_material_is_the_same_class_everywhere(groups, expected, changes):
    merged, found = merge_classes(*groups)
    assert names(merged) == expected
    assert found == changes
    assert list(names(merged)) == sorted(names(merged))


def test_the_first_colour_stays_and_a_plain_class_takes_that_of_a_named_one():
    red, blue = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
    merged, _ = merge_classes((LabelClass(1, "Pore", red), LabelClass.plain(2)), (LabelClass(1, "Pore", blue),))
    assert merged[0].color == red
    merged, _ = merge_classes(plain(1), (LabelClass(1, "Pore", blue, "Tissue"),))
    assert merged == (LabelClass(1, "Pore", blue, "Tissue"),)
    merged, _ = merge_classes((LabelClass(0, "Background", red),), plain(0))
    assert merged[0].color == red


def test_no_two_classes_of_a_group_ever_become_one(rng):
    words = ["Pore", "Iron", "Clay", "Sand"]
    for _ in range(300):
        groups = []
        for _ in range(3):
            values = rng.choice(6, rng.integers(1, 6), replace=False)
            some = (
                LabelClass(v, str(rng.choice(words))) if rng.random() < 0.6 else LabelClass.plain(v) for v in values
            )
            groups.append(tuple(some))
        merged, changes = merge_classes(*groups)
        known = names(merged)
        assert len(known) == len(merged)
        for group, change in zip(groups, changes, strict=True):
            assert set(change) == {c.value for c in group}
            assert len(set(change.values())) == len(group)
            assert all(known[change[c.value]] == c.name or c.is_plain for c in group)
        assert changes[0] == {c.value: c.value for c in groups[0]}


def test_merging_what_was_merged_changes_nothing():
    merged, _ = merge_classes(named(Pore=1, Iron=2), named(Clay=1), plain(0, 5))
    again, changes = merge_classes(merged, merged)
    assert again == merged
    assert changes == [{c.value: c.value for c in merged}] * 2


def test_every_value_can_be_used():
    merged, _ = merge_classes(plain(*range(255)))
    assert len(merged) == 255
    half = tuple(LabelClass(value, f"a{value}") for value in range(1, 128))
    other = tuple(LabelClass(value, f"b{value}") for value in range(1, 128))
    merged, changes = merge_classes(half, other)
    assert [c.value for c in merged] == list(range(1, 255))
    assert changes[1][1] == 128


def test_values_of_classes_that_are_known_already_are_free_for_new_ones():
    first = tuple(LabelClass(value, f"a{value}") for value in range(1, 128))
    moved = tuple(LabelClass(value + 127, f"a{value}") for value in range(1, 128))
    merged, changes = merge_classes(first, (*moved, LabelClass(1, "new")))
    assert len(merged) == 128
    assert changes[1][1] == 128


def test_more_classes_than_values_are_refused():
    first = tuple(LabelClass(value, f"a{value}") for value in range(1, 255))
    with pytest.raises(InputError, match="more than 254 classes"):
        merge_classes(first, named(new=1))
