from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from VolumeSegmanticsLib import api, big_local_prediction, box_planning, boxes, io, memory, planning, predict
from VolumeSegmanticsLib.boxes import BoxPlan
from VolumeSegmanticsLib.bricks import Bricks
from VolumeSegmanticsLib.cli import DONE, MENDABLE, main
from VolumeSegmanticsLib.errors import Cancelled, ResourceError, SettingsError
from VolumeSegmanticsLib.events import Log, Progress
from VolumeSegmanticsLib.local_prediction import predict_locally
from VolumeSegmanticsLib.models import Model
from VolumeSegmanticsLib.volume import Grid

DIE = Path(__file__).parent / "workers" / "predict_and_die.py"
GRID = Grid((40, 52, 45), (2.0, 1.0, 1.0), (3.0, -7.5, 11.0))


class Died(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def the_files(tmp_path_factory, write_ball_and_slab):
    return write_ball_and_slab(tmp_path_factory.mktemp("Proben für Ümit"), GRID)


@pytest.fixture
def a_folder(the_files, tmp_path):
    """The image and the model, in a folder of their own."""
    for name in ("image.nrrd", "local.safetensors"):
        (tmp_path / name).write_bytes((the_files / name).read_bytes())
    return tmp_path


@pytest.fixture
def little_memory(monkeypatch) -> int:
    """So few bytes that nothing but the smallest boxes fit."""
    monkeypatch.setattr(planning, "budget", lambda settings: 25_000_000)
    monkeypatch.setattr(boxes, "SIDES", (16, 32))
    monkeypatch.setattr(box_planning, "SIDES", (16, 32))
    return 25_000_000


def run(folder, output="out.nrrd", image="image.nrrd", **options):
    return predict(folder / image, folder / "local.safetensors", output=folder / output, device="cpu", **options)


def texts(heard) -> list[str]:
    return [event.text for event in heard if isinstance(event, Log)]


def whole(folder):
    """What the prediction in memory says."""
    model = Model.load(folder / "local.safetensors")
    return predict_locally(io.read_volume(folder / "image.nrrd"), model, confidence=True)


# The same answer ----------------------------------------------------------------------------------------------------


def test_boxes_on_the_disk_say_what_the_whole_volume_says(a_folder, little_memory, heard):
    result = run(a_folder, confidence=a_folder / "sure.nrrd", report=heard.append)
    assert any("In boxes of 16 × 16 × 16 voxels" in text for text in texts(heard))
    expected = whole(a_folder)
    labels, sure = io.read_labels(a_folder / "out.nrrd"), io.read_volume(a_folder / "sure.nrrd")
    assert np.mean(labels.array != expected.labels.array) < 1e-4
    assert np.abs(sure.array.astype(int) - expected.confidence).max() <= 1
    assert labels.grid == sure.grid == GRID
    np.testing.assert_array_equal(np.asarray(result.labels.array), labels.array)
    assert not (a_folder / "out.nrrd.unfinished").exists()


def test_where_memory_is_enough_nothing_is_divided(a_folder, heard):
    run(a_folder, report=heard.append)
    assert not any("In boxes" in text for text in texts(heard))
    np.testing.assert_array_equal(io.read_labels(a_folder / "out.nrrd").array, whole(a_folder).labels.array)


@pytest.mark.parametrize("name", ["image.tif", "image.h5", "image.zarr"])
def test_images_that_are_not_mapped_are_copied_first(name, a_folder, little_memory):
    io.write_volume(a_folder / name, io.read_volume(a_folder / "image.nrrd"))
    run(a_folder, "known.nrrd")
    run(a_folder, image=name)
    np.testing.assert_array_equal(
        io.read_labels(a_folder / "out.nrrd").array, io.read_labels(a_folder / "known.nrrd").array
    )


@pytest.mark.parametrize("name", ["out.seg.nrrd", "out.tif", "out.zarr", "out.h5"])
def test_results_are_written_part_by_part(name, a_folder, little_memory, monkeypatch):
    run(a_folder, "known.nrrd")

    def refuse(self, *_, **__):
        raise AssertionError("everything at once")

    monkeypatch.setattr("VolumeSegmanticsLib.io.lazy.LazyArray.__array__", refuse)
    run(a_folder, name)
    monkeypatch.undo()
    written = io.read_labels(a_folder / name, unpainted="background")
    np.testing.assert_array_equal(written.array, io.read_labels(a_folder / "known.nrrd").array)


# Killed and taken up again ------------------------------------------------------------------------------------------


@pytest.fixture
def undisturbed(a_folder, little_memory) -> bytes:
    """The result of a run that nothing happened to."""
    run(a_folder, "undisturbed.nrrd")
    return (a_folder / "undisturbed.nrrd").read_bytes()


def interrupted(folder, **options) -> None:
    def stop(event):
        if isinstance(event, Progress) and event.stage == "predict" and event.done > 20_000:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(folder, report=stop, **options)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("row", [1, 30, 111])
def test_a_killed_process_is_taken_up_again_and_gives_the_same_bytes(row, a_folder, undisturbed, heard):
    names = [str(a_folder / name) for name in ("image.nrrd", "local.safetensors", "out.nrrd")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, str(DIE), *names, "25_000_000", str(row), "--side=16"]
    killed = subprocess.run(command, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (a_folder / "out.nrrd").exists()
    run(a_folder, report=heard.append)
    assert any("goes on" in text for text in texts(heard))
    assert (a_folder / "out.nrrd").read_bytes() == undisturbed


@pytest.mark.parametrize("fatal", [1, 17, 100, 150])
def test_whatever_was_half_written_the_result_is_the_same(fatal, a_folder, undisturbed, monkeypatch):
    row_into, written = Bricks._row_into, []

    def half_a_row(self, file, row, voxels):
        written.append(row)
        if len(written) >= fatal:
            row_into(self, file, row, np.where(np.arange(voxels.shape[2]) % 2, voxels, 0).astype(voxels.dtype))
            raise Died
        row_into(self, file, row, voxels)

    with monkeypatch.context() as patched:
        patched.setattr(Bricks, "_row_into", half_a_row)
        with pytest.raises(Died):
            run(a_folder)
    run(a_folder)
    assert (a_folder / "out.nrrd").read_bytes() == undisturbed


def test_a_cancelled_run_goes_on_where_it_was(a_folder, undisturbed, heard):
    interrupted(a_folder)
    run(a_folder, report=heard.append)
    first = next(event for event in heard if isinstance(event, Progress) and event.stage == "predict")
    assert first.done > 20_000 - 16**3
    assert (a_folder / "out.nrrd").read_bytes() == undisturbed
    assert not (a_folder / "out.nrrd.unfinished").exists()


def test_a_run_that_also_wants_confidence_is_another_one(a_folder, undisturbed, heard):
    interrupted(a_folder)
    run(a_folder, confidence=a_folder / "sure.nrrd", report=heard.append)
    assert "An interrupted prediction with another setting was found: starting anew." in texts(heard)
    assert (a_folder / "out.nrrd").read_bytes() == undisturbed


def test_a_run_keeps_its_plan_when_there_is_more_memory(a_folder, undisturbed, monkeypatch):
    interrupted(a_folder)
    notes = json.loads((a_folder / "out.nrrd.unfinished" / "progress.json").read_text())
    monkeypatch.setattr(planning, "budget", lambda settings: 10**12)
    seen = []
    monkeypatch.setattr(
        box_planning,
        "predict_in_boxes",
        lambda *a, **k: (seen.append(a[2].plan), big_local_prediction.predict_in_boxes(*a, **k))[1],
    )
    run(a_folder)
    assert seen == [BoxPlan.from_dict(notes["plan"])]
    assert (a_folder / "out.nrrd").read_bytes() == undisturbed


def test_threads_do_not_change_the_bytes(a_folder, undisturbed):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        run(a_folder, "three.nrrd")
    finally:
        torch.set_num_threads(before)
    assert (a_folder / "three.nrrd").read_bytes() == undisturbed


def test_a_run_without_all_of_its_files_starts_anew(a_folder, undisturbed, heard):
    interrupted(a_folder)
    (a_folder / "out.nrrd.unfinished" / "labels.bricks").unlink()
    run(a_folder, report=heard.append)
    assert any('whose file "labels.bricks" is gone' in event.text for event in heard if isinstance(event, Log))
    assert (a_folder / "out.nrrd").read_bytes() == undisturbed


# The plan -----------------------------------------------------------------------------------------------------------


def arguments(folder) -> list[str]:
    names = [str(folder / name) for name in ("image.nrrd", "local.safetensors")]
    return ["predict", *names, "-o", str(folder / "out.nrrd")]


def test_the_plan_in_memory_tells_memory_and_time(a_folder, capsys):
    before = sorted(a_folder.iterdir())
    assert main([*arguments(a_folder), "--plan"]) == DONE
    told = capsys.readouterr().out
    assert told.startswith("All in memory at once.")
    assert "time    about 0:00:0" in told
    assert sorted(a_folder.iterdir()) == before


def test_the_plan_of_boxes_tells_the_disk_too(a_folder, little_memory, capsys):
    assert main([*arguments(a_folder), "--plan", "--json"]) == DONE
    told = json.loads(capsys.readouterr().out)
    assert told["plan"]["box"] == [16, 16, 16]
    assert told["disk_bytes"] >= 40 * 52 * 45
    assert told["seconds"] > 0


def test_too_little_memory_is_told_with_a_remedy(a_folder, monkeypatch, capsys):
    monkeypatch.setattr(planning, "budget", lambda settings: 200_000)
    assert main([*arguments(a_folder), "--plan"]) == MENDABLE
    told = capsys.readouterr().err
    assert "cannot be predicted in 200 kB of memory beside the program itself.\nGive it at least " in told


def test_all_refusals_name_the_same_amount_and_it_is_enough(a_folder, monkeypatch):
    """800 MB is less than the program itself takes, and 905 MB too little for a box."""
    image, model = a_folder / "image.nrrd", a_folder / "local.safetensors"
    monkeypatch.setattr(box_planning.InBoxes, "surely_fits", lambda self, budget: False)
    monkeypatch.setattr(memory, "in_use", lambda: 800_000_000)
    hints = []
    for amount in ("800 MB", "905 MB"):
        with pytest.raises(ResourceError) as caught:
            api.plan_prediction(image, model, device="cpu", memory=amount)
        hints.append(caught.value.hint)
    assert hints[0] == hints[1]
    least = re.fullmatch(r"Give it at least ([\d.]+ [MG]B)\.", hints[0])[1]
    assert memory.parse(least) < 1_000_000_000
    assert api.plan_prediction(image, model, device="cpu", memory=least).plan.on_disk


def test_the_plan_counts_the_confidence(a_folder, little_memory):
    image, model = a_folder / "image.nrrd", a_folder / "local.safetensors"
    without, with_it = (api.plan_prediction(image, model, device="cpu", confidence=wanted) for wanted in (False, True))
    assert with_it.plan.disk_bytes == 2 * without.plan.disk_bytes


def test_a_limit_reaches_local_models(a_folder):
    with pytest.raises(ResourceError, match="The program alone takes"):
        run(a_folder, memory="1MB")


def test_what_local_models_do_not_have_is_still_refused(a_folder):
    with pytest.raises(SettingsError, match="quality"):
        run(a_folder, quality="high")


# Memory -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are counted as on Linux")
def test_memory_stays_within_what_is_allowed(a_folder, rng, limit_and_peak):
    """The image has 38 MB, a box of 64 voxels a side takes some 100 MB, one of 128 more than is allowed."""
    np.save(a_folder / "large.npy", rng.random((1, 400, 400), np.float32).repeat(60, axis=0))
    files = (a_folder / name for name in ("large.npy", "local.safetensors", "out.nrrd"))
    allowed, peak = limit_and_peak(*files, extra=400_000_000, warm_up=(64, 64, 64))
    assert peak < allowed
