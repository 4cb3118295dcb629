"""Looking for packages and installing them, on this Python, with small objects in the place of Slicer's installers."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from VolumeSegmanticsSlicer import install as installing
from VolumeSegmanticsSlicer import requirements
from VolumeSegmanticsSlicer.commands import run
from VolumeSegmanticsSlicer.install import install, python_of_worker, question, start_worker_with
from VolumeSegmanticsSlicer.pip_causes import CAUSES, explain
from VolumeSegmanticsSlicer.requirements import NEEDED, TORCH, Probe, fits, megabytes, missing

from VolumeSegmanticsLib.errors import Cancelled, DependencyError, WorkerError

ROOT = Path(__file__).parents[2]
ROWS = {one.name: one for one in NEEDED}


def lacking(*names, problem="missing", **changes):
    return tuple(replace(ROWS[name], problem=problem, **changes) for name in names)


def yes(question):
    return True


def not_asked(question):
    raise AssertionError(question)


def python_with(tmp_path, script):
    """An executable that does as the script says, whatever it is asked."""
    if os.name == "nt":
        pytest.skip("a script is no executable on Windows")
    path, answers = tmp_path / "python", tmp_path / "answers.py"
    answers.write_text(script)
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{answers}" "$@"\n')  # "#!" takes no path with a space
    path.chmod(0o755)
    return path


class Installers:
    """In the place of Slicer: notes what it shall install, with the constraints that it got."""

    def __init__(self, *, has_packaging=True, error=None):
        self.calls, self.error = [], error
        self.extensions = Extensions()
        self.app = SimpleNamespace(extensionsManagerModel=lambda: self.extensions)
        self.packaging = SimpleNamespace(pip_ensure=self._ensure) if has_packaging else None
        self.util = SimpleNamespace(pip_install=self._install)

    def _ensure(self, wanted, *, constraints, **options):
        self._note("pip_ensure", wanted, constraints, **options)

    def _install(self, words):
        assert words[-2] == "-c"
        self._note("pip_install", words[:-2], words[-1])

    def _note(self, how, wanted, constraints, **options):
        if self.error:
            raise self.error
        self.calls.append((how, list(wanted), Path(constraints).read_text().split(), options))


class Extensions:
    """In the place of the extensions manager: an extension that can be had is a folder with a module."""

    def __init__(self):
        self.folder, self.asked, self.interactive = None, [], [True]

    def property(self, name):
        return getattr(self, name)[-1]

    def setInteractive(self, value):
        self.interactive.append(value)

    def installExtensionFromServer(self, name, restart):
        self.asked.append((name, restart, self.interactive[-1]))
        return self.folder is not None

    def extensionModulePaths(self, name):
        return (str(self.folder),)


PYTORCH_UTILS = """
class PyTorchUtilsLogic:
    def _getPipInstallArguments(self, backend, torch, torchvision):
        return ["install", "torch" + torch, "torchvision" + torchvision]
    def _installLightTheTorch(self):
        pass
"""
LIGHT_THE_TORCH = """
import pathlib, sys
with pathlib.Path(__file__).with_name("words").open("a") as file:
    print(*sys.argv[1:], sep="\\n", file=file)
