"""The curves of loss and Dice, and the form that is made from a settings class."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("slicer", reason="needs slicer-core")
pytest.importorskip("PySide6.QtWidgets", reason="needs Qt and the system's libraries for it", exc_type=ImportError)

from VolumeSegmanticsLib.events import EpochEnded
from VolumeSegmanticsLib.settings import TrainSettings


@pytest.fixture
def a_label(a_desktop):
    from PySide6.QtWidgets import QLabel

    label = QLabel()
    label.resize(300, 120)
    yield label
    label.deleteLater()


def color_at(label, color):
    """Whether a colour is anywhere in a label's picture."""
    image = label.pixmap().toImage()
    places = ((x, y) for x in range(image.width()) for y in range(20, image.height()))
    return any(image.pixelColor(*place).name() == color for place in places)


def epoch(n, train=1.0, valid=0.5, dice=0.5):
    return EpochEnded(n, train, valid, dice, 1e-3, True)


def test_figures_become_points_from_left_to_right_and_zero_at_the_bottom(a_desktop):
    from VolumeSegmanticsSlicer.loss_chart import points_of

    assert points_of([0.0, 1.0, 2.0], 2.0, 100, 50) == [[(0, 50), (50, 25), (100, 0)]]


def test_a_missing_figure_breaks_the_line_and_one_that_is_too_high_is_drawn_at_the_top(a_desktop):
    from VolumeSegmanticsSlicer.loss_chart import points_of

    assert points_of([1.0, None, 9.0], 2.0, 100, 50) == [[(0, 25)], [(100, 0)]]


def test_before_the_first_epoch_nothing_is_shown(a_label):
    from VolumeSegmanticsSlicer.loss_chart import LossChart

    chart = LossChart(a_label)
    chart.show(())
    assert a_label.isHidden()


def test_all_three_curves_are_drawn_and_change_with_the_next_epoch(a_label):
    from VolumeSegmanticsSlicer.loss_chart import DICE_COLOR, HELD_OUT_COLOR, LOSS_COLOR, LossChart

    chart = LossChart(a_label)
    chart.show((epoch(1), epoch(2, 0.8, 0.45, 0.55)))
    first = a_label.pixmap().toImage()
    assert all(color_at(a_label, color) for color in (LOSS_COLOR, HELD_OUT_COLOR, DICE_COLOR))
    chart.show((epoch(1), epoch(2), epoch(3, 0.2, 0.1, 0.9)))
    assert a_label.pixmap().toImage() != first


def test_without_validation_only_the_loss_is_drawn(a_label):
    from VolumeSegmanticsSlicer.loss_chart import DICE_COLOR, LOSS_COLOR, LossChart

    LossChart(a_label).show((epoch(1, valid=None, dice=None), epoch(2, 0.5, None, None)))
    assert color_at(a_label, LOSS_COLOR)
    assert not color_at(a_label, DICE_COLOR)


def test_the_same_epochs_are_not_drawn_twice_but_a_wider_panel_is(a_label):
    from VolumeSegmanticsSlicer.loss_chart import LossChart

    chart, epochs = LossChart(a_label), (epoch(1),)
    chart.show(epochs)
    key = a_label.pixmap().cacheKey()
    chart.show(epochs)
    assert a_label.pixmap().cacheKey() == key
    a_label.resize(500, 120)
    chart.show(epochs)
    assert a_label.pixmap().width() == 500


@pytest.fixture
def a_form(a_desktop):
    from PySide6.QtWidgets import QWidget
    from VolumeSegmanticsSlicer.settings_form import SettingsForm

    frame, changes = QWidget(), []
    form = SettingsForm(
        frame, TrainSettings, prefix="", left_out=("device",), on_change=lambda *change: changes.append(change)
    )
    form.frame, form.changes = frame, changes
    yield form
    frame.deleteLater()


def widget(form, name):
    from PySide6.QtWidgets import QWidget

    return form.frame.findChild(QWidget, f"{name}Setting")


def test_every_setting_has_a_row_but_those_left_out(a_form):
    for field in dataclasses.fields(TrainSettings):
        assert (widget(a_form, field.name) is None) == (field.name == "device"), field.name


def test_showing_settings_is_not_taken_for_changing_them(a_form):
    a_form.show(TrainSettings(epochs=7, full_resolution=False, loss="dice", max_minutes=2.5, encoder="resnet18"))
    assert a_form.changes == []
    assert widget(a_form, "epochs").value() == 7
    assert not widget(a_form, "full_resolution").isChecked()
    assert widget(a_form, "loss").currentText() == "dice"
    assert widget(a_form, "max_minutes").value() == 2.5
    assert widget(a_form, "encoder").text() == "resnet18"


def test_what_the_user_changes_is_told_with_its_own_type(a_form):
    a_form.show(TrainSettings())
    widget(a_form, "epochs").setValue(8)
    widget(a_form, "full_resolution").setChecked(False)
    widget(a_form, "loss").setCurrentIndex(2)
    widget(a_form, "max_minutes").setValue(1.5)
    widget(a_form, "encoder").setText("resnet18")
    widget(a_form, "encoder").editingFinished.emit()
    assert a_form.changes == [
        ("epochs", 8), ("full_resolution", False), ("loss", "cross_entropy"), ("max_minutes", 1.5),
        ("encoder", "resnet18"),
    ]  # fmt: skip


def test_numbers_cannot_leave_their_range_and_say_it_with_their_unit(a_form):
    crop = widget(a_form, "crop_size")
    crop.setValue(1)
    assert crop.value() == 32
    assert "From 32 to 4096 px. Default: 64 px." in crop.toolTip()


@pytest.mark.parametrize(
    ("number", "unit", "suffix"),
    [(1, "slices", " slice"), (2, "slices", " slices"), (0, "rounds", " rounds"), (1, "px", " px"), (1, "", "")],
)
def test_a_unit_is_in_the_plural_where_that_is_right(number, unit, suffix):
    from VolumeSegmanticsSlicer.settings_form import suffix_of

    assert suffix_of(number, unit) == suffix


def test_a_number_is_shown_with_the_unit_that_fits_it(a_form):
    for number, text in ((1, "1 slice"), (3, "3 slices")):
        a_form.show(TrainSettings(model="unet25d", neighbours=number))
        assert widget(a_form, "neighbours").text() == text
