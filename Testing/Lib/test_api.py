from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

import VolumeSegmanticsLib
from VolumeSegmanticsLib import api, evaluate, io, predict, train
from VolumeSegmanticsLib.card import read_card
from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.errors import Cancelled, InputError, ModelError, ResourceError, SettingsError
from VolumeSegmanticsLib.events import EpochEnded, Log
from VolumeSegmanticsLib.settings import PredictSettings, TrainSettings
from VolumeSegmanticsLib.volume import UNLABELLED, Grid, LabelMap, Volume

OBLIQUE = ((0.0, 0.6, 0.8), (0.0, 0.8, -0.6), (1.0, 0.0, 0.0))


@pytest.fixture
def quick(tiny_settings) -> TrainSettings:
    return dataclasses.replace(tiny_settings, epochs=1)


@pytest.fixture
def some_files(a_scene, tmp_path):
    """An oblique image, its slices as a segmentation with names, its truth; in a folder with spaces and umlauts."""
    folder = tmp_path / "Proben für Ümit"
    grid = Grid(a_scene.image.shape, (1.2, 1.0, 1.0), (3.0, -7.5, 11.0), OBLIQUE)
    classes = (LabelClass(1, "Matrix", (0.1, 0.2, 0.3)), LabelClass(2, "Slab"), LabelClass(3, "Rød", (1.0, 0.0, 0.0)))
    painted = np.where(a_scene.slices == UNLABELLED, a_scene.slices, a_scene.slices + 1).astype(np.uint8)
    io.write_volume(folder / "das Bild.nrrd", Volume(a_scene.image, grid))
    io.write_labels(folder / "labels.seg.nrrd", LabelMap(painted, grid, classes, "ignore"))
    io.write_labels(folder / "truth.nrrd", LabelMap.of(a_scene.truth + np.uint8(1), grid))
    return folder


# The round ----------------------------------------------------------------------------------------------------------


def test_the_whole_round_goes_from_files_to_files(some_files, quick, heard):
    trained = train(
        some_files / "das Bild.nrrd",
        some_files / "labels.seg.nrrd",
        output=some_files / "mödel.safetensors",
        settings=quick,
        report=heard.append,
    )
    assert trained.path == some_files / "mödel.safetensors"
    card = read_card(trained.path)
    assert [c.name for c in card.classes] == ["Matrix", "Slab", "Rød"]
    assert card.name == "mödel"
    assert card.unpainted == "ignore"
    assert card.settings == quick.to_dict()
    assert card.spacing == (1.2, 1.0, 1.0)
    assert card.versions.keys() >= {"torch", "numpy"}
    assert sum(isinstance(event, EpochEnded) for event in heard) == 1

    prediction = predict(
        str(some_files / "das Bild.nrrd"),
        str(trained.path),
        output=some_files / "out" / "result.seg.nrrd",
        confidence=some_files / "confidence.nrrd",
    )
    image = io.read_volume(some_files / "das Bild.nrrd")
    written = io.read_labels(some_files / "out" / "result.seg.nrrd", unpainted="background")
    assert written.grid == image.grid
    np.testing.assert_array_equal(written.array, prediction.labels.array)
    assert [(c.value, c.name) for c in written.classes] == [(1, "Matrix"), (2, "Slab"), (3, "Rød")]
    assert written.classes[2].color == pytest.approx((1.0, 0.0, 0.0))
    np.testing.assert_array_equal(io.read_volume(some_files / "confidence.nrrd").array, prediction.confidence)

    scores = evaluate(some_files / "out" / "result.seg.nrrd", some_files / "truth.nrrd", output=some_files / "scores")
    assert scores.to_dict() == evaluate(prediction, some_files / "truth.nrrd").to_dict()
    assert {path.name for path in (some_files / "scores").iterdir()} == {"scores.json", "evaluation.png"}


