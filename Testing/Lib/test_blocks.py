from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from VolumeSegmanticsLib.blocks import MARGIN, THICKEST, Need, Plan, Work, plan, tiles
from VolumeSegmanticsLib.errors import ResourceError, TooLittleMemory
from VolumeSegmanticsLib.views import views

MB = 10**6


@pytest.fixture
def a_need() -> Need:
    """400 bytes a pixel in the network, as a U-Net takes."""
    return Need(pixel=400, waiting=20, pixels=2**17, workers=2)


def work_on(*shape, quality="medium", axes="all", **changes) -> Work:
    return replace(Work(shape, views(quality, axes), image_bytes=2, classes=3), **changes)


def bytes_of(divided: Plan, work: Work, need: Need) -> float:
    """What a plan takes at most: counted here anew, two slabs of image, class and probability, and the network."""
    together = max(
        divided.batch[axis] * (min(work.pixels(axis), divided.tile**2) if divided.tile else work.pixels(axis))
        for axis in work.axes
    )
    slabs = max(
        2 * work.area(axis) * (thick * 3 + (thick + 2 * work.neighbours) * work.image_bytes)
        for axis, thick in enumerate(divided.thickness)
    )
    return divided.workers * together * need.pixel + slabs


# What fits ----------------------------------------------------------------------------------------------------------


def test_what_fits_is_not_divided(a_need):
    whole = plan(work_on(64, 128, 128), a_need, 200 * MB)
    assert not whole.on_disk
    assert whole.disk_bytes == 0
    assert whole.peak_bytes <= 200 * MB


def test_image_fusion_and_network_all_count(a_need):
    work = work_on(64, 128, 128)
    exact = 64 * 128 * 128 * (2 + 3) + 2**17 * (400 + 20)
    assert not plan(work, a_need, exact).on_disk
    assert plan(work, a_need, exact - 1).on_disk


@pytest.mark.parametrize(("fusion", "voxel_bytes"), [("max", 3), ("mean", 2 * 3 + 1), ("vote", 3 + 1)])
def test_each_fusion_counts_what_it_keeps(fusion, voxel_bytes):
    need = Need(pixel=0.001, waiting=0.001, pixels=1)
    work = work_on(10, 10, 10, fusion=fusion)
    assert plan(work, need, 10**6).peak_bytes == pytest.approx(1000 * (2 + voxel_bytes), rel=0.01)


# Laws ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [60, 100, 400, 1500])
@pytest.mark.parametrize("shape", [(100, 300, 200), (700, 40, 90), (256, 256, 256), (3, 350, 300)], ids=str)
@pytest.mark.parametrize("neighbours", [0, 2])
def test_the_budget_is_kept(shape, budget, neighbours, a_need):
    work = work_on(*shape, neighbours=neighbours, image_bytes=8)
    divided = plan(work, a_need, budget * MB)
    assert divided.peak_bytes <= budget * MB
    if divided.on_disk:
        assert bytes_of(divided, work, a_need) <= divided.peak_bytes


@pytest.mark.parametrize("quality", ["low", "medium", "high"])
@pytest.mark.parametrize("budget", [60, 70, 75])
def test_slabs_cover_every_slice_of_every_view_once(quality, budget, a_need):
    work = work_on(150, 301, 222, image_bytes=8, quality=quality)
    divided = plan(work, a_need, budget * MB)
    assert divided.on_disk
    slabs = divided.slabs(work.views)
    for number, view in enumerate(work.views):
        slices = [n for slab in slabs if slab.view == number for n in range(slab.start, slab.stop)]
        assert slices == list(range(work.shape[view.axis]))


def test_the_image_is_copied_first_where_slabs_are_not_along_z(a_need):
    work = work_on(300, 300, 300)
    divided = plan(work, a_need, 60 * MB)
    copies = [slab for slab in divided.slabs(work.views) if slab.is_copy]
    assert divided.slabs(work.views)[: len(copies)] == tuple(copies)
    assert sum(slab.stop - slab.start for slab in copies) == 300
    along_z = work_on(300, 300, 300, axes="z")
    assert not any(slab.is_copy for slab in plan(along_z, a_need, 60 * MB).slabs(along_z.views))


