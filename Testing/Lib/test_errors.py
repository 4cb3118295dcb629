import copy
import pickle

import pytest

from VolumeSegmanticsLib import errors
from VolumeSegmanticsLib.errors import Cancelled, InputError, VolumeSegmanticsError

CODES = {
    "SettingsError": "settings",
    "InputError": "input",
    "ModelError": "model",
    "ResourceError": "resource",
    "DependencyError": "dependency",
    "WorkerError": "worker",
}


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_every_error_has_a_code_of_its_own(name, code):
    kind = getattr(errors, name)
    assert kind.code == code
    assert issubclass(kind, VolumeSegmanticsError)


def test_there_is_no_error_without_a_row_above():
    assert {kind.__name__ for kind in VolumeSegmanticsError.__subclasses__()} == set(CODES)


def test_an_error_reads_as_its_message_and_its_hint():
    error = InputError("Nur „Pöre“ ist bemalt.", "Paint another one.")
    assert (error.message, error.hint) == ("Nur „Pöre“ ist bemalt.", "Paint another one.")
    assert str(error) == "Nur „Pöre“ ist bemalt. Paint another one."


def test_an_error_without_a_hint_has_no_space_at_its_end():
    assert str(InputError("Nothing is painted.")) == "Nothing is painted."


@pytest.mark.parametrize("moved", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])
def test_an_error_keeps_its_hint_on_the_way_to_another_process(moved):
    error = moved(InputError("Nothing is painted.", "Paint."))
    assert (type(error), error.message, error.hint, error.code) == (
        InputError,
        "Nothing is painted.",
        "Paint.",
        "input",
    )


def test_cancelling_is_no_error_that_the_user_can_mend():
    assert not issubclass(Cancelled, VolumeSegmanticsError)
