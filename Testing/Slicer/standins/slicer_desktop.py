"""What a running Slicer has and the slicer-core package lacks: application, translation, base classes of modules."""

from __future__ import annotations

import importlib.util
import sys
import types
import unittest
from pathlib import Path

import slicer
from PySide6.QtCore import QSettings
from PySide6.QtWidgets import QApplication, QVBoxLayout, QWidget
from slicer_widgets import Guard

MODULE_FILE = Path(__file__).parents[3] / "VolumeSegmantics" / "VolumeSegmantics.py"


class App:
    """Slicer's application object."""

    def __init__(self):
        self._qt = QApplication.instance() or QApplication([])
        self.aboutToQuit = self._qt.aboutToQuit

    def processEvents(self):
        self._qt.processEvents()

    def layoutManager(self):
        return None

    def moduleManager(self):
        return types.SimpleNamespace(connect=lambda *_: None, disconnect=lambda *_: None)

    def connect(self, signal, call):
        assert signal in ("startupCompleted()", "lastWindowClosed()")


def children_by_name(widget, guard=lambda child: child):
    """The widgets by their object names, as attributes."""
    return types.SimpleNamespace(**{c.objectName(): guard(c) for c in widget.findChildren(QWidget) if c.objectName()})


def guarded_children_by_name(widget):
    """Slicer's ``childWidgetVariables``: stand-ins offer no more than the true widgets do."""
    return children_by_name(widget, lambda child: Guard(child) if hasattr(child, "CALLABLE") else child)


class ModuleWidget:
    """The base of module widgets."""

    def __init__(self, parent=None):
        self.parent = parent or QWidget()
        self.layout = self.parent.layout() or QVBoxLayout(self.parent)
        self.layout.setContentsMargins(0, 0, 0, 0)

    def setup(self):
        pass

    def resourcePath(self, name):
        return str(MODULE_FILE.parent / "Resources" / name)


class Module:
    def __init__(self, parent):
        self.parent = parent


class Logic:
    def __init__(self, parent=None):
        pass


class ModuleTest(unittest.TestCase):
    def delayDisplay(self, message):
        pass


def install(patch, scene, folder):
    """Make ``slicer`` look like that of a running Slicer without a main window, until the patches are undone.

    Args:
        patch: A ``pytest.MonkeyPatch``.
        scene: Its scene.
        folder: For what the user has at home, and the application's settings.
    """
    i18n, base = types.ModuleType("slicer.i18n"), types.ModuleType("slicer.ScriptedLoadableModule")
    i18n.tr, i18n.translate = lambda text: text, lambda context, text: text
    base.ScriptedLoadableModule, base.ScriptedLoadableModuleWidget = Module, ModuleWidget
    base.ScriptedLoadableModuleLogic, base.ScriptedLoadableModuleTest = Logic, ModuleTest
    for module in (i18n, base):
        patch.setitem(sys.modules, module.__name__, module)
    effects = types.SimpleNamespace(ModificationModeAdd="add")
    for name, value in {"app": App(), "mrmlScene": scene, "qSlicerSegmentEditorAbstractEffect": effects}.items():
        patch.setattr(slicer, name, value, raising=False)
    patch.setattr(slicer.util, "childWidgetVariables", guarded_children_by_name)
    patch.setattr(slicer.util, "mainWindow", lambda: None)
    patch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text: True)
    patch.setenv("HOME", str(folder))
    patch.setenv("USERPROFILE", str(folder))
    QSettings.setDefaultFormat(QSettings.Format.IniFormat)
    QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(folder))
    QApplication.setOrganizationName("tests")
    QApplication.setApplicationName("tests")


def module_file():
    """Load the module file, as Slicer does, under the name that Slicer gives it."""
    spec = importlib.util.spec_from_file_location("VolumeSegmantics", MODULE_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
