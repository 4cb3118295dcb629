import dataclasses
import json
import math
from dataclasses import dataclass

import pytest

from VolumeSegmanticsLib.errors import SettingsError
from VolumeSegmanticsLib.settings import (
    AUGMENTATIONS,
    PredictSettings,
    Settings,
    TrainSettings,
    augmentations,
    axis_letters,
    setting,
)

KINDS = Settings.__subclasses__()
FIELDS = [
    pytest.param(kind, field, id=f"{kind.__name__}.{field.name}")
    for kind in KINDS
    for field in dataclasses.fields(kind)
]


@dataclass(frozen=True, repr=False)
class SomeSettings(Settings):
    sure: bool = setting(False, "One that is true or false.")
    count: int = setting(2, "A number.", minimum=1, maximum=3, unit="slices")


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_every_setting_says_what_it_does_and_what_it_takes(kind, field):
    facts = field.metadata
    assert facts["help"].endswith(".")
    if isinstance(field.default, int | float) and not isinstance(field.default, bool):
        assert facts["minimum"] <= field.default <= facts["maximum"]
    if facts["choices"]:
        assert field.default in facts["choices"]


@pytest.mark.parametrize("kind", KINDS)
def test_settings_survive_json(kind):
    assert kind.from_dict(json.loads(json.dumps(kind().to_dict()))) == kind()


def test_changed_settings_survive_json_and_text():
    chosen = TrainSettings(epochs=3, learning_rate=1e-3, axes="zy", augment="flips noise", encoder="tu-größe")
    assert TrainSettings.from_dict(json.loads(json.dumps(chosen.to_dict()))) == chosen
    assert TrainSettings.from_text({name: str(value) for name, value in chosen.to_dict().items()}) == chosen


def test_settings_show_only_what_differs_from_the_default():
    chosen = PredictSettings(quality="high", batch_size=4)
    assert chosen.changed() == {"quality": "high", "batch_size": 4}
    assert repr(chosen) == "PredictSettings(quality='high', batch_size=4)"
    assert repr(PredictSettings()) == "PredictSettings()"


def test_settings_are_frozen_and_can_be_a_key():
    chosen = TrainSettings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        chosen.epochs = 2
    assert {chosen: 1}[TrainSettings()] == 1
    with pytest.raises(SettingsError):
        dataclasses.replace(chosen, epochs=0)


REFUSED = {
    "no whole number": ({"epochs": 2.5}, "It takes a whole number"),
    "a whole number as a float": ({"epochs": 2.0}, "It takes a whole number"),
    "a truth": ({"epochs": True}, "It takes a whole number"),
    "text": ({"epochs": "5"}, "It takes a whole number"),
    "nothing": ({"epochs": None}, "It takes a whole number"),
    "a list": ({"axes": ["z"]}, "It takes a text"),
    "no number": ({"learning_rate": "1e-3"}, "It takes a number"),
    "too small": ({"epochs": 0}, "epochs is 0. It goes from 1 to 100000."),
    "too large, with its unit": ({"crop_size": 5000}, "crop_size is 5000 px. It goes from 32 to 4096."),
    "a limit in full": ({"crops_per_epoch": 0}, "It goes from 1 to 1000000."),
    "a hair too large": ({"learning_rate": 1.0000001}, "learning_rate is 1.0000001."),
    "NaN": ({"learning_rate": math.nan}, "learning_rate is nan"),
    "infinity": ({"max_minutes": math.inf}, "max_minutes is inf"),
    "far too large": ({"epochs": 10**400}, "It goes from 1 to"),
    "far too large a float": ({"max_minutes": 10**400}, "It goes from 0 to"),
    "far too small a float": ({"max_minutes": -(10**400)}, "It goes from 0 to"),
    "no choice": ({"loss": "Dice"}, "It takes one of: auto, cross_entropy_dice"),
    "no axis": ({"axes": "w"}, 'The setting axes is "w"'),
    "an axis twice": ({"axes": "zz"}, "axes"),
    "no axes at all": ({"axes": ""}, "axes"),
    "no augmentation": ({"augment": "flips sharpen"}, 'There is no augmentation "sharpen"'),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_what_a_setting_does_not_take_is_refused_in_words(changes, words):
    with pytest.raises(SettingsError) as caught:
        TrainSettings.from_dict(changes)
    assert words in str(caught.value)


def test_a_whole_number_is_a_number_too():
    assert type(TrainSettings(max_minutes=2).max_minutes) is float


@pytest.mark.parametrize(
    ("name", "hint"),
    [("epoch", 'Did you mean "epochs"?'), ("größe", "There are: model, "), ("", "There are:"), (3, "There are:")],
)
def test_an_unknown_setting_is_refused_with_the_nearest_name(name, hint):
    with pytest.raises(SettingsError, match="There is no setting") as caught:
        TrainSettings.from_dict({name: 1})
    assert hint in caught.value.hint


@pytest.mark.parametrize("values", [None, [], "epochs=5", 3])
def test_what_is_no_dictionary_is_refused(values):
    with pytest.raises(SettingsError, match="pairs of a name and a value"):
        TrainSettings.from_dict(values)


@pytest.mark.parametrize("text", ["2.5", "five", "", "nan", "1e3", "9" * 5000])
def test_text_that_is_no_whole_number_is_refused(text):
    with pytest.raises(SettingsError):
        TrainSettings.from_text({"epochs": text})


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1e400", "1,5", ""])
def test_text_that_is_no_number_in_range_is_refused(text):
    with pytest.raises(SettingsError):
        TrainSettings.from_text({"max_minutes": text})


@pytest.mark.parametrize(("text", "sure"), [("true", True), ("False", False)])
def test_true_and_false_are_read_as_such(text, sure):
    assert SomeSettings.from_text({"sure": text}) == SomeSettings(sure=sure)


@pytest.mark.parametrize("text", ["", "yes", "0"])
def test_other_words_for_true_and_false_are_refused(text):
    with pytest.raises(SettingsError, match="It takes true or false"):
        SomeSettings.from_text({"sure": text})


@pytest.mark.parametrize(("axes", "letters"), [("all", "zyx"), ("x", "x"), ("yz", "zy"), ("XZ", "zx"), ("zyx", "zyx")])
def test_axes_are_letters_in_the_order_of_the_array(axes, letters):
    assert axis_letters(axes) == letters


@pytest.mark.parametrize("axes", ["", "zz", "ALL", "all ", "z,y", "w", "ž"])
def test_what_is_no_axis_is_refused(axes):
    with pytest.raises(SettingsError, match="axes"):
        axis_letters(axes)


@pytest.mark.parametrize(
    ("augment", "names"),
    [
        ("all", AUGMENTATIONS),
        ("auto", AUGMENTATIONS),
        ("none", ()),
        ("", ()),
        ("noise, flips", ("noise", "flips")),
        ("blur,gamma", ("blur", "gamma")),
    ],
)
def test_augmentations_are_asked_for_by_name(augment, names):
    assert augmentations(augment) == names


def test_prediction_follows_the_model_unless_axes_are_asked_for():
    assert PredictSettings().axes == "auto"
    with pytest.raises(SettingsError):
        TrainSettings(axes="auto")
