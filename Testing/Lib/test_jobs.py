"""A job survives its folder, and a file is written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from VolumeSegmanticsLib import jobs
from VolumeSegmanticsLib.errors import InputError, ResourceError
from VolumeSegmanticsLib.events import Failed, Finished, Progress, to_json
from VolumeSegmanticsLib.jobs import Job, write_atomically

GOOD = {"version": 1, "task": "train", "settings": {}, "inputs": {}, "outputs": {}}


@pytest.fixture
def a_folder(tmp_path):
    return tmp_path / "Gewebe ü 3" / "job 1"


@pytest.fixture
def a_job(a_folder):
    return Job.create(a_folder, task="train", settings={"epochs": 3}, inputs={"image": "image.nrrd"})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_job_survives_its_folder(a_job):
    assert Job.open(a_job.folder) == a_job
    assert a_job.settings == {"epochs": 3}
    assert a_job.outputs == {}
    assert names(a_job.folder) == ["job.json"]


def test_a_folder_may_be_relative_and_the_job_s_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Job.create("here", task="train").folder == tmp_path / "here"


def test_relative_paths_are_relative_to_the_folder_and_others_stay(a_job, tmp_path):
    assert a_job.path("image.nrrd") == a_job.folder / "image.nrrd"
    assert a_job.path(str(tmp_path / "a.nrrd")) == tmp_path / "a.nrrd"


def test_paths_are_written_as_text(a_folder):
    job = Job.create(a_folder, task="train", inputs={"images": [Path("a.nrrd"), "b.nrrd"]})
    assert job.inputs == {"images": ["a.nrrd", "b.nrrd"]}


def test_a_new_job_forgets_the_result_of_the_old_one(a_job):
    a_job.keep_result(Finished())
    assert Job.create(a_job.folder, task="train").result() is None


def test_the_result_is_the_terminal_event(a_job):
    ending = Failed("input", "Only one class is painted (pore).", "Paint another.")
    assert a_job.result() is None
    a_job.keep_result(ending)
    assert a_job.result() == ending


@pytest.mark.parametrize("text", ["", "{", '{"event": "Unknown"}', to_json(Progress("train", 1, 2)), "\xff"])
def test_a_damaged_result_is_none(a_job, text):
    a_job.result_path.write_text(text, encoding="latin-1")
    assert a_job.result() is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("", "is no JSON", id="empty"),
        pytest.param('{"version": 1,', "is no JSON", id="cut off"),
        pytest.param("[" * 100_000, "is no JSON", id="too deep"),
        pytest.param("\xff", "is no JSON", id="not UTF-8"),
        pytest.param("[]", "holds no job", id="a list"),
        pytest.param("{}", "version, task, settings, inputs, outputs cannot be used", id="nothing in it"),
        pytest.param(json.dumps(GOOD | {"version": 2, "new": 1}), "newer version", id="newer"),
        pytest.param(json.dumps(GOOD | {"version": True}), "version cannot be used", id="version is no number"),
        pytest.param(json.dumps(GOOD | {"task": 7}), "task cannot be used", id="wrong type"),
        pytest.param(json.dumps(GOOD | {"input": {}}), "input cannot be used", id="unknown field"),
    ],
)
def test_a_damaged_job_is_told_in_a_sentence(tmp_path, text, sentence):
    (tmp_path / "job.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=sentence) as caught:
        Job.open(tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_folder_that_is_none_is_told_in_a_sentence(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=name):
        Job.open(tmp_path / name)


def test_a_job_cannot_be_made_where_a_file_is(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be written"):
        Job.create(tmp_path / "file", task="train")


@pytest.mark.parametrize(("content", "expected"), [("Größe\n", "Größe\n".encode()), (b"\x00\xff\r\n", b"\x00\xff\r\n")])
def test_a_file_holds_what_was_written_byte_for_byte(tmp_path, content, expected):
    path = tmp_path / "a"
    path.write_text("old")
    write_atomically(path, content)
    assert path.read_bytes() == expected
    assert names(tmp_path) == ["a"]


def test_a_written_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_text("")
    write_atomically(tmp_path / "a", "")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(28, "No space left on device"), "free some space"),
        (PermissionError(13, "Permission denied"), "may write to"),
        (OSError("strange"), "another folder"),
    ],
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error, remedy):
    def fail(_):
        raise error

    path = tmp_path / "a"
    path.write_text("old")
    monkeypatch.setattr(jobs.os, "fsync", fail)
    with pytest.raises(ResourceError, match="cannot be written") as caught:
        write_atomically(path, "new")
    assert remedy in caught.value.hint
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", "new")
    assert names(tmp_path) == []


@pytest.mark.parametrize("place", ["missing/a", "file/a", "folder"])
def test_a_place_that_cannot_be_written_is_told_in_a_sentence(tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ResourceError, match="cannot be written") as caught:
        write_atomically(tmp_path / place, "new")
    assert caught.value.hint
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="here everything may be written")
def test_a_folder_that_may_not_be_written_is_told_in_a_sentence(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ResourceError, match="Permission denied"):
            write_atomically(tmp_path / "a", "new")
    finally:
        tmp_path.chmod(0o700)