def test_slabs_hold_full_rounds_of_batches(a_need):
    divided = plan(work_on(900, 200, 200), a_need, 150 * MB)
    assert divided.on_disk
    assert divided.batch[0] * divided.workers > 1
    assert divided.thickness[0] % (divided.batch[0] * divided.workers) == 0


def test_memory_beyond_what_helps_is_left_alone(a_need):
    divided = plan(work_on(4000, 1000, 1000), a_need, 8000 * MB)
    assert max(divided.thickness) <= THICKEST


def test_slabs_consist_of_whole_bricks(a_need):
    for budget in (90, 120, 300):
        divided = plan(work_on(400, 400, 400), a_need, budget * MB)
        assert all(
            brick % thick == 0 or brick == 400 for brick, thick in zip(divided.brick, divided.thickness, strict=True)
        )


def test_a_plan_survives_being_written_down(a_need):
    divided = plan(work_on(300, 300, 300), a_need, 60 * MB)
    assert Plan.from_dict(json.loads(json.dumps(divided.to_dict()))) == divided


def test_the_memory_of_a_device_limits_the_batch():
    need = Need(pixel=20, waiting=20, pixels=2**22, device_pixel=400, device_memory=100 * MB)
    divided = plan(work_on(400, 300, 300), need, 100 * MB)
    assert divided.on_disk
    assert divided.batch[0] * 300 * 300 * 400 <= 100 * MB
    assert divided.batch[0] > 1


# What does not fit --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["mean", "vote"])
def test_other_fusions_are_refused_with_a_remedy_where_they_do_not_fit(fusion, a_need):
    with pytest.raises(TooLittleMemory, match=f'Fusion "{fusion}" takes') as caught:
        plan(work_on(300, 300, 300, fusion=fusion), a_need, 60 * MB)
    needed = math.ceil(caught.value.needed)
    assert not plan(work_on(300, 300, 300, fusion=fusion), a_need, needed).on_disk


def test_a_slice_too_large_for_the_network_is_cut_into_tiles(a_need):
    divided = plan(work_on(100, 2000, 2000), a_need, 800 * MB)
    assert 2 * MARGIN < divided.tile < 2000
    assert divided.tile**2 * a_need.pixel <= 400 * MB


def test_what_cannot_fit_is_refused_with_a_remedy_that_works(a_need):
    work = work_on(100, 2000, 2000)
    with pytest.raises(ResourceError, match="cannot be predicted in 70 MB") as caught:
        plan(work, a_need, 70 * MB)
    amount = int(caught.value.hint.split("it ")[1].split(" MB")[0])
    assert plan(work, a_need, amount * MB).on_disk


def test_a_device_without_memory_is_told_apart():
    need = Need(pixel=20, waiting=20, pixels=2**22, device_pixel=400, device_memory=10 * MB)
    with pytest.raises(ResourceError, match="The device has 10 MB") as caught:
        plan(work_on(400, 300, 300), need, 100 * MB)
    assert "--device cpu" in caught.value.hint


# Tiles --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1000, 1500), (600, 601), (2500, 100)])
def test_tiles_keep_every_pixel_once_and_see_what_lies_around(shape):
    kept_times = np.zeros(shape, int)
    for seen, kept in tiles(shape, 600, 100):
        kept_times[kept] += 1
        for s, k, n in zip(seen, kept, shape, strict=True):
            assert s.stop - s.start <= 600
            assert k.start - s.start == min(100, k.start)
            assert s.stop - k.stop == min(100, n - k.stop)
    assert (kept_times == 1).all()


def test_without_a_tile_the_whole_slice_is_seen():
    assert tiles((40, 50), 0) == [((slice(0, 40), slice(0, 50)),) * 2]
