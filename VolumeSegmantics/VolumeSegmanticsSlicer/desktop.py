"""The panel and the workflow in a running Slicer: what they are given there."""

from __future__ import annotations

from pathlib import Path

import qt
import slicer

from VolumeSegmanticsLib.errors import VolumeSegmanticsError

from . import sample_data
from .install import start_worker_with
from .model_files import new_model
from .nodes import Node
from .panel import Panel
from .preparation import Preparation
from .user_choices import UserChoices
from .widgets import Widget
from .workflow import Workflow


def user_choices() -> UserChoices:
    """Return what the user chose for this computer."""
    return UserChoices(qt.QSettings())


def new_workflow(scene: Node, **options: object) -> Workflow:
    """Return a workflow whose workers run with the Python that the user has chosen."""
    user = user_choices()
    return Workflow(scene, start=lambda folder: start_worker_with(user.python, folder), **options)


def new_model_path(name: str) -> Path:
    """Return the path of a model to be, in the user's folder of models."""
    return new_model(user_choices().models_folder, name)


def load_sample(sample: sample_data.Sample) -> list[Node]:
    """Load and show a simulated tomogram, which a worker makes at its first use; Slicer stays alive meanwhile."""
    user = user_choices()
    try:
        nodes = sample_data.load_sample(
            sample,
            slicer.mrmlScene,
            start=lambda folder: start_worker_with(user.python, folder),
            breathe=slicer.app.processEvents,
        )
    except VolumeSegmanticsError as error:
        slicer.util.errorDisplay(str(error))
        return []
    slicer.util.setSliceViewerLayers(background=nodes[0], fit=True)
    return nodes


def open_panel(root: Widget) -> Panel:
    """Bring the widgets of the ``.ui`` file to life."""
    ui, user = slicer.util.childWidgetVariables(root), user_choices()
    preparation = Preparation(user, confirm=slicer.util.confirmOkCancelDisplay, breathe=slicer.app.processEvents)
    if slicer.util.mainWindow() is not None:
        slicer.app.connect("lastWindowClosed()", preparation.cancel)  # else Slicer would not end before it is over
    return Panel(
        root,
        ui,
        workflow=new_workflow(slicer.mrmlScene, save_for_undo=ui.segmentEditor.saveStateForUndo),
        scene=slicer.mrmlScene,
        user=user,
        preparation=preparation,
        confirm=slicer.util.confirmOkCancelDisplay,
        breathe=slicer.app.processEvents,
    )
