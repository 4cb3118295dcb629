"""The Live button: strokes are told as they are painted, the slice in view is shown, and the end is a result."""

from __future__ import annotations

import time

import numpy as np
import pytest

from VolumeSegmanticsLib.volume import UNLABELLED

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
from VolumeSegmanticsSlicer.segmentations import labels_of  # noqa: E402
from VolumeSegmanticsSlicer.states import Phase  # noqa: E402

NAME = "Scan preview"


@pytest.fixture
def a_live_hand(a_hand, strokes_in_panel, a_red_view, monkeypatch):
    """Live mode is on, and has shown something."""
    from VolumeSegmanticsSlicer import live_section

    monkeypatch.setattr(live_section, "CALM_SECONDS", 0.05)
    a_hand.live(0.3)
    a_hand.press("liveButton")
    a_hand.wait_until(lambda: preview_in(a_hand))
    return a_hand


def preview_in(hand):
    return hand.scene.named(NAME)


def shown(hand):
    """The labels of the preview on the grid of the volume."""
    return labels_of(preview_in(hand), hand.parameters.chosen("volume")).array


def test_the_button_says_why_it_is_off(a_hand):
    assert "No input volume" in a_hand.reason("liveButton")
    assert not a_hand.ui.liveButton.isChecked()


def test_the_slice_in_view_is_shown_and_followed(a_live_hand, a_red_view):
    assert a_live_hand.ui.liveButton.isChecked()
    assert a_live_hand.ui.liveButton.text() == "End live mode"
    assert "Live mode is on" in a_live_hand.reason("trainButton")
    first = np.argwhere(shown(a_live_hand) != UNLABELLED)[:, 0]
    assert len(set(first)) == 1
    a_red_view.SetSliceOffset(a_red_view.GetSliceOffset() + 4.0)  # two slices of 2 mm
    a_live_hand.wait_until(lambda: set(np.argwhere(shown(a_live_hand) != UNLABELLED)[:, 0]) == {first[0] + 2})


def test_strokes_are_told_once_they_rest(a_live_hand, monkeypatch):
    told, tell = [], a_live_hand.workflow.live_update
    monkeypatch.setattr(a_live_hand.workflow, "live_update", lambda: (told.append(time.monotonic()), tell())[1])
    before = labels_of(a_live_hand.parameters.chosen("annotation"), a_live_hand.parameters.chosen("volume")).array
    earlier = a_live_hand.state.preview
    for row in (1, 2):
        a_live_hand.scene.paint(
            a_live_hand.parameters.chosen("annotation"),
            a_live_hand.parameters.chosen("volume"),
            "Background",
            np.s_[0, row],
        )
    a_live_hand.wait_until(lambda: a_live_hand.state.preview != earlier)
    assert len(told) == 1
    after = labels_of(a_live_hand.parameters.chosen("annotation"), a_live_hand.parameters.chosen("volume")).array
    assert (after[1:] == before[1:]).all()


def test_strokes_that_are_erased_take_the_preview_away(a_live_hand):
    segmentation = a_live_hand.parameters.chosen("annotation").GetSegmentation()
    segmentation.RemoveSegment(segmentation.GetNthSegmentID(1))
    a_live_hand.wait_until(lambda: preview_in(a_live_hand) is None)
    assert a_live_hand.state.is_running


def test_the_end_is_a_model_and_a_result(a_live_hand):
    a_live_hand.press("liveButton")
    state = a_live_hand.wait_for_the_end()
    assert state.phase is Phase.DONE
    assert "Live mode has ended" in a_live_hand.status
    assert preview_in(a_live_hand) is None
    assert a_live_hand.parameters.model_path.parent == a_live_hand.widget.panel.models_folder
    result = a_live_hand.parameters.chosen("result")
    assert result.GetSegmentation().GetNumberOfSegments() == 2
    assert a_live_hand.ui.liveButton.text() == "Live"
    assert not a_live_hand.ui.liveButton.isChecked()
    assert a_live_hand.reason("liveButton") == a_live_hand.reason("trainButton") == ""


def test_without_anything_learned_the_button_cancels(a_hand, strokes_in_panel):
    strokes_in_panel.GetSegmentation().RemoveSegment(strokes_in_panel.GetSegmentation().GetNthSegmentID(1))
    a_hand.live(0.3)
    a_hand.press("liveButton")
    a_hand.wait_until(lambda: "paint some voxels of at least two classes" in a_hand.status)
    a_hand.press("liveButton")
    assert a_hand.wait_for_the_end().phase is Phase.CANCELLED
    assert a_hand.parameters.model_path is None


@pytest.mark.parametrize("role", ["volume", "annotation"])
def test_deleting_what_is_worked_on_ends_it(role, a_live_hand):
    a_live_hand.scene.mrml.RemoveNode(a_live_hand.parameters.chosen(role))
    assert a_live_hand.wait_for_the_end().phase is Phase.CANCELLED
    assert "live mode was turned off" in a_live_hand.status
    assert preview_in(a_live_hand) is None


def test_closing_the_scene_ends_it(a_live_hand):
    a_live_hand.scene.mrml.Clear(0)
    a_live_hand.wait_for_the_end()
    assert preview_in(a_live_hand) is None
    assert not a_live_hand.ui.liveButton.isChecked()


def test_a_worker_that_dies_is_told(a_live_hand):
    a_live_hand.starter.workers[-1].kill()
    a_live_hand.wait_for_the_end()
    assert preview_in(a_live_hand) is None
    assert a_live_hand.reason("liveButton") == ""


def test_a_closed_panel_leaves_nothing_running(a_live_hand):
    a_live_hand.widget.cleanup()
    assert not any(worker.is_running for worker in a_live_hand.starter.workers)
