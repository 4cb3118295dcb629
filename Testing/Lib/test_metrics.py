import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from VolumeSegmanticsLib import metrics
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.metrics import Scores, confusion, match_classes, score, wrong_voxels
from VolumeSegmanticsLib.volume import Grid, LabelClass, LabelMap

_ = 255


def labels(rows: Sequence[Sequence[int]], names: dict[int, str] | None = None) -> LabelMap:
    classes = tuple(LabelClass(value, name) for value, name in (names or {}).items())
    return LabelMap.of(np.array([rows], np.uint8), classes=classes)


@pytest.fixture
def a_truth() -> LabelMap:
    return labels([[1, 1, 1, 1, 2, 2, _, _], [1, 1, 1, 1, 2, 2, _, _]])  # 8 of class 1, 4 of class 2


@pytest.fixture
def a_prediction() -> LabelMap:
    return labels([[1, 1, 1, 2, 2, 2, 2, 1], [1, 1, 1, 1, 2, 1, 2, 1]])  # one 1 called 2, one 2 called 1


@pytest.fixture
def random_arrays() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.integers(0, 4, (6, 7, 8), np.uint8), rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), (6, 7, 8))


def test_figures_are_those_computed_by_hand(a_prediction, a_truth):
    scores = score(a_prediction, a_truth)
    assert scores.confusion.tolist() == [[7, 1], [1, 3]]
    assert scores.confusion.dtype == np.int64
    assert scores.voxels == 12
    np.testing.assert_allclose(scores.dice, [14 / 16, 6 / 8])
    np.testing.assert_allclose(scores.jaccard, [7 / 9, 3 / 5])
    np.testing.assert_allclose(scores.precision, [7 / 8, 3 / 4])
    np.testing.assert_allclose(scores.recall, [7 / 8, 3 / 4])
    np.testing.assert_allclose(scores.true_fractions, [8 / 12, 4 / 12])
    np.testing.assert_allclose(scores.predicted_fractions, [8 / 12, 4 / 12])
    assert scores.accuracy == pytest.approx(10 / 12)
    assert scores.mean_dice == pytest.approx((14 / 16 + 6 / 8) / 2)
    assert scores.mean_jaccard == pytest.approx((7 / 9 + 3 / 5) / 2)


def test_baseline_answers_the_largest_class_everywhere(a_prediction, a_truth):
    baseline = score(a_prediction, a_truth).baseline
    np.testing.assert_allclose(baseline.dice, [16 / 20, 0])
    np.testing.assert_allclose(baseline.jaccard, [8 / 12, 0])
    assert baseline.accuracy == pytest.approx(8 / 12)
    assert baseline.baseline.mean_dice == baseline.mean_dice


def test_a_perfect_prediction_has_scores_of_one(a_prediction):
    scores = score(a_prediction, a_prediction)
    assert scores.mean_dice == scores.mean_jaccard == scores.accuracy == 1
    assert not (scores.confusion - np.diag(scores.true_voxels)).any()


def test_what_is_predicted_where_the_truth_is_unlabelled_never_counts(a_prediction, a_truth):
    other = a_prediction.array.copy()
    other[a_truth.array == 255] = 2
    changed = LabelMap.of(other)
    assert score(changed, a_truth).to_dict() == score(a_prediction, a_truth).to_dict()


def test_a_voxel_that_the_prediction_leaves_unlabelled_counts_as_wrong():
    scores = score(labels([[1, _, 2, 2]]), labels([[1, 1, 2, 2]]))
    assert scores.unlabelled.tolist() == [1, 0]
    np.testing.assert_allclose(scores.recall, [1 / 2, 1])
    np.testing.assert_allclose(scores.dice, [2 / 3, 1])
    assert scores.accuracy == 3 / 4
    assert scores.voxels == 4
    assert "1 voxels are unlabelled in the prediction" in scores.table()


def test_a_class_that_is_nowhere_has_no_score_and_no_part_in_the_mean():
    truth = labels([[1, 1, 2, 2]], {1: "Matrix", 2: "Fibre", 3: "Pore"})
    scores = score(labels([[1, 1, 2, 1]], {1: "Matrix", 2: "Fibre"}), truth)
    assert math.isnan(scores.dice[2])
    assert math.isnan(scores.precision[2])
    assert scores.mean_dice == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_a_class_that_only_the_prediction_has_counts_as_zero_in_the_mean():
    scores = score(labels([[1, 1, 1, 7]]), labels([[1, 1, 1, 1]]))
    assert [c.value for c in scores.classes] == [1, 7]
    np.testing.assert_allclose(scores.dice, [6 / 7, 0])
    assert math.isnan(scores.recall[1])
    assert scores.mean_dice == pytest.approx(3 / 7)


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        pytest.param({1: "Fibre", 2: "Matrix"}, {1: "Matrix", 2: "Fibre"}, 1.0, id="both named: by name"),
        pytest.param({}, {1: "Matrix", 2: "Fibre"}, 0.0, id="one named: by value"),
        pytest.param({}, {}, 0.0, id="none named: by value"),
        pytest.param({1: "Fibre", 2: "Fibre"}, {1: "Matrix", 2: "Fibre"}, 0.0, id="a name twice: by value"),
    ],
)
def test_classes_are_matched_by_name_where_both_maps_have_names(predicted, true, expected):
    scores = score(labels([[2, 2, 1, 1]], predicted), labels([[1, 1, 2, 2]], true))
    assert scores.accuracy == expected


