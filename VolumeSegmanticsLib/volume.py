"""Grids, volumes and label maps: arrays (Z, Y, X) that know where they lie.

World coordinates are those of ITK and DICOM: LPS (left, posterior, superior), in the unit of the file, which 3D Slicer
reads as millimetres.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .classes import BACKGROUND_NAME, UNLABELLED, LabelClass
from .errors import InputError

__all__ = ["BACKGROUND_NAME", "UNLABELLED", "Grid", "LabelClass", "LabelMap", "Volume", "value_counts"]

UNPAINTED_MEANINGS = ("ignore", "background")

SAME_POINT_VOXELS = 1e-2
"""Two grids are the same where no corner lies further off than this part of a voxel (NIfTI stores float32)."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of an array lie.

    Attributes:
        shape: Voxels along (Z, Y, X).
        spacing: Distance of two neighbours along (Z, Y, X); positive.
        origin: The centre of voxel (0, 0, 0) in the world, (x, y, z) LPS.
        direction: For each of the array axes Z, Y, X the unit vector (x, y, z) LPS in which its index grows.
            Rotated, flipped (left-handed) and sheared grids are all allowed.

    ``==`` is "same geometry": equal shape and every corner within a hundredth of a voxel.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "spacing", tuple(float(s) for s in self.spacing))
        object.__setattr__(self, "origin", tuple(float(o) for o in self.origin))
        object.__setattr__(self, "direction", tuple(tuple(float(v) for v in axis) for axis in self.direction))
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise InputError(f"A volume has three sides of at least one voxel, not {self.shape}.")
        if not (len(self.spacing) == 3 and all(np.isfinite(s) and s > 0 for s in self.spacing)):
            raise InputError(f"The voxel spacing must be positive, not {self.spacing}.", "Correct it in the file.")
        if not (len(self.origin) == 3 and np.isfinite(self.origin).all()):
            raise InputError(f"The origin must be a point (x, y, z), not {self.origin}.", "Correct it in the file.")
        if [len(axis) for axis in self.direction] != [3, 3, 3] or not np.isfinite(self.direction).all():
            raise InputError(f"The directions must be three vectors (x, y, z), not {self.direction}.", "Correct them.")
        if abs(np.linalg.det(np.array(self.direction))) < 1e-6:
            raise InputError(f"The axes of the volume lie in one plane: {self.direction}.", "Correct the directions.")

    @classmethod
    def from_affine(cls, shape: tuple[int, int, int], affine: NDArray[np.float64]) -> Grid:
        """Make the grid whose voxel (z, y, x) lies at ``affine @ (z, y, x, 1)``, LPS."""
        steps = np.asarray(affine, float)[:3, :3].T  # one row an array axis
        spacing = np.linalg.norm(steps, axis=1)
        direction = steps / np.where(spacing == 0, 1, spacing)[:, None]
        return cls(shape, tuple(spacing), tuple(np.asarray(affine, float)[:3, 3]), tuple(map(tuple, direction)))

    @property
    def affine(self) -> NDArray[np.float64]:
        """4×4: array index (z, y, x, 1) to world (x, y, z, 1), LPS."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.array(self.direction).T * np.array(self.spacing)
        matrix[:3, 3] = self.origin
        return matrix

    @property
    def is_plain(self) -> bool:
        """True where nothing says more than the shape: spacing 1, origin 0, axes along the world's."""
        return self == Grid(self.shape)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        return self.shape == other.shape and self.offset_voxels(other) <= SAME_POINT_VOXELS

    __hash__ = None  # type: ignore[assignment]  # equality has a tolerance

    def offset_voxels(self, other: Grid) -> float:
        """Return how far the corners of two grids of one shape lie apart at most, in voxels of this one."""
        corners = np.array([(*c, 1.0) for c in itertools.product(*((-0.5, n - 0.5) for n in self.shape))]).T
        apart = (np.linalg.solve(self.affine, other.affine) @ corners - corners)[:3]
        return float(np.abs(apart).max())

    def part(self, start: Sequence[int], shape: tuple[int, int, int]) -> Grid:
        """Return the grid of a box of voxels, both (Z, Y, X); it may reach beyond this one."""
        affine = self.affine
        affine[:3, 3] += affine[:3, :3] @ start
        return Grid.from_affine(shape, affine)

    def start_of(self, other: Grid) -> tuple[int, int, int] | None:
        """Return the voxel (Z, Y, X) at which another grid begins; None where they differ in more than shape and place.

        The start may lie outside of this grid.
        """
        z, y, x = np.rint(np.linalg.solve(self.affine, other.affine)[:3, 3]).astype(int).tolist()
        return (z, y, x) if self.part((z, y, x), other.shape) == other else None

    def difference(self, other: Grid) -> str:
        """Say in words how another grid differs; empty where it is the same."""
        if self.shape != other.shape:
            return f"shape (Z, Y, X) {self.shape} against {other.shape}"
        if self == other:
            return ""
        rows = (
            ("spacing (Z, Y, X)", self.spacing, other.spacing),
            ("origin", self.origin, other.origin),
            ("direction", self.direction, other.direction),
        )
        small = 1e-5 * min(1.0, *self.spacing)
        unlike = [row for row in rows if not np.allclose(row[1], row[2], rtol=0, atol=small)] or rows
        told = ", ".join(f"{name} {_told(a)} against {_told(b)}" for name, a, b in unlike)
        return f"{told} ({self.offset_voxels(other):.3g} voxels apart)"


