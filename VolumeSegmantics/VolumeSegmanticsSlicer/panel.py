"""The panel: widgets on one side, the workflow on the other, and nothing of its own in between.

The user's acts go through ``attempt``, which tells what went wrong in the status line. What happens elsewhere, in the
scene or in a worker, is noticed by observers and taken in by a timer: nothing waits, and nothing is drawn twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import vtk
from slicer.i18n import tr as _

from VolumeSegmanticsLib.errors import Cancelled, VolumeSegmanticsError

from .advanced_section import AdvancedSection
from .annotate_section import AnnotateSection
from .correct_section import CorrectSection
from .data_section import DataSection
from .guidance import Counts
from .live_section import LiveSection
from .nodes import Node
from .observing import Observations
from .parameters import Parameters
from .preparation import Preparation
from .section import Section
from .segment_section import SegmentSection
from .status_area import StatusArea
from .train_section import TrainSection
from .user_choices import UserChoices
from .widgets import Widget, timer
from .workflow import Workflow

TICK_MILLISECONDS = 100
FIRST = 1.0
"""Before the selectors, which choose another node in place of one that is removed: nobody has asked for that."""


class Panel:
    """Composes the sections, and keeps them up to date.

    Args:
        root: The widget that holds the panel.
        ui: The widgets by their object names.
        workflow: What the user can do.
        scene: The MRML scene.
        user: What was chosen for this computer.
        preparation: Makes sure that jobs have what they need.
        confirm: Shows a question, and returns whether the answer is yes.
        breathe: Keeps the application alive in what lasts longer, such as ``processEvents``.

    Attributes:
        busy: What lasts longer in this process, a sentence; no job starts meanwhile.
        painted: How much of each class is painted, and in which slices; None where nobody has counted.
        has_other_nodes: Whether the scene has got or lost nodes since the last time that all was shown.
    """

    def __init__(
        self,
        root: Widget,
        ui: Widget,
        *,
        workflow: Workflow,
        scene: Node,
        user: UserChoices,
        preparation: Preparation,
        confirm: Callable[[str], bool],
        breathe: Callable[[], object],
    ) -> None:
        self.root, self.workflow, self.scene, self.user = root, workflow, scene, user
        self.preparation, self.confirm, self.breathe = preparation, confirm, breathe
        self.busy = ""
        self.painted: Counts | None = None
        self.has_other_nodes = True
        self._state, self._is_stale, self._is_open = workflow.state, True, True
        self._scene_observations, self._node_observations = Observations(), Observations()
        self._observed: tuple[Node | None, ...] = ()
        self.status = StatusArea(self, ui)
        preparation.report = self._tell_preparing
        kinds = (
            DataSection,
            AnnotateSection,
            LiveSection,
            TrainSection,
            SegmentSection,
            CorrectSection,
            AdvancedSection,
        )
        self._sections: tuple[Section, ...] = (*(kind(self, ui) for kind in kinds), self.status)
        self._observe_scene()
        self.refresh()
        self._timer = timer(root, TICK_MILLISECONDS, self.tick)
        self._timer.start()

    @property
    def parameters(self) -> Parameters:
        """What the scene remembers."""
        return self.workflow.parameters

    @property
    def models_folder(self) -> Path:
        """Where models are kept."""
        return self.user.models_folder

    @property
    def is_listening(self) -> bool:
        """Whether choices count: not while a scene is closed or read, when selectors change by themselves."""
        return self._is_open and not self.scene.IsClosing() and not self.scene.IsBatchProcessing()

    def attempt(self, act: Callable[[], Any]) -> None:
        """Do what the user asks for; what is wrong with it stands in the status line."""
        if not self._is_open:
            return
        self.status.forget()
        try:
            act()
        except VolumeSegmanticsError as error:
            self.status.complain(str(error))
        except Cancelled:
            self.status.say(_("Cancelled; nothing was changed."))
        except Exception as error:
            logging.getLogger(__name__).exception("The panel could not do what it was asked for.")
            told = _("Something unexpected went wrong ({error}). The application's log has more.")
            self.status.complain(told.format(error=f"{type(error).__name__}: {error}"))
        self._take_in()

    def refused(self, action: str) -> str:
        """Return why something cannot be done now; empty where it can."""
        return self.busy or self.preparation.refusal or self.workflow.allowed(action)

    def refresh(self) -> None:
        """Show what is chosen in the scene and what can be done."""
        if not self.is_listening:
            return
        self._is_stale = False
        self._observe_nodes()
        for section in self._sections:
            section.refresh()
        self.has_other_nodes = False
        for section in self._sections:
            section.show(self._state)

    def tick(self) -> None:
        """Take in what has happened since the last time, a little of it, without waiting."""
        if not self.is_listening:
            return
        self._take_in(only_changes=True)
        for section in self._sections:
            section.tick()

    def mark_stale(self, *_: object) -> None:
        """Have all shown anew at the next tick."""
        self._is_stale = True

    def enter(self) -> None:
        """Begin: the user comes to the module."""
        for section in self._sections:
            section.enter()
        self.refresh()

    def leave(self) -> None:
        """Put tools away: the user goes to another module. Jobs go on."""
        for section in self._sections:
            section.leave()

    def close(self) -> None:
        """End the panel; its widgets stay, and do nothing."""
        self._timer.stop()
        self._scene_observations.clear()
        self._node_observations.clear()
        self.preparation.cancel()
        for section in self._sections:
            section.leave()
            section.forget()
            section.close()
        self._is_open = False

    def _take_in(self, *, only_changes: bool = False) -> None:
        """Show the state of the job, and everything else where it may have changed too."""
        before, self._state = self._state, self.workflow.pump()
        has_turned = (before.phase, before.folder) != (self._state.phase, self._state.folder)
        if has_turned and only_changes:
            self.status.forget()
        if has_turned or self._is_stale or not only_changes:
            self.refresh()
        elif self._state is not before:
            for section in self._sections:
                section.show(self._state)

    def _tell_preparing(self, line: str) -> None:
        self.status.tell(line)
        self.mark_stale()

    def _observe_scene(self) -> None:
        scene, observations = self.scene, self._scene_observations
        observations.add(scene, scene.StartCloseEvent, self._forget_nodes)
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndImportEvent):
            observations.add(scene, event, self._note_nodes)
        observations.add(scene, scene.NodeAboutToBeRemovedEvent, self._let_go, priority=FIRST)

    def _observe_nodes(self) -> None:
        """Notice what scripts choose, and what becomes of volume and region; reading a scene can bring others."""
        nodes = (self.parameters.node, self.parameters.chosen("volume"), self.parameters.chosen("region"))
        if nodes != self._observed:
            self._node_observations.clear()
            for node in filter(None, nodes):
                self._node_observations.add(node, "ModifiedEvent", self.mark_stale)
            self._observed = nodes

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _let_go(self, scene: Node, event: str, node: Node) -> None:
        for section in self._sections:
            section.let_go(node)

    def _note_nodes(self, *_: object) -> None:
        self.has_other_nodes = self._is_stale = True

    def _forget_nodes(self, *_: object) -> None:
        self.preparation.cancel()
        self._node_observations.clear()
        self._observed = ()
        for section in self._sections:
            section.forget()
        self.painted, self._is_stale = None, True
