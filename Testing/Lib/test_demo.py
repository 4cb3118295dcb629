from __future__ import annotations

import functools
import json

import pytest

from VolumeSegmanticsLib import demo, simulate
from VolumeSegmanticsLib.card import read_card
from VolumeSegmanticsLib.events import EpochEnded

FILES = {
    "image.nrrd", "truth.nrrd", "strokes.seg.nrrd", "model.safetensors", "result.seg.nrrd", "scores.json",
    "training.png", "evaluation.png", "overview.png",
}  # fmt: skip


@pytest.mark.slow
def test_the_demonstration_leaves_every_step_in_its_folder(tmp_path, monkeypatch, heard):
    small = functools.partial(simulate.fibre_composite, (16, 64, 64))
    monkeypatch.setattr(demo.simulate, "fibre_composite", small)
    made = demo.run(tmp_path / "the demo", max_minutes=0.02, report_to=heard.append)
    assert {path.name for path in (tmp_path / "the demo").iterdir()} == FILES
    assert set(made.files.values()) == set((tmp_path / "the demo").iterdir())
    assert json.loads(made.files["scores"].read_text()) == made.scores.to_dict()
    assert len(read_card(made.files["model"]).classes) == len(made.scores.classes)
    assert any(isinstance(event, EpochEnded) for event in heard)
