"""The present model's answer over the slice in view, while it trains, and in live mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from VolumeSegmanticsLib.errors import VolumeSegmanticsError

from .nodes import Node
from .previews import remove_preview, show_preview
from .slice_views import VIEWS, slice_in_view
from .states import State

if TYPE_CHECKING:
    from .panel import Panel

_EVERY_TICKS = 3


class PreviewDisplay:
    """Tells the job which slice is in view, and shows what comes back; all of it is gone with the job.

    Args:
        panel: The panel.
        task: Of the job: previews of a training are a matter of choice, live mode is about nothing else.
    """

    def __init__(self, panel: Panel, task: str) -> None:
        self._panel, self._task = panel, task
        self._volume_id = ""
        self._shown = ""
        self._places: dict[str, tuple[str, int]] = {}
        self._ticks = 0

    def begin(self) -> None:
        """Take note of the volume that is trained on now."""
        volume = self._panel.parameters.chosen("volume")
        self._volume_id = volume.GetID() if volume else ""
        self._places = {}
        self._watch()

    def show(self, state: State) -> None:
        """Show the latest preview; a job that is over has none."""
        if state.task != self._task or not state.is_running or (self._shown and not state.preview):
            self._end()
        elif state.preview != self._shown and self._is_wanted:
            self._shown = state.preview
            self._draw(state)

    def _end(self) -> None:
        if self._shown:
            self._shown = ""
            remove_preview(self._panel.scene)

    def tick(self) -> None:
        """Follow the user through the slices."""
        self._ticks += 1
        state = self._panel.workflow.state
        if self._ticks % _EVERY_TICKS == 0 and state.is_running and state.task == self._task:
            self._watch()

    @property
    def _is_wanted(self) -> bool:
        return self._task == "live" or self._panel.user.wants_preview

    def _watch(self) -> None:
        """Tell which slice the view shows that was moved last; the first of the views to begin with."""
        volume = self._panel.parameters.chosen("volume")
        if not self._is_wanted or volume is None or volume.GetID() != self._volume_id:
            return
        places = {view: place for view in VIEWS if (place := self._place_in(view, volume))}
        moved = [place for view, place in places.items() if place != self._places.get(view)]
        self._places = places
        if moved:
            self._panel.workflow.watch(*moved[0])

    def _place_in(self, view: str, volume: Node) -> tuple[str, int] | None:
        try:
            return slice_in_view(self._panel.scene, view, volume)
        except VolumeSegmanticsError:
            return None  # it shows no slice of the volume

    def _draw(self, state: State) -> None:
        volume = self._panel.scene.GetNodeByID(self._volume_id)
        if volume is None:
            return
        try:
            show_preview(state, volume).SetHideFromEditors(True)  # nobody should choose it for a result
        except VolumeSegmanticsError:
            return  # the next one may lie on the volume's voxels again
