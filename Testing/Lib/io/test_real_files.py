"""Files that other programs wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.volume import LabelMap

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the data sets do not lie beside the repository")


def test_a_left_handed_mri_is_the_same_as_nifti_and_as_nrrd():
    nrrd = io.read_volume(DATA / "sct_t2_levels" / "image.nrrd")
    nifti = io.read_volume(DATA / "sct_t2_levels" / "original" / "t2_t2.nii.gz")
    assert np.linalg.det(nrrd.grid.affine[:3, 2::-1]) < 0
    assert nifti.grid == nrrd.grid
    np.testing.assert_array_equal(nifti.array, nrrd.array)


def test_its_labels_lie_on_it():
    image = io.read_volume(DATA / "sct_t2_levels" / "image.nrrd")
    labels = io.read_labels(DATA / "sct_t2_levels" / "label.nrrd", grid=image.grid)
    assert [c.value for c in labels.classes] == [0, 2, 3, 4, 5]
    assert labels.grid == image.grid


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".nii.gz", ".tif"])
@pytest.mark.parametrize("name", ["sct_t2_levels", "ts_ct_torso"])
def test_real_geometry_and_negative_intensities_survive(name, suffix, tmp_path):
    image = io.read_volume(DATA / name / "image.nrrd")
    io.write_volume(tmp_path / f"v{suffix}", image)
    back = io.read_volume(tmp_path / f"v{suffix}")
    assert back.grid == image.grid
    np.testing.assert_array_equal(back.array, image.array)


def test_sixty_one_classes_survive_as_a_segmentation(tmp_path):
    labels = io.read_labels(DATA / "ts_ct_torso" / "label_full61.nrrd")
    back = io.read_labels(io.write_labels(tmp_path / "s.seg.nrrd", labels))
    assert isinstance(back, LabelMap)
    assert (back.grid, back.classes) == (labels.grid, labels.classes)
    np.testing.assert_array_equal(back.array, labels.array)


@pytest.mark.parametrize("path", sorted(DATA.rglob("*.nrrd")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_file_can_be_described(path):
    told = io.describe(path)
    assert told["voxels"] == np.prod(told["shape"])
