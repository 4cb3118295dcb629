"""What the Slicer package holds: the lists in the CMake files, the files on disk and the installed tree are the same.

``Testing/packaging`` is a stand-in for 3D Slicer's CMake macros, so the real CMake files run here without a Slicer.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = ROOT / "Testing" / "packaging"
FOLDERS = [name for name in ("VolumeSegmanticsLib", "VolumeSegmantics") if (ROOT / name).is_dir()]
CMAKE = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))

needs_cmake = pytest.mark.skipif(CMAKE is None, reason="cmake is not installed")


def files_to_ship(folder: Path) -> set[str]:
    """Everything in a packaged folder but its notes for developers and what Python and CMake leave there."""
    return {
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file()
        and file.name != "CMakeLists.txt"
        and file.suffix not in (".md", ".pyc")
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    }


def listed_files(cmake_text: str) -> list[str]:
    """The names in MODULE_PYTHON_SCRIPTS and MODULE_PYTHON_RESOURCES, in their order."""
    variables: dict[str, str] = {}
    for name, value in re.findall(r"set\((\w+)\s+([^)]*)\)", re.sub(r"#.*", "", cmake_text)):
        variables[name] = re.sub(r"\$\{(\w+)\}", lambda used: variables[used[1]], value)
    return [file for kind in ("SCRIPTS", "RESOURCES") for file in variables.get(f"MODULE_PYTHON_{kind}", "").split()]


def corrections(listed: list[str], on_disk: set[str]) -> list[str]:
    """What to change in a list, line by line; nothing where it is right."""
    return [
        *(f"add     {name}" for name in sorted(on_disk - set(listed))),
        *(f"remove  {name}  (no such file)" for name in sorted(set(listed) - on_disk)),
        *(f"remove  {name}  (listed twice)" for name in sorted({name for name in listed if listed.count(name) > 1})),
    ]


def run_cmake(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CMAKE, *map(str, arguments)], capture_output=True, text=True)


def configure(source: Path, build: Path) -> subprocess.CompletedProcess[str]:
    toolchain = STAND_IN / "NoCompiler.cmake"
    return run_cmake("-S", source, "-B", build, f"-DSlicer_DIR={STAND_IN}", f"-DCMAKE_TOOLCHAIN_FILE={toolchain}")


@pytest.fixture(scope="module")
def the_installed_folder(tmp_path_factory) -> Path:
    """Where Slicer finds an installed extension's modules."""
    build, prefix = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("installed")
    for step in (
        configure(ROOT, build),
        run_cmake("--build", build),
        run_cmake("--install", build, "--prefix", prefix),
    ):
        assert step.returncode == 0, step.stdout + step.stderr
    return prefix / "lib" / "Slicer-5.12" / "qt-scripted-modules"


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_cmake_list_names_every_file_on_disk_and_no_other(folder):
    wrong = corrections(listed_files((ROOT / folder / "CMakeLists.txt").read_text()), files_to_ship(ROOT / folder))
    assert not wrong, f"in {folder}/CMakeLists.txt:\n  " + "\n  ".join(wrong)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_packaged_folder_is_added_by_the_top_cmake_file(folder):
    assert f"add_subdirectory({folder})" in (ROOT / "CMakeLists.txt").read_text()


def test_the_library_is_listed_in_alphabetical_order():
    listed = listed_files((ROOT / "VolumeSegmanticsLib" / "CMakeLists.txt").read_text())
    scripts = [name for name in listed if name.endswith(".py")]
    assert scripts == sorted(scripts)


def test_a_wrong_list_is_told_line_by_line():
    text = "set(MODULE_NAME Here)\nset(MODULE_PYTHON_SCRIPTS\n  ${MODULE_NAME}.py # shell\n  gone.py\n  gone.py\n)"
    assert listed_files(text) == ["Here.py", "gone.py", "gone.py"]
    assert corrections(listed_files(text), {"Here.py", "io/new.py"}) == [
        "add     io/new.py",
        "remove  gone.py  (no such file)",
        "remove  gone.py  (listed twice)",
    ]


@needs_cmake
def test_the_installed_tree_holds_exactly_the_files_of_the_source(the_installed_folder):
    expected = {f"VolumeSegmanticsLib/{name}" for name in files_to_ship(ROOT / "VolumeSegmanticsLib")}
    if "VolumeSegmantics" in FOLDERS:  # its folder is not kept: the module file lies beside the library
        expected |= files_to_ship(ROOT / "VolumeSegmantics")
    assert files_to_ship(the_installed_folder) == expected


@needs_cmake
def test_the_installed_library_can_be_imported(the_installed_folder, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(the_installed_folder), "PYTHONDONTWRITEBYTECODE": "1"}
    imported = subprocess.run(
        [sys.executable, "-c", "import VolumeSegmanticsLib; print(VolumeSegmanticsLib.__file__)"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert imported.returncode == 0, imported.stderr
    assert Path(imported.stdout.strip()) == the_installed_folder / "VolumeSegmanticsLib" / "__init__.py"


@needs_cmake
def test_a_listed_file_that_is_missing_stops_the_build(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "VolumeSegmanticsLib", source / "VolumeSegmanticsLib")
    (source / "VolumeSegmanticsLib" / "errors.py").unlink()
    (source / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16.3...3.28.0)\nproject(Incomplete)\nfind_package(Slicer REQUIRED)\n"
        "include(${Slicer_USE_FILE})\nadd_subdirectory(VolumeSegmanticsLib)\n"
    )
    configured = configure(source, tmp_path / "build")
    assert configured.returncode != 0
    assert "errors.py" in configured.stderr


def test_the_icon_is_a_square_of_128_pixels_where_its_address_says():
    address = re.search(r'EXTENSION_ICONURL ".*/main/(.*)"', (ROOT / "CMakeLists.txt").read_text())
    header = (ROOT / address[1]).read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", header[16:24]) == (128, 128)


def test_the_metadata_names_the_project_as_the_extensions_index_does():
    text = (ROOT / "CMakeLists.txt").read_text()
    assert re.search(r"^project\(VolumeSegmantics\)$", text, re.MULTILINE)
    for field in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"):
        assert re.search(rf'^set\(EXTENSION_{field} "[^"]+"\)$', text, re.MULTILINE), f"EXTENSION_{field}"
