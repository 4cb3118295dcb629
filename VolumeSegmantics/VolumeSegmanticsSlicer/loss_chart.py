"""Loss and Dice of every epoch as a picture in a label, drawn anew as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import qt
from slicer.i18n import tr as _

from VolumeSegmanticsLib.events import EpochEnded

from .widgets import Widget, value_of

HEIGHT = 120
_MARGIN = 6
_LEGEND = 18
_LEAST_WIDTH = 120

LOSS_COLOR, HELD_OUT_COLOR, DICE_COLOR = "#d55e00", "#e69f00", "#0072b2"
"""Told apart by colour-blind readers too."""


@dataclass(frozen=True)
class Curve:
    """One line of the chart: its name, colour, figure of an epoch, and whether it goes from 0 to 1."""

    title: str
    color: str
    figure: Callable[[EpochEnded], float | None]
    is_part: bool


def curves() -> tuple[Curve, ...]:
    """Return what is drawn."""
    return (
        Curve(_("loss"), LOSS_COLOR, lambda epoch: epoch.train_loss, is_part=False),
        Curve(_("held out"), HELD_OUT_COLOR, lambda epoch: epoch.valid_loss, is_part=False),
        Curve(_("Dice"), DICE_COLOR, lambda epoch: epoch.valid_dice, is_part=True),
    )


def points_of(figures: Sequence[float | None], highest: float, width: int, height: int) -> list[list[tuple[int, int]]]:
    """Return the lines that join figures from 0 (bottom) to ``highest`` (top): broken where a figure is missing.

    Args:
        figures: From left to right.
        highest: The figure at the top; what is higher is drawn there.
        width, height: Of the place for them, pixels.
    """
    lines: list[list[tuple[int, int]]] = [[]]
    for n, figure in enumerate(figures):
        if figure is None:
            lines.append([])
            continue
        x = round(width * n / max(1, len(figures) - 1))
        lines[-1].append((x, round(height * (1 - min(1.0, figure / highest)))))
    return [line for line in lines if line]


class LossChart:
    """Draws into a label, which stays empty until the first epoch is over."""

    def __init__(self, label: Widget) -> None:
        self._label = label
        self._drawn: tuple[tuple[EpochEnded, ...], int] = ((), 0)
        label.setMinimumHeight(HEIGHT)
        label.setVisible(False)

    def show(self, epochs: tuple[EpochEnded, ...]) -> None:
        """Draw epochs, unless they are what is drawn already."""
        width = max(_LEAST_WIDTH, int(value_of(self._label, "width")))
        if self._drawn == (epochs, width):
            return
        self._drawn = (epochs, width)
        self._label.setVisible(bool(epochs))
        if epochs:
            self._label.setPixmap(self._picture(epochs, width))

    def _picture(self, epochs: tuple[EpochEnded, ...], width: int) -> Widget:
        palette = value_of(self._label, "palette")
        picture = qt.QPixmap(width, HEIGHT)
        picture.fill(palette.base().color())
        painter = qt.QPainter()
        painter.begin(picture)
        try:
            _draw(painter, palette, epochs, width)
        finally:
            painter.end()  # a picture must not go while somebody paints on it
        return picture


def _draw(painter: Widget, palette: Widget, epochs: tuple[EpochEnded, ...], width: int) -> None:
    painter.setRenderHint(qt.QPainter.Antialiasing, True)
    _draw_frame(painter, palette, width)
    place = _MARGIN
    for curve in curves():
        figures = [curve.figure(epoch) for epoch in epochs]
        known = [figure for figure in figures if figure is not None]
        if known:
            place = _draw_title(painter, curve, known[-1], place)
            _draw_curve(painter, curve, figures, 1.0 if curve.is_part else _highest_loss(epochs), width)


def _highest_loss(epochs: tuple[EpochEnded, ...]) -> float:
    losses = (loss for epoch in epochs for loss in (epoch.train_loss, epoch.valid_loss) if loss is not None)
    return max(losses, default=1.0) or 1.0


def _pen(color: Widget, width: int) -> Widget:
    pen = qt.QPen()
    pen.setColor(color)
    pen.setWidth(width)
    return pen


def _draw_frame(painter: Widget, palette: Widget, width: int) -> None:
    painter.setPen(_pen(palette.mid().color(), 1))
    bottom = HEIGHT - _MARGIN
    painter.drawLine(_MARGIN, bottom, width - _MARGIN, bottom)
    painter.drawLine(_MARGIN, _LEGEND + _MARGIN, _MARGIN, bottom)


def _draw_title(painter: Widget, curve: Curve, last: float, x: int) -> int:
    """Write name and last figure of a curve, and return where the next one begins."""
    text = f"{curve.title} {last:.3f}"
    painter.setPen(_pen(qt.QColor(curve.color), 1))
    painter.drawText(qt.QPoint(x, _LEGEND - 4), text)
    return x + _TITLE_WIDTH


_TITLE_WIDTH = 112


def _draw_curve(painter: Widget, curve: Curve, figures: list[float | None], highest: float, width: int) -> None:
    painter.setPen(_pen(qt.QColor(curve.color), 2))
    top, inside = _LEGEND + _MARGIN, (width - 2 * _MARGIN, HEIGHT - _LEGEND - 2 * _MARGIN)
    for line in points_of(figures, highest, *inside):
        for (x1, y1), (x2, y2) in zip(line, line[1:] or line, strict=False):
            painter.drawLine(x1 + _MARGIN, y1 + top, x2 + _MARGIN, y2 + top)
