from __future__ import annotations

import copy
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from VolumeSegmanticsLib import intensity
from VolumeSegmanticsLib.card import ModelCard
from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.errors import Cancelled, ModelError, ResourceError
from VolumeSegmanticsLib.events import Log, Progress
from VolumeSegmanticsLib.models import Model
from VolumeSegmanticsLib.prediction import Predictor, predict_volume
from VolumeSegmanticsLib.settings import FUSIONS, QUALITIES, PredictSettings
from VolumeSegmanticsLib.volume import Grid, Volume

SHAPE = (6, 7, 8)


class KnownNetwork(nn.Module):
    """Stands in for a trained network: its logits are a known function of the images."""

    def __init__(self, function) -> None:
        super().__init__()
        self.encoder = nn.Identity()
        self.function = function
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, images):
        self.shapes.append(tuple(images.shape))
        return self.function(images)

    def __deepcopy__(self, memo):
        return self  # so that a test sees what the predictor's copy is given


def known_model(function, *, values=(3, 7, 9), channels=1, neighbours=0, axes="zyx") -> Model:
    """A model whose grey values 0 … 1 reach the network as they are; its class values have gaps."""
    classes = tuple(LabelClass(value, f"Phase {value}") for value in values)
    as_is = {"low": [0.0], "high": [1.0], "mean": [0.0], "deviation": [1.0]}
    card = ModelCard(
        "unet25d" if neighbours else "unet2d",
        classes,
        channels=channels,
        intensity={name: numbers * channels for name, numbers in as_is.items()},
        axes=axes,
        settings={"neighbours": neighbours},
    )
    return Model(card, KnownNetwork(function))


def nearest(images):
    """Three classes: grey values near 0, near 0.5, near 1."""
    return torch.cat([-50 * (images[:, :1] - centre).square() for centre in (0.0, 0.5, 1.0)], dim=1)


def bright(images):
    """Two classes: grey values below and above 0.5."""
    return torch.cat([0.5 - images[:, :1], images[:, :1] - 0.5], dim=1) * 20


def bright_on_the_left(images):
    """Two classes: whether the pixel before, in the same row, is bright."""
    return bright(torch.nn.functional.pad(images, (1, 0, 0, 0))[..., :-1])


@pytest.fixture
def three_greys(rng) -> Volume:
    return Volume.of(rng.choice(np.float32([0, 0.5, 1]), SHAPE))


@pytest.fixture
def one_bright_voxel() -> Volume:
    array = np.zeros((3, 5, 5), np.float32)
    array[1, 2, 2] = 1
    return Volume.of(array)


def predicted(image, model, *, confidence=False, report=lambda event: None, **settings):
    return predict_volume(image, model, PredictSettings(**settings), confidence=confidence, report=report)


# Geometry -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("quality", QUALITIES)
def test_every_voxel_gets_the_class_value_of_its_grey_value(quality, fusion, three_greys):
    prediction = predicted(three_greys, known_model(nearest), quality=quality, fusion=fusion, confidence=True)
    np.testing.assert_array_equal(prediction.labels.array, np.array([3, 7, 9])[(three_greys.array * 2).astype(int)])
    assert [c.name for c in prediction.labels.classes] == ["Phase 3", "Phase 7", "Phase 9"]
    assert prediction.confidence.min() >= 99


@pytest.mark.parametrize(
    ("axes", "shift"), [("z", (0, 0, 1)), ("y", (0, 0, 1)), ("x", (0, 1, 0))], ids=["Z planes", "Y planes", "X planes"]
)
def test_slices_reach_the_network_the_right_way_round(axes, shift, three_greys):
    """The columns of Z and Y planes run along X, those of X planes along Y."""
    image = three_greys.array > 0.5
    expected = np.zeros(SHAPE, np.uint8)
    inner = tuple(slice(s, None) for s in shift)
    expected[inner] = image[tuple(slice(0, n - s) for n, s in zip(SHAPE, shift, strict=True))]
    model = known_model(bright_on_the_left, values=(0, 1))
    prediction = predicted(Volume.of(image.astype(np.float32)), model, axes=axes, quality="low")
    np.testing.assert_array_equal(prediction.labels.array, expected)


def test_every_symmetry_is_seen_and_undone(one_bright_voxel):
    """The bright voxel lies on the left of each of its neighbours in two of the eight symmetries.

    · · ·      100  75 100
    · ● ·  →    75 100  75   percent of the views that agree on "no"
    · · ·      100  75 100
    """
    model = known_model(bright_on_the_left, values=(0, 1))
    prediction = predicted(one_bright_voxel, model, axes="z", quality="high", fusion="vote", confidence=True)
    expected = np.full((3, 5, 5), 100)
    expected[1, [1, 2, 2, 3], [2, 1, 3, 2]] = 75
    np.testing.assert_array_equal(prediction.confidence, expected)
    assert not prediction.labels.array.any()


