"""Previews: what the present model makes of the slice that somebody watches, while it learns."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from . import devices, io
from .box import Box, Voxel
from .dataset import plane_scale
from .events import Log, Preview, Report
from .intensity import Intensity
from .models import Model, neighbours
from .prediction import Predictor
from .settings import AXIS_LETTERS
from .views import View
from .volume import LabelMap, Volume
from .watch import Watched, watched_in

SHARE = 0.05
"""Of the time: previews take no more of it."""

SHORTEST_SECONDS = 2.0
"""From one preview to the next; more of them nobody could look at."""

LONGEST_SIDE = 1024
"""Pixels: of larger slices the middle is shown, so that neither time nor memory grow with the image."""

KEPT = 2
"""The latest, and the one that may be read right now."""


class Previews:
    """Writes previews into a job's folder: call it after every epoch.

    Args:
        folder: Holds the file that says which slice is watched, and takes the previews, ``preview-1.seg.nrrd`` …
        report: Is told ``Preview`` with the path of each.
        clock: Tells seconds.
    """

    def __init__(self, folder: Path, report: Report, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._report, self._clock = folder, report, clock
        self._next = -float("inf")  # in seconds of the clock
        self._files = PreviewFiles(folder)

    def __call__(self, model: Model, image: Volume) -> None:
        """Show what a model makes of the slice that is watched, unless the last preview was a moment ago."""
        start = self._clock()
        watched = watched_in(self._folder)
        if watched is None or start < self._next:
            return
        try:
            labels = segmented_slice(image, watched, model)
        except (RuntimeError, MemoryError) as error:
            if not devices.is_out_of_memory(error):
                raise
            self._next = float("inf")
            self._report(Log("warning", "There is not enough memory for previews: the training goes on without."))
            return
        path = self._files.write(labels)
        end = self._clock()
        self._next = end + max(SHORTEST_SECONDS, (end - start) / SHARE)
        self._report(Preview(str(path)))


class PreviewFiles:
    """The label files of previews in a job's folder, each under a new name.

    Args:
        folder: The job's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        self._written: list[Path] = []

    def write(self, labels: LabelMap) -> Path:
        """Write the next one, and remove what nobody reads any more."""
        self._count += 1
        self._written.append(io.write_labels(self._folder / f"preview-{self._count}.seg.nrrd", labels))
        self._remove_all_but(KEPT)
        return self._written[-1]

    def remove(self) -> None:
        """Remove all of them."""
        self._remove_all_but(0)

    def _remove_all_but(self, kept: int) -> None:
        while len(self._written) > kept:
            self._written.pop(0).unlink(missing_ok=True)


def segmented_slice(image: Volume, watched: Watched, model: Model) -> LabelMap:
    """Segment one slice with a model as it is, in one pass through its network, which is left in evaluation mode.

    Returns:
        Labels on the grid of the slice, one voxel thick; of a large slice only on its middle.
    """
    axis = AXIS_LETTERS.index(watched.axis)
    box = middle_of_slice(image.grid.shape, axis, watched.index)
    predictor = _AsItIs(model)
    scale = plane_scale(View(axis), image.grid.spacing)
    answer = predictor.answer(_slice(image, axis, box, predictor), scale, every=False)
    values = np.array([c.value for c in model.card.classes], np.uint8)
    array: NDArray[np.uint8] = np.moveaxis(values[answer.best], 0, axis)
    return LabelMap(np.ascontiguousarray(array), box.grid(image.grid), model.card.classes)


class _AsItIs(Predictor):
    """A predictor that neither folds nor moves the network, for it goes on learning."""

    def __init__(self, model: Model) -> None:
        self.card = model.card
        self.intensity = Intensity.from_dict(model.card.intensity)
        self.neighbours = neighbours(model.card)
        self.multiple, self.smallest = model.multiple, model.smallest
        self.network = model.network.eval()
        self.device = next(model.network.parameters()).device
        self.dtype = torch.float32


def middle_of_slice(shape: Voxel, axis: int, index: int) -> Box:
    """Return a slice of a volume, or the middle of one that is large; one beyond the volume means its last slice."""
    start = [max(0, (n - LONGEST_SIDE) // 2) for n in shape]
    stop = [min(n, first + LONGEST_SIDE) for first, n in zip(start, shape, strict=True)]
    start[axis] = min(max(0, index), shape[axis] - 1)
    stop[axis] = start[axis] + 1
    return Box.of(zip(start, stop, strict=True), shape)


def _slice(image: Volume, axis: int, box: Box, predictor: Predictor) -> NDArray[np.float32]:
    """Return a slice with its neighbours as channels, (1, H, W, C), with values 0 … 1."""
    window = list(box.window)
    window[axis] = slice(None)
    slices = View(axis).of(image.array[tuple(window)])
    around = np.arange(-predictor.neighbours, predictor.neighbours + 1) + box.start[axis]
    wanted = np.stack([slices[i] for i in np.clip(around, 0, len(slices) - 1)])
    scaled = predictor.intensity.scale(wanted).reshape(*wanted.shape[:3], -1)
    return np.concatenate(list(scaled), axis=2)[None]
