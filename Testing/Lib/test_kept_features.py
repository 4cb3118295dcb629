"""Features that are computed where they are needed, once, and kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from VolumeSegmanticsLib import kept_features
from VolumeSegmanticsLib.box import Box
from VolumeSegmanticsLib.features import Features
from VolumeSegmanticsLib.intensity import Intensity
from VolumeSegmanticsLib.kept_features import KeptFeatures
from VolumeSegmanticsLib.neighbourhoods import cut, features_on
from VolumeSegmanticsLib.volume import Grid, Volume

SHAPE = (70, 21, 90)
ALL = Box((0, 0, 0), SHAPE)
HALF = 2e-3  # what half precision may change


@pytest.fixture
def an_image():
    return Volume(np.random.default_rng(1).integers(0, 255, SHAPE).astype(np.uint8), Grid(SHAPE, (1, 2, 1)))


@pytest.fixture
def keep(an_image, tmp_path):
    made = []

    def make(memory=10**9, image=an_image):
        intensity = Intensity.measure([image])
        made.append(KeptFeatures(image, 2, intensity, torch.device("cpu"), memory=memory, folder=tmp_path))
        return made[-1]

    yield make
    for kept in made:
        kept.close()


@pytest.fixture
def counted(monkeypatch):
    """How many voxels of features have been computed, without margins."""
    voxels, of = [], Features.of
    monkeypatch.setattr(
        Features, "of", lambda self, block: (found := of(self, block), voxels.append(found[0].numel()))[0]
    )
    return voxels


def computed_directly(image, box):
    features = features_on(image.grid, 2)
    wide = Box(box.start, tuple(-(-b // m) * m for b, m in zip(box.stop, features.multiple, strict=True)))
    z, y, x = box.shape
    return features.of(cut(image, wide, features.margin, Intensity.measure([image])))[:, :z, :y, :x]


@pytest.mark.parametrize("memory", [10**9, 4_000_000, 0], ids=["memory", "memory and disk", "disk"])
def test_what_is_kept_is_what_was_computed(memory, keep, an_image):
    kept, part = keep(memory), Box((4, 4, 60), (69, 21, 90))
    for piece in kept.missing(ALL):
        kept.compute(piece)
    assert kept.missing(ALL) == []
    expected = computed_directly(an_image, part)
    assert torch.allclose(kept.of(part), expected, atol=HALF, rtol=HALF)
    voxels = np.array([[4, 4, 60], [68, 20, 89], [10, 9, 64]])
    z, y, x = (voxels - np.array(part.start)).T
    assert torch.allclose(kept.at(voxels), expected[:, z, y, x], atol=HALF, rtol=HALF)
    assert kept.are_known(voxels).all()


def test_nothing_is_computed_twice(keep, counted):
    kept = keep()
    for part in (Box((30, 0, 0), (34, 21, 90)), Box((0, 0, 40), (70, 21, 41)), ALL):
        for piece in kept.missing(part):
            kept.compute(piece)
    assert sum(counted) < 1.5 * np.prod([72, 22, 92])  # the slices cross, and around a few voxels nobody goes
    counted.clear()
    kept.of(ALL)
    assert counted == []


def test_a_slice_needs_little_more_than_itself(keep):
    needed = keep().missing(Box((30, 0, 0), (31, 21, 90)))
    assert sum(np.prod(piece.shape) for piece in needed) == 4 * 22 * 92
    assert all(piece.start[0] == 28 for piece in needed)


def test_without_any_room_features_are_computed_again(keep, an_image, counted, monkeypatch):
    monkeypatch.setattr("VolumeSegmanticsLib.room.shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
    kept, part = keep(memory=0), Box((8, 0, 8), (12, 21, 12))
    assert not kept.is_enough_room
    for _ in range(2):
        assert torch.allclose(kept.of(part), computed_directly(an_image, part), atol=HALF, rtol=HALF)
        assert counted
        counted.clear()
    assert kept.missing(part)


def test_the_file_on_the_disk_has_no_name(keep, tmp_path):
    kept = keep(memory=0)
    kept.compute(kept.missing(ALL)[0])
    assert list(tmp_path.iterdir()) == []


def test_the_blocks_of_a_box_are_those_that_it_touches(keep):
    assert [block.start for block in keep().blocks(Box((60, 0, 0), (66, 1, 1)))] == [(0, 0, 0), (64, 0, 0)]
    assert {block.stop for block in keep().blocks(ALL)} == {(64, 21, 64), (64, 21, 90), (70, 21, 64), (70, 21, 90)}
    assert kept_features.BLOCK_SIDE == 64


def test_variances_are_those_around_each_voxel(keep, an_image):
    flat = Volume(np.where(np.arange(SHAPE[0])[:, None, None] < 35, an_image.array, np.uint8(0)), an_image.grid)
    kept, box = keep(image=flat), Box((28, 0, 0), (48, 21, 90))
    variances = kept.variances(np.array([[29, 9, 9], [45, 9, 9]]), box)
    assert variances[0] > 0.01
    assert abs(variances[1]) < 1e-6
