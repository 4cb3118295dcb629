"""A form for settings, made from the fields of their class: one row a field, with its range, unit and help."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import qt
from slicer.i18n import tr as _

from VolumeSegmanticsLib.settings import Settings

from .widgets import Widget, allow, silently, value_of

_DECIMALS = 5
_STEP = 0.05
_UNIT = "unit"


class SettingsForm:
    """The rows of a settings class in a frame.

    Args:
        frame: An empty widget.
        kind: The settings class.
        prefix: Begins the widgets' object names, such as ``train.`` in ``train.epochsSetting``.
        left_out: Fields that are chosen elsewhere.
        on_change: Called with a field's name and its new value when the user has changed it.
    """

    def __init__(
        self,
        frame: Widget,
        kind: type[Settings],
        *,
        prefix: str,
        left_out: Collection[str],
        on_change: Callable[[str, Any], object],
    ) -> None:
        self._on_change, self._prefix = on_change, prefix
        self._rows: dict[str, tuple[Widget, _Kind]] = {}
        layout = qt.QFormLayout(frame)
        layout.setContentsMargins(0, 0, 0, 0)
        for field in dataclasses.fields(kind):
            if field.name not in left_out:
                self._add(layout, field)

    def show(self, settings: Settings) -> None:
        """Show values; what their model does not have is off."""
        model = getattr(settings, "model", "")
        models = {field.name: field.metadata["models"] for field in dataclasses.fields(settings)}
        told = _("The model {model} has no such setting.").format(model=model)
        for name, (widget, kind) in self._rows.items():
            with silently(widget):
                kind.show(widget, getattr(settings, name))
            allow(widget, told if model and models[name] and model not in models[name] else "")

    def _add(self, layout: Widget, field: dataclasses.Field[Any]) -> None:
        kind = _KINDS["choice" if field.metadata["choices"] else type(field.default).__name__]
        widget = kind.make(field)
        widget.setObjectName(f"{self._prefix}{field.name}Setting")
        widget.setToolTip(tip_of(field))
        kind.signal(widget).connect(lambda *_, name=field.name: self._changed(name))
        layout.addRow(f"{field.name.replace('_', ' ').capitalize()}:", widget)
        self._rows[field.name] = (widget, kind)

    def _changed(self, name: str) -> None:
        widget, kind = self._rows[name]
        self._on_change(name, kind.read(widget))


def tip_of(field: dataclasses.Field[Any]) -> str:
    """Return the help of a field, with its range and default."""
    facts = field.metadata
    unit = facts["unit"]
    limits = "" if facts["minimum"] is None else f" From {facts['minimum']:.10g} to {_with(facts['maximum'], unit)}."
    return f"{facts['help']}{limits} Default: {_with(field.default, unit) if limits else field.default}."


def _with(value: float, unit: str) -> str:
    return f"{value:.10g}{suffix_of(value, unit)}"


def suffix_of(value: float, unit: str) -> str:
    """Return what stands behind a number: its unit, which the settings name in the plural where it has one."""
    return f" {unit.removesuffix('s') if value == 1 else unit}" if unit else ""


@dataclasses.dataclass(frozen=True)
class _Kind:
    """How a field is made, shown, read, and which signal says that the user has changed it."""

    make: Callable[[dataclasses.Field[Any]], Widget]
    show: Callable[[Widget, Any], object]
    read: Callable[[Widget], Any]
    signal: Callable[[Widget], Any]


def _number(widget: Widget, field: dataclasses.Field[Any]) -> Widget:
    facts = field.metadata
    widget.setRange(facts["minimum"], facts["maximum"])
    widget.setProperty(_UNIT, facts["unit"])
    widget.setKeyboardTracking(False)
    return widget


def _show_number(widget: Widget, value: float) -> None:
    widget.setSuffix(suffix_of(value, str(value_of(widget, _UNIT))))
    widget.setValue(value)


def _decimal_number(field: dataclasses.Field[Any]) -> Widget:
    widget = qt.QDoubleSpinBox()
    widget.setDecimals(_DECIMALS if field.metadata["maximum"] <= 1 else 1)
    widget.setSingleStep(_STEP)
    return _number(widget, field)


def _choice(field: dataclasses.Field[Any]) -> Widget:
    widget = qt.QComboBox()
    for choice in field.metadata["choices"]:
        widget.addItem(choice, choice)
    return widget


_KINDS = {
    "choice": _Kind(
        _choice,
        lambda widget, value: widget.setCurrentIndex(widget.findData(value)),
        lambda widget: str(value_of(widget, "currentText")),
        lambda widget: widget.currentIndexChanged,
    ),
    "bool": _Kind(
        lambda field: qt.QCheckBox(),
        lambda widget, value: widget.setChecked(value),
        lambda widget: bool(value_of(widget, "checked")),
        lambda widget: widget.toggled,
    ),
    "int": _Kind(
        lambda field: _number(qt.QSpinBox(), field),
        _show_number,
        lambda widget: int(value_of(widget)),
        lambda widget: widget.valueChanged,
    ),
    "float": _Kind(
        _decimal_number,
        _show_number,
        lambda widget: float(value_of(widget)),
        lambda widget: widget.valueChanged,
    ),
    "str": _Kind(
        lambda field: qt.QLineEdit(),
        lambda widget, value: widget.setText(value),
        lambda widget: str(value_of(widget, "text")),
        lambda widget: widget.editingFinished,
    ),
}
