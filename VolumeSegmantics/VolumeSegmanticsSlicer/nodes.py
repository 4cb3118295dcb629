"""Volume nodes as the library's volumes and grids, and as files of a job.

A job lives in the volume's own space: what it makes lies on the volume's voxels, and is shown under the volume's parent
transform. So a volume that was moved or turned in the scene is trained on exactly as its file would be.

Slicer's arrays are (K, J, I), which is the library's (Z, Y, X); its world is RAS, the library's LPS.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.errors import InputError, VolumeSegmanticsError
from VolumeSegmanticsLib.io import nrrd, nrrd_header
from VolumeSegmanticsLib.io.family import MOST_CHANNELS
from VolumeSegmanticsLib.volume import Grid, Volume

from .starting import Write, now

Node = Any
"""A MRML node; the classes of VTK say nothing to a type checker."""

IMAGE_FILE = "image.nrrd"

_FLIP_XY = np.diag([-1.0, -1.0, 1.0, 1.0])
"""RAS to LPS, and back."""

_AS_VTK_HAS_IT = {np.dtype(bool): np.dtype(np.uint8), np.dtype(np.float16): np.dtype(np.float32)}

_COMPARED_SLICES = 8
"""As many slices of a file are compared with the node that was read from it."""


def existing(scene: Node, node_id: str | None, what: str) -> Node:
    """Return the node with an ID.

    Args:
        scene: The MRML scene.
        node_id: As the node had it when it was chosen; empty or None where none was.
        what: What the user calls it, such as "input volume".

    Raises:
        InputError: No node was chosen, or it has been deleted.
    """
    if not node_id:
        raise InputError(f"No {what} is chosen.", "Choose one.")
    node = scene.GetNodeByID(node_id)
    if node is None:
        raise InputError(f"The {what} is no longer in the scene.", "Choose another one.")
    return node


def grid_of(volume_node: Node) -> Grid:
    """Return where the voxels of a volume node lie in its own space, before any parent transform.

    Raises:
        InputError: It has no voxels, or a non-linear parent transform.
    """
    refuse_warped(volume_node)
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    return grid_of_image(_image_of(volume_node), as_array(matrix))


def grid_of_image(image: Node, index_to_ras: NDArray[np.float64]) -> Grid:
    """Return the grid of a vtkImageData whose index (i, j, k) lies at ``index_to_ras @ (i, j, k, 1)``."""
    affine = _FLIP_XY @ index_to_ras
    affine[:, 3] += affine[:, :3] @ image.GetExtent()[::2]  # the first voxel need not be (0, 0, 0)
    return Grid.from_affine(image.GetDimensions()[::-1], affine[:, [2, 1, 0, 3]])


def refuse_warped(node: Node) -> None:
    """Make sure that a node lies under linear transforms only.

    Raises:
        InputError: It does not.
    """
    transform = node.GetParentTransformNode()
    if transform is not None and not transform.IsTransformToWorldLinear():
        raise InputError(
            f'"{node.GetName()}" lies under the non-linear transform "{transform.GetName()}".',
            "Harden the transform in the Data module (right-click it), or take the node out of it.",
        )


def between(source: Node, target: Node) -> NDArray[np.float64]:
    """Return the matrix that takes the own space of one node to that of another, RAS to RAS.

    Raises:
        InputError: One of them lies under a non-linear transform.
    """
    refuse_warped(source)
    refuse_warped(target)
    matrix = vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(
        source.GetParentTransformNode(), target.GetParentTransformNode(), matrix
    )
    return as_array(matrix)


def to_world(node: Node) -> NDArray[np.float64]:
    """Return the matrix that takes a node's own space to the world, RAS to RAS.

    Raises:
        InputError: It lies under a non-linear transform.
    """
    refuse_warped(node)
    matrix = vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(node.GetParentTransformNode(), None, matrix)
    return as_array(matrix)


def as_array(matrix: Node) -> NDArray[np.float64]:
    """Return a vtkMatrix4x4 as an array."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def volume_of(volume_node: Node) -> Volume:
    """Return the voxels of a volume node: (Z, Y, X), or (Z, Y, X, C) for colours, without an alpha channel.

    They are not copied: they stay as they are while nobody changes the node's image in place.

    Raises:
        InputError: It has no voxels, more than four values a voxel, or a non-linear parent transform.
    """
    grid, image = grid_of(volume_node), _image_of(volume_node)
    channels = image.GetNumberOfScalarComponents()
    if channels > MOST_CHANNELS:
        raise InputError(
            f'"{volume_node.GetName()}" holds {channels} values a voxel.',
            "Take one of them out of it with the module Vector to Scalar Volume.",
        )
    array = voxels_of(image)
    return Volume(array[..., :3] if channels == MOST_CHANNELS else array, grid)


