"""Labels of a volume from features that are kept, block by block, while the model changes again and again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .box import Box, Voxel
from .kept_features import KeptFeatures
from .local_prediction import LocalPredictor
from .models import Model
from .neighbourhoods import cut, mirrored


class LivePredictor(LocalPredictor):
    """A local model that looks at features that are kept.

    Args:
        model: As trained; not changed.
        kept: The features of the image, with as many octaves as the model's.
    """

    def __init__(self, model: Model, kept: KeptFeatures) -> None:
        super().__init__(model, kept.image, kept.device)
        self._kept = kept

    def probabilities(self, box: Box) -> Tensor:
        """Return the probability of every class, float32 (classes, Z, Y, X), in any box of the volume."""
        wide = box.grown(self.reach)
        guide = cut(self.image, wide, (0, 0, 0), self.intensity).to(self.device).mean(dim=0, keepdim=True)
        inside = wide.common(Box((0, 0, 0), self.image.grid.shape))
        assert inside is not None, "the box lies in the volume"
        return self.along_edges(_spread(self.told(self._kept.of(inside)), inside, wide, self.image.grid.shape), guide)


def _spread(told: Tensor, inside: Box, wide: Box, shape: Voxel) -> Tensor:
    """Return what is told about a box in the volume for a wider one, which beyond the volume goes on mirrored."""
    for axis, side in enumerate(shape):
        if (inside.start[axis], inside.stop[axis]) != (wide.start[axis], wide.stop[axis]):
            places = mirrored(np.arange(wide.start[axis], wide.stop[axis]), side) - inside.start[axis]
            told = told.index_select(
                axis + 1, torch.from_numpy(places.clip(0, told.shape[axis + 1] - 1)).to(told.device)
            )
    return told


class LiveLabels:
    """The labels of a box of the volume, and which of its blocks come from the present model.

    Args:
        kept: The features of the image.
        box: What is labelled.

    Attributes:
        array: uint8, of the box.
        total: How many blocks there are.
    """

    def __init__(self, kept: KeptFeatures, box: Box) -> None:
        self.box, self._kept = box, kept
        self.array: NDArray[np.uint8] = np.zeros(box.shape, np.uint8)
        self._blocks = [whole.start for whole in kept.blocks(box)]
        self._spans = np.array([[whole.start, whole.stop] for whole in kept.blocks(box)])  # (blocks, 2, 3)
        self._done: set[Voxel] = set()
        self.total = len(self._blocks)

    @property
    def done(self) -> int:
        """How many blocks the present model has labelled."""
        return len(self._done)

    def forget(self) -> None:
        """Take note that the model is another now."""
        self._done.clear()

    def keep(self, block: Box, labels: NDArray[np.uint8]) -> None:
        """Take the labels of what the box has of a block."""
        self.array[self.own(block).seen_from(self.box.start).window] = labels
        self._done.add(block.start)

    def own(self, block: Box) -> Box:
        """Return what the box has of a block."""
        shared = block.common(self.box)
        assert shared is not None, "only such blocks are labelled"
        return shared

    def of(self, part: Box) -> NDArray[np.uint8] | None:
        """Return the labels of a part; None where the present model has not labelled all of it."""
        if any(block.start not in self._done for block in self._kept.blocks(part)):
            return None
        return self.array[part.seen_from(self.box.start).window]

    def waiting(self, axis: int, index: int) -> Iterator[Box]:
        """Yield the blocks that are to be labelled, those that lie closest to a slice first."""
        starts, stops = self._spans[:, 0, axis], self._spans[:, 1, axis]
        distance = np.maximum(0, np.maximum(starts - index, index + 1 - stops))
        for n in np.argsort(distance, kind="stable"):
            if self._blocks[n] not in self._done:
                z, y, x = self._spans[n, 1].tolist()
                yield Box(self._blocks[n], (z, y, x))

    def missing(self, block: Box, reach: Sequence[int]) -> list[Box]:
        """Return what has to be computed before a block can be labelled: all that lacks of the blocks around it."""
        if not self._kept.is_enough_room:
            return []
        return [piece for whole in self._kept.blocks(block.grown(reach)) for piece in self._kept.missing(whole)]