print("Collecting torch")
"""


@pytest.fixture(autouse=True)
def all_is_well_afterwards(monkeypatch):
    """Looking again takes seconds, since torch is imported; what looking finds has its own tests."""
    monkeypatch.setattr(installing, "missing", lambda *_, **__: ())


@pytest.fixture
def slicer():
    return Installers()


@pytest.fixture
def an_extension(tmp_path, monkeypatch):
    """The folder of a PyTorch extension that is not imported yet, and of its installer."""
    folder, installer = tmp_path / "extension", tmp_path / "packages" / "light_the_torch"
    folder.mkdir()
    installer.mkdir(parents=True)
    (folder / "PyTorchUtils.py").write_text(PYTORCH_UTILS)
    (installer / "__main__.py").write_text(LIGHT_THE_TORCH)
    monkeypatch.setenv("PYTHONPATH", str(installer.parent))
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield SimpleNamespace(folder=folder, installer=installer, words=installer / "words")
    sys.modules.pop("PyTorchUtils", None)


# What is needed


def test_the_table_agrees_with_the_dependencies_of_the_package():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(project["dependencies"]) == {one.wanted for one in NEEDED}


def test_this_python_lacks_nothing_and_torch_stays_out_of_this_process():
    code = (
        "import sys; from VolumeSegmanticsSlicer.requirements import missing; print(missing(), 'torch' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "VolumeSegmantics")])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.split("\n")[0] == "() False", done.stderr


def test_a_probe_never_waits_for_the_answer():
    probe = Probe()
    assert probe.poll() is None
    probe.close()


def test_a_bare_python_lacks_what_is_not_in_it(tmp_path):
    answer = {"python": [3, 12, 1], "found": {one.name: "9999" for one in NEEDED if one.name != "safetensors"}}
    answer["found"]["albumentations"] = "2.0.7"
    python = python_with(tmp_path, f"print('a greeting'); print('\\n@' + {json.dumps(answer | {'broken': {}})!r})")
    assert {one.name: one.problem for one in missing(python)} == {
        "albumentations": "not >=2.0.8,<2.1: 2.0.7",
        "safetensors": "missing",
    }


def test_a_torch_that_cannot_be_imported_is_broken(tmp_path, monkeypatch):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("import torchgen_which_was_not_unpacked")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = {one.name: one.problem for one in missing()}
    assert found["torch"] == "broken: ModuleNotFoundError: No module named 'torchgen_which_was_not_unpacked'"


def test_readers_that_slicer_itself_needs_are_looked_for_here_too(tmp_path, monkeypatch):
    answer = {"python": [3, 12, 1], "found": {one.name: one.versions[2:8] for one in NEEDED}, "broken": {}}
    python = python_with(tmp_path, f"print('\\n@' + {json.dumps(answer)!r})")
    monkeypatch.setattr(requirements, "_of_this_process", lambda: ({"numpy": "2.0", "scipy": "1.13"}, {}))
    names = {one.name for one in missing(python) if not one.of_worker}
    assert names == {"SimpleITK"}


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ('print(\'\\n@\' + \'{"python": [3, 8, 2], "found": {}, "broken": {}}\')', "is Python 3.8.2"),
        ("import sys; sys.exit('no such option')", "cannot be used as Python"),
    ],
)
def test_a_program_that_is_no_fitting_python_is_told(tmp_path, script, told):
    with pytest.raises(DependencyError, match=told) as error:
        missing(python_with(tmp_path, script))
    assert error.value.hint


def test_a_python_that_does_not_answer_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(requirements, "PROBE_SECONDS", 0.2)
    with pytest.raises(DependencyError, match="does not answer"):
        missing(python_with(tmp_path, "import time; time.sleep(60)"))


def test_a_file_that_cannot_be_started_is_told(tmp_path):
    with pytest.raises(WorkerError, match="cannot be started"):
        Probe(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("version", "versions", "does"),
    [
        ("2.2.0+cu121", ">=2.2", True),
        ("2.10.0", ">=2.2", True),
        ("2.1.2", ">=2.2", False),
        ("2.0.8", ">=2.0.8,<2.1", True),
        ("2.1.0", ">=2.0.8,<2.1", False),
        ("2.3.0a0", ">=2.2", True),
    ],
)
def test_versions_compare_by_their_numbers(version, versions, does):
    assert fits(version, versions) is does


def test_the_question_says_what_comes_for_what_and_how_big(monkeypatch):
    monkeypatch.setattr(requirements, "has_nvidia_gpu", lambda: False)
    text = question(lacking("torch", "safetensors"))
    assert "torch, for training and prediction" in text
    assert f"about {ROWS['torch'].megabytes + 1} MB" in text


def test_pytorch_is_big_where_a_gpu_is(monkeypatch):
    monkeypatch.setattr(requirements, "has_nvidia_gpu", lambda: True)
    assert megabytes(lacking("torch")) == requirements.MEGABYTES_OF_CUDA


def test_a_long_folder_is_warned_of_on_windows(monkeypatch):
    monkeypatch.setattr(installing, "os", SimpleNamespace(name="nt"))
    monkeypatch.setattr(installing.sysconfig, "get_paths", lambda: {"purelib": "C:\\Users\\" + "x" * 100})
    assert "folder with a long name" in question(lacking("torch"))


# Installing


@pytest.mark.parametrize(("has_packaging", "how"), [(True, "pip_ensure"), (False, "pip_install")])
def test_packages_come_through_slicer_and_present_ones_keep_their_versions(has_packaging, how, monkeypatch):
    slicer = Installers(has_packaging=has_packaging)
    install(lacking("albumentations", "safetensors"), confirm=yes, slicer=slicer)
    ((used, wanted, constraints, options),) = slicer.calls
    assert (used, wanted) == (how, ["albumentations>=2.0.8,<2.1", "safetensors>=0.4.3"])
    held = {f"{name}=={importlib.metadata.version(name)}" for name in ("numpy", "SimpleITK", *TORCH)}
    assert held <= set(constraints)
    assert not options.get("prompt_install"), "the question has been asked"


def test_a_second_opencv_is_not_put_over_the_first(monkeypatch):
    slicer, version = Installers(), installing._version
    monkeypatch.setattr(installing, "_version", lambda name: "4.9" if name == "opencv-python" else version(name))
    install(lacking("albumentations"), confirm=yes, slicer=slicer)
    assert slicer.calls[0][3]["skip_packages"] == ["opencv-python-headless"]


def test_nothing_is_installed_when_the_answer_is_no(slicer):
    with pytest.raises(Cancelled):
        install(lacking("safetensors"), confirm=lambda question: False, slicer=slicer)
    assert not slicer.calls


def test_torch_comes_through_the_pytorch_extension_which_is_offered_where_it_is_absent(slicer, an_extension):
    slicer.extensions.folder, asked, lines = an_extension.folder, [], []
    install(lacking("torch"), confirm=lambda question: not asked.append(question), report=lines.append, slicer=slicer)
    assert "PyTorch extension" in asked[1]
    assert slicer.extensions.asked == [("PyTorch", False, False)], "without a restart, which would lose the scene"
    assert slicer.extensions.interactive[-1] is True, "as it was before"
    words = an_extension.words.read_text().split("\n")
    assert words[:4] == ["install", "torch>=2.2", "torchvision>=0.17", "-c"]
    assert lines == ["Collecting torch"]
    assert not slicer.calls, "never by pip"


def test_a_broken_torch_is_installed_anew(slicer, an_extension, monkeypatch):
    monkeypatch.syspath_prepend(str(an_extension.folder))
    install(lacking("torch", problem="broken: …"), confirm=yes, slicer=slicer)
    words = an_extension.words.read_text().split("\n")
    assert words.count("install") == 2, "torch itself, then what it needs besides"
    assert words.index("--force-reinstall") < words.index("--no-deps") < words.index("install", 1)


def test_an_extension_that_cannot_be_had_is_told(slicer):
    with pytest.raises(DependencyError, match="could not be installed") as error:
        install(lacking("torch"), confirm=yes, slicer=slicer)
    assert "Extensions Manager" in error.value.hint


def test_another_version_of_the_extension_is_told(slicer, an_extension, monkeypatch):
    (an_extension.folder / "PyTorchUtils.py").write_text("class PyTorchUtilsLogic: pass")
    monkeypatch.syspath_prepend(str(an_extension.folder))
    with pytest.raises(DependencyError, match="not known here") as error:
        install(lacking("torch"), confirm=yes, slicer=slicer)
    assert "PyTorch Utils" in error.value.hint


def test_what_the_installer_of_torch_prints_is_explained(slicer, an_extension, monkeypatch):
    (an_extension.installer / "__main__.py").write_text("import sys; sys.exit('OSError: [WinError 206] too long')")
    monkeypatch.syspath_prepend(str(an_extension.folder))
    with pytest.raises(DependencyError, match="longer name") as error:
        install(lacking("torch"), confirm=yes, slicer=slicer)
    assert "short name" in error.value.hint


def test_a_pip_that_says_nothing_is_explained_by_the_network(monkeypatch):
    monkeypatch.setattr(
        installing, "REACH", "import sys; sys.exit('urlopen error [Errno -2] Name or service not known')"
    )
    slicer = Installers(error=subprocess.CalledProcessError(1, "pip install"))
    with pytest.raises(DependencyError, match="cannot be reached"):
        install(lacking("safetensors"), confirm=yes, slicer=slicer)


def test_an_unknown_failure_shows_its_last_words(monkeypatch):
    monkeypatch.setattr(installing, "REACH", "pass")
    with pytest.raises(DependencyError) as error:
        install(lacking("safetensors"), confirm=yes, slicer=Installers(error=RuntimeError("a strange thing")))
    assert "a strange thing" in error.value.hint


def test_what_still_does_not_work_afterwards_is_told(slicer, monkeypatch):
    monkeypatch.setattr(installing, "missing", lambda *_, **__: lacking("torch", problem="broken: no DLL"))
    with pytest.raises(DependencyError, match="do not work: torch \\(broken: no DLL\\)"):
        install(lacking("safetensors"), confirm=yes, slicer=slicer)


def test_nothing_goes_into_another_python_but_its_command_line_is_told(slicer):
    with pytest.raises(DependencyError) as error:
        install(lacking("torch", "safetensors"), python="/envs/a b/python", confirm=not_asked, slicer=slicer)
    assert '"/envs/a b/python" -m pip install "torch>=2.2" "safetensors>=0.4.3"' in error.value.hint


def test_what_slicer_ships_is_never_replaced(slicer):
    with pytest.raises(DependencyError, match="numpy") as error:
        install(lacking("numpy", problem="not >=1.26: 1.21"), confirm=not_asked, slicer=slicer)
    assert "newer" in error.value.hint


def test_intel_macs_are_sent_to_a_python_of_their_own(slicer, monkeypatch):
    monkeypatch.setattr(installing, "_is_for_intel_macs", lambda: True)
    with pytest.raises(DependencyError, match="Intel"):
        install(lacking("torch"), confirm=not_asked, slicer=slicer)


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause[0][0])
def test_every_cause_has_a_sentence_and_a_remedy(cause):
    signs, sentence, remedy = cause
    assert explain(f"ERROR: something\n  {signs[0].upper()}: …") == (sentence, remedy)
    assert sentence.endswith(".")
    assert remedy


# Commands and workers


def test_cancelling_ends_the_command_and_what_it_has_started(tmp_path):
    child = f"import time, pathlib; pathlib.Path({str(tmp_path / 'here')!r}).touch(); time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"

    def stop_once_it_runs():
        if (tmp_path / "here").exists():
            raise Cancelled

    with pytest.raises(Cancelled):
        run([sys.executable, "-c", code], breathe=stop_once_it_runs)
    if shutil.which("pgrep"):
        left = subprocess.run(["pgrep", "-f", str(tmp_path / "here")], capture_output=True, text=True).stdout
        assert not left.strip()


def test_a_python_that_is_not_there_is_told():
    with pytest.raises(DependencyError, match="There is no Python"):
        python_of_worker("/no/such/python")


def test_the_worker_runs_with_the_python_that_the_user_has_named(tmp_path):
    python = python_with(tmp_path, "import sys; print('this is the other one', *sys.argv[2:4])")
    (tmp_path / "job").mkdir()
    worker = start_worker_with(str(python), tmp_path / "job")
    try:
        assert "this is the other one" in worker.wait(20).hint
    finally:
        worker.close()
