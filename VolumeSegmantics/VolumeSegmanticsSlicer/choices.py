"""What is chosen in the scene, and whether it is enough for what the user wants to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from VolumeSegmanticsLib.box import Box
from VolumeSegmanticsLib.errors import InputError

from .accepting import Region
from .nodes import Node, existing, grid_of
from .parameters import Parameters
from .results import refuse_strokes

WORDS = {"volume": "input volume", "annotation": "segmentation with strokes", "result": "result"}
"""What the user calls the node of a role."""


class Choices:
    """The nodes and the model that ``Parameters`` name, or the sentence that says what is missing."""

    def __init__(self, scene: Node, parameters: Parameters) -> None:
        self._scene = scene
        self._parameters = parameters

    def node(self, role: str) -> Node:
        """Return the node of a role.

        Raises:
            InputError: None was chosen, or it has been deleted.
        """
        return existing(self._scene, self.node_id(role), WORDS[role])

    def node_id(self, role: str) -> str:
        """Return the ID of the node of a role; empty where there is none."""
        node = self._parameters.chosen(role)
        return str(node.GetID()) if node else ""

    def model(self) -> Path:
        """Return the model file.

        Raises:
            InputError: None was chosen, or it does not exist.
        """
        path = self._parameters.model_path
        if path is None:
            raise InputError("No model is chosen.", "Train one, or choose a model file.")
        if not path.is_file():
            raise InputError(f'The model file "{path}" does not exist.', "Choose another one, or train one.")
        return path

    def box(self) -> Box | None:
        """Return the voxels of the volume that training and prediction are limited to; None where that is all.

        Raises:
            InputError: The region holds no voxel of the volume.
        """
        volume, region = self.node("volume"), self._parameters.chosen("region")
        shape = grid_of(volume).shape
        if region is None:
            return None
        window = Region.around_roi(volume, region).window
        box = Box.of([(part.start, part.stop) for part in window], shape)
        return None if box.shape == shape else box

    def check(self, action: str) -> None:
        """Make sure that all is chosen that an action needs.

        Raises:
            InputError: Something is missing, or cannot be used.
        """
        _CHECKS[action](self)

    def _check_train(self) -> None:
        self.box()
        strokes = self.node("annotation")
        if not strokes.GetSegmentation().GetNumberOfSegments():
            raise InputError(f'"{strokes.GetName()}" has no segments.', "Paint some voxels of each material.")

    def _check_predict(self) -> None:
        self.box()
        self.model()
        self._check_free_result()

    def _check_live(self) -> None:
        self._check_train()
        self._check_free_result()

    def _check_free_result(self) -> None:
        if self.node_id("result") and self.node_id("result") == self.node_id("annotation"):
            raise InputError("The result would replace the strokes.", "Choose another segmentation for the result.")
        if result := self._parameters.chosen("result"):
            refuse_strokes(result)

    def _check_result(self) -> None:
        self.node("volume")
        refuse_strokes(self.node("result"))

    def _check_both_segmentations(self) -> None:
        for role in ("volume", "result", "annotation"):
            self.node(role)


_CHECKS: dict[str, Callable[[Choices], object]] = {
    "train": Choices._check_train,
    "live": Choices._check_live,
    "predict": Choices._check_predict,
    "predict_file": Choices.model,
    "constrain": Choices._check_result,
    "evaluate": Choices._check_both_segmentations,
    "accept": Choices._check_both_segmentations,
}