def test_arrays_are_as_good_as_files(a_scene, quick):
    trained = train(a_scene.image, a_scene.slices, settings=quick)
    assert trained.path is None
    prediction = predict(a_scene.image, trained.model, confidence=True)
    assert prediction.labels.array.shape == prediction.confidence.shape == a_scene.image.shape
    scores = evaluate(prediction.labels.array, a_scene.truth)
    assert scores.voxels == a_scene.truth.size
    same = predict(Volume.of(a_scene.image), trained, settings=PredictSettings(quality="medium"))
    np.testing.assert_array_equal(same.labels.array, prediction.labels.array)


def test_what_was_given_is_left_alone(a_scene, quick):
    image, labels = a_scene.image.copy(), a_scene.slices
    labels.setflags(write=False)
    image.setflags(write=False)
    predict(image, train(image, labels, settings=quick))
    np.testing.assert_array_equal(image, a_scene.image)


def test_a_saved_model_predicts_like_the_one_in_memory(a_scene, quick, tmp_path):
    trained = train(a_scene.image, a_scene.slices, settings=quick, output=tmp_path / "m.safetensors")
    one, other = (predict(a_scene.image, model).labels.array for model in (trained, tmp_path / "m.safetensors"))
    np.testing.assert_array_equal(one, other)


def test_several_volumes_share_classes_by_name(some_files, quick):
    image, labels = some_files / "das Bild.nrrd", some_files / "labels.seg.nrrd"
    other = io.read_labels(labels)
    values = np.arange(256, dtype=np.uint8)
    values[1:4] = 3, 1, 2
    classes = tuple(dataclasses.replace(c, value=int(values[c.value])) for c in other.classes)
    exchanged = LabelMap(values[other.array], other.grid, classes)
    trained = train([image, image], [labels, exchanged], settings=quick)
    assert [(c.value, c.name) for c in trained.card.classes] == [(1, "Matrix"), (2, "Slab"), (3, "Rød")]


def test_unpainted_voxels_mean_what_the_user_says(a_scene, quick, tmp_path):
    labels = np.where(a_scene.slices == UNLABELLED, np.uint8(0), a_scene.slices)
    io.write_labels(tmp_path / "labels.nrrd", LabelMap.of(labels))
    ignored = train(a_scene.image, tmp_path / "labels.nrrd", settings=quick, unpainted="ignore")
    background = train(a_scene.image, tmp_path / "labels.nrrd", settings=quick, unpainted="background")
    assert [c.value for c in ignored.card.classes] == [1, 2]
    assert [c.value for c in background.card.classes] == [0, 1, 2]
    assert (ignored.card.unpainted, background.card.unpainted) == ("ignore", "background")


def test_a_colour_image_is_read_as_grey_for_a_model_of_grey_images(a_scene, quick):
    trained = train(a_scene.image, a_scene.slices, settings=quick)
    colours = np.stack([a_scene.image] * 3, axis=3)
    grey, colour = (predict(image, trained).labels.array for image in (a_scene.image, colours))
    assert np.mean(grey == colour) > 0.99  # luminance is rounded


def test_the_second_round_starts_from_the_first(a_scene, quick, tmp_path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    first = train(a_scene.image, a_scene.strokes, settings=quick, output=one)
    second = train(a_scene.image, a_scene.slices, settings=quick, start_from=one, output=two)
    assert second.card.parent == "one"
    assert second.card.intensity == first.card.intensity
    same = train(a_scene.image, a_scene.slices, settings=quick, start_from=first, output=one)
    assert same.card.parent == "one"  # a model may take the place of the one it started from


def test_going_on_from_a_model_keeps_its_structure(a_scene, quick):
    first = train(a_scene.image, a_scene.slices, settings=quick)
    plain = TrainSettings(epochs=1, crop_size=32, batch_size=4, crops_per_epoch=16, learning_rate=1e-3)
    assert train(a_scene.image, a_scene.slices, start_from=first, settings=plain).card.settings["encoder"] == "resnet18"
    with pytest.raises(SettingsError, match="encoder = resnet18, not resnet50") as told:
        train(a_scene.image, a_scene.slices, start_from=first, settings=plain, encoder="resnet50")
    assert told.value.hint


# The score ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "words"),
    [("truth", "never learned from"), ("slices", "before they joined"), ("none held out", "Not validated")],
)
def test_the_card_says_what_its_score_means(labels, words, a_scene, quick, heard):
    array = {"truth": a_scene.truth}.get(labels, a_scene.slices)
    part = 0.0 if labels == "none held out" else 0.2
    trained = train(a_scene.image, array, settings=quick, validation_part=part, report=heard.append)
    assert words in trained.card.scores["meaning"]
    assert any(words in event.text for event in heard if isinstance(event, Log))


