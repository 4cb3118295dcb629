"""What a job can ask for, by its folder alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from VolumeSegmanticsLib import io, tasks
from VolumeSegmanticsLib.errors import InputError, ResourceError
from VolumeSegmanticsLib.events import Progress
from VolumeSegmanticsLib.jobs import Job
from VolumeSegmanticsLib.volume import Volume

SHAPE = (24, 32, 40)


@pytest.fixture
def a_plan(tmp_path, a_tiny_model):
    """Makes the job that finds out what a prediction takes; arguments are its settings, ``box`` its box."""
    io.write_volume(tmp_path / "image.nrrd", Volume.of(np.zeros(SHAPE, np.uint8)))
    a_tiny_model.save(tmp_path / "model.safetensors")

    def plan(box=None, **settings):
        inputs = {"image": "image.nrrd", "model": "model.safetensors"} | ({"box": box} if box else {})
        return Job.create(tmp_path, task="plan", settings={"device": "cpu"} | settings, inputs=inputs)

    return plan


def test_a_plan_tells_time_and_memory_and_makes_no_file(a_plan, tmp_path, heard):
    job = a_plan()
    before = sorted(tmp_path.iterdir())
    told = tasks.TASKS["plan"](job, heard.append)
    assert (told["device"], told["disk_bytes"]) == ("cpu", 0)
    assert told["seconds"] > 0
    assert told["memory_bytes"] > np.prod(SHAPE)
    assert sorted(tmp_path.iterdir()) == before
    assert heard == [Progress("try", 0, 0)]


def test_a_plan_refuses_files_that_cannot_be_made(a_plan, heard):
    for name in ("labels", "confidence"):
        job = replace(a_plan(), outputs={"labels": "out.nrrd", name: "out.jpg"})
        with pytest.raises(InputError, match=r"out\.jpg"):
            tasks.TASKS["plan"](job, heard.append)


def test_a_plan_for_a_box_is_about_the_box_and_what_lies_around_it(a_plan, heard):
    whole = tasks.TASKS["plan"](a_plan(), heard.append)
    part = tasks.TASKS["plan"](a_plan(box=[[0, 4], [0, 4], [0, 4]]), heard.append)
    assert whole["plan"]["shape"] == SHAPE
    assert part["plan"]["shape"] == (24, 32, 36)


def test_a_plan_that_cannot_be_is_refused_with_a_remedy(a_plan, heard):
    with pytest.raises(ResourceError) as error:
        tasks.TASKS["plan"](a_plan(memory="1B"), heard.append)
    assert error.value.hint


@pytest.mark.parametrize("name", ["image", "model"])
def test_a_job_that_lacks_an_input_is_told(a_plan, name, heard):
    job = a_plan()
    del job.inputs[name]
    with pytest.raises(InputError, match=f'where "{name}" lies'):
        tasks.TASKS["plan"](job, heard.append)
