"""A scene without a window: the running Slicer's, or one of its own where only the slicer-core package is there.

Volumes are read by the library, so their voxels come in the order of the file, and in every format that it knows.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import slicer

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.errors import InputError, ResourceError
from VolumeSegmanticsLib.events import Report, ignore

from .nodes import Node, fill_volume, grid_of
from .results import DATE, PREFIX, show_labels

SUFFIXES = (".mrml", ".mrb")


class Scene:
    """A MRML scene in which segmentations can be read, made and saved; use it as a context manager.

    Attributes:
        mrml: The vtkMRMLScene.
    """

    def __init__(self) -> None:
        self._unpacked = tempfile.TemporaryDirectory(prefix="VolumeSegmantics-", ignore_cleanup_errors=True)
        self.mrml = getattr(slicer, "mrmlScene", None)
        if self.mrml is None:
            self.mrml = slicer.vtkMRMLScene()
            self._parts = _wired(self.mrml, self._unpacked.name)  # they must live as long as the scene

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self._unpacked.cleanup()

    def open(self, path: Path) -> None:
        """Read a saved scene in place of what is there.

        Raises:
            InputError: The file is missing, is none, or cannot be read.
        """
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f'"{path}" is no scene.', "Name a .mrml or .mrb file.")
        if not path.is_file():
            raise InputError(f'There is no file "{path}".', "Check its name and folder.")
        if path.suffix.lower() == ".mrb":
            is_read = self.mrml.ReadFromMRB(str(path.absolute()), True)
        else:
            self.mrml.SetURL(str(path.absolute()))
            is_read = self.mrml.Connect()
        if not is_read:
            raise InputError(f'"{path}" cannot be read.', "Open it in 3D Slicer, and save it again.")

    def save(self, path: Path) -> None:
        """Save all as one .mrb file.

        Raises:
            ResourceError: It cannot be written.
        """
        io.check_writable(path)
        if not self.mrml.WriteToMRB(str(path.absolute()), None):
            raise ResourceError(f'"{path}" cannot be written.', "Choose a folder that you may write to, with space.")

    def names(self, class_name: str) -> list[str]:
        """Return the names of the nodes of a class."""
        return [node.GetName() for node in self._nodes(class_name)]

    def named(self, name: str, class_name: str) -> Node | None:
        """Return the first node of a class that has a name; None where there is none."""
        return next((node for node in self._nodes(class_name) if node.GetName() == name), None)

    def load_volume(self, path: Path) -> Node:
        """Read a volume from a file in one of the library's formats; errors are those of ``io.read_volume``."""
        volume = io.read_volume(path)
        class_name = "vtkMRMLScalarVolumeNode" if volume.channels == 1 else "vtkMRMLVectorVolumeNode"
        node = self.mrml.AddNewNodeByClass(class_name, stem(path))
        fill_volume(node, volume)
        node.CreateDefaultDisplayNodes()
        return node

    def load_labels(self, path: Path, volume_node: Node, *, unpainted: str = "auto", report: Report = ignore) -> Node:
        """Read labels as a segmentation node on a volume; errors are those of ``io.read_labels``."""
        labels = io.read_labels(path, unpainted=unpainted, grid=grid_of(volume_node), report=report)
        node = show_labels(labels, volume_node, name=stem(path))
        node.RemoveAttribute(PREFIX + DATE)  # it is no result, so nothing may refill it
        return node

    def _nodes(self, class_name: str) -> list[Node]:
        found = self.mrml.GetNodesByClass(class_name)
        found.UnRegister(None)  # GetNodesByClass leaves that to its caller
        return [found.GetItemAsObject(n) for n in range(found.GetNumberOfItems())]


def stem(path: Path) -> str:
    """Return the name of a file without its suffix, of which ``.seg.nrrd`` and ``.nii.gz`` are one."""
    name = path.name.removesuffix(".gz")
    return name.removesuffix(".seg.nrrd") if name.endswith(".seg.nrrd") else Path(name).stem


def _wired(scene: Node, cache: str) -> tuple[Node, ...]:
    """Give a scene what Slicer gives to its own: segmentations that work, and a place to unpack .mrb files."""
    application, segmentations = slicer.vtkSlicerApplicationLogic(), slicer.vtkSlicerSegmentationsModuleLogic()
    application.SetMRMLScene(scene)
    segmentations.SetMRMLApplicationLogic(application)
    segmentations.SetMRMLScene(scene)
    files, caches = slicer.vtkDataIOManager(), slicer.vtkCacheManager()
    caches.SetRemoteCacheDirectory(cache)
    files.SetCacheManager(caches)
    scene.SetDataIOManager(files)
    scene.SetCacheManager(caches)
    return application, segmentations, files, caches
