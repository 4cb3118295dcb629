"""Simulated tomograms to try everything on: entries of Slicer's Sample Data module, made by a worker on first use.

Nothing is downloaded, and nothing is computed in Slicer's own process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from VolumeSegmanticsLib import __version__
from VolumeSegmanticsLib.errors import InputError, WorkerError
from VolumeSegmanticsLib.events import TERMINAL, Event, Failed, Finished
from VolumeSegmanticsLib.io import check_writable
from VolumeSegmanticsLib.jobs import Job
from VolumeSegmanticsLib.settings import SimulateSettings

from .nodes import Node
from .runner import StartWorker, start_worker

CATEGORY = "Volume Segmantics"
PAUSE_SECONDS = 0.02

AnyPath = str | PathLike[str]


@dataclass(frozen=True)
class Sample:
    """An entry.

    Attributes:
        name: Of the volume node, and, with another letter case, of its file.
        title: As the user sees it.
        description: What it is, in a sentence.
        settings: What is simulated.
    """

    name: str
    title: str
    description: str
    settings: SimulateSettings

    def files(self, cache: Path) -> dict[str, Path]:
        """Return where its files lie, by output; each version of this extension has its own."""
        folder, stem = cache / f"VolumeSegmantics-{__version__}", self.name.lower()
        image = {"image": folder / f"{stem}.nrrd"}
        return image | ({"strokes": folder / f"{stem}-strokes.seg.nrrd"} if self.settings.strokes else {})


SAMPLES = (
    Sample(
        "FibreComposite",
        "Fibre composite with strokes",
        "A simulated tomogram of a fibre composite with pores, and a few strokes of each material: ready to train.",
        SimulateSettings(seed=0),
    ),
    Sample(
        "FibreComposite2",
        "Another fibre composite",
        "A second simulated tomogram of the same material: to segment with a model that was trained on the first.",
        SimulateSettings(seed=1, strokes=False),
    ),
)


def register(
    logic: Any = None,
    *,
    load: Callable[[Sample], object],
) -> bool:
    """Add the samples to Slicer's Sample Data module; those that are there already stay.

    Args:
        logic: Its ``SampleDataLogic``; None takes the running Slicer's.
        load: Called with the sample when the user asks for it, such as a call of ``load_sample``.

    Returns:
        Whether there is such a module.
    """
    logic = logic or _logic()
    if logic is None:
        return False
    known = {source.sampleName for source in logic.sampleDataSourcesByCategory(CATEGORY)}
    for sample in SAMPLES:
        if sample.title not in known:
            logic.registerCustomSampleDataSource(
                category=CATEGORY,
                sampleName=sample.title,
                uris="",
                fileNames=f"{sample.name}.nrrd",
                nodeNames=sample.name,
                customDownloader=lambda source, sample=sample: load(sample),
            )
    return True


def load_sample(
    sample: Sample,
    scene: Node,
    *,
    cache: AnyPath | None = None,
    start: StartWorker = start_worker,
    breathe: Callable[[], object] = lambda: None,
) -> list[Node]:
    """Load a sample, which a worker makes where the cache does not hold it yet.

    Args:
        sample: One of ``SAMPLES``.
        scene: The MRML scene.
        cache: The folder that keeps it; None takes the scene's.
        start: Starts the worker.
        breathe: Called again and again while the worker runs; what it raises, such as ``Cancelled``, ends it.

    Returns:
        The volume node, and the segmentation node with strokes where it has some.

    Raises:
        WorkerError: It could not be made.
        ResourceError: The cache cannot be written.
    """
    folder = Path(cache or scene.GetCacheManager().GetRemoteCacheDirectory() or tempfile.gettempdir())
    files = sample.files(folder)
    if not all(path.is_file() for path in files.values()):
        _make(sample, files, start, breathe)
    volume = _read(scene, "vtkMRMLScalarVolumeNode", "vtkMRMLVolumeArchetypeStorageNode", files["image"], sample.name)
    if "strokes" not in files:
        return [volume]
    name = f"{volume.GetName()} strokes"
    strokes = _read(scene, "vtkMRMLSegmentationNode", "vtkMRMLSegmentationStorageNode", files["strokes"], name)
    strokes.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    scene.RemoveNode(strokes.GetStorageNode())  # strokes are changed; the file in the cache must not be
    return [volume, strokes]


def _make(sample: Sample, files: dict[str, Path], start: StartWorker, breathe: Callable[[], object]) -> None:
    """Let a worker make the files, and wait for it."""
    check_writable(files["image"])
    with tempfile.TemporaryDirectory(prefix="VolumeSegmantics-", ignore_cleanup_errors=True) as folder:
        Job.create(folder, task="simulate", settings=sample.settings.to_dict(), outputs=files)
        ending = _ending(Path(folder), start, breathe)
    if isinstance(ending, Failed):
        raise WorkerError(f"The sample could not be made. {ending.message}", ending.hint)
    if not isinstance(ending, Finished):
        raise WorkerError("The making of the sample was stopped.", "Ask for it again.")


def _ending(folder: Path, start: StartWorker, breathe: Callable[[], object]) -> Event:
    worker = start(folder)
    try:
        while True:
            for event in worker.poll():
                if isinstance(event, TERMINAL):
                    return event
            breathe()
            time.sleep(PAUSE_SECONDS)
    finally:
        worker.close()


def _read(scene: Node, class_name: str, storage_name: str, path: Path, name: str) -> Node:
    """Read a file with Slicer's own reader, which needs no package that may still have to be installed."""
    node = scene.AddNewNodeByClass(class_name, scene.GenerateUniqueName(name))
    storage = scene.AddNewNodeByClass(storage_name)
    storage.SetFileName(str(path))
    if not storage.ReadData(node):
        scene.RemoveNode(storage)
        scene.RemoveNode(node)
        raise InputError(f'"{path}" cannot be read.', "Delete it, and ask for the sample again.")
    node.SetAndObserveStorageNodeID(storage.GetID())
    node.CreateDefaultDisplayNodes()
    return node


def _logic() -> Any:
    try:
        import SampleData
    except ImportError:
        return None
    return SampleData.SampleDataLogic
