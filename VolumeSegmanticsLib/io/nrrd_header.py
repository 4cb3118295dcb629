"""The header of a NRRD file: lines ``field: value``, and keys of the writer's own as ``key:=value``.

Of the fields only those that say where the voxels are, and where they lie, become more than text.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import InputError

Fields = dict[str, Any]
"""Field or key to value."""

_MAGIC = re.compile(r"NRRD000[1-5]")
_VECTOR = re.compile(r"none|\([^()]*\)")


def read_fields(path: Path) -> tuple[Fields, int]:
    """Return the header, and where in the file the voxels begin.

    Raises:
        InputError: This is no NRRD file.
        ValueError: A line of it cannot be read.
    """
    with path.open("rb") as stream:
        fields = parsed(_lines(path, stream))
        return fields, stream.tell()


def parsed(lines: Iterable[str]) -> Fields:
    """Return what the lines of a header say.

    Raises:
        ValueError: A line cannot be read, or a field comes twice.
    """
    fields: Fields = {}
    for line in lines:
        name, colon, text = line.partition(":")
        name, text = name.strip(), text.removeprefix("=").strip()
        if not colon or name in fields:
            raise ValueError(f"a field comes twice, or is none: {line.strip()!r}")
        fields[name] = _PARSERS.get(name, str)(text)
    return fields


def _lines(path: Path, stream: IO[bytes]) -> Iterator[str]:
    """Yield the lines after the first that are no comments, up to the empty line before the voxels."""
    if not _MAGIC.fullmatch(stream.readline(64).decode("ascii", "replace").strip()):
        raise InputError(f'"{path}" is no NRRD file.', "Give it the suffix of the format that it has.")
    for line in stream:
        if not line.strip():
            return
        if not line.startswith(b"#"):
            yield line.decode("utf-8", errors="replace")


def _vectors(text: str) -> list[np.ndarray[Any, Any] | None]:
    """Return the steps of axes; None for an axis without one."""
    return [None if found == "none" else _vector(found) for found in _VECTOR.findall(text)]


def _vector(text: str) -> np.ndarray[Any, Any]:
    return np.array([float(part) for part in text.strip("()").split(",")])


def _numbers(text: str) -> np.ndarray[Any, Any]:
    return np.array([float(part) for part in text.split()])


_PARSERS: dict[str, Callable[[str], Any]] = {
    "dimension": int,
    "line skip": int,
    "lineskip": int,
    "byte skip": int,
    "byteskip": int,
    "sizes": lambda text: [int(part) for part in text.split()],
    "spacings": _numbers,
    "axis mins": _numbers,
    "axismins": _numbers,
    "kinds": str.split,
    "centerings": str.split,
    "labels": shlex.split,
    "space directions": _vectors,
    "space origin": _vector,
}
