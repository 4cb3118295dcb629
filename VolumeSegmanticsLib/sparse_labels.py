"""Labels of few voxels of a volume, as places and values: a file of them is written and read in a moment."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .box import Box, Voxel
from .classes import LabelClass
from .errors import InputError
from .jobs import write_atomically
from .slicing import LabelledVoxels
from .volume import LabelMap

SUFFIX = ".npz"


@dataclass(frozen=True, eq=False)
class SparseLabels:
    """The labelled voxels of a volume.

    Attributes:
        shape: Of the volume.
        places: int64 (N,), ascending: indices of voxels in the flattened volume.
        values: uint8 (N,), their class values.
        classes: What the values mean; some may have no voxel.
        unpainted: What the unpainted value 0 was taken for: ``"ignore"`` or ``"background"``.
    """

    shape: Voxel
    places: NDArray[np.int64]
    values: NDArray[np.uint8]
    classes: tuple[LabelClass, ...]
    unpainted: str = "ignore"

    @classmethod
    def of(cls, labels: LabelMap, *, start: Voxel = (0, 0, 0), shape: Voxel | None = None) -> SparseLabels:
        """Take the labelled voxels of a label map; of a class with very many a random choice, always the same.

        Args:
            labels: Of a volume, or of a box of it.
            start: The voxel of the volume at which they begin.
            shape: Of the volume; the default is theirs.
        """
        shape = shape or labels.grid.shape
        by_class = LabelledVoxels.of(labels.array, np.random.default_rng(0)).by_class
        found = [(value, voxels.astype(np.int64) + start) for value, voxels in by_class.items()]
        places = np.concatenate([np.empty(0, np.int64), *(np.ravel_multi_index(tuple(v.T), shape) for _, v in found)])
        values = np.repeat(np.array([value for value, _ in found], np.uint8), [len(voxels) for _, voxels in found])
        order = np.argsort(places)
        return cls(shape, places[order], values[order], labels.classes, labels.unpainted)

    @property
    def voxels(self) -> NDArray[np.int64]:
        """Indices (N, 3) along Z, Y, X."""
        return np.stack(np.unravel_index(self.places, self.shape), axis=1)

    @property
    def painted(self) -> tuple[LabelClass, ...]:
        """The classes that have voxels."""
        counts = np.bincount(self.values, minlength=256)
        return tuple(c for c in self.classes if counts[c.value])

    def at(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> SparseLabels:
        """Return some of the voxels, in their order."""
        return SparseLabels(self.shape, self.places[chosen], self.values[chosen], self.classes, self.unpainted)

    def inside(self, box: Box) -> SparseLabels:
        """Return the voxels that lie in a box."""
        is_inside = ((self.voxels >= box.start) & (self.voxels < box.stop)).all(axis=1)
        return self.at(np.flatnonzero(is_inside))

    def seen_from(self, box: Box) -> SparseLabels:
        """Return the labels of a box as those of a volume of its own."""
        inside = self.inside(box)
        places = np.ravel_multi_index(tuple((inside.voxels - box.start).T), box.shape)
        return SparseLabels(box.shape, places, inside.values, self.classes, self.unpainted)

    def write(self, path: Path) -> Path:
        """Write a file, atomically.

        Raises:
            ResourceError: It cannot be written.
        """
        facts = {"shape": self.shape, "classes": [c.to_dict() for c in self.classes], "unpainted": self.unpainted}
        content = io.BytesIO()
        np.savez(content, places=self.places, values=self.values, facts=np.array(json.dumps(facts)))
        write_atomically(path, content.getvalue())
        return path

    @classmethod
    def read(cls, path: Path) -> SparseLabels:
        """Read a file.

        Raises:
            InputError: It is not there, or damaged.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                facts = json.loads(str(found["facts"]))
                places, values = found["places"].astype(np.int64), found["values"].astype(np.uint8)
            z, y, x = facts["shape"]
            classes = tuple(LabelClass.from_dict(each) for each in facts["classes"])
            np.unravel_index(places, (z, y, x))
            return cls((z, y, x), places, values, classes, str(facts["unpainted"]))
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            EOFError,
            InputError,
            zipfile.BadZipFile,
        ) as error:
            raise InputError(f'The strokes in "{path.name}" cannot be read ({error}).', "Paint again.") from error
