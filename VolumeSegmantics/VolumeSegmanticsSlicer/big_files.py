"""Files that are too big to load: what they hold, and a part of them as a volume node at its true place.

What is painted on a box or an overview lies right on the whole file, as all of them share one world.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.box import Box
from VolumeSegmanticsLib.overview import overview
from VolumeSegmanticsLib.volume import Grid

from .nodes import Node, fill_volume
from .results import PREFIX
from .scenes import stem

FILE, BOX, STEP = (PREFIX + name for name in ("File", "Box", "Step"))
"""The attributes by which a node remembers which part of which file it holds."""

AnyPath = str | PathLike[str]


@dataclass(frozen=True)
class Big:
    """What a file holds.

    Attributes:
        path: The file, or the folder of slices.
        grid: Where its voxels lie.
        dtype: Type of one value.
        channels: Values a voxel.
    """

    path: Path
    grid: Grid
    dtype: np.dtype[Any]
    channels: int = 1

    @property
    def bytes(self) -> int:
        """What all voxels would take in memory."""
        return int(np.prod(self.grid.shape, dtype=object)) * self.channels * self.dtype.itemsize


def look(path: AnyPath) -> Big:
    """Tell what a file holds, without its voxels where the format permits; errors are those of ``io.describe``."""
    told = io.describe(path)
    grid = Grid(*(tuple(told[name]) for name in ("shape", "spacing", "origin")), tuple(map(tuple, told["direction"])))
    return Big(Path(path).absolute(), grid, np.dtype(told["dtype"]), told["channels"])


def open_big(
    scene: Node,
    path: AnyPath,
    *,
    box: Sequence[Sequence[int]] | None = None,
    step: int = 1,
    breathe: Callable[[float], object] = lambda part: None,
) -> Node:
    """Load a part of a file as a volume node, slab by slab.

    Args:
        scene: The MRML scene.
        path: A file of any format that the library reads.
        box: Start and stop of Z, Y and X in voxels; None for all.
        step: Each voxel of the node is the mean of ``step`` × ``step`` × ``step`` of the file's.
        breathe: Called between slabs with the part (0 … 1) that is read; what it raises, such as ``Cancelled``, ends
            it, and the scene is as before.

    Returns:
        The volume node, which remembers the file, the box and the step as attributes.

    Raises:
        InputError: The file cannot be read, or the box does not lie in it.
    """
    volume = io.open_volume(path)
    wanted = Box.of(box or [(0, n) for n in volume.grid.shape], volume.grid.shape)
    part = overview(volume, wanted, step, breathe=breathe)
    class_name = "vtkMRMLScalarVolumeNode" if part.channels == 1 else "vtkMRMLVectorVolumeNode"
    node = scene.AddNewNodeByClass(class_name, scene.GenerateUniqueName(_name(Path(path), wanted, step, volume.grid)))
    fill_volume(node, part)
    node.CreateDefaultDisplayNodes()
    for name, value in ((FILE, str(Path(path).absolute())), (BOX, json.dumps(wanted.spans)), (STEP, str(step))):
        node.SetAttribute(name, value)
    return node


def _name(path: Path, box: Box, step: int, grid: Grid) -> str:
    is_part = box.shape != grid.shape
    return stem(path) + (" part" if is_part else "") + (f" 1:{step}" if step > 1 else "")
