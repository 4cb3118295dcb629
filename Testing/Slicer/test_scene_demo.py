"""The demonstration's round through a scene, with quick workers and a tiny tomogram, and once for real."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from VolumeSegmanticsLib import demo, io, simulate
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.metrics import score
from VolumeSegmanticsLib.volume import UNLABELLED, LabelMap

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
from VolumeSegmanticsSlicer import scene_demo  # noqa: E402
from VolumeSegmanticsSlicer.runner import start_worker  # noqa: E402
from VolumeSegmanticsSlicer.scene_demo import main, run  # noqa: E402
from VolumeSegmanticsSlicer.scenes import Scene  # noqa: E402
from VolumeSegmanticsSlicer.segmentations import labels_of  # noqa: E402

SEGMENTATION, VOLUME = "vtkMRMLSegmentationNode", "vtkMRMLScalarVolumeNode"
QUICK_WORKER = [sys.executable, str(Path(__file__).parent / "workers" / "quick.py"), "own"]


@pytest.fixture
def a_first_round(tmp_path):
    """What the demonstration leaves, with a model that quick workers do not look into."""
    image, truth = simulate.fibre_composite((16, 48, 48))
    io.write_volume(tmp_path / "image.nrrd", image)
    io.write_labels(tmp_path / "truth.nrrd", truth)
    io.write_labels(tmp_path / "strokes.seg.nrrd", simulate.strokes(truth))
    guess = np.where(image.array > image.array.mean(), truth.classes[1].value, truth.classes[0].value)
    io.write_labels(tmp_path / "result.seg.nrrd", LabelMap(guess.astype(np.uint8), truth.grid, truth.classes))
    (tmp_path / "model.safetensors").write_bytes(b"a model")
    return tmp_path


def test_strokes_are_painted_and_the_result_is_a_node_of_a_saved_scene(a_first_round):
    told = []
    run(a_first_round, start=partial(start_worker, command=QUICK_WORKER), tell=told.append)
    first, truth = (io.read_labels(a_first_round / name) for name in ("strokes.seg.nrrd", "truth.nrrd"))
    with Scene() as scene:
        scene.open(a_first_round / "scene.mrb")
        (volume,) = (scene.named(name, VOLUME) for name in scene.names(VOLUME))
        painted = labels_of(scene.named("strokes", SEGMENTATION), volume)
        result = labels_of(scene.named("image segmentation", SEGMENTATION), volume)
    assert [(c.name, c.color) for c in painted.classes] == [(c.name, pytest.approx(c.color)) for c in first.classes]
    was_painted, is_painted = first.array != UNLABELLED, painted.array != UNLABELLED
    np.testing.assert_array_equal(painted.array[was_painted], first.array[was_painted])
    assert is_painted.sum() > was_painted.sum()
    np.testing.assert_array_equal(painted.array[is_painted], truth.array[is_painted])
    assert [c.name for c in result.classes] == ["dark", "bright"]
    assert told[0].startswith("Painting")


def test_the_scores_are_those_of_the_node(a_first_round):
    done = run(a_first_round, start=partial(start_worker, command=QUICK_WORKER))
    result = io.read_labels(next(a_first_round.glob("jobs/*-predict/result.seg.nrrd")))
    truth = io.read_labels(a_first_round / "truth.nrrd")
    assert done.after.mean_jaccard == score(result, truth).mean_jaccard
    assert json.loads((a_first_round / "scene-scores.json").read_text()) == done.after.to_dict()


def test_a_first_round_that_is_not_there_is_told(tmp_path, capsys):
    with pytest.raises(InputError, match=r"image\.nrrd"):
        run(tmp_path)
    assert main([str(tmp_path)]) == 2
    assert "volseg demo" in capsys.readouterr().err


def test_a_job_that_fails_ends_the_demonstration(a_first_round, monkeypatch, capsys):
    failing = [*QUICK_WORKER[:2], "fail"]
    monkeypatch.setattr(scene_demo, "run", partial(run, start=partial(start_worker, command=failing)))
    assert main([str(a_first_round)]) == 2
    assert capsys.readouterr().err


@pytest.mark.slow
def test_both_rounds_of_the_demonstration(tmp_path, monkeypatch):
    monkeypatch.setattr(demo.simulate, "fibre_composite", partial(simulate.fibre_composite, (16, 64, 64)))
    demo.run(tmp_path, max_minutes=0.02)
    done = run(tmp_path, max_minutes=0.02)
    assert done.after.mean_jaccard > 0
    assert (tmp_path / "scene.mrb").is_file()
