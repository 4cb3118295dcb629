import tracemalloc

import numpy as np
import pytest

from VolumeSegmanticsLib.fusion import FULL, FUSIONS, Answer, MaxFusion, MeanFusion, VoteFusion
from VolumeSegmanticsLib.views import View, views

SHAPE = (6, 7, 8)
PERCENT = FULL // 100
every_fusion = pytest.mark.parametrize("kind", FUSIONS.values(), ids=FUSIONS)


def answer_to(probabilities: np.ndarray) -> Answer:
    """The answer of a network that gives the probabilities uint16 (N, C, H, W)."""
    return Answer(probabilities.argmax(axis=1).astype(np.uint8), probabilities.max(axis=1), probabilities)


def random_probabilities(rng, classes=3, shape=SHAPE) -> np.ndarray:
    """uint16 (C, Z, Y, X) that sum up to about 1."""
    values = rng.random((classes, *shape)) ** 4
    return np.rint(values / values.sum(axis=0) * FULL).astype(np.uint16)


def add_view(fusion, view: View, probabilities: np.ndarray, batch_size: int = 4) -> None:
    """Add what a network says that sees the volume through a view, batch by batch."""
    target = fusion.seen_through(view)
    slices = np.stack([view.of(of_class) for of_class in probabilities], axis=1)
    for start in range(0, len(slices), batch_size):
        batch = slice(start, min(start + batch_size, len(slices)))
        target.add(batch, answer_to(slices[batch]))


def fused(kind, answers: dict[View, np.ndarray]):
    first = next(iter(answers.values()))
    fusion = kind(first.shape[1:], len(first), len(answers))
    for view, probabilities in answers.items():
        add_view(fusion, view, probabilities)
    return fusion


def one_voxel(kind, *answers: list[int]):
    """Fuse what several views say about one voxel: percents of every class."""
    fusion = kind((1, 1, 1), len(answers[0]), len(answers))
    for percents in answers:
        add_view(fusion, View(0), np.array(percents, np.uint16).reshape(-1, 1, 1, 1) * np.uint16(PERCENT))
    return int(fusion.labels().item()), int(fusion.confidence().item())


VOXELS = {
    "max: the surest view decides": (MaxFusion, [[60, 40], [10, 90], [60, 40]], (1, 90)),
    "mean: the mean decides": (MeanFusion, [[60, 40], [10, 90], [80, 20]], (0, 50)),
    "vote: the majority decides": (VoteFusion, [[60, 40], [10, 90], [60, 40]], (0, 67)),
    "max: the first view wins ties": (MaxFusion, [[20, 80], [80, 20]], (1, 80)),
    "mean: the first class wins ties": (MeanFusion, [[20, 80], [80, 20]], (0, 50)),
    "vote: the first class wins ties": (VoteFusion, [[20, 80], [80, 20]], (0, 50)),
    "mean: a class that no view puts first may win": (MeanFusion, [[50, 0, 45], [0, 50, 45]], (2, 45)),
    "vote: three views, three classes": (VoteFusion, [[9, 5, 90], [9, 90, 5], [90, 5, 9]], (0, 33)),
    "max: certain": (MaxFusion, [[0, 100]], (1, 100)),
    "mean: certain": (MeanFusion, [[0, 100]] * 3, (1, 100)),
    "vote: certain": (VoteFusion, [[0, 100]] * 24, (1, 100)),
}


@pytest.mark.parametrize(("kind", "answers", "expected"), VOXELS.values(), ids=VOXELS)
def test_several_answers_become_one_as_computed_by_hand(kind, answers, expected):
    assert one_voxel(kind, *answers) == expected


@every_fusion
@pytest.mark.parametrize("view", views("high", "all"), ids=str)
def test_fusing_one_view_changes_nothing(kind, view, rng):
    probabilities = random_probabilities(rng)
    fusion = fused(kind, {view: probabilities})
    np.testing.assert_array_equal(fusion.labels(), probabilities.argmax(axis=0))
    if kind is not VoteFusion:
        np.testing.assert_array_equal(fusion.confidence(), np.rint(probabilities.max(axis=0) / FULL * 100))


@every_fusion
def test_views_that_agree_change_nothing(kind, rng):
    probabilities = random_probabilities(rng)
    answers = dict.fromkeys(views("high", "all"), probabilities)
    fusion = fused(kind, answers)
    assert (fusion.labels() == probabilities.argmax(axis=0)).mean() > 0.99
    expected = 100 if kind is VoteFusion else np.rint(probabilities.max(axis=0) / FULL * 100)
    np.testing.assert_allclose(fusion.confidence(), np.broadcast_to(expected, SHAPE), atol=1)