def voxels_of(image: Node) -> NDArray[Any]:
    """Return the scalars of a vtkImageData, (Z, Y, X) or (Z, Y, X, C), as a view that cannot be written to."""
    values = vtk_to_numpy(image.GetPointData().GetScalars())
    array: NDArray[Any] = values.reshape(*image.GetDimensions()[::-1], *values.shape[1:])
    array.flags.writeable = False
    return array


def fill_volume(node: Node, volume: Volume) -> None:
    """Give a volume node a copy of voxels, and their place in its own space."""
    dtype = volume.array.dtype.newbyteorder("=")
    array = np.ascontiguousarray(volume.array, _AS_VTK_HAS_IT.get(dtype, dtype))
    image, matrix = vtk.vtkImageData(), vtk.vtkMatrix4x4()
    image.SetDimensions(*volume.grid.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(array.reshape(-1, *array.shape[3:]), deep=True))
    matrix.DeepCopy((_FLIP_XY @ volume.grid.affine[:, [2, 1, 0, 3]]).ravel().tolist())
    node.SetIJKToRASMatrix(matrix)
    node.SetAndObserveImageData(image)


def image_for_job(volume_node: Node, folder: Path, *, write: Write = now) -> Path:
    """Return a file that holds a volume for a worker, who maps it into memory.

    That is the file that the node was read from or saved to where it still holds the same; otherwise the voxels are
    written to ``image.nrrd`` in the job's folder.

    Raises:
        InputError: The node cannot be used, see ``volume_of``.
        ResourceError: The folder cannot be written.
    """
    volume = volume_of(volume_node)
    if own := own_file(volume_node, volume):
        return own
    path = folder / IMAGE_FILE
    write(lambda: io.write_volume(path, volume))
    return path


def own_file(volume_node: Node, volume: Volume) -> Path | None:
    """Return the memory-mappable file that holds what a volume node shows, or None where there is none.

    Slicer knows whether the node was changed since it was read. It does not know whether another program has changed
    the file, nor that reading may have turned an axis round: grids and some slices are compared.
    """
    storage = volume_node.GetStorageNode()
    if storage is None or volume_node.GetModifiedSinceRead():
        return None
    path = Path(storage.GetFullNameFromFileName() or "").absolute()
    try:
        stored = io.read_volume(path) if _is_mappable(path) else None
    except VolumeSegmanticsError:
        return None
    return path if stored is not None and _is_same(stored, volume) else None


def _image_of(volume_node: Node) -> Node:
    image = volume_node.GetImageData()
    if image is None or not image.GetPointData().GetScalars() or image.GetNumberOfPoints() == 0:
        raise InputError(f'The volume "{volume_node.GetName()}" has no voxels.', "Load it again, or choose another.")
    return image


def _is_mappable(path: Path) -> bool:
    """Tell without reading the voxels whether a worker can map a file into its memory."""
    if not path.is_file() or path.name.lower().endswith(".seg.nrrd"):
        return False
    if path.suffix.lower() not in nrrd.FAMILY.suffixes:
        return path.suffix.lower() == ".npy"
    try:
        return nrrd_header.read_fields(path)[0].get("encoding", "").lower() == "raw"
    except (VolumeSegmanticsError, ValueError, OSError):  # a file that cannot be read is copied
        return False


def _is_same(stored: Volume, shown: Volume) -> bool:
    a, b = stored.array, shown.array
    if a.shape != b.shape or a.dtype.newbyteorder("=") != b.dtype or stored.grid != shown.grid:
        return False
    some = np.unique(np.linspace(0, len(a) - 1, _COMPARED_SLICES).astype(int))
    return all(np.array_equal(a[z], b[z]) for z in some)
