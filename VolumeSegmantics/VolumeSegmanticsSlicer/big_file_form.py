"""A part of a file that is too big to load: a box of it, or an overview with fewer voxels."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import slicer
from slicer.i18n import tr as _

from VolumeSegmanticsLib.errors import Cancelled

from .big_files import Big, look, open_big
from .strokes import choose
from .widgets import Widget, allow, ask_for_file, silently, value_of

if TYPE_CHECKING:
    from .panel import Panel

AXES = "ZYX"
_GOOD_VOXELS = 256**3
"""The overview that is offered first has at most so many."""
_MEBIBYTE = 2**20


class BigFileForm:
    """Rows that appear once a file is chosen, and go when it is loaded or left."""

    def __init__(self, panel: Panel, ui: Widget) -> None:
        self._panel, self._ui = panel, ui
        self._file: Big | None = None
        self._is_left = False
        self._boxes = [(getattr(ui, f"bigFile{a}FromSpinBox"), getattr(ui, f"bigFile{a}ToSpinBox")) for a in AXES]
        ui.openBigFileButton.clicked.connect(lambda *_: panel.attempt(self._ask))
        ui.loadBigFileButton.clicked.connect(lambda *_: panel.attempt(self._load))
        ui.closeBigFileButton.clicked.connect(lambda *_: panel.attempt(self._leave))
        for spin_box in (ui.bigFileStepSpinBox, *(edge for box in self._boxes for edge in box)):
            spin_box.valueChanged.connect(self._tell_size)

    def refresh(self) -> None:
        """Show the rows where a file is chosen."""
        for button in (self._ui.openBigFileButton, self._ui.loadBigFileButton):
            allow(button, self._panel.busy)
        self._ui.bigFileFrame.setVisible(self._file is not None)

    def look_at(self, path: Path) -> None:
        """Show what a file holds, and offer an overview of it."""
        self._file = look(path)
        shape = tuple(int(n) for n in self._file.grid.shape)  # PythonQt takes no other kind of number
        ui = self._ui
        told = _("{name}: {size} voxels of {dtype}, {memory}")
        size = " × ".join(str(n) for n in shape)
        memory = _memory(self._file.bytes)
        ui.bigFileLabel.setText(escape(told.format(name=path.name, size=size, dtype=self._file.dtype, memory=memory)))
        for (start, stop), length in zip(self._boxes, shape, strict=True):
            with silently(start, stop):
                start.setRange(0, length - 1)
                stop.setRange(1, length)
                start.setValue(0)
                stop.setValue(length)
        with silently(ui.bigFileStepSpinBox):
            ui.bigFileStepSpinBox.setValue(offered_step(shape))
        self._tell_size()

    def _ask(self) -> None:
        if path := ask_for_file(self._panel.root, _("Open a part of a big file"), _("All files (*)")):
            self.look_at(path)

    def _load(self) -> None:
        assert self._file is not None, "the button is seen only with a file"
        step = int(value_of(self._ui.bigFileStepSpinBox))
        panel, self._is_left = self._panel, False
        panel.busy = _("A file is being read.")
        panel.refresh()
        try:
            volume = open_big(panel.scene, self._file.path, box=self._box(), step=step, breathe=self._breathe)
        finally:
            panel.busy = ""
        self._file = None
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        choose(self._panel.parameters, "volume", volume)

    def _leave(self) -> None:
        self._file, self._is_left = None, True

    def _breathe(self, part: float) -> None:
        """Stay alive between slabs; the button that leaves the file ends it."""
        self._panel.status.say(_("Reading the file: {percent} %").format(percent=round(100 * part)))
        self._panel.breathe()
        if self._is_left:
            raise Cancelled

    def _box(self) -> tuple[tuple[int, int], ...]:
        return tuple((int(value_of(start)), int(value_of(stop))) for start, stop in self._boxes)

    def _tell_size(self, *_args: object) -> None:
        """Show what would be loaded, and switch off what cannot be."""
        assert self._file is not None, "the rows are seen only with a file"
        step = int(value_of(self._ui.bigFileStepSpinBox))
        lengths = [max(0, -(-(stop - start) // step)) for start, stop in self._box()]
        voxels = lengths[0] * lengths[1] * lengths[2]
        size = " × ".join(str(n) for n in lengths)
        memory = _memory(voxels * self._file.dtype.itemsize)
        text = (
            _("Loads {size} voxels, {memory}.").format(size=size, memory=memory) if voxels else _("The box is empty.")
        )
        self._ui.bigFileSizeLabel.setText(text)
        allow(self._ui.loadBigFileButton, "" if voxels else text)


def offered_step(shape: tuple[int, int, int]) -> int:
    """Return how coarse an overview has to be to be handy."""
    step = 1
    while (shape[0] // step) * (shape[1] // step) * (shape[2] // step) > _GOOD_VOXELS:
        step += 1
    return step


def _memory(size: int) -> str:
    mebibytes = size / _MEBIBYTE
    return f"{mebibytes / 1024:.1f} GB" if mebibytes >= 1024 else f"{max(1, round(mebibytes))} MB"