@every_fusion
def test_the_order_of_the_views_does_not_matter(kind, rng):
    answers = {view: random_probabilities(rng) for view in views("high", "zy")[::3]}
    there, back = fused(kind, answers), fused(kind, dict(reversed(answers.items())))
    np.testing.assert_array_equal(there.confidence(), back.confidence())
    sureness = np.sort([probabilities.max(axis=0) for probabilities in answers.values()], axis=0)
    unequal = sureness[-1] > sureness[-2]  # with max, the first view wins ties
    np.testing.assert_array_equal(there.labels()[unequal], back.labels()[unequal])
    assert unequal.mean() > 0.98


@every_fusion
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_size_of_the_batches_does_not_matter(kind, batch_size, rng):
    answers = {view: random_probabilities(rng) for view in views("medium", "all")}
    fusion = kind(SHAPE, 3, 3)
    for view, probabilities in answers.items():
        add_view(fusion, view, probabilities, batch_size)
    np.testing.assert_array_equal(fusion.labels(), fused(kind, answers).labels())


@every_fusion
def test_a_fusion_is_what_numpy_says_of_the_whole_volume(kind, rng):
    answers = {view: random_probabilities(rng, classes=4) for view in views("medium", "all")}
    stacked = np.stack(list(answers.values()))  # (views, C, Z, Y, X)
    expected = {
        MaxFusion: np.take_along_axis(stacked.argmax(axis=1), stacked.max(axis=1).argmax(axis=0)[None], 0)[0],
        MeanFusion: (stacked // 3).sum(axis=0).argmax(axis=0),
        VoteFusion: np.stack([(stacked.argmax(axis=1) == c).sum(axis=0) for c in range(4)]).argmax(axis=0),
    }
    np.testing.assert_array_equal(fused(kind, answers).labels(), expected[kind])


@every_fusion
@pytest.mark.parametrize("count", [1, 3, 24, 255, 256, 264, 1000])
def test_no_number_of_views_overflows(kind, count):
    certain = np.array([0, FULL], np.uint16).reshape(1, 2, 1, 1)
    fusion = kind((1, 1, 1), 2, count)
    target = fusion.seen_through(View(0))
    for _ in range(count):
        target.add(slice(0, 1), answer_to(certain))
    assert fusion.labels().item() == 1
    assert fusion.confidence().item() == 100


@every_fusion
def test_a_fusion_without_answers_is_the_first_class_and_unsure(kind):
    fusion = kind(SHAPE, 3, 3)
    assert not fusion.labels().any()
    assert not fusion.confidence().any()


@every_fusion
def test_one_class_and_255_classes_are_fused(kind, rng):
    for classes in (1, 255):
        probabilities = np.zeros((classes, 1, 2, 3), np.uint16)
        probabilities[-1] = FULL
        fusion = fused(kind, {View(0): probabilities})
        assert (fusion.labels() == classes - 1).all()


@every_fusion
def test_answers_are_of_bytes(kind):
    fusion = kind(SHAPE, 3, 3)
    for array in (fusion.labels(), fusion.confidence()):
        assert array.dtype == np.uint8
        assert array.shape == SHAPE


@every_fusion
def test_only_what_needs_every_class_is_given_them(kind):
    fusion = kind(SHAPE, 3, 1)
    best, sure = np.ones((6, 7, 8), np.uint8), np.full((6, 7, 8), FULL, np.uint16)
    if kind.needs_all:
        with pytest.raises(AssertionError):
            fusion.seen_through(View(0)).add(slice(0, 6), Answer(best, sure))
    else:
        fusion.seen_through(View(0)).add(slice(0, 6), Answer(best, sure))
        assert (fusion.labels() == 1).all()


BYTES_A_VOXEL = {"max": 3, "mean": 2 * 4, "vote": 4}  # of 4 classes


@pytest.mark.parametrize(("name", "claimed"), BYTES_A_VOXEL.items())
def test_a_fusion_takes_the_memory_that_it_claims(name, claimed):
    shape = (64, 64, 64)
    voxels, plane = 64**3, 64**2
    some = np.zeros((2, 4, 64, 64), np.uint16)
    some[:, 2] = FULL
    answer = answer_to(some)
    tracemalloc.start()
    fusion = FUSIONS[name](shape, 4, 3)
    for view in views("medium", "all"):
        target = fusion.seen_through(view)
        for start in range(0, 64, 2):
            target.add(slice(start, start + 2), answer)
    held, adding = tracemalloc.get_traced_memory()
    assert held <= claimed * voxels + 20_000
    assert adding <= claimed * voxels + 20 * plane

    tracemalloc.reset_peak()
    labels = fusion.labels()
    assert tracemalloc.get_traced_memory()[1] - held <= voxels + 40 * plane
    del labels
    tracemalloc.reset_peak()
    fusion.confidence()
    assert tracemalloc.get_traced_memory()[1] - held <= voxels + 40 * plane
    tracemalloc.stop()
