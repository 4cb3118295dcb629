from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from VolumeSegmanticsLib.boxes import BoxNeed, BoxPlan, BoxWork, plan_boxes, plan_in_memory
from VolumeSegmanticsLib.errors import ResourceError

MB = 10**6


@pytest.fixture
def a_work() -> BoxWork:
    """300 × 201 × 150 voxels of two bytes; boxes lie on multiples of 4."""
    return BoxWork((300, 201, 150), 2, (4, 4, 4), (24, 24, 24), confidence=False, copies=False)


def need_on(work: BoxWork, workers: int = 2) -> BoxNeed:
    """A box of 32 voxels a side takes 20 MB, one of 64 80 MB, one of 128 500 MB."""
    return BoxNeed({work.box(side): taken * MB for side, taken in ((32, 20), (64, 80), (128, 500))}, workers)


def test_larger_boxes_are_taken_where_they_fit(a_work):
    assert plan_boxes(a_work, need_on(a_work), 1000 * MB).box == (128, 128, 128)
    assert plan_boxes(a_work, need_on(a_work), 30 * MB).box == (32, 32, 32)


def test_two_workers_with_smaller_boxes_are_better_than_one_with_larger_ones(a_work):
    """The share of what is looked at that lies in the box: (128 / 176)³ = 0.38, twice (64 / 112)³ = 0.37; and of
    four workers 0.75."""
    assert plan_boxes(a_work, need_on(a_work, workers=4), 600 * MB).box == (64, 64, 64)
    assert plan_boxes(a_work, need_on(a_work, workers=1), 600 * MB).box == (128, 128, 128)


@pytest.mark.parametrize("budget", [25, 90, 170, 700, 5000])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_budget_is_kept(budget, workers, a_work):
    need = need_on(a_work, workers)
    divided = plan_boxes(replace(a_work, copies=True), need, budget * MB)
    assert divided.peak_bytes <= budget * MB
    assert divided.workers * need.bytes_of[divided.box] <= budget * MB
    assert 1 <= divided.workers <= workers
    assert 2 * divided.copied * 201 * 150 * 2 <= budget * MB


def test_boxes_are_no_longer_than_the_volume():
    flat = BoxWork((1, 70, 300), 1, (1, 4, 4), (0, 24, 24), confidence=False, copies=False)
    assert flat.box(128) == (1, 72, 128)


def test_every_voxel_is_in_one_box_on_multiples(a_work):
    divided = plan_boxes(a_work, need_on(a_work), 100 * MB)
    seen = np.zeros(a_work.shape, int)
    for box in divided.boxes():
        seen[box.window] += 1
        assert all(start % 4 == 0 for start in box.start)
    assert (seen == 1).all()


def test_boxes_consist_of_whole_bricks(a_work):
    """Two threads never write to one brick."""
    for budget in (25, 100, 2000):
        divided = plan_boxes(a_work, need_on(a_work), budget * MB)
        assert all(side % brick == 0 for side, brick in zip(divided.box, divided.brick, strict=True))


def test_all_slices_are_copied_once_where_boxes_cannot_be_read_by_themselves(a_work):
    divided = plan_boxes(replace(a_work, copies=True), need_on(a_work), 100 * MB)
    assert [n for slab in divided.copies() for n in range(slab.start, slab.stop)] == list(range(300))
    assert plan_boxes(a_work, need_on(a_work), 100 * MB).copies() == ()


def test_the_disk_holds_what_is_made_and_what_is_copied(a_work):
    """Bricks of 4 × 32 × 32 voxels: 300 × 224 × 160."""
    stored = 300 * 224 * 160
    assert plan_boxes(a_work, need_on(a_work), 30 * MB).disk_bytes == stored
    more = replace(a_work, confidence=True, copies=True)
    assert plan_boxes(more, need_on(more), 30 * MB).disk_bytes == stored * (1 + 1 + 2)


def test_in_memory_image_and_result_count(a_work):
    whole = plan_in_memory(replace(a_work, confidence=True), (128, 128, 128), 2, 500 * MB)
    assert not whole.on_disk
    assert whole.peak_bytes == 300 * 201 * 150 * (2 + 1 + 1) + 1000 * MB
    assert whole.disk_bytes == 0


def test_a_plan_survives_being_written_down(a_work):
    divided = plan_boxes(a_work, need_on(a_work), 100 * MB)
    assert BoxPlan.from_dict(json.loads(json.dumps(divided.to_dict()))) == divided


def test_what_cannot_fit_is_refused_with_a_remedy_that_works(a_work):
    with pytest.raises(ResourceError, match="cannot be predicted in 10 MB") as caught:
        plan_boxes(a_work, need_on(a_work), 10 * MB)
    amount = int(caught.value.hint.split("it ")[1].split(" MB")[0])
    assert plan_boxes(a_work, need_on(a_work), amount * MB).on_disk