# Refusals -----------------------------------------------------------------------------------------------------------


def shifted(array, **geometry) -> Volume:
    return Volume(array, Grid(array.shape, **geometry))


REFUSED = {
    "other grids": (lambda s, p: (shifted(s.image, spacing=(2, 1, 1)), LabelMap.of(s.slices)), InputError, "same grid"),
    "other shapes": (lambda s, p: (s.image, s.slices[:9]), InputError, "same grid"),
    "one class": (lambda s, p: (s.image, np.where(s.slices == 1, np.uint8(1), np.uint8(255))), InputError, "Only one"),
    "no labels": (lambda s, p: (s.image, np.full_like(s.slices, 255)), InputError, "No voxel is labelled"),
    "labels on NaN only": (lambda s, p: (np.where(s.slices == 255, s.image, np.nan), s.slices), InputError, "NaN"),
    "an all-NaN image": (lambda s, p: (np.full(s.image.shape, np.nan), s.slices), InputError, "NaN"),
    "a constant image": (lambda s, p: (np.full_like(s.image, 7), s.slices), InputError, "constant"),
    "fractions as labels": (lambda s, p: (s.image, s.slices / 2), InputError, "fractions"),
    "negative labels": (lambda s, p: (s.image, s.slices.astype(int) - 1), InputError, "go from -1"),
    "large labels": (lambda s, p: (s.image, s.slices.astype(int) + 1), InputError, "256"),
    "a flat array": (lambda s, p: (s.image[0], s.slices[0]), InputError, r"\(Z, Y, X\)"),
    "text": (lambda s, p: (np.full(s.image.shape, "a"), s.slices), InputError, "no intensities"),
    "complex numbers": (lambda s, p: (s.image + 1j, s.slices), InputError, "no intensities"),
    "no such image": (lambda s, p: (p / "nowhere.nrrd", s.slices), InputError, "no file"),
    "no such labels": (lambda s, p: (s.image, p / "nowhere.nrrd"), InputError, "no file"),
    "an unknown format": (lambda s, p: (p / "image.jpeg2", s.slices), InputError, "none of the known formats"),
    "two images, one label map": (lambda s, p: ([s.image, s.image], [s.slices]), InputError, "2 images and 1"),
    "nothing": (lambda s, p: ([], []), InputError, "0 images"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_a_remedy_and_nothing_is_left_behind(case, a_scene, quick, tmp_path):
    make, kind, words = REFUSED[case]
    images, labels = make(a_scene, tmp_path)
    with pytest.raises(kind, match=words) as told:
        train(images, labels, settings=quick, output=tmp_path / "m.safetensors")
    assert told.value.hint
    assert list(tmp_path.iterdir()) == []


BAD_SETTINGS = (
    {"epoch": 3}, {"epochs": 0}, {"epochs": "3"}, {"loss": "l2"}, {"axes": "w"}, {"augment": "magic"}, {"encoder": "x"},
)  # fmt: skip


@pytest.mark.parametrize("changes", BAD_SETTINGS)
def test_bad_settings_are_refused_with_a_remedy(changes, a_scene, tmp_path):
    with pytest.raises(SettingsError) as told:
        train(a_scene.image, a_scene.slices, weights="none", output=tmp_path / "m.safetensors", **changes)
    assert told.value.hint
    assert list(tmp_path.iterdir()) == []


def test_bad_settings_of_a_prediction_are_refused(a_scene, a_tiny_model):
    with pytest.raises(SettingsError, match="qualty"):
        predict(a_scene.image, a_tiny_model, qualty="high")


def test_a_model_of_colours_does_not_take_grey_images(a_scene, quick):
    trained = train(np.stack([a_scene.image] * 3, axis=3), a_scene.slices, settings=quick)
    with pytest.raises(ModelError, match="1 channels") as told:
        predict(a_scene.image, trained)
    assert told.value.hint
    with pytest.raises(InputError, match="channels"):
        train(a_scene.image, a_scene.slices, settings=quick, start_from=trained)


@pytest.mark.parametrize("call", ["train", "predict", "confidence", "evaluate"])
def test_a_place_that_cannot_be_written_is_told(call, a_scene, quick, a_tiny_model, tmp_path, monkeypatch):
    """It is told before the work: nothing is trained or predicted."""
    (tmp_path / "file").write_text("")
    inside = tmp_path / "file"
    monkeypatch.setattr(api, "predict_volume", None)
    monkeypatch.setattr(api, "Trainer", None)
    calls = {
        "train": lambda: train(a_scene.image, a_scene.slices, settings=quick, output=inside / "m.safetensors"),
        "predict": lambda: predict(a_scene.image, a_tiny_model, output=inside / "r.nrrd"),
        "confidence": lambda: predict(a_scene.image, a_tiny_model, confidence=inside / "c.nrrd"),
        "evaluate": lambda: evaluate(a_scene.truth, a_scene.truth, output=inside / "scores"),
    }
    with pytest.raises(ResourceError) as told:
        calls[call]()
    assert told.value.hint


def test_an_output_of_no_known_format_is_told_before_the_work(a_scene, a_tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "predict_volume", None)
    with pytest.raises(InputError, match="known formats"):
        predict(a_scene.image, a_tiny_model, output=tmp_path / "result.docx")


def test_a_disk_that_fills_up_leaves_no_model_and_keeps_the_earlier_one(a_scene, quick, tmp_path, monkeypatch):
    output = tmp_path / "m.safetensors"
    output.write_bytes(b"earlier")

    def half(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", half)
    with pytest.raises(ResourceError, match="No space"):
        train(a_scene.image, a_scene.slices, settings=quick, output=output)
    assert output.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("verb", ["train", "predict"])
def test_stop_is_heard_and_leaves_nothing_half_done(verb, a_scene, quick, a_tiny_model, tmp_path):
    def stop(event) -> None:
        raise Cancelled

    calls = {
        "train": lambda: train(
            a_scene.image, a_scene.slices, settings=quick, output=tmp_path / "m.safetensors", report=stop
        ),
        "predict": lambda: predict(a_scene.image, a_tiny_model, output=tmp_path / "r.nrrd", report=stop),
    }
    with pytest.raises(Cancelled):
        calls[verb]()
    assert list(tmp_path.iterdir()) == []


# The package --------------------------------------------------------------------------------------------------------


def test_every_name_that_is_promised_is_there():
    for name in VolumeSegmanticsLib.__all__:
        assert getattr(VolumeSegmanticsLib, name) is not None


def test_verbs_stay_callable_after_everything_is_imported():
    code = (
        "import VolumeSegmanticsLib as v, importlib, pkgutil\n"
        "for m in pkgutil.iter_modules(v.__path__):\n"
        "    if m.name != '__main__': importlib.import_module(f'VolumeSegmanticsLib.{m.name}')\n"
        "assert all(callable(getattr(v, n)) for n in ('train', 'predict', 'evaluate'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_samples_that_always_lie_alike_are_neither_mirrored_nor_turned(a_scene, quick, heard):
    labels = np.zeros(a_scene.image.shape, np.uint8)
    labels[:, -8:, -10:] = 1
    trained = train(a_scene.image, LabelMap.of(labels), settings=quick, report=heard.append)
    kept = trained.card.settings["augment"].split()
    assert "noise" in kept
    assert not {"flips", "quarter_turns"} & set(kept)
    predict(a_scene.image, trained, quality="high", device="cpu", report=heard.append)
    said = [event.text for event in heard if isinstance(event, Log)]
    assert any("nothing is mirrored or turned" in text for text in said)
    assert any("has not learned mirrored" in text for text in said)
    asked_for = train(a_scene.image, LabelMap.of(labels), settings=dataclasses.replace(quick, augment="all"))
    assert asked_for.card.settings["augment"] == "all"
