"""Batch runs as a shell starts them: plain Python with slicer-core, real files, real workers, real exit codes."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pytest

from VolumeSegmanticsLib import io, simulate
from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.jobs import Job
from VolumeSegmanticsLib.launch import WorkerProcess
from VolumeSegmanticsLib.settings import TrainSettings
from VolumeSegmanticsLib.volume import Grid, Volume

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
from VolumeSegmanticsSlicer import batch, batch_options  # noqa: E402
from VolumeSegmanticsSlicer.nodes import grid_of, volume_of  # noqa: E402
from VolumeSegmanticsSlicer.parameters import Parameters  # noqa: E402
from VolumeSegmanticsSlicer.results import provenance_of  # noqa: E402
from VolumeSegmanticsSlicer.scenes import Scene, stem  # noqa: E402
from VolumeSegmanticsSlicer.segmentations import labels_of  # noqa: E402

ROOT = Path(__file__).parents[2]
QUICK_WORKER = Path(__file__).parent / "workers" / "quick.py"
SCRIPT = ROOT / "VolumeSegmantics" / "VolumeSegmanticsBatch" / "volume_segmantics_batch.py"
CLASSES = (LabelClass(1, "Mätrix", (0.25, 0.5, 0.75)), LabelClass(2, "Faser"), LabelClass(3, "Pore", (1.0, 0.0, 0.0)))
QUICK = [
    f"--train={setting}"
    for setting in (
        *("encoder=resnet18", "weights=none", "crop_size=32", "batch_size=4", "crops_per_epoch=16", "epochs=1"),
        *("local_weight=0", "learning_rate=1e-3", "device=cpu"),
    )
] + ["--predict=quality=low", "--predict=device=cpu"]

MODEL = ("--model", "m.safetensors")
PAIR = ("scan.nrrd", "--strokes", "scan strokes.seg.nrrd", *MODEL)

# Of qSlicerCoreCommandOptions.cxx and qSlicerCommandOptions.cxx, of the launcher, and of QApplication, which takes
# one dash for two.
TAKEN_BY_SLICER = """
    ignore-rest help testing disable-python python-script python-code ignore-slicerrc additional-module-path
    additional-module-paths modules-to-ignore disable-modules disable-builtin-modules disable-cli-modules
    disable-builtin-cli-modules disable-loadable-modules disable-builtin-loadable-modules
    disable-scripted-loadable-modules disable-builtin-scripted-loadable-modules version program-path home settings-path
    temporary-path application-information verbose-module-discovery disable-settings keep-temporary-settings
    disable-message-handlers disable-terminal-outputs disable-tooltips attach-process no-splash no-main-window
    show-python-console show-python-interactor qt-testing exit-after-startup report-startup-timing
    h c I -
    launch designer gnome-terminal xterm cmd VisualStudio VisualStudioProject
    style stylesheet platform platformpluginpath platformtheme plugin qwindowgeometry geometry qwindowicon icon
    qwindowtitle title reverse session display name nograb dograb sync qmljsdebugger widgetcount fontdir
