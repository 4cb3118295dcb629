"""Features of a volume that are computed where they are needed, once, and then kept: in memory, or else on the disk.

They are kept in blocks, and known by cells: the smallest boxes that can be computed apart, as the octaves see them.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .box import Box, Voxel
from .features import local_variance
from .intensity import Intensity
from .neighbourhoods import aligned, cut, features_on, work
from .room import Room
from .volume import Volume

BLOCK_SIDE = 64
"""Voxels; about as many as a core computes in a twentieth of a second, with the least margin for that."""

_PIECE = 64**3  # voxels that are computed together at most
_DTYPE = np.dtype(np.float16)  # half the memory; the labels that follow are the same but for some in ten thousand

_OTHERS = ((1, 2), (0, 2), (0, 1))  # the axes across which a box is looked at along each axis

Cells = tuple[NDArray[np.intp], NDArray[np.intp]]
"""The first cells of a box along (Z, Y, X), and those beyond the last."""


class KeptFeatures:
    """The features of one image; several threads may ask at once.

    Args:
        image: The image.
        octaves: Of the features.
        intensity: Grey-value statistics that are applied.
        device: Where they are computed; they are kept beside the processor.
        memory: Bytes that may be used to keep them; what goes beyond lies in the folder.
        folder: Takes a file without a name, which is gone as soon as nobody uses it, whatever happens.
    """

    def __init__(
        self, image: Volume, octaves: int, intensity: Intensity, device: torch.device, *, memory: int, folder: Path
    ) -> None:
        self.image, self.intensity, self.device = image, intensity, device
        self.features = features_on(image.grid, octaves)
        self.count = self.features.count(image.channels)
        self.shape = image.grid.shape
        multiple = self.features.multiple
        self._side: Voxel = tuple(-(-BLOCK_SIDE // m) * m for m in multiple)  # type: ignore[assignment]
        self._known = np.zeros([-(-n // m) for n, m in zip(self.shape, multiple, strict=True)], bool)
        self._blocks: dict[Voxel, NDArray[np.float16] | None] = {}
        block = math.prod(self._side) * self.count * _DTYPE.itemsize
        self._room = Room(memory, self.nbytes, block, folder)
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """What all of them take."""
        return math.prod(self.shape) * self.count * _DTYPE.itemsize

    @property
    def is_enough_room(self) -> bool:
        """Whether all of them can be kept; otherwise some are computed again whenever they are needed."""
        return self._room.is_enough

    def blocks(self, box: Box) -> list[Box]:
        """Return those of the boxes that the image is made of that hold something of a box."""
        inside = _common(box, Box((0, 0, 0), self.shape))
        return [self._block_box(start) for start, _ in self._parts(inside)]

    def missing(self, box: Box) -> list[Box]:
        """Return boxes, fit to be computed one by one, that hold what is not known yet of a box in the volume.

        They also hold some of what is known where that is less work than going around it.
        """
        multiple = np.array(self.features.multiple)
        first, last = np.array(box.start) // multiple, -(-np.array(box.stop) // multiple)
        unknown = ~self._known[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
        most = max(1, _PIECE // int(multiple.prod()))
        whole = _shrunk(unknown, (first * 0, last - first))
        waiting, found = [whole] if whole else [], []
        while waiting:
            part = waiting.pop()
            halves = [half for each in _cut(unknown, part) if (half := _shrunk(unknown, each))]
            if _size(part) == 1 or (_size(part) <= most and self._work(part) <= sum(map(self._work, halves))):
                found.append(self._box_of((first + part[0], first + part[1])))
            else:
                waiting += halves
        return found

    def _box_of(self, cells: Cells) -> Box:
        multiple = np.array(self.features.multiple)
        return aligned(cells[0] * multiple, cells[1] * multiple, self.features.multiple)

    def _work(self, cells: Cells) -> float:
        return work(self._box_of(cells), self.features)

    def compute(self, box: Box) -> Tensor:
        """Compute and keep the features of a box on multiples of what the octaves halve, float32 (features, Z, Y, X).

        They are kept as far as the volume reaches.
        """
        measured = self.measured(box)
        inside = _common(box, Box((0, 0, 0), self.shape))
        z, y, x = inside.shape
        if self._write(inside, measured[:, :z, :y, :x].to("cpu", torch.float16).numpy()):
            cells = zip(inside.start, inside.stop, self.features.multiple, strict=True)
            self._known[tuple(slice(a // m, -(-b // m)) for a, b, m in cells)] = True
        return measured

    def measured(self, box: Box) -> Tensor:
        """Compute the features of such a box, and do not keep them."""
        with torch.inference_mode():
            measured = self.features.of(cut(self.image, box, self.features.margin, self.intensity).to(self.device))
        return measured.clone()  # no tensor of the inference mode reaches a training

    def of(self, box: Box) -> Tensor:
        """Return the features of a box in the volume, float32 (features, Z, Y, X)."""
        found = np.empty((self.count, *box.shape), _DTYPE)
        missing = self.missing(box)  # first: what another thread computes meanwhile counts as missing
        for start, part in self._parts(box):
            block = self._blocks.get(start)
            if block is not None:
                found[_all(part.seen_from(box.start))] = block[_all(part.seen_from(start))]
        for piece in missing:
            part, measured = _common(piece, box), self.compute(piece)
            own = measured[_all(part.seen_from(piece.start))]
            found[_all(part.seen_from(box.start))] = own.to("cpu", torch.float16).numpy()
        return torch.from_numpy(found).to(self.device).float()

    def are_known(self, voxels: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Tell for voxels (N, 3) whether their features are kept."""
        z, y, x = (voxels // np.array(self.features.multiple)).T
        known: NDArray[np.bool_] = self._known[z, y, x]
        return known

    def at(self, voxels: NDArray[np.intp]) -> Tensor:
        """Return the features (features, N) of voxels (N, 3) that are kept."""
        found = np.empty((self.count, len(voxels)), np.float32)
        for start in np.unique(voxels // self._side, axis=0) * self._side if len(voxels) else ():
            rows = np.flatnonzero((voxels // self._side * self._side == start).all(axis=1))
            z, y, x = (voxels[rows] - start).T
            found[:, rows] = self._block(tuple(start.tolist()))[:, z, y, x]  # type: ignore[index]
        return torch.from_numpy(found).to(self.device)

    def variances(self, voxels: NDArray[np.intp], box: Box) -> Tensor:
        """Return how much grey values vary around voxels (N, 3) of a box, float32 (N,)."""
        fine = self.features.fine
        block = cut(self.image, box, [2 * f for f in fine], self.intensity).to(self.device)
        z, y, x = torch.from_numpy(voxels - np.array(box.start)).to(self.device).T
        return local_variance(block.mean(dim=0, keepdim=True), fine)[1][0][z, y, x]

    def close(self) -> None:
        """Forget all of them, and give the room back."""
        self._blocks.clear()
        self._known[:] = False
        self._room.close()

    def _write(self, box: Box, values: NDArray[np.float16]) -> bool:
        """Keep the features of a box; return whether there was room for all of them."""
        parts = [(self._block(start), start, part) for start, part in self._parts(box)]
        if any(block is None for block, *_ in parts):
            return False
        for block, start, part in parts:
            assert block is not None, "that was looked at"
            block[_all(part.seen_from(start))] = values[_all(part.seen_from(box.start))]
        return True

    def _parts(self, box: Box) -> Iterator[tuple[Voxel, Box]]:
        """Yield the starts of the blocks that a box touches, and what it has of each."""
        spans = [range(a // n * n, b, n) for a, b, n in zip(box.start, box.stop, self._side, strict=True)]
        for z, y, x in itertools.product(*spans):
            yield (z, y, x), _common(self._block_box((z, y, x)), box)

    def _block(self, start: Voxel) -> NDArray[np.float16] | None:
        with self._lock:
            if start not in self._blocks:
                self._blocks[start] = self._room.take((self.count, *self._block_box(start).shape), _DTYPE)
            return self._blocks[start]

    def _block_box(self, start: Sequence[int]) -> Box:
        z, y, x = start
        stop = tuple(min(a + side, n) for a, side, n in zip(start, self._side, self.shape, strict=True))
        return Box((z, y, x), stop)  # type: ignore[arg-type]


def _all(box: Box) -> tuple[slice, ...]:
    """Return what cuts a box out of all features."""
    return slice(None), *box.window


def _common(one: Box, other: Box) -> Box:
    """Return the voxels that two boxes share; there are some."""
    shared = one.common(other)
    assert shared is not None, (one, other)
    return shared


def _shrunk(wanted: NDArray[np.bool_], cells: Cells) -> Cells | None:
    """Return the smallest box that holds the wanted cells of a box; None where there are none."""
    used = [np.flatnonzero(_window(wanted, cells).any(axis=others)) for others in _OTHERS]
    if not used[0].size:
        return None
    return cells[0] + [u[0] for u in used], cells[0] + [u[-1] + 1 for u in used]


def _cut(wanted: NDArray[np.bool_], cells: Cells) -> list[Cells]:
    """Return a box in two parts, cut across the axis, and at the place, where most changes; else in the middle."""
    part = _window(wanted, cells)
    jumps = [np.abs(np.diff(part.mean(axis=others))) for others in _OTHERS]
    sizes = [float(jump.max()) if jump.size else 0.0 for jump in jumps]
    axis = int(np.argmax(sizes)) if max(sizes) > 0 else int(np.argmax(part.shape))
    at = int(jumps[axis].argmax()) + 1 if max(sizes) > 0 else part.shape[axis] // 2
    (start, stop), low, high = cells, cells[0].copy(), cells[1].copy()
    low[axis] = high[axis] = start[axis] + at
    return [(low, stop), (start, high)]


def _window(wanted: NDArray[np.bool_], cells: Cells) -> NDArray[np.bool_]:
    return wanted[tuple(slice(a, b) for a, b in zip(*cells, strict=True))]


def _size(cells: Cells) -> int:
    return int((cells[1] - cells[0]).prod())