def test_the_surest_view_decides(one_bright_voxel):
    """Only X planes have rows along Z and columns along Y; there the voxel after the bright one is surely bright."""

    def sure_when_bright(images):
        left = torch.nn.functional.pad(images, (1, 0, 0, 0))[..., :-1]
        return torch.cat([torch.zeros_like(left), 10 * left - 1], dim=1)

    labels = predicted(one_bright_voxel, known_model(sure_when_bright, values=(0, 1))).labels.array
    assert {tuple(v) for v in np.argwhere(labels)} == {(1, 2, 3), (1, 3, 2)}


@pytest.mark.parametrize("shape", [(1, 7, 8), (3, 1, 5), (5, 4, 1), (1, 1, 9), (1, 1, 1), (33, 65, 31)])
def test_volumes_of_any_shape_are_padded_and_cut_back(shape, rng):
    image = Volume.of(rng.choice(np.float32([0, 0.5, 1]), shape))
    if image.array.max() == image.array.min():
        image.array[...] = np.float32(0.5)
        with pytest.raises(Exception, match="constant"):
            predicted(image, known_model(nearest))
        return
    model = known_model(nearest)
    labels = predicted(image, model).labels
    np.testing.assert_array_equal(labels.array, np.array([3, 7, 9])[(image.array * 2).astype(int)])
    assert all(side % 32 == 0 for shape_ in model.network.shapes for side in shape_[2:])


def test_what_is_padded_is_mirrored():
    seen = []

    def listen(images):
        seen.append(images.clone())
        return bright(images)

    row = np.float32([0, 0.25, 1])
    predicted(Volume.of(np.broadcast_to(row, (1, 2, 3))), known_model(listen, values=(0, 1)), quality="low")
    assert seen[-1][0, 0, 0, :8].tolist() == [0, 0.25, 1, 1, 0.25, 0, 0, 0.25]


def test_planes_of_an_anisotropic_volume_are_stretched_and_brought_back():
    """Slices 2.5 times as thick as the pixels; along Z nothing changes, so the answer is exact."""
    grid = Grid((4, 12, 10), (2.5, 1.0, 1.0), origin=(5.0, 6.0, 7.0))
    plane = np.random.default_rng(0).choice(np.float32([0, 0.5, 1]), (12, 10)).repeat(1, axis=0)
    image = Volume(np.broadcast_to(plane, grid.shape), grid)
    model = known_model(nearest)
    prediction = predicted(image, model, axes="zyx")
    np.testing.assert_array_equal(prediction.labels.array[0], np.array([3, 7, 9])[(plane * 2).astype(int)])
    assert (prediction.labels.array == prediction.labels.array[0]).all()
    assert prediction.labels.grid == grid


def test_stretched_planes_reach_the_network_in_square_pixels():
    grid = Grid((20, 40, 70), (2.0, 1.0, 1.0))
    model = known_model(bright, values=(0, 1))
    predicted(Volume(np.random.default_rng(0).random(grid.shape, np.float32), grid), model, axes="y", batch_size=40)
    assert model.network.shapes[-1] == (40, 1, 64, 96)  # 2 × 20 rows, 70 columns, each to the next multiple of 32


def test_planes_that_are_smaller_than_the_network_takes_are_padded(a_card):
    """PAN takes no picture below 128 pixels."""
    settings = {**a_card.settings, "architecture": "PAN", "encoder_depth": 0, "crop_size": 128}
    model = Model.new(replace(a_card, settings=settings), size=128)
    image = Volume.of(np.random.default_rng(0).random((20, 40, 150), np.float32))
    prediction = predicted(image, model, axes="zx")
    assert prediction.labels.grid == image.grid
    assert set(np.unique(prediction.labels.array)) <= {c.value for c in a_card.classes}


def test_thick_slices_are_left_to_the_planes_that_were_learned(three_greys):
    image = Volume(three_greys.array, Grid(SHAPE, (9.0, 1.0, 1.0)))
    heard = []
    predicted(image, known_model(nearest), report=heard.append)
    assert next(e.total for e in heard if isinstance(e, Progress)) == 6  # Z planes only


@pytest.mark.parametrize(("learned", "slices"), [("z", 6), ("zx", 14), ("zyx", 21)])
def test_the_planes_that_a_model_learned_are_those_it_predicts(learned, slices, three_greys):
    heard = []
    predicted(three_greys, known_model(nearest, axes=learned), report=heard.append)
    assert heard[0] == Progress("predict", 0, slices)
    assert heard[-1].done == heard[-1].total == slices