def _told(values: Any) -> str:
    six_digits = {"float_kind": "{:.6g}".format}
    return np.array2string(np.array(values), separator=", ", formatter=six_digits).replace("\n", "")  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Volume:
    """Intensities on a grid; never changed in place.

    Attributes:
        array: (Z, Y, X), or (Z, Y, X, C) for a volume of C channels (RGB: 3); any real dtype, possibly memory-mapped.
        grid: Where the voxels lie.
    """

    array: NDArray[Any]
    grid: Grid

    def __post_init__(self) -> None:
        if self.array.ndim not in (3, 4) or self.array.shape[:3] != self.grid.shape:
            raise InputError(f"An array of shape {self.array.shape} does not lie on a grid of shape {self.grid.shape}.")
        if self.channels == 0:
            raise InputError(f"An array of shape {self.array.shape} has no channel.", "Choose another image.")
        if self.array.dtype.kind not in "uifb":
            raise InputError(
                f"Values of type {self.array.dtype} are no intensities.", "Save it as integers or real numbers."
            )

    @classmethod
    def of(cls, array: Any, grid: Grid | None = None) -> Volume:
        """Wrap an array (Z, Y, X) or (Z, Y, X, C); without a grid it lies at the origin with spacing 1."""
        values = np.asanyarray(array)
        if values.ndim not in (3, 4):
            raise InputError(
                f"A volume has the axes (Z, Y, X), not the shape {values.shape}.", "Give a single slice as array[None]."
            )
        return cls(values, grid or Grid(values.shape[:3]))

    @property
    def channels(self) -> int:
        """How many values a voxel holds."""
        return 1 if self.array.ndim == 3 else int(self.array.shape[3])


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Class values on a grid, with the classes they mean.

    Attributes:
        array: uint8 (Z, Y, X); ``UNLABELLED`` (255) where nobody looked, otherwise the value of one of ``classes``.
        grid: Where the voxels lie.
        classes: In ascending order of value; a class may have no voxel.
        unpainted: What the unpainted value 0 was taken for when this was read: ``"ignore"`` or ``"background"``.
    """

    array: NDArray[np.uint8]
    grid: Grid
    classes: tuple[LabelClass, ...]
    unpainted: str = field(default="background")

    def __post_init__(self) -> None:
        if self.array.dtype != np.uint8 or self.array.shape != self.grid.shape:
            raise InputError(
                f"Labels of type {self.array.dtype} and shape {self.array.shape} do not lie on {self.grid.shape}."
            )
        object.__setattr__(self, "classes", tuple(sorted(self.classes, key=lambda c: c.value)))
        if len({c.value for c in self.classes}) < len(self.classes):
            raise InputError(f"Two classes share a value: {[(c.value, c.name) for c in self.classes]}.")
        if self.unpainted not in UNPAINTED_MEANINGS:
            raise InputError(f'The unpainted value cannot mean "{self.unpainted}".', 'Say "ignore" or "background".')

    @classmethod
    def of(
        cls,
        array: Any,
        grid: Grid | None = None,
        classes: tuple[LabelClass, ...] = (),
        *,
        unpainted: str = "background",
    ) -> LabelMap:
        """Wrap an array of class values (Z, Y, X) of any integer or whole-number float type.

        Values without a class in ``classes`` get a plain one ("Class 3"). ``unpainted`` says what 0 means:
        ``"background"`` keeps it as class 0, ``"ignore"`` turns it into ``UNLABELLED``.

        Raises:
            InputError: The array is not (Z, Y, X), or holds a value outside 0 … 255.
        """
        labels = _as_label_values(array)
        present = np.flatnonzero(value_counts(labels))
        if unpainted == "ignore" and 0 in present:
            labels = np.array(labels)
            for plane in labels:
                plane[plane == 0] = UNLABELLED
        known = {c.value: c for c in classes if not (unpainted == "ignore" and c.value == 0)}
        for value in present:
            if value != UNLABELLED and not (unpainted == "ignore" and value == 0):
                known.setdefault(int(value), LabelClass.plain(int(value)))
        return cls(labels, grid or Grid(labels.shape), tuple(known.values()), unpainted)

    def counts(self) -> dict[int, int]:
        """Return how many voxels each class has, also those that have none."""
        voxels = value_counts(self.array)
        return {c.value: int(voxels[c.value]) for c in self.classes}

    def check(self) -> None:
        """Make sure that every value in the array has a class; it takes a look at each voxel.

        Raises:
            InputError: One has none.
        """
        present = np.flatnonzero(value_counts(self.array)[:UNLABELLED]).tolist()
        strays = sorted(set(present) - {c.value for c in self.classes})
        if strays:
            raise InputError(
                f"The labels hold values that are none of their classes: {strays}.", "Give each value a class."
            )

    def with_classes(self, classes: tuple[LabelClass, ...]) -> LabelMap:
        """Return the same voxels under other names and colours."""
        return replace(self, classes=classes)


def value_counts(labels: Iterable[NDArray[np.uint8]]) -> NDArray[np.int64]:
    """Return how many voxels have each of the 256 values; plane by plane, as bincount alone takes 8 bytes a voxel."""
    counts = np.zeros(256, np.int64)
    for plane in labels:
        counts += np.bincount(plane.ravel(), minlength=256)
    return counts


def _as_label_values(array: Any) -> NDArray[np.uint8]:
    values: NDArray[Any] = np.asanyarray(array)
    if values.ndim != 3:
        raise InputError(
            f"Labels have the axes (Z, Y, X), not the shape {values.shape}.", "Give a single slice as array[None]."
        )
    if values.size == 0:
        raise InputError(f"Labels of the shape {values.shape} hold no voxel.", "Choose another file.")
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind not in "uif":
        raise InputError(f"Values of type {values.dtype} are no labels.", "Save the labels as integers.")
    if values.dtype.kind == "f" and not all(np.array_equal(plane, np.rint(plane)) for plane in values):
        raise InputError("The labels hold fractions or NaN.", "Labels are whole numbers: is this the image?")
    low, high = values.min(), values.max()
    if low < 0 or high > UNLABELLED:
        raise InputError(
            f"The labels go from {low:g} to {high:g}.",
            f"Class values go from 0 to {UNLABELLED - 1}, and {UNLABELLED} means unlabelled: renumber them.",
        )
    return values.astype(np.uint8)
