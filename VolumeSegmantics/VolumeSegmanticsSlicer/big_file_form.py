"""A part of a file that is too big to load: a box of it, or an overview with fewer voxels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import slicer
from slicer.i18n import tr as _

from VolumeSegmanticsLib.errors import Cancelled

from .big_files import Big, look, open_big
from .strokes import choose
from .widgets import Widget, allow, ask_for_file, ask_for_folder, show_text, silently, text_of, value_of

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
        self._path: Path | None = None
        self._file: Big | None = None
        self._is_left = False
        self._boxes = [(getattr(ui, f"bigFile{a}FromSpinBox"), getattr(ui, f"bigFile{a}ToSpinBox")) for a in AXES]
        self._numbers = (ui.bigFileStepSpinBox, *(edge for box in self._boxes for edge in box))
        ui.openBigFileButton.clicked.connect(lambda *_: panel.attempt(lambda: self._ask(ask_for_file)))
        ui.openBigFolderButton.clicked.connect(lambda *_: panel.attempt(lambda: self._ask(ask_for_folder)))
        ui.bigFileLineEdit.editingFinished.connect(lambda *_: panel.attempt(self._take_path))
        ui.loadBigFileButton.clicked.connect(lambda *_: panel.attempt(self._load))
        ui.closeBigFileButton.clicked.connect(lambda *_: panel.attempt(self._leave))
        for spin_box in self._numbers:
            spin_box.valueChanged.connect(lambda *_: self._tell_size())

    def refresh(self) -> None:
        """Show the rows where a file is chosen."""
        for button in (self._ui.openBigFileButton, self._ui.openBigFolderButton):
            allow(button, self._panel.busy or self._panel.preparation.refusal)
        self._ui.bigFileFrame.setVisible(self._path is not None)
        for spin_box in self._numbers:
            spin_box.setEnabled(self._file is not None)
        self._tell_size()

    def look_at(self, path: Path) -> None:
        """Show what a file holds, and offer an overview of it; the path stays to be mended where it cannot be read."""
        self._path, self._file = path, None
        show_text(self._ui.bigFileLineEdit, str(path))
        self._panel.preparation.make_readable(path)
        self._file = look(path)
        shape = tuple(int(n) for n in self._file.grid.shape)  # PythonQt takes no other kind of number
        for (start, stop), length in zip(self._boxes, shape, strict=True):
            with silently(start, stop):
                start.setRange(0, length - 1)
                stop.setRange(1, length)
                start.setValue(0)
                stop.setValue(length)
        with silently(self._ui.bigFileStepSpinBox):
            self._ui.bigFileStepSpinBox.setValue(offered_step(shape))

    def _ask(self, ask: Callable[..., Path | None]) -> None:
        if path := ask(self._panel.root, _("Open a part of a big image")):
            self.look_at(path)

    def _take_path(self) -> None:
        path = Path(text_of(self._ui.bigFileLineEdit).strip())
        if path.name and path != self._path:
            self.look_at(path)

    def _load(self) -> None:
        assert self._file is not None, "the button is off without a file"
        step = int(value_of(self._ui.bigFileStepSpinBox))
        panel, self._is_left = self._panel, False
        panel.busy = _("A file is being read.")
        panel.refresh()
        try:
            volume = open_big(panel.scene, self._file.path, box=self._box(), step=step, breathe=self._breathe)
        finally:
            panel.busy = ""
        self._path = self._file = None
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        choose(panel.parameters, "volume", volume)
        panel.status.say(_("{name} is loaded.").format(name=volume.GetName()))

    def _leave(self) -> None:
        self._path, self._file, self._is_left = None, None, True

    def _breathe(self, part: float) -> None:
        """Stay alive between slabs; the button that leaves the file ends it."""
        self._panel.status.say(_("Reading the file: {percent} %").format(percent=round(100 * part)))
        self._panel.breathe()
        if self._is_left:
            raise Cancelled

    def _box(self) -> tuple[tuple[int, int], ...]:
        return tuple((int(value_of(start)), int(value_of(stop))) for start, stop in self._boxes)

    def _tell_size(self) -> None:
        """Show what is in the file, and what would be loaded; switch off what cannot be."""
        ui, file = self._ui, self._file
        if file is None:
            ui.bigFileLabel.setText("")
            ui.bigFileSizeLabel.setText("")
            allow(ui.loadBigFileButton, _("Name a file that can be read."))
            return
        told = _("{size} voxels of {dtype}, {memory}")
        size = _size(file.grid.shape)
        ui.bigFileLabel.setText(told.format(size=size, dtype=file.dtype, memory=_memory(file.bytes)))
        step = int(value_of(ui.bigFileStepSpinBox))
        lengths = [max(0, -(-(stop - start) // step)) for start, stop in self._box()]
        voxels = lengths[0] * lengths[1] * lengths[2]
        memory = _memory(voxels * file.dtype.itemsize)
        text = _("Loads {size} voxels, {memory}.").format(size=_size(lengths), memory=memory)
        ui.bigFileSizeLabel.setText(text if voxels else _("The box is empty."))
        allow(ui.loadBigFileButton, self._panel.busy or ("" if voxels else _("The box is empty.")))


def offered_step(shape: tuple[int, int, int]) -> int:
    """Return how coarse an overview has to be to be handy."""
    step = 1
    while (shape[0] // step) * (shape[1] // step) * (shape[2] // step) > _GOOD_VOXELS:
        step += 1
    return step


def _size(shape: Sequence[int]) -> str:
    return " × ".join(str(n) for n in shape)


def _memory(size: int) -> str:
    mebibytes = size / _MEBIBYTE
    return f"{mebibytes / 1024:.1f} GB" if mebibytes >= 1024 else f"{max(1, round(mebibytes))} MB"