# Channels -----------------------------------------------------------------------------------------------------------


def test_neighbouring_slices_come_along_and_the_outer_ones_are_repeated(rng):
    """The answer is the slice before: the first one is its own."""
    image = rng.integers(0, 2, SHAPE).astype(np.float32)
    model = known_model(bright, values=(0, 1), neighbours=2)  # looks at channel 0: two slices before
    for batch_size in (1, 4, 6):
        labels = predicted(Volume.of(image), model, axes="z", batch_size=batch_size).labels.array
        np.testing.assert_array_equal(labels, image[[0, 0, 0, 1, 2, 3]])
    labels = predicted(Volume.of(image), model, axes="x").labels.array
    np.testing.assert_array_equal(labels, image[:, :, [0, 0, 0, 1, 2, 3, 4, 5]])


@pytest.mark.parametrize("channel", range(9))
def test_the_colours_of_neighbouring_slices_stay_together(channel, rng):
    """Channels: red, green, blue of the slice before, then of the slice itself, then of the one after."""
    image = rng.integers(0, 2, (*SHAPE, 3)).astype(np.float32)
    model = known_model(lambda images: bright(images[:, channel:]), values=(0, 1), channels=3, neighbours=1)
    labels = predicted(Volume.of(image), model, axes="z").labels.array
    z = np.clip(np.arange(6) + channel // 3 - 1, 0, 5)
    np.testing.assert_array_equal(labels, image[z, :, :, channel % 3])


@pytest.mark.parametrize(("image_channels", "model_channels"), [(3, 1), (1, 3), (2, 3)])
def test_another_number_of_channels_is_refused(image_channels, model_channels):
    array = np.random.default_rng(0).random((*SHAPE, image_channels), np.float32)
    image = Volume.of(array[..., 0] if image_channels == 1 else array)
    with pytest.raises(ModelError, match=f"{image_channels} channels.*trained on {model_channels}") as told:
        predicted(image, known_model(nearest, channels=model_channels))
    assert told.value.hint


# Confidence ---------------------------------------------------------------------------------------------------------


def odds(*logits):
    return lambda images: torch.tensor(logits).view(1, -1, 1, 1).expand(len(images), -1, *images.shape[2:])


@pytest.mark.parametrize(("fusion", "percent"), [("max", 75), ("mean", 75), ("vote", 100)], ids=["max", "mean", "vote"])
def test_confidence_is_in_percent(fusion, percent, three_greys):
    model = known_model(odds(0.0, float(np.log(3))), values=(0, 4))
    prediction = predicted(three_greys, model, fusion=fusion, confidence=True)
    assert prediction.confidence.dtype == np.uint8
    assert (prediction.confidence == percent).all()
    assert (prediction.labels.array == 4).all()


def test_confidence_is_left_out_unless_asked_for(three_greys):
    assert predicted(three_greys, known_model(nearest)).confidence is None


def test_as_many_classes_as_there_can_be_are_told_apart():
    """254 classes: the grey value is the class."""
    image = np.arange(254, dtype=np.float32).reshape(1, 2, 127) / 253
    centres = (torch.arange(254.0) / 253).view(1, -1, 1, 1)
    model = known_model(lambda images: -1e6 * (images - centres).square(), values=tuple(range(1, 255)))
    labels = predicted(Volume.of(image), model, quality="low").labels.array
    np.testing.assert_array_equal(labels.ravel(), np.arange(1, 255))


# Memory and batches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_the_batch_size_does_not_change_the_answer(batch_size, a_tiny_model, rng):
    image = Volume.of(rng.random((9, 33, 20), np.float32))
    plain = predicted(image, a_tiny_model, confidence=True)
    other = predicted(image, a_tiny_model, batch_size=batch_size, confidence=True)
    np.testing.assert_array_equal(plain.labels.array, other.labels.array)
    assert np.abs(plain.confidence.astype(int) - other.confidence).max() <= 1


def failing_above(count, function):
    """Runs out of memory when it is given more than so many slices."""

    def answer(images):
        if len(images) > count:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return function(images)

    return answer


@pytest.mark.parametrize("neighbours", [0, 1])
def test_batches_are_halved_until_they_fit_into_memory(neighbours, three_greys):
    model = known_model(failing_above(2, nearest), neighbours=neighbours)
    whole = predicted(three_greys, known_model(nearest, neighbours=neighbours))
    halved = predicted(three_greys, model, batch_size=7)
    np.testing.assert_array_equal(halved.labels.array, whole.labels.array)
    assert {shape[0] for shape in model.network.shapes} >= {6, 3, 1}


def test_a_slice_that_does_not_fit_is_a_sentence(three_greys):
    def never(images):
        if images.shape[2] < 100:
            raise RuntimeError("CUDA out of memory")
        return nearest(images)

    with pytest.raises(ResourceError, match="one slice of 7 × 8 pixels") as told:
        predicted(three_greys, known_model(never))
    assert told.value.hint


def test_other_errors_of_a_network_are_not_taken_for_lack_of_memory(three_greys):
    def broken(images):
        if images.shape[2] < 100:
            raise RuntimeError("shapes differ")
        return nearest(images)

    with pytest.raises(RuntimeError, match="shapes differ"):
        predicted(three_greys, known_model(broken))


@pytest.mark.parametrize(("fusion", "bytes_a_voxel"), [("max", 3), ("mean", 3 * 2 + 1), ("vote", 3 * 1 + 1)])
def test_fusion_needs_no_more_memory_than_it_says(fusion, bytes_a_voxel, monkeypatch):
    """Peaks of two volumes that differ in the number of their slices only."""
    monkeypatch.setattr(intensity, "_SAMPLES", 1000)  # a bounded choice of voxels that is looked at beforehand
    model = known_model(nearest)

    def peak(slices: int) -> int:
        image = Volume.of(np.random.default_rng(0).random((slices, 64, 64), np.float32))
        tracemalloc.start()
        predicted(image, model, axes="z", batch_size=1, fusion=fusion)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(16)  # what is loaded when first used does not count
    assert (peak(128) - peak(64)) / (64 * 64 * 64) <= bytes_a_voxel + 0.1


def test_the_image_is_read_slice_by_slice_and_never_changed(tmp_path, three_greys):
    np.save(tmp_path / "image.npy", three_greys.array)
    image = Volume.of(np.load(tmp_path / "image.npy", mmap_mode="r"))
    predicted(image, known_model(nearest), quality="high")
    np.testing.assert_array_equal(image.array, three_greys.array)


def test_voxels_that_hold_no_number_are_taken_for_dark(three_greys):
    array = three_greys.array.copy()
    array[2, 3, 4] = np.nan
    assert predicted(Volume.of(array), known_model(nearest)).labels.array[2, 3, 4] == 3


# The model ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_model_is_left_as_it_was(precision, a_tiny_model, rng):
    before = copy.deepcopy(a_tiny_model.network.state_dict())
    predicted(Volume.of(rng.random(SHAPE, np.float32)), a_tiny_model, precision=precision)
    for name, tensor in a_tiny_model.network.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert tensor.equal(before[name])


def test_bfloat16_answers_nearly_the_same(a_tiny_model, rng):
    image = Volume.of(rng.random((8, 32, 32), np.float32))
    exact, rough = (predicted(image, a_tiny_model, precision=p).labels.array for p in ("float32", "bfloat16"))
    assert np.mean(exact == rough) > 0.95


def test_a_predictor_answers_like_the_model_itself(a_tiny_model, rng):
    slices = rng.random((2, 32, 48, 1), np.float32)
    answer = Predictor(a_tiny_model, PredictSettings()).answer(slices, (1.0, 1.0), every=True)
    with torch.inference_mode():
        logits = a_tiny_model.logits(torch.from_numpy(slices).movedim(3, 1))
    np.testing.assert_allclose(answer.every / 65535, logits.softmax(dim=1).numpy(), atol=1e-3)
    np.testing.assert_array_equal(answer.best, answer.every.argmax(axis=1))


@pytest.mark.parametrize("settings", [{"device": "cuda:99"}, {"precision": "float16", "device": "cpu"}])
def test_a_device_that_cannot_is_a_sentence(settings, a_tiny_model, three_greys):
    with pytest.raises(ResourceError) as told:
        predicted(three_greys, a_tiny_model, **settings)
    assert told.value.hint


# Events -------------------------------------------------------------------------------------------------------------


def test_stop_is_heard_between_batches(three_greys):
    heard = []

    def stop_at_the_third(event) -> None:
        heard.append(event)
        if len(heard) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        predicted(three_greys, known_model(nearest), batch_size=1, report=stop_at_the_third)
    assert [event.done for event in heard] == [0, 1, 2]


def test_other_grey_values_than_those_of_training_are_told(three_greys):
    heard = []
    predicted(Volume.of(three_greys.array * 5000 + 700), known_model(nearest), report=heard.append)
    assert [event.level for event in heard if isinstance(event, Log)] == ["warning"]
