"""Predicts part by part, and kills itself in the middle of writing the n-th row of bricks.

python predict_and_die.py IMAGE MODEL OUTPUT BUDGET ROW [--axes=zyx] [--side=16]
"""

from __future__ import annotations

import os
import signal
import sys

from VolumeSegmanticsLib import box_planning, bricks, planning, predict

image, model, output, budget, fatal, *more = sys.argv[1:]
options = dict(each.removeprefix("--").split("=") for each in more)
if "side" in options:
    box_planning.SIDES = (int(options.pop("side")),)
row_into = bricks.Bricks._row_into
rows = 0


def half_a_row(self, file, row, voxels):
    global rows
    rows += 1
    if rows < int(fatal):
        row_into(self, file, row, voxels)
        return
    before = file.tell()
    row_into(self, _Half(file), row, voxels)
    raise AssertionError(f"still alive after byte {before}")


class _Half:
    """A file that dies after half of what is written to it."""

    def __init__(self, file) -> None:
        self.seek, self._file = file.seek, file

    def write(self, content) -> int:
        self._file.write(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
        return 0


bricks.Bricks._row_into = half_a_row
planning.budget = lambda settings: int(budget)
predict(image, model, output=output, device="cpu", **options)