def test_classes_matched_by_name_keep_apart_what_shares_only_a_value():
    prediction, truth = labels([[1, 1, 2]], {1: "Matrix", 2: "Crack"}), labels([[1, 1, 2]], {1: "Matrix", 2: "Fibre"})
    pairs = match_classes(prediction, truth)
    assert [(p.label.name, p.predicted, p.true) for p in pairs] == [
        ("Matrix", 1, 1),
        ("Fibre", None, 2),
        ("Crack", 2, None),
    ]
    assert score(prediction, truth).confusion.tolist() == [[2, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_wrong_voxels_are_those_off_the_diagonal_of_the_confusion():
    prediction = labels([[2, 1, 1, 3, _, 1]], {1: "Fibre", 2: "Matrix", 3: "Pore"})
    truth = labels([[1, 1, 2, 2, 1, _]], {1: "Matrix", 2: "Fibre"})
    wrong = wrong_voxels(prediction.array, truth.array, match_classes(prediction, truth))
    assert wrong.tolist() == [[[False, True, False, True, True, False]]]
    scores = score(prediction, truth)
    assert wrong.sum() == scores.voxels - scores.hits.sum()


def test_different_grids_are_refused_with_the_difference():
    array = np.ones((2, 3, 4), np.uint8)
    with pytest.raises(InputError, match="spacing") as caught:
        score(LabelMap.of(array, Grid((2, 3, 4), (2.0, 1.0, 1.0))), LabelMap.of(array))
    assert caught.value.hint
    with pytest.raises(InputError, match=r"\(2, 3, 4\) against \(2, 3, 5\)"):
        score(LabelMap.of(array), LabelMap.of(np.ones((2, 3, 5), np.uint8)))


def test_a_truth_without_labelled_voxels_is_refused():
    with pytest.raises(InputError, match="no labelled voxel"):
        score(labels([[1, 2]]), labels([[_, _]]))


def test_a_value_that_is_no_class_is_refused():
    array = np.array([[[1, 9]]], np.uint8)
    with pytest.raises(InputError, match=r"prediction .* \[9\]"):
        confusion(array, np.ones_like(array), (1, 2))
    with pytest.raises(InputError, match=r"truth .* \[9\]"):
        confusion(np.ones_like(array), array, (1, 2))
    with pytest.raises(InputError, match="shape"):
        confusion(array, array[..., :1], (1, 2))


def test_confusion_is_in_the_order_of_the_values(random_arrays):
    straight, turned = (confusion(*random_arrays, values) for values in ((0, 1, 2, 3), (3, 2, 1, 0)))
    np.testing.assert_array_equal(straight, turned[::-1, ::-1])
    prediction, truth = random_arrays
    assert straight[1, 2] == ((truth == 1) & (prediction == 2)).sum()
    assert straight.sum() == (truth != 255).sum()


@pytest.mark.parametrize("block_voxels", [1, 8, 20, 60, 10**6])
def test_the_size_of_the_blocks_changes_nothing(random_arrays, monkeypatch, block_voxels):
    whole = confusion(*random_arrays, range(4))
    monkeypatch.setattr(metrics, "BLOCK_VOXELS", block_voxels)
    np.testing.assert_array_equal(confusion(*random_arrays, range(4)), whole)


def test_the_order_of_the_parts_changes_nothing(random_arrays):
    prediction, truth = random_arrays
    whole = confusion(prediction, truth, range(4))
    backwards = confusion(prediction[::-1, :, ::-1], truth[::-1, :, ::-1], range(4))
    halves = confusion(prediction[3:], truth[3:], range(4)) + confusion(prediction[:3], truth[:3], range(4))
    np.testing.assert_array_equal(whole, backwards)
    np.testing.assert_array_equal(whole, halves)


def test_memory_mapped_arrays_are_counted_too(random_arrays, tmp_path):
    maps = []
    for name, array in zip("pt", random_arrays, strict=True):
        np.save(tmp_path / f"{name}.npy", array)
        maps.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    np.testing.assert_array_equal(confusion(*maps, range(4)), confusion(*random_arrays, range(4)))


def test_scores_of_no_voxel_are_nan_and_null():
    nothing = Scores((LabelClass(1, "Matrix"),), np.zeros((1, 1), np.int64), np.zeros(1, np.int64))
    assert math.isnan(nothing.mean_dice)
    assert math.isnan(nothing.accuracy)
    assert nothing.to_dict()["mean_jaccard"] is None


def test_scores_survive_json_and_nan_becomes_null(a_truth):
    truth = a_truth.with_classes((*a_truth.classes, LabelClass(3, "Pore")))
    told = json.loads(json.dumps(score(a_truth, truth).to_dict(), allow_nan=False))
    assert told["mean_dice"] == 1
    assert told["classes"][2]["name"] == "Pore"
    assert told["classes"][2]["dice"] is None
    assert told["classes"][0]["true_voxels"] == 8
    assert told["baseline"]["accuracy"] == pytest.approx(2 / 3)


def test_the_table_is_aligned_and_names_every_class(a_prediction, a_truth):
    head, *rows = score(a_prediction, a_truth).table().splitlines()
    ends = [head.index("Dice") + len("Dice")] * 2
    assert [row[:end].split()[-1] for row, end in zip(rows, ends, strict=False)] == ["0.8750", "0.7500"]
    assert [row.split("  ")[0] for row in rows[:4]] == ["Class 1", "Class 2", "mean", "all one class"]
    assert rows[4] == "accuracy 0.8333 over 12 voxels"
