"""What the scene remembers: settings, chosen nodes and the model, on one node that is saved with it.

Settings are kept as texts under names such as ``train.epochs``, and only where they differ from their default. Nodes
are kept as node references, so they are found again when their IDs change as a scene is opened into another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from VolumeSegmanticsLib.errors import SettingsError
from VolumeSegmanticsLib.events import Log, Report, ignore
from VolumeSegmanticsLib.settings import ConstrainSettings, EvaluateSettings, PredictSettings, Settings, TrainSettings

from .nodes import Node

MODULE_NAME = "VolumeSegmantics"
PREFIXES: dict[type[Settings], str] = {
    TrainSettings: "train.",
    PredictSettings: "predict.",
    EvaluateSettings: "evaluate.",
    ConstrainSettings: "constrain.",
}
ROLES = ("volume", "annotation", "result", "confidence", "region")
"""The nodes that the user chooses: image, painted segmentation, what predictions go into, and region of interest."""

MODEL = "model"
PRESET = "preset"

S = TypeVar("S", bound=Settings)


class Parameters:
    """The parameters that a scene holds; they outlive this object, and the closing of the scene empties them.

    Args:
        scene: The MRML scene.
        report: Takes what could not be used of an older or newer version's parameters.
    """

    def __init__(self, scene: Node, *, report: Report = ignore) -> None:
        self._scene = scene
        self._report = report

    @property
    def node(self) -> Node:
        """The vtkMRMLScriptedModuleNode, made where the scene has none; Slicer's own logic classes find the same."""
        node = self._scene.GetSingletonNode(MODULE_NAME, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = self._scene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
            node.UnRegister(None)  # CreateNodeByClass leaves that to its caller
            node.SetSingletonTag(MODULE_NAME)
            node.SetName(MODULE_NAME)
            node = self._scene.AddNode(node)
        if node.GetAttribute("ModuleName") != MODULE_NAME:  # closing a scene takes it away
            node.SetAttribute("ModuleName", MODULE_NAME)
        return node

    def settings(self, kind: type[S]) -> S:
        """Return the settings that were kept; what cannot be used keeps its default, and a warning says so."""
        node, prefix, known = self.node, PREFIXES[kind], {}
        for name in _names(node, prefix):
            text = node.GetParameter(prefix + name)
            try:
                known |= kind.from_text({name: text}).changed()
            except SettingsError as error:
                self._report(Log("warning", f'The scene\'s setting {prefix}{name} = "{text}" was dropped. {error}'))
        return kind.from_dict(known)

    def keep(self, settings: Settings) -> None:
        """Keep settings in place of the earlier ones of their kind."""
        node, prefix = self.node, PREFIXES[type(settings)]
        changed = settings.changed()
        was_modifying = node.StartModify()
        for name in _names(node, prefix):
            if name not in changed:
                node.UnsetParameter(prefix + name)
        for name, value in changed.items():
            node.SetParameter(prefix + name, _as_text(value))
        node.EndModify(was_modifying)

    def chosen(self, role: str) -> Node | None:
        """Return the node of a role, or None where none was chosen or it has been deleted."""
        return self.node.GetNodeReference(_known(role))

    def choose(self, role: str, node: Node | None) -> None:
        """Keep the node of a role; None forgets it."""
        self.node.SetNodeReferenceID(_known(role), node.GetID() if node else None)

    @property
    def model_path(self) -> Path | None:
        """The model file that was chosen; None where none was."""
        text = self.node.GetParameter(MODEL)
        return Path(text) if text else None

    @model_path.setter
    def model_path(self, path: Path | None) -> None:
        self.node.SetParameter(MODEL, str(path) if path else "")

    @property
    def preset(self) -> str:
        """The preset that was chosen last; empty where nobody has chosen any."""
        return str(self.node.GetParameter(PRESET))

    @preset.setter
    def preset(self, name: str) -> None:
        self.node.SetParameter(PRESET, name)


def _names(node: Node, prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in node.GetParameterNames() if name.startswith(prefix)]


def _as_text(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _known(role: str) -> str:
    assert role in ROLES, role
    return role
