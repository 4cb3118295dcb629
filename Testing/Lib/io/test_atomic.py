"""What is there is whole, also after a power cut; a killed writer leaves nothing for ever; colleagues may read it."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from VolumeSegmanticsLib import evaluate, io
from VolumeSegmanticsLib.io import atomic
from VolumeSegmanticsLib.io.atomic import replacing
from VolumeSegmanticsLib.jobs import Job
from VolumeSegmanticsLib.models.file import write_tensors
from VolumeSegmanticsLib.volume import LabelMap, Volume

FILES = ["v.nrrd", "v.nhdr", "v.mha", "v.mhd", "v.nii", "v.nii.gz", "v.tif", "v.mrc", "v.npy", "v.seg.nrrd"]
LARGE = ["v.h5", "v.zarr", "slices"]
on_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other rights, and no SIGKILL")


@pytest.fixture
def dead_process() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def killed_while_writing(path) -> None:
    code = (
        "import os, pathlib, signal, sys\n"
        "from VolumeSegmanticsLib.io.atomic import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as draft:\n"
        "    draft.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, path], check=False)
    assert killed.returncode == -signal.SIGKILL


@on_posix
def test_what_a_killed_writer_left_goes_with_the_next_writing_of_the_same_file(tmp_path):
    for name in ("a.npy", "a.npy", "b.npy"):
        killed_while_writing(tmp_path / name)
    assert len(list(tmp_path.iterdir())) == 2, "the second run removed what the first one had left"
    io.write_volume(tmp_path / "a.npy", Volume.of(np.zeros((2, 3, 4), np.uint8)))
    left = [path.name for path in tmp_path.iterdir() if path.name != "a.npy"]
    assert len(left) == 1
    assert left[0].startswith(".writing-b.npy-")


@on_posix
def test_what_a_killed_writer_left_goes_before_the_disk_is_looked_at(tmp_path):
    killed_while_writing(tmp_path / "a.zarr")
    io.check_output(tmp_path / "a.zarr")
    assert list(tmp_path.iterdir()) == []


def test_drafts_in_use_and_those_of_other_machines_stay(tmp_path, dead_process):
    own = f"{atomic._mark(tmp_path / 'a.npy')}{dead_process}-0123abcd"
    other = tmp_path / own.replace(socket.gethostname(), "elsewhere")
    other.mkdir()
    with replacing(tmp_path / "a.npy") as first:
        first.write_bytes(b"first")
        with replacing(tmp_path / "a.npy") as second:
            second.write_bytes(b"second")
        assert first.read_bytes() == b"first"
    assert (tmp_path / "a.npy").read_bytes() == b"first"
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "a.npy"]


def test_a_folder_that_was_about_to_be_exchanged_comes_back(tmp_path, dead_process):
    draft = tmp_path / f"{atomic._mark(tmp_path / 'a.zarr')}{dead_process}-0123abcd"
    (draft / ".earlier").mkdir(parents=True)
    (draft / ".earlier" / "voxels").write_bytes(b"earlier")
    io.check_writable(tmp_path / "a.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
    assert (tmp_path / "a.zarr" / "voxels").read_bytes() == b"earlier"


@pytest.mark.parametrize("name", ["n" * 251 + ".npy", "ü" * 120 + ".npy"], ids=["long", "wide"])
def test_names_may_be_as_long_as_the_disk_allows(name, tmp_path):
    io.write_volume(tmp_path / name, Volume.of(np.zeros((2, 3, 4), np.uint8)))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@on_posix
@pytest.mark.parametrize("name", [*FILES, *LARGE])
def test_the_disk_has_everything_before_it_is_moved_and_the_move_after(name, tmp_path, some_labels, monkeypatch):
    done, fsync, settle, exchange = [], os.fsync, atomic._settle, atomic._exchange

    def told(what, function):
        return lambda *arguments: (function(*arguments), done.append(what))[0]

    def synced(file):
        done.append(str(Path(f"/proc/self/fd/{file}").readlink()) if sys.platform == "linux" else "")
        fsync(file)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(atomic, "_settle", told("settled", settle))
    monkeypatch.setattr(atomic, "_exchange", told("moved", exchange))
    io.write_labels(tmp_path / name, some_labels)
    before = done[: done.index("settled")]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(before) > len(files)
    if sys.platform == "linux":
        assert {path.name for path in files} <= {entry.rpartition("/")[2] for entry in before}
        assert done[done.index("moved") + 1 :] == [str(tmp_path)]


@on_posix
def test_whatever_is_written_may_be_read_by_colleagues(tmp_path, some_labels):
    before = os.umask(0o022)
    try:
        for name in [*FILES, *LARGE]:
            io.write_labels(tmp_path / "labels" / name, some_labels)
            if ".seg" not in name:
                io.write_volume(tmp_path / "volumes" / name, Volume(some_labels.array, some_labels.grid))
        write_tensors(tmp_path / "models" / "m.safetensors", {"a": torch.zeros(3)}, {})
        labels = LabelMap.of(np.eye(4, dtype=np.uint8)[None])
        evaluate(labels, labels, output=tmp_path / "scores")
        Job.create(tmp_path / "job", task="plan")
    finally:
        os.umask(before)
    rights = {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert {path.name for path, mode in rights.items() if mode != (0o755 if path.is_dir() else 0o644)} == set()
    assert {path.name for path in rights} >= {"evaluation.png", "scores.json", "job.json", "v.zarr", "m.safetensors"}
