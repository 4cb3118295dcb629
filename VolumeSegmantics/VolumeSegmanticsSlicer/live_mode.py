"""Live mode: the worker is told of every change of the strokes, and of the slice in view."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from VolumeSegmanticsLib.box import Box
from VolumeSegmanticsLib.classes import UNLABELLED
from VolumeSegmanticsLib.errors import VolumeSegmanticsError
from VolumeSegmanticsLib.messages import End, Look, Message, Strokes
from VolumeSegmanticsLib.sparse_labels import SUFFIX, SparseLabels
from VolumeSegmanticsLib.watch import Watched

from .segmentations import Snapshot

KEPT = 2
"""Files of strokes: the latest, and the one that may be read right now."""

THREAD_NAME = "write strokes"

Send = Callable[[Message], object]


class LiveMode:
    """What one live job is told.

    Args:
        folder: The job's, where files of strokes are written.
        part: The part of the volume that the job has.
        ids: The nodes that it works on, by their role: ``"volume"`` and ``"annotation"``.
        send: Tells the worker something.

    Attributes:
        is_ending: Whether it was told to finish.
    """

    def __init__(self, folder: Path, part: Box, ids: Mapping[str, str], send: Send) -> None:
        self.part, self.ids = part, ids
        self.is_ending = False
        self._folder, self._send = folder, send
        self._lock = threading.Lock()
        self._next: Snapshot | None = None
        self._is_writing = False
        self._numbers = itertools.count(1)

    def paint(self, snapshot: Snapshot) -> None:
        """Tell what is painted now, without waiting for the file: a thread writes the latest."""
        with self._lock:
            self._next = snapshot
            if self._is_writing or self.is_ending:
                return
            self._is_writing = True
        threading.Thread(target=self._write, name=THREAD_NAME, daemon=True).start()

    def look(self, watched: Watched) -> None:
        """Tell which slice of the job's image is in view."""
        self._send(Look(watched.axis, watched.index))

    def end(self) -> None:
        """Tell that it shall finish with what is painted; strokes that are still being written are waited for."""
        with self._lock:
            self.is_ending = True
            if not self._is_writing:
                self._send(End())

    def _write(self) -> None:
        while True:
            with self._lock:
                snapshot, self._next = self._next, None
                if snapshot is None:
                    self._is_writing = False
                    if self.is_ending:
                        self._send(End())
                    return
            try:
                self._write_one(snapshot)
            except VolumeSegmanticsError:  # the job's folder is gone, or its disk is full, as its worker will find too
                logging.getLogger(__name__).exception("Strokes could not be told.")

    def _write_one(self, snapshot: Snapshot) -> None:
        number = next(self._numbers)
        path = self._folder / f"strokes-{number}{SUFFIX}"
        sparse(snapshot).seen_from(self.part).write(path)
        self._send(Strokes(path.name))
        (self._folder / f"strokes-{number - KEPT}{SUFFIX}").unlink(missing_ok=True)


def sparse(snapshot: Snapshot) -> SparseLabels:
    """Return what is painted, as the places of its voxels; segments that come later win."""
    if snapshot.values[0] != UNLABELLED:  # then every voxel has a class
        return SparseLabels.of(snapshot.labels())
    shape, values = snapshot.grid.shape, np.array(snapshot.values, np.uint8)
    places, found = [np.empty(0, np.int64)], [np.empty(0, np.uint8)]
    winners = np.zeros(shape[1:], np.uint8)
    for z in range(shape[0]):
        painted = [part for layer in snapshot.layers if (part := layer.slice_at(z)) is not None]
        if not painted:
            continue
        winners[:] = 0
        for window, positions in painted:
            np.maximum(winners[window], positions, out=winners[window])
        rows, columns = np.nonzero(winners)
        places.append((z * shape[1] + rows) * shape[2] + columns)
        found.append(values[winners[rows, columns]])
    return SparseLabels(shape, np.concatenate(places), np.concatenate(found), snapshot.classes, snapshot.unpainted)