"""


@pytest.fixture(scope="module")
def a_scan_folder(tmp_path_factory) -> Path:
    """An oblique volume and strokes on it, as files of the library; one volume more, and what is no image."""
    folder = tmp_path_factory.mktemp("Proben für Ümit")
    image, truth = simulate.fibre_composite((16, 40, 40))
    grid = Grid(image.grid.shape, (2.0, 0.5, 0.25), (1, 2, 3), ((0, 0, 1), (-1, 0, 0), (0, 1, 0)))
    io.write_volume(folder / "scan.nrrd", Volume(image.array, grid))
    strokes = simulate.strokes(truth).with_classes(CLASSES)
    io.write_labels(folder / "scan strokes.seg.nrrd", type(strokes)(strokes.array, grid, CLASSES, "ignore"))
    io.write_volume(folder / "second.tif", Volume.of(image.array[:, :32].copy()))
    shutil.copy(folder / "second.tif", folder / "third.tif")
    (folder / "broken.nrrd").write_text("no image")
    return folder


@pytest.fixture
def a_folder(a_scan_folder, tmp_path, monkeypatch) -> Path:
    """A copy of its own for a test, which is where it runs."""
    shutil.copytree(a_scan_folder, tmp_path / "Proben für Ümit")
    monkeypatch.chdir(tmp_path / "Proben für Ümit")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / "Proben für Ümit"


@pytest.fixture
def quick_workers(monkeypatch) -> None:
    """Jobs run in real processes, but take no time."""
    command = [sys.executable, str(QUICK_WORKER), "own"]
    monkeypatch.setattr(batch, "start_worker", lambda folder: WorkerProcess(folder, command=command))


def run(*arguments, script=SCRIPT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, script, *map(str, arguments)], capture_output=True, text=True, encoding="utf-8", check=False
    )


# A run ----------------------------------------------------------------------------------------------------------------


def test_files_go_in_and_a_model_a_result_and_a_scene_come_out(a_folder):
    done = run(*PAIR, "--results", "ergebnisse", "--save-scene", "alles.mrb", *QUICK)
    assert done.returncode == 0, done.stderr
    assert [Path(line).name for line in done.stdout.splitlines()] == [
        "m.safetensors", "scan-result.seg.nrrd", "alles.mrb",
    ]  # fmt: skip
    assert "epoch 1: loss" in done.stderr
    result, image = io.read_labels("ergebnisse/scan-result.seg.nrrd"), io.read_volume("scan.nrrd")
    assert result.grid == image.grid
    assert [(c.value, c.name, c.color) for c in result.classes] == [(c.value, c.name, c.color) for c in CLASSES]
    command = [sys.executable, "-m", "VolumeSegmanticsLib", "predict", "scan.nrrd", "m.safetensors", "-o", "a.seg.nrrd"]
    subprocess.run([*command, "--quality", "low", "--device", "cpu"], check=True, capture_output=True)
    assert np.array_equal(result.array, io.read_labels("a.seg.nrrd").array)
    with Scene() as scene:
        scene.open(Path("alles.mrb"))
        volume = scene.named("scan", batch.VOLUME)
        assert grid_of(volume) == image.grid
        assert np.array_equal(volume_of(volume).array, image.array)
        shown, strokes = (scene.named(name, batch.SEGMENTATION) for name in ("scan segmentation", "scan strokes"))
        assert np.array_equal(labels_of(shown, volume).array, result.array)
        assert provenance_of(shown)["Model"] == str(a_folder / "m.safetensors")
        assert provenance_of(strokes) == {}
        assert [c.name for c in labels_of(strokes, volume).classes] == [c.name for c in CLASSES]


def test_many_volumes_go_through_one_model(a_folder, quick_workers, capsys):
    volumes = ["scan.nrrd", "second.tif", "third.tif"]
    assert batch.main([*volumes, *PAIR[1:], "--results", "x", "--confidence", "--jobs-folder", "jobs"]) == 0
    names = [f"{name}-{what}.nrrd" for name in ("scan", "second", "third") for what in ("result.seg", "confidence")]
    assert capsys.readouterr().out.split() == ["m.safetensors", *(str(Path("x") / name) for name in names)]
    assert sorted(path.name for path in Path("x").iterdir()) == sorted(names)
    jobs = sorted(path.name for path in Path("jobs").iterdir())
    assert jobs == ["001-train", "002-predict", "003-predict", "004-predict"]
    assert not list(Path("jobs/002-predict").glob("*.nrrd"))  # the training has written this volume already


@pytest.mark.parametrize(("model", "left"), [("m.safetensors", 0), ("broken.nrrd", 1)])
def test_jobs_without_a_folder_of_their_own_are_kept_for_their_logs_only(model, left, a_folder, monkeypatch, capsys):
    command = [sys.executable, str(QUICK_WORKER), "mendable" if left else "own"]
    monkeypatch.setattr(batch, "start_worker", lambda folder: WorkerProcess(folder, command=command))
    Path(model).touch()
    assert batch.main(["second.tif", "--model", model, "--results", "."]) == (2 if left else 0)
    kept = list(a_folder.parent.glob("VolumeSegmantics-*"))
    assert len(kept) == left
    assert all(f"Log: {folder}" in capsys.readouterr().err for folder in kept)


def test_volumes_of_a_scene_and_files_go_together_and_all_is_saved(a_folder, quick_workers):
    with Scene() as scene:
        scene.load_volume(Path("scan.nrrd")).SetName("Scan größer")
        scene.save(Path("a.mrb"))
    Path("m.safetensors").touch()
    arguments = ["--scene", "a.mrb", "Scan größer", "second.tif", *MODEL, "--results", ".", "--save-scene", "b.mrb"]
    assert batch.main(arguments) == 0
    assert Path("Scan größer-result.seg.nrrd").is_file()
    with Scene() as scene:
        scene.open(Path("b.mrb"))
        assert scene.names(batch.VOLUME) == ["Scan größer", "second"]
        assert scene.names(batch.SEGMENTATION) == ["Scan größer segmentation", "second segmentation"]


def test_strokes_and_volumes_of_a_saved_scene_are_found_by_name(a_folder, quick_workers):
    """A .mrml scene with its files beside it, as File > Save leaves it; the image lies under a transform."""
    from vtk import vtkMatrix4x4

    with Scene() as scene:
        scene.mrml.SetRootDirectory(str(a_folder))
        volume = scene.load_volume(Path("scan.nrrd"))
        volume.SetName("Scan: eins")
        transform = scene.mrml.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        matrix = vtkMatrix4x4()
        matrix.SetElement(0, 3, 50)
        transform.SetMatrixTransformToParent(matrix)
        volume.SetAndObserveTransformNodeID(transform.GetID())
        strokes = scene.load_labels(Path("scan strokes.seg.nrrd"), volume)
        strokes.SetName("Striche")
        for node, kind, name in (
            (volume, "vtkMRMLVolumeArchetypeStorageNode", "in the scene.nrrd"),
            (strokes, "vtkMRMLSegmentationStorageNode", "in the scene.seg.nrrd"),
        ):
            storage = scene.mrml.AddNewNodeByClass(kind)
            storage.SetFileName(str(a_folder / name))
            assert storage.WriteData(node)
            node.SetAndObserveStorageNodeID(storage.GetID())
        Parameters(scene.mrml).keep(TrainSettings(epochs=7, axes="z"))
        assert scene.mrml.Commit(str(a_folder / "szene.mrml"))
    arguments = ["--scene", "szene.mrml", "Scan: eins", "--strokes", "Striche", *MODEL, "--results", "."]
    assert batch.main([*arguments, "--jobs-folder", "jobs", "--train", "epochs=40"]) == 0
    settings = Job.open("jobs/001-train").settings
    assert (settings["epochs"], settings["axes"]) == (40, "z")  # what the scene remembers, but for what was asked
    assert Path("Scan_ eins-result.seg.nrrd").is_file()
    image, labels = io.read_volume("jobs/001-train/image.nrrd"), io.read_labels("jobs/001-train/labels.seg.nrrd")
    assert image.grid == labels.grid == io.read_volume("scan.nrrd").grid  # under a transform as without it
    assert np.array_equal(labels.array, io.read_labels("scan strokes.seg.nrrd").array)
    assert [c.name for c in labels.classes] == [c.name for c in CLASSES]


# Ends -----------------------------------------------------------------------------------------------------------------

REFUSED = {
    "no arguments": ([], "required"),
    "an unknown option": ([*PAIR, "--colour", "red"], "--colour"),
    "no model": (["scan.nrrd", *MODEL, "--results", "."], 'There is no model "m.safetensors"'),
    "nothing to do": (["scan.nrrd", *MODEL], "nothing to do"),
    "more strokes than volumes": ([*PAIR, "--strokes", "x"], "2 strokes for 1 volumes"),
    "no model file": (["a", "--strokes", "b", "--model", "m.pth"], "m.safetensors"),
    "a scene of another kind": ([*PAIR, "--save-scene", "a.mrml"], ".mrb"),
    "a setting that is none": ([*PAIR, "--train", "epoch=3"], '"epoch"'),
    "a setting without value": ([*PAIR, "--train", "epochs"], "FIELD=VALUE"),
    "no such volume": (["gone.nrrd", "--strokes", "b", *MODEL], "gone.nrrd"),
    "a damaged volume": (["broken.nrrd", "--strokes", "b", *MODEL], "broken.nrrd"),
    "no such strokes": (["scan.nrrd", "--strokes", "gone.seg.nrrd", *MODEL], "gone.seg.nrrd"),
    "no such scene": (["--scene", "gone.mrb", *PAIR], "gone.mrb"),
    "no scene": (["--scene", "broken.nrrd", *PAIR], ".mrml or .mrb"),
    "one name for two results": (
        ["scan.nrrd", "./scan.nrrd", *PAIR[1:], "--results", "."],
        '2 volumes are called "scan"',
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_user_can_mend_is_one_sentence_and_code_2(case, a_folder, capsys):
    arguments, told = REFUSED[case]
    assert batch.main(arguments) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_a_name_that_the_scene_lacks_is_told_with_those_it_has(a_folder, capsys):
    with Scene() as scene:
        scene.load_volume(Path("scan.nrrd"))
        scene.save(Path("a.mrb"))
    assert batch.main(["--scene", "a.mrb", "Scan", *PAIR[1:]]) == 2
    assert 'The scene has: "scan".' in capsys.readouterr().err


def test_a_job_that_fails_ends_in_its_sentence(a_folder, capsys):
    labels = io.read_labels("scan strokes.seg.nrrd")
    one = np.where(labels.array == 2, labels.array, np.uint8(255))
    io.write_labels("one.seg.nrrd", type(labels)(one, labels.grid, CLASSES, "ignore"))
    assert batch.main(["scan.nrrd", "--strokes", "one.seg.nrrd", *MODEL, *QUICK]) == 2
    error = capsys.readouterr().err
    assert "Only one class is painted (Faser)" in error
    assert "Log: " in error
    assert "Traceback" not in error


def test_a_bug_is_code_1_with_a_traceback(a_folder, capsys, monkeypatch):
    monkeypatch.setattr(batch, "Workflow", lambda *_, **__: 1 / 0)
    assert batch.main(PAIR) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_signal_stops_the_job_and_is_code_3(a_folder):
    slow = [option for option in QUICK if "epochs" not in option] + ["--train=epochs=1000"]
    command = [sys.executable, SCRIPT, *PAIR, *slow]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8") as process:
        for line in process.stderr:
            if line.startswith("epoch"):
                break
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
        assert process.wait() == 3
    assert said.endswith("Cancelled.\n")
    assert not any(child.is_running() for child in children)
    assert not Path("m.safetensors").exists()


# Inside Slicer --------------------------------------------------------------------------------------------------------


def test_no_option_is_called_like_one_of_slicers_own():
    options = [name for action in batch_options.parser()._actions for name in action.option_strings]
    assert all(name.startswith("--") for name in options)
    assert not {name.lstrip("-") for name in options} & set(TAKEN_BY_SLICER.split())
    assert not any(name.startswith("--launcher") for name in options)


def test_the_usage_tells_every_option(capsys):
    assert batch.main(["--usage"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for action in batch_options.parser()._actions for name in action.option_strings)


def test_slicers_separator_may_stand_before_the_arguments(a_folder):
    options = batch_options.read(["--", *PAIR, "second.tif"])
    assert options.volumes == ["scan.nrrd", "second.tif"]


def test_slicer_can_read_the_script_in_any_encoding():
    assert SCRIPT.read_bytes().isascii()


AND_TELL = """
import runpy, sys
sys.argv.pop(0)
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    sys.stdout.write(sys.modules["VolumeSegmanticsLib"].__file__)
"""


def test_all_packages_are_found_side_by_side_as_they_are_installed(tmp_path):
    for package in (ROOT / "VolumeSegmanticsLib", SCRIPT.parent, SCRIPT.parents[1] / "VolumeSegmanticsSlicer"):
        shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", AND_TELL, tmp_path / "VolumeSegmanticsBatch" / SCRIPT.name, "--usage"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(str(tmp_path / "VolumeSegmanticsLib" / "__init__.py"))


class App:
    """Stands in for qSlicerApplication, which only a desktop Slicer has: keeps the exit code."""

    code, runPythonAndExit = None, True

    def commandOptions(self):
        return self

    def exit(self, code):
        self.code = code


@pytest.fixture
def the_script(monkeypatch):
    """The script as a module."""
    specification = importlib.util.spec_from_file_location("volume_segmantics_batch", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return module


def test_slicer_is_ended_with_the_exit_code(the_script, monkeypatch):
    app = App()
    monkeypatch.setattr(slicer, "app", app, raising=False)
    the_script.leave(2)
    assert app.code == 2
    assert not app.runPythonAndExit  # so that --testing does not replace the code


def test_without_slicer_python_ends_with_the_exit_code(the_script):
    with pytest.raises(SystemExit, match="3"):
        the_script.leave(3)


def test_slicer_is_ended_whatever_is_raised(the_script, monkeypatch, capsys):
    monkeypatch.setattr(batch, "main", lambda arguments: 1 / 0)
    assert the_script.run() == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


# Scenes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bool", "uint8", ">i2", "float16", ">f4", "float64"])
def test_volumes_of_every_type_come_into_the_scene(dtype, tmp_path):
    values = np.arange(4 * 5 * 6).reshape(4, 5, 6) % 100
    np.save(tmp_path / "a.npy", values.astype(dtype))
    with Scene() as scene:
        node = scene.load_volume(tmp_path / "a.npy")
        assert np.array_equal(volume_of(node).array, values.astype(dtype))


def test_colours_come_into_the_scene(tmp_path):
    colours = np.arange(4 * 5 * 6 * 3, dtype=np.uint8).reshape(4, 5, 6, 3)
    io.write_volume(tmp_path / "a.nrrd", Volume.of(colours))
    with Scene() as scene:
        node = scene.load_volume(tmp_path / "a.nrrd")
        assert node.IsA("vtkMRMLVectorVolumeNode")
        assert np.array_equal(volume_of(node).array, colours)


@pytest.mark.parametrize(("name", "told"), [("a.seg.nrrd", "a"), ("b.nii.gz", "b"), ("c.1.tif", "c.1"), ("d", "d")])
def test_nodes_are_called_like_their_files(name, told):
    assert stem(Path("folder") / name) == told
