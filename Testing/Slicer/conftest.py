"""Nouns for tests on a real MRML scene: the scene, volumes and strokes in it, saved and opened again."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from VolumeSegmanticsLib.volume import Grid

sys.path.insert(0, str(Path(__file__).parents[2] / "VolumeSegmantics"))
sys.path.insert(0, str(Path(__file__).parent / "standins"))

from panel_nouns import (  # noqa: F401
    a_desktop,
    a_hand,
    a_predicted_hand,
    a_quick_starter,
    a_trained_hand,
    a_volume,
    strokes_in_panel,
)

SHAPE = (6, 7, 8)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def oblique(handedness: int) -> Grid:
    turn_z = [[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]]
    turn_x = [[1, 0, 0], [0, np.cos(0.5), -np.sin(0.5)], [0, np.sin(0.5), np.cos(0.5)]]
    columns = np.array(turn_z) @ np.array(turn_x) @ np.diag([1, 1, handedness])
    return Grid(SHAPE, (2.5, 0.7, 0.4), (10.1, -20.2, 30.3), tuple(map(tuple, columns.T[::-1])))


GRIDS = {
    "plain": Grid(SHAPE),
    "anisotropic": Grid(SHAPE, (2.5, 0.7, 0.4), (1, 2, 3)),
    "oblique": oblique(1),
    "left-handed": oblique(-1),
}


@dataclass
class Scene:
    """A scene in which segmentations work; the logics must live as long as it does."""

    mrml: object
    application: object
    segmentations: object
    keepers: tuple = ()

    @classmethod
    def new(cls, cache: Path) -> Scene:
        slicer = pytest.importorskip("slicer", reason="needs slicer-core")
        scene, application = slicer.vtkMRMLScene(), slicer.vtkSlicerApplicationLogic()
        application.SetMRMLScene(scene)
        segmentations = slicer.vtkSlicerSegmentationsModuleLogic()
        segmentations.SetMRMLApplicationLogic(application)
        segmentations.SetMRMLScene(scene)
        files, caches = slicer.vtkDataIOManager(), slicer.vtkCacheManager()
        caches.SetRemoteCacheDirectory(str(cache))
        files.SetCacheManager(caches)
        scene.SetDataIOManager(files)
        scene.SetCacheManager(caches)
        return cls(scene, application, segmentations, (files, caches))

    def new_node(self, class_name, name=""):
        return self.mrml.AddNewNodeByClass(class_name, name)

    def new_volume(self, array, grid, name="Probe größer", class_name="vtkMRMLScalarVolumeNode"):
        """A volume node with the voxels (Z, Y, X) or (Z, Y, X, C) on a grid."""
        import vtk
        from vtk.util.numpy_support import numpy_to_vtk

        image = vtk.vtkImageData()
        image.SetDimensions(*array.shape[2::-1])
        values = array.reshape(-1, *array.shape[3:])
        image.GetPointData().SetScalars(numpy_to_vtk(values, deep=True))
        node = self.new_node(class_name, name)
        node.SetAndObserveImageData(image)
        node.SetIJKToRASMatrix(matrix_of(LPS_TO_RAS @ grid.affine[:, [2, 1, 0, 3]]))
        return node

    def new_segmentation(self, volume_node=None, name="strokes"):
        """An empty segmentation node, as the Segment Editor makes it for a volume."""
        node = self.new_node("vtkMRMLSegmentationNode", name)
        node.CreateDefaultDisplayNodes()
        if volume_node is not None:
            node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
            node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
        return node

    def new_transform(self, matrix, name="lage"):
        node = self.new_node("vtkMRMLLinearTransformNode", name)
        node.SetMatrixTransformToParent(matrix_of(matrix))
        return node

    def paint(self, segmentation_node, volume_node, name, where, color=(1.0, 0.0, 0.0), *, overwrite=True):
        """Paint voxels of the volume with the Segment Editor's own logic; return the segment's ID.

        ``where`` is a mask of the modifier labelmap's shape, or an index into it.
        """
        import slicer
        from vtk.util.numpy_support import vtk_to_numpy

        editor, settings = slicer.vtkSlicerSegmentEditorLogic(), self.new_node("vtkMRMLSegmentEditorNode")
        settings.SetOverwriteMode(settings.OverwriteAllSegments if overwrite else settings.OverwriteNone)
        editor.SetMRMLScene(self.mrml)
        editor.SetSegmentEditorNode(settings)
        editor.SetSegmentationNode(segmentation_node)
        editor.SetSourceVolumeNode(volume_node)
        segmentation = segmentation_node.GetSegmentation()
        segment_id = segmentation.GetSegmentIdBySegmentName(name) or segmentation.AddEmptySegment("", name, color)
        assert editor.ResetModifierLabelmapToDefault()
        stroke = editor.GetModifierLabelmap()
        voxels = vtk_to_numpy(stroke.GetPointData().GetScalars()).reshape(stroke.GetDimensions()[::-1])
        voxels[where] = 1
        stroke.Modified()
        editor.ModifySegmentByLabelmap(segmentation_node, segment_id, stroke, editor.ModificationModeAdd, False, False)
        self.mrml.RemoveNode(settings)
        return segment_id

    def read(self, path):
        """Read a .seg.nrrd with Slicer's storage node."""
        node = self.new_node("vtkMRMLSegmentationNode")
        assert self._storage("vtkMRMLSegmentationStorageNode", path).ReadData(node)
        return node

    def write(self, node, path, *, compressed=True):
        """Write a node with Slicer's storage node, which it keeps, as after File > Save."""
        volume = node.IsA("vtkMRMLVolumeNode")
        class_name = "vtkMRMLVolumeArchetypeStorageNode" if volume else "vtkMRMLSegmentationStorageNode"
        storage = self._storage(class_name, path)
        storage.SetUseCompression(compressed)
        assert storage.WriteData(node)
        node.SetAndObserveStorageNodeID(storage.GetID())
        return path

    def read_volume(self, path, class_name="vtkMRMLScalarVolumeNode"):
        storage, node = self._storage("vtkMRMLVolumeArchetypeStorageNode", path), self.new_node(class_name)
        assert storage.ReadData(node)
        node.SetAndObserveStorageNodeID(storage.GetID())
        return node

    def _storage(self, class_name, path):
        storage = self.new_node(class_name)
        storage.SetFileName(str(path))
        return storage

    def save(self, path: Path) -> Path:
        """Save all as .mrb, or as .mrml with its files beside it."""
        if path.suffix == ".mrb":
            assert self.mrml.WriteToMRB(str(path), None)
            return path
        self.mrml.SetRootDirectory(str(path.parent))
        for class_name, suffix in (("vtkMRMLVolumeNode", ".nrrd"), ("vtkMRMLSegmentationNode", ".seg.nrrd")):
            nodes = self.mrml.GetNodesByClass(class_name)
            nodes.UnRegister(None)
            for node in [nodes.GetItemAsObject(n) for n in range(nodes.GetNumberOfItems())]:
                self.write(node, path.parent / f"{node.GetID()}{suffix}")
        assert self.mrml.Commit(str(path))
        return path

    def open(self, path: Path) -> Scene:
        """Open a saved scene in place of this one."""
        if path.suffix == ".mrb":
            assert self.mrml.ReadFromMRB(str(path), True)
        else:
            self.mrml.SetURL(str(path))
            assert self.mrml.Connect()
        return self

    def merge(self, path: Path) -> Scene:
        """Open a saved .mrml scene beside what is there."""
        self.mrml.SetURL(str(path))
        assert self.mrml.Import()
        return self

    def named(self, name):
        return self.mrml.GetFirstNodeByName(name)


