import dataclasses
import json
import math
import struct

import pytest

from VolumeSegmanticsLib.card import CARD_KEY, CARD_VERSION, ModelCard, read_card, read_metadata
from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.errors import ModelError


@pytest.fixture
def a_card() -> ModelCard:
    return ModelCard(
        model="unet2d",
        classes=(LabelClass(0, "Background"), LabelClass(7, "Pöre 孔隙\ud800", (1.0, 1 / 3, 0.0), "Tissue")),
        intensity={"low": (0.5,), "high": (99.5,), "mean": (0.25,), "deviation": (0.125,)},
        axes="zy",
        spacing=(2.5, 0.7, 0.4),
        scores={"mean_dice": 0.5, "dice": {"Pöre": None}},
        history=({"epoch": 1, "train_loss": 0.5, "valid_dice": None},),
        name="größer",
    )


def safetensors(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.fixture
def a_file(tmp_path):
    path = tmp_path / "Proben für Ümit.safetensors"

    def write(content: bytes):
        path.write_bytes(content)
        return path

    return write


def test_a_card_survives_json(a_card):
    read = ModelCard.from_json(a_card.to_json())
    assert dataclasses.replace(read, intensity=a_card.intensity) == a_card
    assert read.intensity == {name: list(numbers) for name, numbers in a_card.intensity.items()}
    assert ModelCard.from_json(read.to_json()) == read


def test_a_card_with_nothing_but_classes_survives_json():
    card = ModelCard("unet2d", ())
    assert ModelCard.from_json(card.to_json()) == card


def test_figures_that_are_no_numbers_become_null_so_that_every_reader_can_read_the_card(a_card):
    scores = {"mean_dice": math.nan, "dice": [math.inf, 1.0]}
    text = dataclasses.replace(a_card, scores=scores, history=({"train_loss": -math.inf},)).to_json()
    json.loads(text, parse_constant=pytest.fail)
    read = ModelCard.from_json(text)
    assert read.scores == {"mean_dice": None, "dice": [None, 1.0]}
    assert read.history == ({"train_loss": None},)


def test_the_order_of_the_classes_is_that_of_the_outputs_of_the_network():
    classes = (LabelClass(7, "b"), LabelClass(2, "a"))
    assert ModelCard.from_json(ModelCard("unet2d", classes).to_json()).classes == classes


def test_a_card_is_frozen(a_card):
    with pytest.raises(dataclasses.FrozenInstanceError):
        a_card.name = "other"


def test_a_card_of_a_newer_version_is_refused(a_card):
    newer = dataclasses.replace(a_card, version=CARD_VERSION + 1)
    with pytest.raises(ModelError, match="newer VolumeSegmantics"):
        ModelCard.from_json(newer.to_json())


NO_CARDS = {
    "nothing": "",
    "text": "hello",
    "null": "null",
    "a list": "[]",
    "no version": '{"model": "unet2d"}',
    "an odd version": '{"version": [1]}',
    "an endless version": '{"version": Infinity}',
    "no classes": '{"version": 1, "model": "unet2d"}',
    "classes that are none": '{"version": 1, "model": "unet2d", "spacing": [], "history": [], "classes": [3]}',
    "a class without a name": '{"version": 1, "model": "m", "spacing": [], "history": [], "classes": [{"value": 1}]}',
    "a class value of 300": (
        '{"version": 1, "model": "m", "spacing": [], "history": [], "classes": [{"value": 300, "name": "a"}]}'
    ),
    "a class of no colour": (
        '{"version": 1, "model": "m", "spacing": [], "history": [], '
        '"classes": [{"value": 3, "name": "a", "color": ["red", "", ""]}]}'
    ),
    "an unknown field": '{"version": 1, "model": "m", "spacing": [], "history": [], "classes": [], "size": 3}',
    "very deep": "[" * 100_000,
}


@pytest.mark.parametrize("text", NO_CARDS.values(), ids=NO_CARDS)
def test_what_is_no_card_is_refused(text):
    with pytest.raises(ModelError, match="model card"):
        ModelCard.from_json(text)


def test_the_card_is_read_from_the_header_of_the_file(a_card, a_file):
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    path = a_file(safetensors({"__metadata__": {CARD_KEY: a_card.to_json()}, "weight": tensor}, bytes(8)))
    assert read_card(path).classes == a_card.classes
    assert read_card(str(path)).classes == a_card.classes


def test_a_truncated_file_is_told_from_a_foreign_one(a_file):
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    with pytest.raises(ModelError, match="truncated"):
        read_metadata(a_file(safetensors({"weight": tensor}, bytes(7))))
    with pytest.raises(ModelError, match="no model of VolumeSegmantics"):
        read_card(a_file(safetensors({"weight": tensor}, bytes(8))))


def test_a_file_without_tensors_has_metadata_all_the_same(a_file):
    assert read_metadata(a_file(safetensors({"__metadata__": {"format": "pt"}}))) == {"format": "pt"}
    assert read_metadata(a_file(safetensors({"__metadata__": None}))) == {}


DAMAGED = {
    "empty": b"",
    "shorter than its length": b"\1\0",
    "an endless header": b"\xff" * 8,
    "a header of nothing": bytes(8),
    "a pickle": b"\x80\x02}q\x00." * 10,
    "a zip": b"PK\x03\x04" + bytes(100),
    "half a header": safetensors(b'{"weight": {"dty'),
    "no text": safetensors(b"\xff\xfe\xfd"),
    "a list": safetensors([1]),
    "a tensor that is none": safetensors({"weight": 3}),
    "a tensor without a place": safetensors({"weight": {"data_offsets": []}}),
    "a place that is none": safetensors({"weight": {"data_offsets": ["a", "b"]}}),
    "an endless place": safetensors({"weight": {"data_offsets": [0, math.inf]}}),
    "metadata that is none": safetensors({"__metadata__": 3}),
    "very deep": safetensors(b"[" * 100_000),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused(content, a_file):
    with pytest.raises(ModelError, match="damaged"):
        read_metadata(a_file(content))


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.safetensors"):
        with pytest.raises(ModelError, match="There is no model file"):
            read_card(path)
