"""Constraints on drawn slices, whose answers are made by hand, and the laws that they keep in any volume."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from VolumeSegmanticsLib import constrain, constraints, io, tasks
from VolumeSegmanticsLib.cli import DONE, MENDABLE, main
from VolumeSegmanticsLib.constraints import KINDS, apply, parse
from VolumeSegmanticsLib.constraints.arrays import Piece
from VolumeSegmanticsLib.constraints.holes import fill
from VolumeSegmanticsLib.constraints.morphology import closed, near, opened
from VolumeSegmanticsLib.constraints.objects import largest, min_size
from VolumeSegmanticsLib.constraints.relations import apart, inside, layers
from VolumeSegmanticsLib.constraints.smoothing import smooth
from VolumeSegmanticsLib.constraints.surroundings import given_up
from VolumeSegmanticsLib.constraints.topology import euler_number, topology
from VolumeSegmanticsLib.errors import Cancelled, InputError, SettingsError
from VolumeSegmanticsLib.events import Log, Progress
from VolumeSegmanticsLib.jobs import Job
from VolumeSegmanticsLib.volume import UNLABELLED, Grid, LabelClass, LabelMap

CUBES = (1.0, 1.0, 1.0)
NAMES = (LabelClass(0, "Background"), LabelClass(1, "matrix"), LabelClass(2, "open pores"), LabelClass(3, "fibre"))
RULES = (
    "smooth 0.5",
    "open matrix 1",
    "close 'open pores' 2um",
    "min-size 2 4",
    "largest fibre 2",
    "fill matrix up-to=3",
    "inside 'open pores' matrix",
    "layers y matrix fibre",
    "apart 'open pores' fibre 2",
)


def drawn(*rows: str) -> np.ndarray:
    """One slice as text: a digit is a class, "." is class 0, "?" is unlabelled; slices are parted by empty rows."""
    signs = {".": 0, "?": UNLABELLED} | {str(n): n for n in range(10)}
    slices = [list(group) for is_row, group in itertools.groupby(rows, bool) if is_row]
    return np.array([[[signs[sign] for sign in row] for row in one] for one in slices], np.uint8)


def assert_becomes(made: tuple[np.ndarray, int], before: np.ndarray, *rows: str) -> None:
    after, changed = made
    np.testing.assert_array_equal(after, drawn(*rows))
    assert after.dtype == np.uint8
    assert changed == np.count_nonzero(before != after)


@pytest.fixture
def a_grid() -> Grid:
    return Grid((12, 20, 18), (0.004, 0.001, 0.002), (1, 2, 3))


@pytest.fixture
def a_mess(a_grid, rng) -> LabelMap:
    """Blobs of four classes with noise in them, in voxels that are no cubes, and a corner that nobody has looked at."""
    fields = ndimage.gaussian_filter(rng.normal(size=(4, *a_grid.shape)), (0, 1, 2, 2))
    array = fields.argmax(axis=0).astype(np.uint8)
    noise = rng.random(a_grid.shape) < 0.05
    array[noise] = rng.integers(0, 4, np.count_nonzero(noise))
    array[:3, :4, :5] = UNLABELLED
    return LabelMap(array, a_grid, NAMES)


# Objects --------------------------------------------------------------------------------------------------------------


def test_small_objects_take_the_class_around_them_and_diagonal_neighbours_are_one_object():
    labels = drawn(
        "111.....",
        "121..2..",
        "111...2.",
        ".......2",
    )
    assert_becomes(
        min_size(labels, 2, 3, spacing=CUBES), labels,
        "111.....",
        "111..2..",
        "111...2.",
        ".......2",
    )  # fmt: skip


def test_each_voxel_of_a_removed_object_takes_what_is_nearest_to_it():
    labels = drawn("1122223333")
    assert_becomes(min_size(labels, 2, 5, spacing=CUBES), labels, "1111333333")


def test_nearest_is_measured_in_physical_units():
    labels = drawn("1111111", "3322233")
    assert_becomes(min_size(labels, 2, 5, spacing=(1, 0.1, 1)), labels, "1111111", "3311133")
    assert_becomes(min_size(labels, 2, 5, spacing=(1, 9, 1)), labels, "1111111", "3333333")


def test_unlabelled_voxels_neither_change_nor_give_their_value():
    labels = drawn("1??2??", "1??2??")
    assert_becomes(min_size(labels, 2, 9, spacing=CUBES), labels, "1??1??", "1??1??")


def test_an_object_with_nothing_around_it_stays():
    labels = drawn("?22?")
    assert_becomes(min_size(labels, 2, 9, spacing=CUBES), labels, "?22?")


def test_the_largest_objects_stay_and_of_equal_ones_the_first():
    labels = drawn("22..2..22..2")
    assert_becomes(largest(labels, 2, 1, spacing=CUBES), labels, "22..........")
    assert_becomes(largest(labels, 2, 2, spacing=CUBES), labels, "22.....22...")
    assert_becomes(largest(labels, 2, 9, spacing=CUBES), labels, "22..2..22..2")


def test_voxels_far_from_any_other_class_still_find_the_nearest(rng):
    """Against the whole distance map: the growing box must never take what is merely near the box."""
    for _ in range(20):
        labels = rng.choice(np.array([2, 2, 2, 2, 2, 2, UNLABELLED, 0, 1], np.uint8), (5, 9, 12))
        labels[1:4, 2:7, 2:9] = 2
        spacing = tuple(rng.uniform(0.3, 3, 3))
        piece = Piece((slice(2, 3), slice(3, 6), slice(3, 7)), np.ones((1, 3, 4), bool))
        made = given_up(labels, [piece], [2], spacing)
        sources = (labels != 2) & (labels != UNLABELLED)
        away = ndimage.distance_transform_edt(~sources, sampling=spacing)
        for place in itertools.product([2], range(3, 6), range(3, 7)):
            same = np.argwhere(sources & (labels == made[place]))
            nearest = np.sqrt((((same - place) * spacing) ** 2).sum(axis=1)).min()
            assert nearest == pytest.approx(away[place])


# Holes ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def a_shell() -> np.ndarray:
    """A box of class 1 with a room of class 2 in it, and in its second slice a door of class 3 in the wall."""
    labels = np.zeros((3, 5, 6), np.uint8)
    labels[:, 1:, 1:5] = 1
    labels[1, 2:4, 2:4] = 2
    return labels


def test_a_hole_is_filled_whatever_lies_in_it(a_shell):
    filled, changed = fill(a_shell, 1)
    assert changed == 4
    assert (filled[:, 1:, 1:5] == 1).all()


def test_a_hole_that_reaches_the_border_or_the_outside_is_none(a_shell):
    a_shell[0, 2, 2] = 3  # a shaft up to the border of the volume
    assert fill(a_shell, 1)[1] == 0


def test_a_diagonal_gap_does_not_open_a_hole(a_shell):
    a_shell[1, 1, 1] = 0
    assert fill(a_shell, 1)[1] == 4


def test_only_holes_up_to_a_size_are_filled(a_shell):
    assert fill(a_shell, 1, up_to=3)[1] == 0
    assert fill(a_shell, 1, up_to=4)[1] == 4


def test_unlabelled_voxels_of_a_hole_stay(a_shell):
    a_shell[1, 2, 2] = UNLABELLED
    filled, changed = fill(a_shell, 1)
    assert changed == 3
    assert filled[1, 2, 2] == UNLABELLED


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_holes_of_slices_are_filled_one_by_one(axis):
    ring = np.zeros((2, 5, 5), np.uint8)
    ring[:, 1:4, 1:4] = 1
    ring[:, 2, 2] = 2  # a tunnel along the axis
    labels = np.ascontiguousarray(np.moveaxis(ring, 0, axis))
    assert fill(labels, 1)[1] == 0
    filled, changed = fill(labels, 1, along=axis)
    assert changed == 2
    assert (filled[labels == 2] == 1).all()
    assert fill(labels, 1, along=(axis + 1) % 3)[1] == 0


# Opening and closing --------------------------------------------------------------------------------------------------


def test_opening_takes_hairs_and_keeps_what_a_ball_fits_into():
    labels = drawn(
        ".........",
        ".111.....",
        ".1111111.",
        ".111.....",
        ".........",
    )
    assert_becomes(
        opened(labels, 1, 1, spacing=(9, 1, 1)), labels,
        ".........",
        "..11.....",
        ".1111....",
        "..11.....",
        ".........",
    )  # fmt: skip


def test_closing_bridges_gaps():
    labels = drawn(
        ".........",
        ".111.111.",
        ".111.111.",
        ".111.111.",
        ".........",
    )
    assert_becomes(
        closed(labels, 1, 1, spacing=(9, 1, 1)), labels,
        ".........",
        ".111.111.",
        ".1111111.",
        ".111.111.",
        ".........",
    )  # fmt: skip


def test_the_radius_is_a_length_in_voxels_that_are_no_cubes():
    gap = drawn("111..111")
    assert closed(gap, 1, 2, spacing=(1, 1, 1))[1] == 2
    assert closed(gap, 1, 2, spacing=(1, 1, 3))[1] == 0


def test_the_border_of_the_volume_does_not_wear_a_class_off():
    labels = np.ones((3, 4, 5), np.uint8)
    assert opened(labels, 1, 2, spacing=CUBES)[1] == 0
    labels[2] = 0
    assert opened(labels, 1, 1, spacing=CUBES)[1] == 0


def test_near_agrees_with_the_exact_distances(rng):
    for _ in range(10):
        mask = rng.random((6, 7, 8)) < 0.03
        spacing = tuple(rng.uniform(0.2, 4, 3))
        away = ndimage.distance_transform_edt(~mask, sampling=spacing) if mask.any() else np.full(mask.shape, np.inf)
        radius = rng.uniform(0, 6)
        np.testing.assert_array_equal(near(mask, radius, spacing), away <= radius)


# Between classes ------------------------------------------------------------------------------------------------------


def test_objects_that_touch_another_class_are_not_inside():
    labels = drawn(
        "2111111.",
        "1121112.",
        "1111111.",
    )
    assert_becomes(
        inside(labels, 2, 1, spacing=CUBES), labels,
        "2111111.",
        "1121111.",
        "1111111.",
    )  # fmt: skip


def test_a_part_of_the_surface_inside_can_be_enough():
    labels = drawn("11.", "12.", "11.")  # 3 of 4 faces lie against class 1
    assert inside(labels, 2, 1, spacing=CUBES, share=75)[1] == 0
    assert inside(labels, 2, 1, spacing=CUBES, share=76)[1] == 1
    assert inside(labels, 2, 1, 0, spacing=CUBES)[1] == 0


def test_the_first_class_keeps_off_the_second():
    labels = drawn("1112233...", "1112233...")
    assert_becomes(apart(labels, 2, 3, 2, spacing=CUBES), labels, "1112133...", "1112133...")
    assert_becomes(apart(labels, 2, 3, 3, spacing=CUBES), labels, "1111133...", "1111133...")
    assert apart(labels, 2, 3, 1, spacing=CUBES)[1] == 0
    assert apart(labels, 2, 7, 5, spacing=CUBES)[1] == 0


def test_columns_are_ordered_with_the_fewest_changes():
    labels = drawn("1121123.31", "3331112222", "2222222222", "...1.2?3..")
    assert_becomes(layers(labels, 2, 1, 2, 3), labels, "1111123.33", "1111112222", "2222222222", "...1.2?3..")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_order_is_that_of_the_axis(axis):
    column = np.array([2, 1, 1, 1, 2], np.uint8)
    labels = np.moveaxis(np.broadcast_to(column, (3, 4, 5)), 2, axis)
    made, changed = layers(np.ascontiguousarray(labels), axis, 1, 2)
    assert changed == 12
    np.testing.assert_array_equal(np.moveaxis(made, axis, 2), np.broadcast_to([1, 1, 1, 1, 2], (3, 4, 5)))


def test_no_other_ordered_column_agrees_better(rng):
    values = np.array([4, 1, 7], np.uint8)
    orders = np.array(list(itertools.combinations_with_replacement(range(3), 6)))
    for _ in range(30):
        column = rng.choice(np.array([1, 4, 7, 9, UNLABELLED], np.uint8), 6)
        made, changed = layers(column[:, None, None], 0, *values.tolist())
        listed = np.isin(column, values)
        fewest = min(np.count_nonzero(values[order][listed] != column[listed]) for order in orders)
        assert changed == fewest
        ranks = [values.tolist().index(v) for v in made[listed, 0, 0]]
        assert ranks == sorted(ranks)


# Smoothing ------------------------------------------------------------------------------------------------------------


def test_smoothing_takes_single_voxels_and_keeps_straight_borders():
    labels = np.zeros((4, 6, 6), np.uint8)
    labels[:, :, 3:] = 1
    labels[2, 2, 1] = 1
    made, changed = smooth(labels, 0.5, spacing=CUBES)
    assert changed == 1
    assert made[2, 2, 1] == 0


def test_a_stronger_smoothing_outweighs_what_a_voxel_was():
    labels = np.zeros((5, 5, 5), np.uint8)
    labels[2, 2, 2] = 1
    assert smooth(labels, 0.16, spacing=CUBES)[1] == 0  # 6 faces of 0.16 cost less than the 1 of leaving
    assert smooth(labels, 0.17, spacing=CUBES)[1] == 1


def test_only_the_named_classes_exchange_voxels():
    labels = np.zeros((5, 5, 5), np.uint8)
    labels[2, 2, 2], labels[2, 2, 0] = 1, 2
    made, changed = smooth(labels, 2, 0, 2, spacing=CUBES)
    assert changed == 1
    assert (made[2, 2, 2], made[2, 2, 0]) == (1, 0)


def test_large_faces_count_more_than_small_ones():
    sheet = ["00000"] * 3 + ["11111"] + ["00000"] * 3
    labels = drawn(*sheet).repeat(3, axis=0)
    assert smooth(labels, 1, spacing=(1, 0.1, 1))[1] == 15
    assert smooth(labels, 1, spacing=(1, 10, 1))[1] == 0


def test_smoothing_lowers_the_cost(a_mess):
    def cost(array):
        faces = sum(np.count_nonzero(np.diff(array.astype(int), axis=axis)) for axis in range(3))
        return 0.7 * faces + np.count_nonzero(array != labels)

    labels = np.where(a_mess.array == UNLABELLED, 0, a_mess.array).astype(np.uint8)
    costs = [cost(labels)]
    for rounds in (1, 2, 3, 10):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("VolumeSegmanticsLib.constraints.smoothing.ROUNDS", rounds)
            patch.setattr("VolumeSegmanticsLib.constraints.smoothing._SLAB_VOXELS", 1)  # slab by slab
            costs.append(cost(smooth(labels, 0.7, spacing=CUBES)[0]))
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.9 * costs[0]
    np.testing.assert_array_equal(smooth(labels, 0.7, spacing=CUBES)[0] == UNLABELLED, False)


# Topology -------------------------------------------------------------------------------------------------------------


def figures(mask: np.ndarray) -> tuple[int, int, int]:
    """Objects, cavities and tunnels of class 1."""
    of_one = topology(LabelMap.of(mask.astype(np.uint8), classes=(LabelClass(1, "one"),)))[-1]
    return of_one.objects, of_one.cavities, of_one.tunnels


def a_box(*without: tuple) -> np.ndarray:
    mask = np.pad(np.ones((3, 3, 3), bool), 1)
    for place in without:
        mask[place] = False
    return mask


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        pytest.param(a_box(), (1, 0, 0), id="a box"),
        pytest.param(a_box((2, 2, 2)), (1, 1, 0), id="a box with a cavity"),
        pytest.param(a_box(np.s_[:, 2, 2]), (1, 0, 1), id="a ring"),
        pytest.param(a_box(np.s_[:, 2, 2], np.s_[2, :, 2]), (1, 0, 3), id="two tunnels that cross"),
        pytest.param(a_box(np.s_[:, 2, :]), (2, 0, 0), id="two sheets"),
        pytest.param(np.eye(3, dtype=bool)[:, :, None], (1, 0, 0), id="voxels in a diagonal are one object"),
        pytest.param(np.ones((2, 3, 4), bool), (1, 0, 0), id="all of the volume"),
        pytest.param(np.zeros((2, 3, 4), bool), (0, 0, 0), id="nothing"),
    ],
)
def test_topology_is_that_counted_by_hand(mask, expected):
    assert figures(mask) == expected


def test_the_euler_number_is_that_of_the_cells(rng):
    """Against the definition: corners − edges + faces − cubes of the union of closed cubes."""
    mask = rng.random((4, 5, 6)) < 0.4
    doubled = np.zeros([2 * n + 1 for n in mask.shape], bool)  # cells: even places lie between voxels
    for place in np.argwhere(mask):
        doubled[tuple(slice(2 * p, 2 * p + 3) for p in place)] = True
    dimension = sum(np.ix_(*(np.arange(n) % 2 for n in doubled.shape)))
    assert euler_number(mask) == int((np.where(dimension % 2, -1, 1) * doubled).sum())


# Laws -----------------------------------------------------------------------------------------------------------------


def test_there_is_a_rule_of_every_kind_to_test():
    assert [rule.kind for rule in parse(RULES)] == list(KINDS)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_keeps_grid_classes_its_input_and_what_is_unlabelled(rule, a_mess):
    before = a_mess.array.copy()
    made = apply(a_mess, rule)
    np.testing.assert_array_equal(a_mess.array, before)
    assert made.labels.grid == a_mess.grid
    assert made.labels.classes == a_mess.classes
    np.testing.assert_array_equal(made.labels.array == UNLABELLED, before == UNLABELLED)
    assert made.steps[0].changed == np.count_nonzero(made.labels.array != before)
    assert set(np.unique(made.labels.array)) <= set(np.unique(before))


@pytest.mark.parametrize("rule", [rule for rule in RULES if not rule.startswith(("smooth", "open", "close"))])
def test_a_rule_that_holds_changes_nothing(rule, a_mess):
    once = apply(a_mess, rule)
    assert once.steps[0].changed > 0
    assert apply(once.labels, rule).steps[0].changed == 0


@pytest.mark.parametrize("rule", ["open matrix 1", "close 'open pores' 2"])
def test_opening_and_closing_twice_is_once_where_all_is_labelled_and_off_the_border(rule, a_mess):
    array = np.zeros_like(a_mess.array)
    array[3:-3, 3:-3, 3:-3] = a_mess.array[3:-3, 3:-3, 3:-3] % UNLABELLED
    once = apply(LabelMap(array, a_mess.grid, NAMES), rule)
    assert once.steps[0].changed > 0
    assert apply(once.labels, rule).steps[0].changed == 0


def test_closing_goes_on_beyond_the_border():
    assert closed(drawn("111..111"), 1, 1, spacing=CUBES)[1] == 2  # one slice of one row: nothing opens the gap
    assert closed(drawn("..111"), 1, 2, spacing=CUBES)[1] == 0  # and nothing is at the other side of this one


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("value", [0, 1, 2, 3, UNLABELLED])
def test_a_volume_of_one_class_stays(rule, value):
    labels = LabelMap(np.full((3, 4, 5), value, np.uint8), Grid((3, 4, 5)), NAMES)
    assert apply(labels, rule).steps[0].changed == 0


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(1, 9, 8), (7, 1, 8), (1, 1, 1)])
def test_flat_volumes_are_volumes(rule, shape, rng):
    labels = LabelMap(rng.integers(0, 4, shape, np.uint8), Grid(shape), NAMES)
    apply(labels, rule)


@pytest.mark.parametrize("rule", [rule for rule in RULES if not rule.startswith(("smooth", "layers"))])
def test_a_rule_knows_no_axis_of_its_own(rule, a_mess):
    """Turned labels give the turned answer; the surroundings of a voxel may be a tie, so only the class counts."""
    turned_grid = Grid((18, 12, 20), (0.002, 0.004, 0.001))
    turned = LabelMap(np.ascontiguousarray(a_mess.array.transpose(2, 0, 1)), turned_grid, NAMES)
    value = parse(rule)[0].given[0][1]
    value = constraints.places.value_of(value, NAMES)
    made, made_turned = (apply(labels, rule, with_topology=False).labels.array for labels in (a_mess, turned))
    if rule.startswith("largest"):  # of equal ones another is the first
        assert np.count_nonzero(made == value) == np.count_nonzero(made_turned == value)
    else:
        np.testing.assert_array_equal((made == value).transpose(2, 0, 1), made_turned == value)


# Rules as text --------------------------------------------------------------------------------------------------------


def test_rules_are_applied_in_their_order_not_in_that_of_the_user(a_mess):
    made = apply(a_mess, list(reversed(RULES)))
    assert [step.rule.kind for step in made.steps] == list(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_example_of_a_rule_is_one(kind):
    (rule,) = parse(kind.example)
    assert rule.kind is kind
    assert parse(str(rule)) == (rule,)


def test_the_documentation_lists_the_rules_in_their_order():
    page = (Path(__file__).parents[2] / "docs" / "constraints.md").read_text("utf-8")
    assert re.findall(r"^\| `(.*?)` \|", page, re.MULTILINE) == [kind.usage for kind in KINDS]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("min-size 'open pores' 8 um3", 'min-size "open pores" 8um3'),
        ("min-size 2 8µm³", "min-size 2 8\u03bcm3"),
        ("close fibre 3 um", "close fibre 3um"),
        ("fill along=z matrix", "fill matrix along=Z"),
        ("inside 2 1 share=50%", "inside 2 1 share=50"),
    ],
)
def test_a_rule_can_be_written_in_several_ways(text, same, a_mess):
    one, other = (apply(a_mess, rule).labels.array for rule in (text, same))
    np.testing.assert_array_equal(one, other)


def test_several_rules_fit_into_one_text():
    assert parse("largest a 1; smooth 1\n min-size a 3;") == parse(["smooth 1", "min-size a 3", "largest a 1"])
    assert parse("") == ()


def test_volumes_and_lengths_are_physical(a_mess):
    """A voxel of 4 × 1 × 2 µm has 8 µm³."""
    in_voxels, in_microns, in_nanometres = (
        apply(a_mess, f"min-size fibre {size}").labels.array for size in ("5", "40um3", "40e9nm3")
    )
    np.testing.assert_array_equal(in_voxels, in_microns)
    np.testing.assert_array_equal(in_voxels, in_nanometres)
    assert apply(a_mess, "close fibre 0.9um").steps[0].changed == 0
    assert apply(a_mess, "close fibre 1um").steps[0].changed > 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("minsize pores 5", 'no rule "minsize". Did you mean "min-size"?'),
        ("wash pores", "The rules are:\nsmooth STRENGTH [CLASS…]"),
        ("open pores", 'The rule "open pores" lacks LENGTH. Write: open CLASS LENGTH'),
        ("layers z", "lacks CLASS"),
        ("layers z a", "lacks OTHER"),
        ("min-size open pores 5", "has too many words. Write: min-size CLASS SIZE, for instance: min-size pores 50."),
        ("largest pores 1.5", '"1.5" in the rule "largest pores 1.5" is no COUNT. COUNT is a whole number above 0.'),
        ("open pores 3um3", "is no LENGTH"),
        ("min-size pores 3um", "is no SIZE. SIZE is voxels, or a volume in mm3, um3 or nm3"),
        ("min-size pores nan", "is no SIZE"),
        ("min-size pores -3", "is no SIZE"),
        ("min-size pores 1e999", "is no SIZE"),
        ("smooth much", "is no STRENGTH"),
        ("layers t a b", "AXIS is z, y or x"),
        ("inside a b share=200", "is no PERCENT"),
        ("fill 'open pores", "is not closed. Put names in a pair of quotes."),
    ],
)
def test_what_is_no_rule_is_told_with_how_to_write_it(text, expected):
    with pytest.raises(SettingsError) as failure:
        parse(text)
    assert expected in str(failure.value)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("fill fibres", 'no class "fibres". Did you mean "fibre"? There are: "Background" (0), "matrix" (1)'),
        ("fill 7", 'There is no class "7".'),
        ("apart fibre FIBRE 2", "names a class twice"),
    ],
)
def test_a_rule_about_a_class_that_is_not_there_is_told_before_any_work(rule, expected, a_mess, heard):
    with pytest.raises(InputError) as failure:
        apply(a_mess, ["smooth 1", rule], report=heard.append)
    assert expected in str(failure.value)
    assert heard == []


def test_two_classes_of_one_name_are_told_apart_by_value():
    classes = (LabelClass(1, "bone"), LabelClass(2, "Bone"))
    labels = LabelMap(drawn("1122"), Grid((1, 1, 4)), classes)
    assert apply(labels, "fill bone").steps[0].changed == 0
    with pytest.raises(InputError, match=r'More than one class is called "BONE". Say which by its value: \[1, 2\]'):
        apply(labels, "fill BONE")


# The report -----------------------------------------------------------------------------------------------------------


def test_the_report_tells_what_each_rule_and_what_the_topology_changed(heard):
    labels = LabelMap.of(drawn("11111", "12113", "11111"), classes=NAMES)
    made = apply(labels, ["min-size 2 9"], report=heard.append)
    assert made.to_dict()["steps"] == [{"rule": "min-size 2 9", "changed": 1}]
    assert [(one.label.name, one.objects, one.tunnels) for one in made.before[1:]] == [
        ("matrix", 1, 1), ("open pores", 1, 0), ("fibre", 1, 0),
    ]  # fmt: skip
    assert [(one.objects, one.tunnels) for one in made.after[1:]] == [(1, 0), (0, 0), (1, 0)]
    assert "1 voxels  min-size 2 9" in made.table()
    assert "matrix: voxels 13 → 14, objects 1, cavities 0, tunnels 1 → 0, euler 0 → 1" in made.table()
    assert [event for event in heard if isinstance(event, Progress)] == [
        Progress("constrain", 0, 1), Progress("constrain", 1, 1),
    ]  # fmt: skip
    assert Log("info", "min-size 2 9: 1 voxels changed.") in heard


def test_the_topology_can_be_left_out(a_mess):
    made = apply(a_mess, "smooth 1", with_topology=False)
    assert (made.before, made.after) == ((), ())
    assert made.table().endswith("smooth 1")


def test_constraining_can_be_cancelled_between_two_rules(a_mess):
    def report(event):
        if event == Progress("constrain", 1, 2):
            raise Cancelled

    with pytest.raises(Cancelled):
        apply(a_mess, ["smooth 1", "fill 1"], report=report)


# End to end -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def a_file(a_mess, tmp_path):
    return io.write_labels(tmp_path / "Probe ü.seg.nrrd", a_mess)


def test_the_command_line_writes_what_the_rules_make(a_file, a_mess, tmp_path, capsys):
    output = tmp_path / "made.seg.nrrd"
    rules = ("inside 'open pores' matrix", "min-size 'open pores' 5")
    words = ["constrain", str(a_file), "-o", str(output), *(word for rule in rules for word in ("--rule", rule))]
    assert main([*words, "--json"]) == DONE
    told = json.loads(capsys.readouterr().out)
    expected = apply(a_mess, rules)
    assert told == {"labels": str(output), **expected.to_dict()}
    made = io.read_labels(output, unpainted="background")
    np.testing.assert_array_equal(made.array, expected.labels.array)
    assert made.grid == a_mess.grid
    assert [c.name for c in made.classes] == [c.name for c in NAMES]

    assert main([*words, "--no-topology"]) == DONE
    text = capsys.readouterr().out
    assert text.startswith(str(output))
    assert "voxels  min-size 'open pores' 5" in text
    assert "euler" not in text


@pytest.mark.parametrize(("rule", "expected"), [("mend it", "There is no rule"), ("fill bone", "There is no class")])
def test_what_cannot_be_done_ends_with_a_sentence_and_writes_nothing(rule, expected, a_file, tmp_path, capsys):
    output = tmp_path / "made.nrrd"
    assert main(["constrain", str(a_file), "-o", str(output), "--rule", rule]) == MENDABLE
    assert f"Error: {expected}" in capsys.readouterr().err
    assert not output.exists()


def test_the_command_line_lists_the_rules(capsys):
    with pytest.raises(SystemExit) as end:
        main(["constrain", "--rules"])
    assert end.value.code == 0
    told = capsys.readouterr()
    assert [line.split()[0] for line in told.out.splitlines()] == [kind.name for kind in KINDS]


def test_a_job_constrains_labels(a_file, a_mess, tmp_path, heard):
    job = Job.create(
        tmp_path / "job",
        task="constrain",
        settings={"rules": "smooth 0.5; fill matrix", "topology": False},
        inputs={"labels": str(a_file)},
        outputs={"labels": "made.seg.nrrd"},
    )
    told = tasks.TASKS["constrain"](job, heard.append)
    expected = apply(a_mess, "smooth 0.5; fill matrix", with_topology=False)
    assert told == {"labels": str(job.folder / "made.seg.nrrd"), **expected.to_dict()}
    made = io.read_labels(job.folder / "made.seg.nrrd", unpainted="background")
    np.testing.assert_array_equal(made.array, expected.labels.array)


def test_the_api_takes_arrays(tmp_path):
    array = drawn("11121111")
    made = constrain(array, "min-size 2 3", output=tmp_path / "made.npy")
    assert (made.labels.array == 1).all()
    np.testing.assert_array_equal(np.load(tmp_path / "made.npy"), made.labels.array)
