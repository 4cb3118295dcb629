"""The demonstration's second round, as a user goes on in Slicer: through a scene, with its segment editor's own logic.

It takes up the folder that ``volseg demo`` has left: ``python -m VolumeSegmanticsSlicer.scene_demo FOLDER``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
from numpy.typing import NDArray
from vtk.util.numpy_support import vtk_to_numpy

from VolumeSegmanticsLib import io, simulate
from VolumeSegmanticsLib.errors import InputError, VolumeSegmanticsError, WorkerError
from VolumeSegmanticsLib.jobs import write_atomically
from VolumeSegmanticsLib.metrics import Scores, score
from VolumeSegmanticsLib.settings import TrainSettings
from VolumeSegmanticsLib.volume import UNLABELLED, LabelClass, LabelMap

from .nodes import Node, existing
from .runner import StartWorker, start_worker
from .scenes import Scene
from .segmentations import labels_of
from .starting import STAGE
from .states import State
from .workflow import Workflow

MINUTES, LEARNING_RATE = 1.0, 1e-3
"""Of training, which goes on from the model of the first round; to look for a rate would take a third of the time."""

INPUTS = ("image.nrrd", "truth.nrrd", "strokes.seg.nrrd", "model.safetensors", "result.seg.nrrd")
MODEL_FILE, SCENE_FILE, SCORES_FILE = "model-2.safetensors", "scene.mrb", "scene-scores.json"

Tell = Callable[[str], object]


@dataclass(frozen=True)
class SecondRound:
    """How well the model did before and after more strokes, on the truth; the latter as the result node has it."""

    before: Scores
    after: Scores


def run(
    folder: Path, *, max_minutes: float = MINUTES, start: StartWorker = start_worker, tell: Tell = lambda line: None
) -> SecondRound:
    """Paint strokes on a volume node, train, predict, score the result node, and save the scene.

    Args:
        folder: That of ``volseg demo``; the model, the scene and the scores are put beside what is there.
        max_minutes: Wall time for training.
        start: Starts workers.
        tell: Takes what happens, line by line.

    Raises:
        InputError: Files of the first round are missing.
        VolumeSegmanticsError: A job failed.
    """
    if absent := [name for name in INPUTS if not (folder / name).is_file()]:
        raise InputError(f'"{folder}" lacks {", ".join(absent)}.', "Run volseg demo first.")
    truth = io.read_labels(folder / "truth.nrrd")
    before = score(io.read_labels(folder / "result.seg.nrrd"), truth)
    painted = _strokes_of_both_rounds(folder, truth)
    with Scene() as scene, Workflow(scene.mrml, jobs_folder=folder / "jobs", start=start) as workflow:
        volume = scene.load_volume(folder / "image.nrrd")
        tell("Painting strokes with Slicer's segment editor.")
        strokes = new_segmentation(scene, volume, "strokes")
        for label in painted.classes:
            paint(scene, strokes, volume, label, painted.array == label.value)
        workflow.parameters.choose("volume", volume)
        workflow.parameters.choose("annotation", strokes)
        workflow.parameters.keep(TrainSettings(max_minutes=max_minutes, learning_rate=LEARNING_RATE))
        workflow.train(model=folder / MODEL_FILE, start_from=folder / "model.safetensors")
        _await(workflow, tell)
        workflow.predict()
        node = existing(scene.mrml, _await(workflow, tell).node_ids["result"], "result")
        after = score(labels_of(node, volume), truth)
        scene.save(folder / SCENE_FILE)
    write_atomically(folder / SCORES_FILE, json.dumps(after.to_dict(), indent=2))
    return SecondRound(before, after)


def new_segmentation(scene: Scene, volume: Node, name: str) -> Node:
    """Make a segmentation node for painting on a volume."""
    node = scene.mrml.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    return node


def paint(scene: Scene, strokes: Node, volume: Node, label: LabelClass, where: NDArray[np.bool_]) -> None:
    """Paint voxels (Z, Y, X) of a volume as a new segment, as the Segment Editor's brush does."""
    editor, settings = slicer.vtkSlicerSegmentEditorLogic(), scene.mrml.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    settings.SetOverwriteMode(settings.OverwriteAllSegments)
    editor.SetMRMLScene(scene.mrml)
    editor.SetSegmentEditorNode(settings)
    editor.SetSegmentationNode(strokes)
    editor.SetSourceVolumeNode(volume)
    segment_id = strokes.GetSegmentation().AddEmptySegment("", label.name, label.color)
    if not editor.ResetModifierLabelmapToDefault():
        raise WorkerError("The segment editor refuses to paint.", "Run the demonstration again.")
    stroke = editor.GetModifierLabelmap()
    voxels = vtk_to_numpy(stroke.GetPointData().GetScalars()).reshape(stroke.GetDimensions()[::-1])
    voxels[where] = 1
    stroke.Modified()
    editor.ModifySegmentByLabelmap(strokes, segment_id, stroke, editor.ModificationModeAdd, False, False)
    scene.mrml.RemoveNode(settings)


def _strokes_of_both_rounds(folder: Path, truth: LabelMap) -> LabelMap:
    """Return the strokes of the first round and as many more on other slices."""
    first = io.read_labels(folder / "strokes.seg.nrrd")
    more = simulate.strokes(truth, rng=1)
    array = np.where(first.array == UNLABELLED, more.array, first.array)
    return LabelMap(array, first.grid, first.classes, first.unpainted)


def _await(workflow: Workflow, tell: Tell) -> State:
    """Wait for the end of a job, and return its state."""
    seen = State()

    def watch(state: State) -> None:
        nonlocal seen
        if state.stage not in (seen.stage, STAGE):
            tell(f"{state.task}: {state.stage}")
        seen = state

    state = workflow.wait(watch)
    if state.error:
        raise VolumeSegmanticsError(state.error.message, state.error.hint)
    return state


def main(arguments: list[str]) -> int:
    """Run from a shell: the folder is the only argument."""
    try:
        done = run(Path(*arguments).absolute(), tell=lambda line: sys.stderr.write(f"{line}\n"))
    except VolumeSegmanticsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"Second round, through a scene:\n{done.after.table()}\n")
    sys.stdout.write(f"Mean Jaccard: {done.before.mean_jaccard:.3f} before, {done.after.mean_jaccard:.3f} after\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
