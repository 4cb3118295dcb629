from __future__ import annotations

import math

import pytest
import torch

from VolumeSegmanticsLib.losses import LOSSES, class_weights, off_edges
from VolumeSegmanticsLib.volume import UNLABELLED

EVERY_LOSS = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
HALVES = torch.log(torch.tensor([0.5, 0.25, 0.25]))


@pytest.fixture
def some_logits() -> torch.Tensor:
    return torch.randn(2, 3, 6, 7, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def some_labels() -> torch.Tensor:
    """Three classes; the first columns are unlabelled."""
    labels = torch.randint(0, 3, (2, 6, 7), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    labels[:, :, :3] = UNLABELLED
    return labels


def loss_and_gradient(loss, logits, labels, weights=None):
    logits = logits.clone().requires_grad_()
    value = loss(logits, labels, weights)
    value.backward()
    return value.detach(), logits.grad


def everywhere(logits, pixels=4) -> torch.Tensor:
    """The same logits in every pixel of a picture of one row."""
    return logits[None, :, None, None].expand(1, -1, 1, pixels)


@EVERY_LOSS
def test_unlabelled_voxels_change_neither_loss_nor_gradient(loss, some_logits, some_labels):
    value, gradient = loss_and_gradient(loss, some_logits, some_labels)
    others = some_logits.clone()
    others[..., :3] = 30 * torch.randn(2, 3, 6, 3, generator=torch.Generator().manual_seed(3))
    other_value, other_gradient = loss_and_gradient(loss, others, some_labels)
    torch.testing.assert_close(value, other_value)
    torch.testing.assert_close(gradient[..., 3:], other_gradient[..., 3:])
    assert not gradient[..., :3].any()
    assert not other_gradient[..., :3].any()


@EVERY_LOSS
def test_a_picture_without_its_unlabelled_part_has_the_same_loss(loss, some_logits, some_labels):
    whole = loss(some_logits, some_labels, None)
    torch.testing.assert_close(whole, loss(some_logits[..., 3:], some_labels[..., 3:], None))


@EVERY_LOSS
def test_a_batch_without_labels_teaches_nothing(loss, some_logits):
    value, gradient = loss_and_gradient(loss, some_logits, torch.full((2, 6, 7), UNLABELLED, dtype=torch.uint8))
    assert value.isfinite()
    assert not gradient.any()


@EVERY_LOSS
def test_the_right_answer_costs_nothing_and_the_wrong_one_does(loss, some_labels):
    known = some_labels.masked_fill(some_labels == UNLABELLED, 0).long()
    right = 40.0 * torch.nn.functional.one_hot(known, 3).movedim(-1, 1)
    assert float(loss(right, some_labels, None)) == pytest.approx(0, abs=1e-4)
    assert float(loss(right.roll(1, dims=1), some_labels, None)) > 0.5


@EVERY_LOSS
def test_weights_of_one_change_nothing(loss, some_logits, some_labels):
    plain, weighted = (loss(some_logits, some_labels, w) for w in (None, torch.ones(3)))
    torch.testing.assert_close(plain, weighted)


@EVERY_LOSS
def test_the_weight_of_a_class_reaches_the_loss(loss, some_labels):
    """Class 0 is always right, class 1 always wrong: its weight must tell."""
    logits = torch.zeros(2, 3, 6, 7)
    logits[:, 0] = 4
    high, low = (float(loss(logits, some_labels, torch.tensor(w))) for w in ([1.0, 5.0, 1.0], [5.0, 1.0, 1.0]))
    assert high > low + 0.1


@EVERY_LOSS
def test_a_weight_of_zero_takes_a_class_out(loss, some_labels):
    logits = torch.zeros(2, 3, 6, 7)
    logits[:, 0] = 40
    assert float(loss(logits, some_labels, torch.tensor([1.0, 0.0, 0.0]))) < 0.7


@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky", "generalised_dice"])
def test_a_class_that_a_batch_lacks_counts_only_where_it_is_predicted(name):
    """Four pixels of class 0, predicted with probability 1: classes 1 and 2 do not dilute the mean."""
    logits = everywhere(torch.tensor([40.0, 0, 0]))
    assert float(LOSSES[name](logits, torch.zeros(1, 1, 4, dtype=torch.uint8), None)) == pytest.approx(0, abs=1e-5)


BY_HAND = {
    # four pixels, p = (1/2, 1/4, 1/4) everywhere, three of class 0 and one of class 1
    "cross_entropy": (3 * math.log(2) + math.log(4)) / 4,
    # class 0: 1 - (2·1.5+1)/(3+2+1), class 1: 1 - (2·0.25+1)/(1+1+1)
    "dice": (1 / 3 + 1 / 2) / 2,
    "cross_entropy_dice": ((3 * math.log(2) + math.log(4)) / 4 + 5 / 12) / 2,
    # class 0: squares 4/4=1, union 3+1-1.5; class 1: squares 4/16, union 1+0.25-0.25
    "jaccard": (1 - 2.5 / 3.5 + 1 - 1.25 / 2) / 2,
    # class 0: common 1.5, false positive 0.5, false negative 1.5; class 1: 0.25, 0.75, 0.75
    "tversky": (1 - 2.5 / (1.5 + 0.15 + 1.05 + 1) + 1 - 1.25 / (0.25 + 0.225 + 0.525 + 1)) / 2,
    # weights 1/9 and 1; common 1.5/9 + 0.25, sizes 5/9 + 2
    "generalised_dice": 1 - 2 * (1.5 / 9 + 0.25) / (5 / 9 + 2),
    "focal": (3 * 0.25 * math.log(2) + 0.75**2 * math.log(4)) / 4,
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_computed_by_hand(name):
    labels = torch.tensor([[[0, 0, 0, 1]]], dtype=torch.uint8)
    assert float(LOSSES[name](everywhere(HALVES), labels, None)) == pytest.approx(BY_HAND[name], abs=1e-5)


def test_weights_enter_cross_entropy_as_a_weighted_mean():
    labels = torch.tensor([[[0, 0, 0, 1]]], dtype=torch.uint8)
    value = LOSSES["cross_entropy"](everywhere(HALVES), labels, torch.tensor([1.0, 3.0, 1.0]))
    assert float(value) == pytest.approx((3 * math.log(2) + 3 * math.log(4)) / 6, abs=1e-5)


@EVERY_LOSS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_in_half_precision_give_a_finite_loss_in_float32(loss, dtype, some_labels):
    logits = torch.full((2, 3, 6, 7), 1.0, dtype=dtype)
    logits[:, 0] = 300
    value = loss(logits, some_labels, None)
    assert value.dtype == torch.float32
    assert value.isfinite()


@EVERY_LOSS
def test_big_pictures_do_not_overflow(loss):
    labels = torch.zeros(4, 256, 256, dtype=torch.uint8)
    labels[0, 0, 0] = 1
    value, gradient = loss_and_gradient(loss, torch.zeros(4, 2, 256, 256), labels)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient.any()


@pytest.mark.parametrize(
    ("kind", "voxels", "expected"),
    [
        ("balanced", [100, 300], [1.5, 0.5]),
        ("balanced", [300, 0, 100], [0.5, 0.0, 1.5]),
        ("root_balanced", [900, 100], [0.5, 1.5]),
        ("balanced", [10**9, 10**9], [1.0, 1.0]),
    ],
)
def test_class_weights_have_the_mean_one_over_the_painted_classes(kind, voxels, expected):
    torch.testing.assert_close(class_weights(kind, voxels), torch.tensor(expected))


def test_no_class_weights_are_none():
    assert class_weights("none", [1, 2]) is None


# Edges of the answer and of the image


def a_split(edge, size=12) -> torch.Tensor:
    """A picture (size, size) of two halves, 0 on the left of a column and 1 from it on."""
    return (torch.arange(size) >= edge).float().expand(size, size)


def logits_of(split) -> torch.Tensor:
    """Very sure logits (1, 2, H, W) of a picture of two classes."""
    return 20 * torch.stack([1 - split, split])[None]


def test_the_penalty_is_smallest_where_the_answers_edge_lies_on_the_images():
    image = a_split(5)[None, None]
    penalties = [float(off_edges(image, logits_of(a_split(edge)))) for edge in range(1, 12)]
    assert penalties.index(min(penalties)) == 5 - 1
    assert penalties[5 - 1] < 1e-6


def test_a_blurred_edge_draws_the_answer_to_its_middle():
    ramp = torch.tensor([0, 0, 0, 0, 0.1, 0.3, 0.7, 0.9, 1, 1, 1, 1]).expand(12, 12)  # 6 is the first bright column
    penalties = {edge: float(off_edges(ramp[None, None], logits_of(a_split(edge)))) for edge in range(3, 10)}
    assert min(penalties, key=penalties.__getitem__) == 6


def test_an_answer_of_one_class_has_no_edges_to_punish():
    noise = torch.rand(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    assert float(off_edges(noise, logits_of(torch.ones(9, 8)).expand(2, -1, -1, -1))) < 1e-6


def test_the_penalty_does_not_depend_on_which_way_the_picture_is_turned():
    rng = torch.Generator().manual_seed(0)
    image, logits = torch.rand(1, 1, 9, 8, generator=rng), torch.randn(1, 3, 9, 8, generator=rng)
    penalty = off_edges(image, logits)
    for turned in (lambda t: t.flip(2), lambda t: t.flip(3), lambda t: t.rot90(1, (2, 3))):
        torch.testing.assert_close(off_edges(turned(image), turned(logits)), penalty)


def test_a_single_pixel_has_no_neighbours():
    assert off_edges(torch.rand(1, 1, 1, 1), torch.randn(1, 2, 1, 1)) == 0
