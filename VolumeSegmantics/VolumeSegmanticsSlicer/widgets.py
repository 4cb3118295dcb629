"""What Qt's two Python bindings, PythonQt in Slicer and PySide6 in the tests, call by different names; here only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import qt

_OWN_TIP = "ownToolTip"

Widget = Any
"""A Qt widget; neither binding says anything to a type checker."""


def value_of(widget: Widget, name: str = "value") -> Any:
    """Return a property of a widget: in PythonQt an attribute, in PySide6 a method, in both a property."""
    return widget.property(name)


def text_of(widget: Widget) -> str:
    """Return the text of a label, button or line of input."""
    return str(widget.property("text"))


@contextmanager
def silently(*widgets: Widget) -> Iterator[None]:
    """Hold back the signals of widgets, so that showing a value is not taken for choosing it."""
    before = [widget.blockSignals(True) for widget in widgets]
    try:
        yield
    finally:
        for widget, was_blocked in zip(widgets, before, strict=True):
            widget.blockSignals(was_blocked)


def fill(combo: Widget, items: Sequence[tuple[str, str, str]], chosen: str) -> None:
    """Fill a combo box with (data, text, tooltip), unless it holds just these, and choose by data."""
    known = [(combo.itemData(n), combo.itemText(n)) for n in range(int(value_of(combo, "count")))]
    with silently(combo):
        if known != [item[:2] for item in items]:
            combo.clear()
            for n, (data, text, tip) in enumerate(items):
                combo.addItem(text, data)
                combo.setItemData(n, tip, qt.Qt.ToolTipRole)
        combo.setCurrentIndex(combo.findData(chosen))


def data_of(combo: Widget) -> str:
    """Return what is chosen in a combo box, as ``fill`` names it; empty where nothing is."""
    return str(combo.itemData(int(value_of(combo, "currentIndex"))) or "")


def show_text(widget: Widget, text: str) -> None:
    """Give a line of input a text, unless it has it: setting it moves the cursor."""
    if text_of(widget) != text:
        with silently(widget):
            widget.setText(text)


def allow(widget: Widget, reason: str, tip: str = "") -> None:
    """Switch a widget off where there is a reason, and say it in the tooltip.

    Args:
        widget: The widget.
        reason: Why it is off; empty switches it on.
        tip: What it does, where that is not what its tooltip said first.
    """
    own = widget.property(_OWN_TIP)
    if own is None:
        own = widget.property("toolTip")
        widget.setProperty(_OWN_TIP, own)
    tip = tip or str(own or "")
    widget.setEnabled(not reason)
    told = tip if tip.startswith("<p>") else f"<p>{escape(tip)}</p>"  # Slicer makes rich text of those of the ``.ui``
    widget.setToolTip(f"{told}<p><b>{escape(reason)}</b></p>" if reason else tip)


def keep_narrow(selector: Widget) -> None:
    """Let long names of nodes not make a selector, and the panel with it, wider."""
    selector.setProperty("sizeAdjustPolicy", qt.QComboBox.AdjustToMinimumContentsLengthWithIcon)


def keep_height(label: Widget, lines: int) -> None:
    """Give a label room for some lines of text, whether it has them or not."""
    label.setMinimumHeight(lines * qt.QFontMetrics(value_of(label, "font")).lineSpacing())


def choose_node(selector: Widget, node: Any) -> None:
    """Show a node, or none, as the chosen one; where it is, nothing is done, as that would close an open list."""
    node_id = node.GetID() if node else ""
    if str(value_of(selector, "currentNodeID") or "") != node_id:
        with silently(selector):
            selector.setCurrentNodeID(node_id)


def leave_out(selector: Widget, node_ids: Sequence[str]) -> None:
    """Keep nodes out of the list of a selector."""
    proxy = selector.sortFilterProxyModel()
    if list(value_of(proxy, "hiddenNodeIDs") or ()) != list(node_ids):
        with silently(selector):
            proxy.setProperty("hiddenNodeIDs", list(node_ids))


def paragraphs(lines: Sequence[str]) -> str:
    """Return lines of rich text as one."""
    return "<br>".join(lines)


def ask_for_file(parent: Widget, title: str, pattern: str = "") -> Path | None:
    """Let the user choose a file that exists; None where she does not. Without a pattern any file can be chosen."""
    return _path(qt.QFileDialog.getOpenFileName(parent, title, "", pattern))


def ask_for_folder(parent: Widget, title: str, start: Path | str = "") -> Path | None:
    """Let the user choose a folder; None where she does not."""
    return _path(qt.QFileDialog.getExistingDirectory(parent, title, str(start)))


def open_in_system(path: Path) -> None:
    """Show a file or folder with what the system has for it."""
    qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(path)))


def timer(parent: Widget, milliseconds: int, call: Any) -> Widget:
    """Return a timer, not started, that goes with its parent."""
    ticking = qt.QTimer(parent)
    ticking.setInterval(milliseconds)
    ticking.timeout.connect(call)
    return ticking


def _path(answer: Any) -> Path | None:
    text = answer[0] if isinstance(answer, tuple) else answer  # PySide6 tells the filter too
    return Path(text) if text else None
