"""Stands in for PythonQt's ``qt``: the same classes, from PySide6."""

from __future__ import annotations

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

_MODULES = (QtWidgets, QtGui, QtCore, QtUiTools)


def __getattr__(name):
    for module in _MODULES:
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(name)


def QUiLoader():
    """A loader that knows the widgets which only Slicer has."""
    import slicer_widgets

    loader = QtUiTools.QUiLoader()
    for widget in slicer_widgets.ALL:
        loader.registerCustomWidget(widget)
    return loader
