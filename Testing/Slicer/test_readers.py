"""Which packages a file needs in Slicer's own Python, and that they come when it is opened."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from VolumeSegmanticsSlicer.install import install_readers
from VolumeSegmanticsSlicer.readers import FOR_BIG_FILES, lacking_for

from VolumeSegmanticsLib.errors import Cancelled

ROOT = Path(__file__).parents[2]
NEEDS = {
    "scan.nrrd": set(),
    "scan.MRC": {"mrcfile"},
    "scan.tif": {"tifffile", "imagecodecs"},
    "scan.nxs": {"h5py"},
    "scan.nxs:/entry/data/data": {"h5py"},
    "folder/scan.zarr": {"zarr"},
    "folder/scan.zarr/1": {"zarr"},
    "scan.mha": set(),
}


@pytest.fixture
def a_bare_python(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


@pytest.mark.parametrize("name", NEEDS)
def test_a_name_tells_what_is_needed_to_read_it(a_bare_python, name):
    assert {one.name for one in lacking_for(Path(name))} == NEEDS[name]


def test_the_first_slice_tells_what_a_folder_needs(a_bare_python, tmp_path):
    (tmp_path / "slice 1.tif").write_bytes(b"")
    assert {one.name for one in lacking_for(tmp_path)} == {"tifffile", "imagecodecs"}


def test_what_is_there_is_not_asked_for():
    assert [lacking_for(Path(name)) for name in NEEDS] == [()] * len(NEEDS)


def test_an_old_reader_is_asked_for(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.10")
    assert [one.problem for one in lacking_for(Path("scan.h5"))] == ["not >=3.8: 2.10"]


def test_the_table_agrees_with_the_extra_of_the_package():
    tomllib = pytest.importorskip("tomllib")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(extras["big"]) == {one.wanted for one in FOR_BIG_FILES}


def test_readers_come_through_slicer_once_the_user_agrees():
    asked, installed = [], []
    packaging = SimpleNamespace(pip_ensure=lambda wanted, **options: installed.extend(wanted))
    install_readers(
        FOR_BIG_FILES, confirm=lambda text: not asked.append(text), slicer=SimpleNamespace(packaging=packaging)
    )
    assert "h5py, for HDF5 and NeXus files" in asked[0]
    assert installed == ["h5py>=3.8", "zarr>=2.18"]


def test_no_reader_comes_when_the_answer_is_no():
    with pytest.raises(Cancelled):
        install_readers(FOR_BIG_FILES, confirm=lambda text: False, slicer=None)