def matrix_of(array):
    """An array as vtkMatrix4x4."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, float).ravel().tolist())
    return matrix


@pytest.fixture
def a_scene(tmp_path) -> Scene:
    return Scene.new(tmp_path)


@pytest.fixture
def another_scene(tmp_path) -> Scene:
    return Scene.new(tmp_path)


@pytest.fixture
def a_folder(tmp_path) -> Path:
    folder = tmp_path / "Proben für Ümit"
    folder.mkdir()
    return folder


@pytest.fixture(params=GRIDS)
def each_grid(request) -> Grid:
    return GRIDS[request.param]


@pytest.fixture
def a_grid() -> Grid:
    """Left-handed, oblique and anisotropic."""
    return GRIDS["left-handed"]


@pytest.fixture
def a_volume_node(a_scene, a_grid):
    """Every voxel of 6 × 7 × 8 has its own value, 0 … 335."""
    return a_scene.new_volume(np.arange(336, dtype=np.int16).reshape(SHAPE), a_grid)


@pytest.fixture
def a_red_view(a_scene):
    """The node of a slice view that shows planes along S, at 0."""
    import slicer

    node = slicer.vtkMRMLSliceNode()
    node.SetName("Red")
    node.SetLayoutName("Red")
    node.SetSingletonTag("Red")
    return a_scene.mrml.AddNode(node)


@pytest.fixture
def a_transform(a_scene):
    """A linear transform that turns, squeezes and moves."""
    turn = [[np.cos(1), -np.sin(1), 0, 5], [np.sin(1), np.cos(1), 0, -7], [0, 0, 1.2, 9], [0, 0, 0, 1]]
    return a_scene.new_transform(turn)


@pytest.fixture
def a_warp(a_scene):
    """A non-linear transform."""
    import vtk

    warp = vtk.vtkThinPlateSplineTransform()
    here, there = vtk.vtkPoints(), vtk.vtkPoints()
    for place in ((0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9), (5, 5, 5)):
        here.InsertNextPoint(place)
        there.InsertNextPoint([p + (place == (5, 5, 5)) for p in place])
    warp.SetSourceLandmarks(here)
    warp.SetTargetLandmarks(there)
    node = a_scene.new_node("vtkMRMLTransformNode", "Verbiegung")
    node.SetAndObserveTransformToParent(warp)
    return node


@pytest.fixture
def some_strokes(a_scene, a_volume_node):
    """Three segments, painted over one another with the Segment Editor's logic; the second and third win."""
    node = a_scene.new_segmentation(a_volume_node)
    a_scene.paint(node, a_volume_node, "Pöre | größer", np.s_[1, 2:5, 3], (0.123456789, 1 / 3, 0.5))
    a_scene.paint(node, a_volume_node, "Faser", np.s_[2:5, 5, 1:3], (1.0, 0.0, 0.25))
    a_scene.paint(node, a_volume_node, "Matrix zwei", np.s_[1:5, 4, 2:6], (0.9, 0.1, 0.7))
    return node


@pytest.fixture
def heard() -> list:
    """A list of the events that ``heard.append`` was given as a report."""
    return []
