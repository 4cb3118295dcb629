from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from VolumeSegmanticsLib import big_prediction, io, planning, predict, slab_planning
from VolumeSegmanticsLib.api import plan_prediction
from VolumeSegmanticsLib.blocks import MARGIN, Plan
from VolumeSegmanticsLib.bricks import Bricks
from VolumeSegmanticsLib.cli import DONE, MENDABLE, main
from VolumeSegmanticsLib.errors import Cancelled, ResourceError
from VolumeSegmanticsLib.events import Log, Progress
from VolumeSegmanticsLib.footprint import need_of
from VolumeSegmanticsLib.models import Model
from VolumeSegmanticsLib.prediction import Predictor, _answer, predict_volume
from VolumeSegmanticsLib.settings import PredictSettings
from VolumeSegmanticsLib.unfinished import Unfinished
from VolumeSegmanticsLib.volume import Grid, Volume

DIE = Path(__file__).parent / "workers" / "predict_and_die.py"
GRID = Grid((24, 40, 36), (2.0, 1.0, 1.0), (3.0, -7.5, 11.0))


class Died(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def a_folder(a_scene, the_tiny_model, tmp_path):
    """An image and a model, in a folder with spaces and umlauts."""
    folder = tmp_path / "Proben für Ümit"
    io.write_volume(folder / "image.nrrd", Volume(a_scene.image, GRID))
    the_tiny_model.save(folder / "tiny.safetensors")
    return folder


@pytest.fixture
def little_memory(monkeypatch, the_tiny_model) -> int:
    """So few bytes that one slice of the largest axis, stretched to 24·2 × 40 pixels, leaves room for a few others."""
    budget = enough_for(48 * 40, the_tiny_model)
    set_budget(monkeypatch, budget)
    return budget


def enough_for(pixels: int, model: Model) -> int:
    """Return a budget that is nearly used up when so many pixels are in the network."""
    need = need_of(Predictor(model, PredictSettings(device="cpu")))
    return int(pixels * (need.pixel + need.waiting) / 0.84)


def set_budget(monkeypatch, amount: int) -> None:
    monkeypatch.setattr(planning, "budget", lambda settings: amount)


def run(folder, output="out.nrrd", image="image.nrrd", model="tiny.safetensors", **options):
    return predict(folder / image, folder / model, output=folder / output, device="cpu", **options)


def texts(heard) -> list[str]:
    return [event.text for event in heard if isinstance(event, Log)]


def whole(folder, **settings):
    """What the prediction in memory says."""
    model = Model.load(folder / "tiny.safetensors")
    return predict_volume(
        io.read_volume(folder / "image.nrrd"), model, PredictSettings(device="cpu", **settings), confidence=True
    )


# The same answer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"axes": "x"}, {"axes": "z"}, {"axes": "y", "quality": "high"}], ids=str)
def test_slabs_say_what_the_whole_volume_says(settings, a_folder, little_memory, heard):
    """To rounding: the batches are other ones."""
    result = run(a_folder, confidence=a_folder / "sure.nrrd", report=heard.append, **settings)
    assert any("In slabs of" in text for text in texts(heard))
    expected = whole(a_folder, **settings)
    labels, sure = io.read_labels(a_folder / "out.nrrd"), io.read_volume(a_folder / "sure.nrrd")
    assert np.mean(labels.array != expected.labels.array) < 1e-3
    assert np.abs(sure.array.astype(int) - expected.confidence).max() <= 1
    assert labels.grid == sure.grid == GRID
    np.testing.assert_array_equal(np.asarray(result.labels.array), labels.array)


def test_neighbouring_slices_are_seen_across_slabs(a_scene, a_card, tmp_path, monkeypatch):
    from dataclasses import replace

    card = replace(a_card, model="unet25d", settings={**a_card.settings, "model": "unet25d", "neighbours": 2})
    model = Model.new(card, size=32)
    expected = predict_volume(Volume.of(a_scene.image), model, PredictSettings(device="cpu"))
    set_budget(monkeypatch, 1_500_000)
    predict(a_scene.image, model, output=tmp_path / "out.npy", device="cpu")
    assert np.mean(np.load(tmp_path / "out.npy") != expected.labels.array) < 1e-3


@pytest.mark.parametrize(
    "name", ["out.seg.nrrd", "out.nhdr", "out.tif", "out.npy", "out.mrc", "out.h5", "out.zarr", "slices"]
)
def test_results_are_written_to_every_format_that_goes_slice_by_slice(name, a_folder, little_memory, monkeypatch):
    run(a_folder, "known.nrrd")

    def refuse(self, *_, **__):
        raise AssertionError("everything at once")

    monkeypatch.setattr("VolumeSegmanticsLib.io.lazy.LazyArray.__array__", refuse)
    run(a_folder, name)
    monkeypatch.undo()
    written = io.read_labels(a_folder / name, unpainted="background")
    np.testing.assert_array_equal(written.array, io.read_labels(a_folder / "known.nrrd").array)
    assert sorted(path.name for path in a_folder.glob("*.unfinished")) == []


@pytest.mark.parametrize("name", ["image.tif", "image.h5", "image.zarr", "image.nii.gz"])
def test_images_of_other_formats_are_read_in_parts(name, a_folder, little_memory):
    io.write_volume(a_folder / name, io.read_volume(a_folder / "image.nrrd"))
    run(a_folder, "known.nrrd")
    run(a_folder, image=name)
    assert (a_folder / "out.nrrd").read_bytes() == (a_folder / "known.nrrd").read_bytes()


def test_colours_are_made_grey_slab_by_slab(a_scene, a_folder, little_memory):
    colours = np.stack([a_scene.image, a_scene.image // 2, a_scene.image // 3], axis=3)
    io.write_volume(a_folder / "colours.nrrd", Volume(colours, GRID))
    io.write_volume(a_folder / "grey.nrrd", io.grey(Volume(colours, GRID)))
    run(a_folder, "known.nrrd", image="grey.nrrd")
    run(a_folder, image="colours.nrrd")
    assert (a_folder / "out.nrrd").read_bytes() == (a_folder / "known.nrrd").read_bytes()


def test_confidence_as_an_array_outlives_the_run(a_folder, little_memory):
    result = run(a_folder, confidence=True)
    assert np.abs(result.confidence.astype(int) - whole(a_folder).confidence).max() <= 1


def test_an_image_unlike_those_of_training_is_told(a_folder, little_memory, heard):
    io.write_volume(a_folder / "bright.nrrd", Volume.of(io.read_volume(a_folder / "image.nrrd").array * np.uint16(99)))
    run(a_folder, image="bright.nrrd", report=heard.append)
    assert any("differ much" in text for text in texts(heard))


# Tiles --------------------------------------------------------------------------------------------------------------


def test_tiles_say_what_the_slice_says_where_the_network_sees_no_further_than_the_margin(the_tiny_model, rng):
    """Three levels of a small encoder see some 100 pixels; only rounding is left."""
    predictor = Predictor(the_tiny_model, PredictSettings(device="cpu"))
    slices = rng.random((1, 640, 200, 1), np.float32)
    in_tiles = _answer(slices, predictor, (1.0, 1.0), 2 * MARGIN + 128, every=False)
    at_once = predictor.answer(slices, (1.0, 1.0), every=False)
    assert np.mean(in_tiles.best != at_once.best) < 1e-3
    assert np.abs(in_tiles.probability.astype(int) - at_once.probability).max() <= 66  # a thousandth


# Killed and taken up again ------------------------------------------------------------------------------------------


@pytest.fixture
def undisturbed(a_folder, little_memory) -> bytes:
    """The result of a run that nothing happened to."""
    run(a_folder, "undisturbed.nrrd")
    return (a_folder / "undisturbed.nrrd").read_bytes()


def rows_written(monkeypatch, a_folder) -> int:
    """How many rows of bricks a run writes."""
    count, row_into = [0], Bricks._row_into

    def counting(*arguments):
        count[0] += 1
        row_into(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Bricks, "_row_into", counting)
        run(a_folder, "counted.nrrd")
    return count[0]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("part", [0.05, 0.4, 0.75, 1.0])
def test_a_killed_process_is_taken_up_again_and_gives_the_same_bytes(part, a_folder, undisturbed, monkeypatch, heard):
    fatal = max(1, int(part * rows_written(monkeypatch, a_folder)))
    budget = planning.budget(PredictSettings())
    command = [sys.executable, DIE, *(a_folder / name for name in ("image.nrrd", "tiny.safetensors", "out.nrrd"))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run([*map(str, command), str(budget), str(fatal), "--axes=zyx"], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (a_folder / "out.nrrd").exists()
    run(a_folder, axes="zyx", report=heard.append)
    assert any("goes on" in text for text in texts(heard))
    assert (a_folder / "out.nrrd").read_bytes() == undisturbed


@pytest.mark.parametrize("part", np.linspace(0.02, 1, 12).round(2).tolist())
def test_whatever_was_half_written_the_result_is_the_same(part, a_folder, undisturbed, monkeypatch):
    fatal, row_into, written = max(1, int(part * rows_written(monkeypatch, a_folder))), Bricks._row_into, []

    def half_a_row(self, file, row, voxels):
        written.append(row)
        if len(written) >= fatal:
            voxels = voxels.copy()
            voxels[..., voxels.shape[2] // 2 :] = self._row_from(file, row)[..., voxels.shape[2] // 2 :]
            row_into(self, file, row, voxels)
            raise Died
        row_into(self, file, row, voxels)

    with monkeypatch.context() as patched:
        patched.setattr(Bricks, "_row_into", half_a_row)
        with pytest.raises(Died):
            run(a_folder)
    run(a_folder)
    assert (a_folder / "out.nrrd").read_bytes() == undisturbed


def test_a_cancelled_run_goes_on_where_it_was(a_folder, undisturbed, heard):
    def stop_in_the_second_view(event):
        if isinstance(event, Progress) and event.stage == "predict" and event.done > 30:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(a_folder, report=stop_in_the_second_view)
    assert (a_folder / "out.nrrd.unfinished").is_dir()
    run(a_folder, report=heard.append)
    first = next(event for event in heard if isinstance(event, Progress) and event.stage == "predict")
    assert 20 <= first.done <= 31
    assert (a_folder / "out.nrrd").read_bytes() == undisturbed
    assert not (a_folder / "out.nrrd.unfinished").exists()


def test_what_is_done_is_not_done_again(a_folder, undisturbed, monkeypatch):
    """Only the writing of the result failed: the network need not answer again."""
    with monkeypatch.context() as patched:
        patched.setattr(io, "write_labels", lambda *_, **__: (_ for _ in ()).throw(Died))
        with pytest.raises(Died):
            run(a_folder)
    with monkeypatch.context() as patched:
        patched.setattr(big_prediction, "answer_slices", lambda *_, **__: pytest.fail("answered again"))
        run(a_folder)
    assert (a_folder / "out.nrrd").read_bytes() == undisturbed


def interrupted(folder, **options) -> None:
    def stop(event):
        if isinstance(event, Progress) and event.stage == "predict" and event.done > 30:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(folder, report=stop, **options)


@pytest.mark.parametrize("what", ["image", "model", "setting"])
def test_a_change_starts_anew_and_says_so(what, a_folder, little_memory, a_card, heard):
    interrupted(a_folder)
    options = {}
    if what == "image":
        array = np.array(io.read_volume(a_folder / "image.nrrd").array)
        io.write_volume(a_folder / "image.nrrd", Volume(array[::-1], GRID))
    elif what == "model":
        torch.manual_seed(7)
        model = Model.load(a_folder / "tiny.safetensors")
        for values in model.network.parameters():
            values.data += 0.01
        model.save(a_folder / "tiny.safetensors")
    else:
        options = {"quality": "low"}
    run(a_folder, report=heard.append, **options)
    assert f"An interrupted prediction with another {what} was found: starting anew." in texts(heard)
    run(a_folder, "again.nrrd", **options)
    assert (a_folder / "out.nrrd").read_bytes() == (a_folder / "again.nrrd").read_bytes()


def test_a_run_keeps_its_plan_when_there_is_more_memory(a_folder, undisturbed, monkeypatch):
    interrupted(a_folder)
    before = Plan.from_dict(json.loads((a_folder / "out.nrrd.unfinished" / "progress.json").read_text())["plan"])
    set_budget(monkeypatch, 10**10)
    seen = []
    monkeypatch.setattr(
        slab_planning,
        "predict_in_slabs",
        lambda *a, **k: (seen.append(a[3].plan), big_prediction.predict_in_slabs(*a, **k))[1],
    )
    run(a_folder)
    assert seen == [before]
    assert (a_folder / "out.nrrd").read_bytes() == undisturbed


def test_damaged_notes_of_a_run_start_it_anew(a_folder, undisturbed, heard):
    interrupted(a_folder)
    (a_folder / "out.nrrd.unfinished" / "progress.json").write_text('{"version": 1, "done"', encoding="utf-8")
    run(a_folder, report=heard.append)
    assert "An interrupted prediction that cannot be read was found: starting anew." in texts(heard)
    assert (a_folder / "out.nrrd").read_bytes() == undisturbed


def test_files_of_others_in_the_folder_are_left_alone(a_folder, little_memory):
    folder = Unfinished.folder_of(a_folder / "out.nrrd")
    folder.mkdir()
    (folder / "thesis.txt").write_text("three years of work", encoding="utf-8")
    run(a_folder)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["image", "best", "probability"])
@pytest.mark.parametrize("is_gone", [True, False], ids=["gone", "short"])
def test_a_run_without_all_of_its_files_starts_anew(name, is_gone, a_folder, undisturbed, heard):
    interrupted(a_folder)
    file = a_folder / "out.nrrd.unfinished" / f"{name}.bricks"
    if is_gone:
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size - 1)
    run(a_folder, report=heard.append)
    told = f'An interrupted prediction whose file "{name}.bricks" is gone or damaged was found: starting anew.'
    assert told in texts(heard)
    assert (a_folder / "out.nrrd").read_bytes() == undisturbed


def test_files_that_go_while_it_runs_are_told_and_the_next_run_starts_anew(a_folder, undisturbed):
    def spoil(event):
        if isinstance(event, Progress) and event.stage == "predict" and event.done > 30:
            (a_folder / "out.nrrd.unfinished" / "best.bricks").unlink(missing_ok=True)

    with pytest.raises(ResourceError, match=r"The files in .* cannot be used"):
        run(a_folder, report=spoil)
    run(a_folder)
    assert (a_folder / "out.nrrd").read_bytes() == undisturbed


@pytest.mark.parametrize("name", ["image.zarr", "slices"])
def test_an_image_of_many_files_that_changed_inside_starts_anew(name, a_folder, little_memory, heard):
    array = io.read_volume(a_folder / "image.nrrd").array
    io.write_volume(a_folder / name, Volume(array, GRID))
    interrupted(a_folder, image=name)
    folder = (a_folder / name).stat()
    file = max(path for path in (a_folder / name).rglob("*") if path.suffix in ("", ".tif") and path.is_file())
    os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns + 1000))
    assert (a_folder / name).stat().st_mtime_ns == folder.st_mtime_ns
    run(a_folder, image=name, report=heard.append)
    assert "An interrupted prediction with another image was found: starting anew." in texts(heard)


@pytest.mark.parametrize("name", ["image.zarr", "slices"])
def test_an_image_of_many_files_goes_on_though_the_result_lies_beside_or_in_it(name, a_folder, little_memory, heard):
    io.write_volume(a_folder / name, io.read_volume(a_folder / "image.nrrd"))
    output = "slices/out.nrrd" if name == "slices" else "out.nrrd"
    interrupted(a_folder, image=name, output=output)
    run(a_folder, image=name, output=output, report=heard.append)
    assert any("goes on" in text for text in texts(heard))


# What does not fit --------------------------------------------------------------------------------------------------


def test_other_fusions_do_not_begin_where_they_do_not_fit(a_folder, little_memory):
    with pytest.raises(ResourceError, match='Fusion "mean" takes'):
        run(a_folder, fusion="mean")
    assert not (a_folder / "out.nrrd.unfinished").exists()


def test_a_format_that_is_written_in_one_piece_is_refused(a_folder, the_tiny_model, monkeypatch):
    set_budget(monkeypatch, enough_for(200 * 200, the_tiny_model))
    io.write_volume(a_folder / "larger.nrrd", Volume.of(np.zeros((200, 200, 200), np.uint8)))
    with pytest.raises(ResourceError, match=r'To write "out.nii.gz"') as caught:
        run(a_folder, "out.nii.gz", image="larger.nrrd")
    assert ".seg.nrrd" in caught.value.hint


def test_a_full_disk_is_told_before_the_work(a_folder, little_memory, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(ResourceError, match=r"needs .* on the disk"):
        run(a_folder)


def test_without_a_file_to_write_a_limit_cannot_be_kept(a_scene, a_tiny_model, little_memory):
    with pytest.raises(ResourceError, match="does not fit into 2GB") as caught:
        predict(a_scene.image, a_tiny_model, memory="2GB", device="cpu")
    assert "output" in caught.value.hint


def test_less_memory_than_the_program_takes_is_refused(a_folder):
    with pytest.raises(ResourceError, match="The program alone takes") as caught:
        run(a_folder, memory="1MB")
    assert "at least" in caught.value.hint


# The plan -----------------------------------------------------------------------------------------------------------


def test_the_plan_tells_memory_and_time_and_makes_nothing(a_folder, capsys):
    before = sorted(a_folder.iterdir())
    names = [str(a_folder / name) for name in ("image.nrrd", "tiny.safetensors")]
    assert main(["predict", *names, "-o", str(a_folder / "out.nrrd"), "--plan"]) == DONE
    told = capsys.readouterr().out
    assert told.startswith("All in memory at once.")
    assert "time    about 0:00:0" in told
    assert "memory  " in told
    assert sorted(a_folder.iterdir()) == before


def test_the_plan_of_slabs_tells_the_disk_too(a_folder, little_memory, capsys):
    names = [str(a_folder / name) for name in ("image.nrrd", "tiny.safetensors")]
    assert main(["predict", *names, "-o", str(a_folder / "out.nrrd"), "--plan", "--json"]) == DONE
    told = json.loads(capsys.readouterr().out)
    assert told["plan"]["on_disk"]
    assert told["disk_bytes"] >= 24 * 40 * 36 * 4
    assert told["memory_bytes"] > little_memory / 2
    assert told["seconds"] > 0


def test_a_plan_that_cannot_be_is_an_error_with_a_remedy(a_folder, monkeypatch, capsys):
    set_budget(monkeypatch, 20_000)
    names = [str(a_folder / name) for name in ("image.nrrd", "tiny.safetensors")]
    assert main(["predict", *names, "-o", str(a_folder / "out.nrrd"), "--plan"]) == MENDABLE
    assert "cannot be predicted in 20 kB of memory" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["out.nii.gz", "blocked/out.nrrd", "out.jpg"])
def test_the_plan_refuses_what_the_prediction_refuses(name, a_folder, the_tiny_model, monkeypatch, capsys):
    set_budget(monkeypatch, enough_for(200 * 200, the_tiny_model))
    io.write_volume(a_folder / "larger.nrrd", Volume.of(np.zeros((200, 200, 200), np.uint8)))
    (a_folder / "blocked").write_bytes(b"")
    command = ["predict", str(a_folder / "larger.nrrd"), str(a_folder / "tiny.safetensors"), "-o", str(a_folder / name)]
    assert main([*command, "--plan"]) == MENDABLE
    refused = capsys.readouterr().err
    assert main(command) == MENDABLE
    wrong, _ = capsys.readouterr().err.splitlines()[-2:]
    assert refused.splitlines()[-2].split(": ")[:2] == wrong.split(": ")[:2]  # the system has two words for "blocked"


def test_the_plan_refuses_a_disk_that_is_too_full(a_folder, little_memory, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(ResourceError, match=r"needs .* on the disk"):
        plan_prediction(
            a_folder / "image.nrrd", a_folder / "tiny.safetensors", output=a_folder / "new" / "out.nrrd", device="cpu"
        )
    assert not (a_folder / "new").exists()


def test_formats_that_are_advised_are_written_in_parts():
    assert all(io.writes_in_parts(f"out{suffix}") for suffix in (*planning._IN_PARTS.split(", "), ""))


def test_a_limit_from_the_command_line_reaches_the_plan(a_folder, capsys):
    names = [str(a_folder / name) for name in ("image.nrrd", "tiny.safetensors")]
    assert main(["predict", *names, "-o", str(a_folder / "out.nrrd"), "--memory", "lots"]) == MENDABLE
    assert 'The setting memory is "lots".' in capsys.readouterr().err
    assert main(["predict", *names, "-o", str(a_folder / "out.nrrd"), "--memory", "1MB"]) == MENDABLE


# Memory -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are counted as on Linux")
def test_memory_stays_within_what_is_allowed(a_folder, rng, limit_and_peak):
    """All at once would take 50 MB for the network, 51 MB for the image and 38 MB for class and probability."""
    np.save(a_folder / "large.npy", rng.random((1, 400, 400), np.float32).repeat(80, axis=0))
    files = (a_folder / name for name in ("large.npy", "tiny.safetensors", "out.nrrd"))
    allowed, peak = limit_and_peak(*files, extra=130_000_000, warm_up=(8, 64, 64), axes="x")
    assert peak < allowed
