"""The entry for Slicer's Extensions Index agrees with the index's rules and with the CMake file that it stands for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "Resources" / "ExtensionsIndex" / "VolumeSegmantics.json"
CMAKE = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")

# The index's schema, version 1.0.2: no other fields, and these must be there.
FIELDS = {
    "$schema": str,
    "category": str,
    "scm_url": str,
    "scm_revision": str,
    "scm_type": str,
    "build_dependencies": list,
    "dicom_support_rule": str,
    "build_subdirectory": str,
    "enabled": bool,
    "tier": int,
}
REQUIRED = {"$schema", "category", "scm_url"}


@pytest.fixture(scope="module")
def entry():
    return json.loads(FILE.read_text(encoding="utf-8"))


def cmake_value(name: str) -> str:
    return re.search(rf'set\({name} "([^"]*)"\)', CMAKE)[1]


def test_it_has_the_fields_of_the_schema_and_no_others(entry):
    assert set(FIELDS) >= set(entry) >= REQUIRED
    assert {name: type(value) for name, value in entry.items()} == {name: FIELDS[name] for name in entry}
    assert entry["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.2.json#")
    assert 1 <= entry["tier"] <= 5


def test_it_is_called_as_the_project(entry):
    assert re.search(r"project\((\w+)\)", CMAKE)[1] == FILE.stem
    assert not FILE.stem.lower().startswith("slicer"), "the index wants that of the repository only"
    repository = entry["scm_url"].rsplit("/", 1)[1]
    assert repository.startswith("Slicer")
    assert cmake_value("EXTENSION_HOMEPAGE") == entry["scm_url"].removesuffix(".git")


def test_it_depends_on_the_same_extensions(entry):
    assert entry["build_dependencies"] == cmake_value("EXTENSION_DEPENDS").split()


@pytest.mark.parametrize("name", ["EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS"])
def test_pictures_that_the_index_fetches_are_in_the_repository(name, entry):
    for url in cmake_value(name).split():
        place, _, path = url.partition(f"/{entry['scm_revision']}/")
        assert place.startswith("https://raw.githubusercontent.com/")
        assert (ROOT / path).is_file(), f"{path} is not there"


def test_its_lines_end_as_the_index_wants_them():
    assert b"\r" not in FILE.read_bytes()


def test_the_licence_is_where_the_index_looks_for_it():
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
