"""Samples: made by a worker on first use, kept, and loaded as nodes that are ready to train on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from VolumeSegmanticsLib import io, simulate, tasks
from VolumeSegmanticsLib.errors import Cancelled, InputError, WorkerError
from VolumeSegmanticsLib.jobs import Job
from VolumeSegmanticsLib.launch import WorkerProcess
from VolumeSegmanticsLib.settings import SimulateSettings

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
from VolumeSegmanticsSlicer import sample_data  # noqa: E402
from VolumeSegmanticsSlicer.nodes import grid_of, image_for_job, volume_of  # noqa: E402
from VolumeSegmanticsSlicer.sample_data import CATEGORY, SAMPLES, load_sample, register  # noqa: E402
from VolumeSegmanticsSlicer.segmentations import labels_of  # noqa: E402

LIBRARY = Path(io.__file__).parents[1]


@pytest.fixture
def a_start():
    """Starts true workers, and counts them; ``without_torch`` in a Python that has none."""

    class Start:
        count, without_torch = 0, False

        def __call__(self, folder):
            self.count += 1
            blocked = f"import sys; sys.modules['torch'] = None; sys.path.insert(0, {str(LIBRARY.parent)!r});"
            code = f"{blocked if self.without_torch else ''} from VolumeSegmanticsLib.cli import run_and_exit as r; r()"
            command = [sys.executable, "-c", code] if self.without_torch else [sys.executable, f"{LIBRARY}/__main__.py"]
            return WorkerProcess(folder, command=command, environment=dict(os.environ, OMP_NUM_THREADS="1"))

    return Start()


@pytest.fixture
def a_fake_logic():
    """What Slicer's ``SampleDataLogic`` has of this; Slicer's own is in no package."""

    class Source:
        def __init__(self, sampleName, **others):
            self.sampleName = sampleName
            self.__dict__ |= others

    class Logic:
        sources = ()

        @classmethod
        def sampleDataSourcesByCategory(cls, category=None):
            assert category == CATEGORY
            return list(cls.sources)

        @classmethod
        def registerCustomSampleDataSource(cls, category, sampleName, uris, fileNames, nodeNames, customDownloader):
            assert all(isinstance(text, str) for text in (uris, fileNames, nodeNames))
            cls.sources += (Source(sampleName, fileNames=[fileNames], customDownloader=customDownloader),)

    return Logic


def test_a_sample_is_made_once_and_loaded_with_its_strokes(a_scene, a_folder, a_start):
    a_start.without_torch = True  # it can be had before anything is installed
    breaths = []
    volume, strokes = load_sample(
        SAMPLES[0], a_scene.mrml, cache=a_folder, start=a_start, breathe=lambda: breaths.append(1)
    )
    image, truth = simulate.fibre_composite()
    assert np.array_equal(volume_of(volume).array, image.array)
    assert grid_of(volume) == image.grid
    painted, expected = labels_of(strokes, volume), simulate.strokes(truth)
    assert np.array_equal(painted.array, expected.array)
    assert [c.name for c in painted.classes] == ["Matrix", "Fibre", "Pore"]
    assert (volume.GetName(), strokes.GetName()) == ("FibreComposite", "FibreComposite strokes")
    assert strokes.GetStorageNode() is None
    assert len(breaths) > 5
    assert image_for_job(volume, a_folder) == SAMPLES[0].files(a_folder)["image"]  # the worker maps this very file
    assert psutil.Process().children(recursive=True) == []

    again = load_sample(SAMPLES[0], a_scene.mrml, cache=a_folder, start=a_start)
    assert [node.GetName() for node in again] == ["FibreComposite_1", "FibreComposite_1 strokes"]
    assert a_start.count == 1


def test_stopping_leaves_no_worker_and_no_node(a_scene, a_folder, a_start):
    def stop():
        raise Cancelled

    before = a_scene.mrml.GetNumberOfNodes()
    with pytest.raises(Cancelled):
        load_sample(SAMPLES[0], a_scene.mrml, cache=a_folder, start=a_start, breathe=stop)
    assert psutil.Process().children(recursive=True) == []
    assert a_scene.mrml.GetNumberOfNodes() == before


def test_a_worker_that_fails_gets_a_sentence(a_scene, a_folder, a_start):
    def start(folder):
        return WorkerProcess(folder, command=[sys.executable, "-c", "raise SystemExit('no')"])

    with pytest.raises(WorkerError, match="could not be made"):
        load_sample(SAMPLES[0], a_scene.mrml, cache=a_folder, start=start)


def test_a_damaged_file_gets_a_sentence_and_leaves_no_node(a_scene, a_folder, a_start, capfd):
    path = SAMPLES[1].files(a_folder)["image"]
    path.parent.mkdir()
    path.write_bytes(b"no image")
    before = a_scene.mrml.GetNumberOfNodes()
    with pytest.raises(InputError, match="ask for the sample again"):
        load_sample(SAMPLES[1], a_scene.mrml, cache=a_folder, start=a_start)
    assert a_scene.mrml.GetNumberOfNodes() == before


def test_the_second_sample_has_no_strokes_and_is_another(tmp_path):
    job = Job.create(
        tmp_path,
        task="simulate",
        settings=SAMPLES[1].settings.to_dict(),
        outputs={name: path.name for name, path in SAMPLES[1].files(tmp_path).items()},
    )
    made = tasks.TASKS["simulate"](job, lambda event: None)
    assert list(made) == ["image"]
    assert not np.array_equal(io.read_volume(made["image"]).array, simulate.fibre_composite()[0].array)
    assert SAMPLES[1].settings == SimulateSettings(seed=1, strokes=False)


def test_the_samples_are_offered_once_each(a_fake_logic):
    asked = []
    assert register(a_fake_logic, load=asked.append)
    assert register(a_fake_logic, load=asked.append)
    assert [source.sampleName for source in a_fake_logic.sources] == [sample.title for sample in SAMPLES]
    for source in a_fake_logic.sources:
        source.customDownloader(source)
    assert asked == list(SAMPLES)


def test_without_the_sample_data_module_nothing_is_offered():
    assert not register(load=lambda sample: None)
    assert sample_data._logic() is None
