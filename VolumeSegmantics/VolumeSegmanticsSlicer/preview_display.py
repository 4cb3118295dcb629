"""The present model's answer over the slice in view, while it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from VolumeSegmanticsLib.errors import VolumeSegmanticsError

from .previews import remove_preview, show_preview
from .slice_views import VIEWS, slice_in_view
from .states import State

if TYPE_CHECKING:
    from .panel import Panel

_EVERY_TICKS = 3


class PreviewDisplay:
    """Tells the job which slice is in view, and shows what comes back; all of it is gone with the job."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self._volume_id = ""
        self._shown = ""
        self._watched: tuple[str, int] | None = None
        self._ticks = 0

    def begin(self) -> None:
        """Take note of the volume that is trained on now."""
        volume = self._panel.parameters.chosen("volume")
        self._volume_id = volume.GetID() if volume else ""
        self._watched = None
        self._watch()

    def show(self, state: State) -> None:
        """Show the latest preview; a job that is over has none."""
        if not state.is_running:
            self._end()
        elif state.preview and state.preview != self._shown and self._panel.user.wants_preview:
            self._shown = state.preview
            self._draw(state)

    def _end(self) -> None:
        if self._shown:
            self._shown = ""
            remove_preview(self._panel.scene)

    def tick(self) -> None:
        """Follow the user through the slices."""
        self._ticks += 1
        if self._ticks % _EVERY_TICKS == 0 and self._panel.workflow.state.is_running:
            self._watch()

    def _watch(self) -> None:
        volume = self._panel.parameters.chosen("volume")
        if not self._panel.user.wants_preview or volume is None or volume.GetID() != self._volume_id:
            return
        try:
            place = slice_in_view(self._panel.scene, VIEWS[0], volume)
        except VolumeSegmanticsError:
            return  # no view shows a slice of it
        if place != self._watched:
            self._watched = place
            self._panel.workflow.watch(*place)

    def _draw(self, state: State) -> None:
        volume = self._panel.scene.GetNodeByID(self._volume_id)
        if volume is None:
            return
        try:
            show_preview(state, volume).SetHideFromEditors(True)  # nobody should choose it for a result
        except VolumeSegmanticsError:
            return  # the next one may lie on the volume's voxels again
