"""The ``.ui`` file and the module file: what can be driven from outside is there, and scripts can use it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import psutil
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
pytest.importorskip("PySide6.QtWidgets", reason="needs Qt and the system's libraries for it", exc_type=ImportError)


from VolumeSegmanticsLib.errors import Cancelled, SettingsError, WorkerError  # noqa: E402

MODULE = Path(__file__).parents[2] / "VolumeSegmantics"
UI = MODULE / "Resources" / "UI" / "VolumeSegmantics.ui"
NAMES = [
    *("volumeSelector", "annotationSelector", "segmentEditor", "trainButton", "predictButton", "qualityComboBox"),
    *("modelComboBox", "progressBar", "statusLabel", "presetComboBox", "lossChart", "leastCertainButton"),
    *("acceptButton", "logButton"),
]
NOT_INTERACTIVE = ("QWidget", "QFrame", "ctkCollapsibleButton")
DATA_PROPERTIES = {
    *("text", "value", "checked", "isChecked", "currentText", "currentIndex", "currentData", "count", "minimum"),
    *("maximum", "width", "height", "size", "enabled", "isEnabled", "visible", "isVisible", "toolTip", "objectName"),
    *("palette", "font", "title", "plainText", "toPlainText", "placeholderText", "interval", "isActive", "pixmap"),
}
"""In PythonQt these are values and no methods, or are not there: ``property(...)`` reads them in both bindings."""


@pytest.fixture(scope="module")
def the_widgets():
    return ElementTree.parse(UI).getroot().findall(".//widget")


def tip_of(widget):
    return next((p.findtext("string") for p in widget.findall("property") if p.get("name") == "toolTip"), "")


@pytest.mark.parametrize("name", NAMES)
def test_the_ui_has_the_widgets_by_which_the_panel_is_driven(the_widgets, name):
    assert [widget.get("name") for widget in the_widgets].count(name) == 1


def test_no_two_widgets_share_a_name(the_widgets):
    names = [widget.get("name") for widget in the_widgets]
    assert sorted(names) == sorted(set(names))


def test_every_widget_that_is_used_says_what_it_does(the_widgets):
    silent = [w.get("name") for w in the_widgets if w.get("class") not in NOT_INTERACTIVE and not tip_of(w)]
    assert [name for name in silent if not name.endswith(("Label", "Title"))] == []


def test_the_form_below_advanced_says_what_every_setting_does(a_hand):
    from PySide6.QtWidgets import QWidget

    settings = [w for w in a_hand.widget.ui_root.findChildren(QWidget) if w.objectName().endswith("Setting")]
    assert len(settings) > 20
    assert [w.objectName() for w in settings if "Default:" not in w.toolTip()] == []


def test_the_ui_opens_by_itself(a_desktop):
    root = slicer.util.loadUI(str(UI))
    assert root.objectName() == "VolumeSegmantics"
    assert root.minimumSizeHint().width() <= 400
    root.deleteLater()


def test_every_widget_that_the_code_names_is_in_the_ui(the_widgets):
    named = set()
    for file in (MODULE / "VolumeSegmanticsSlicer").glob("*.py"):
        named |= set(re.findall(r"\b(?:ui|_ui)\.([a-z]\w+)", file.read_text()))
    assert named - {widget.get("name") for widget in the_widgets} - {"root"} == set()


def test_the_code_reads_qt_properties_only_in_ways_that_both_bindings_have():
    wrong = []
    for file in (MODULE / "VolumeSegmanticsSlicer").glob("*.py"):
        text = file.read_text()
        if not re.search(r"^import qt$|from \.widgets import|from \.section import", text, re.MULTILINE):
            continue
        for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Attribute) and call.func.attr in DATA_PROPERTIES and not call.args:
                wrong.append(f"{file.name}:{call.lineno} {ast.unparse(call)}")
    assert wrong == []


def test_what_runs_without_a_window_never_reaches_qt():
    reach = {}
    for file in (MODULE / "VolumeSegmanticsSlicer").glob("*.py"):
        tree = ast.parse(file.read_text())
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        found = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
        reach[file.stem] = found | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    with_qt = {"qt"}
    while more := {name for name, needs in reach.items() if needs & with_qt} - with_qt:
        with_qt |= more
    without = {"workflow", "batch", "nodes", "parameters", "states", "guidance", "previews", "big_files", "strokes"}
    without |= {"presets", "wording", "model_files", "accelerators", "user_choices", "preparation", "slice_views"}
    assert without <= set(reach)
    assert without & with_qt == set()


@pytest.mark.parametrize(
    ("name", "missing"), [("volumeSelector", "nodes"), ("segmentEditor", "segmentation"), ("show3DButton", "node")]
)
def test_stand_ins_offer_the_panel_no_more_than_the_true_widgets_do(a_hand, name, missing):
    widget = getattr(slicer.util.childWidgetVariables(a_hand.widget.ui_root), name)
    with pytest.raises(AttributeError, match="offers no"):
        getattr(widget, missing)


def test_only_the_module_file_lies_beside_the_packages():
    assert [file.name for file in MODULE.glob("*.py")] == ["VolumeSegmantics.py"]


@pytest.fixture
def a_module(a_desktop, a_quick_starter, monkeypatch):
    from VolumeSegmanticsSlicer import desktop

    monkeypatch.setattr(desktop, "start_worker_with", a_quick_starter)
    return a_desktop.module_file()


@pytest.fixture
def a_logic(a_module):
    logic = a_module.VolumeSegmanticsLogic()
    yield logic
    logic.close()


@pytest.fixture
def a_painted_volume(a_scene, a_volume_node):
    strokes = a_scene.new_segmentation(a_volume_node)
    a_scene.paint(strokes, a_volume_node, "dark", np.s_[1:3, 1:3, 1:4])
    a_scene.paint(strokes, a_volume_node, "bright", np.s_[4, 4:6, 4:7])
    return a_volume_node, strokes


def test_a_script_trains_and_predicts(a_logic, a_painted_volume):
    model = a_logic.train(*a_painted_volume, epochs=3)
    assert Path(model).name == "Probe größer.safetensors"
    result = a_logic.predict(a_painted_volume[0], model, quality="low")
    assert result.IsA("vtkMRMLSegmentationNode")
    assert '"epochs": 3' in (a_logic.workflow.state.folder.parent / "001-train" / "job.json").read_text()


def test_every_prediction_of_a_script_makes_a_new_node(a_logic, a_painted_volume):
    model = a_logic.train(*a_painted_volume)
    nodes = [a_logic.predict(a_painted_volume[0], model) for _ in range(2)]
    assert nodes[0] is not nodes[1]


def test_a_script_that_does_not_wait_gets_the_path_of_the_model_to_be(a_logic, a_painted_volume):
    path = a_logic.train(*a_painted_volume, waitForCompletion=False)
    assert a_logic.workflow.state.is_running
    a_logic.workflow.wait()
    assert Path(path).is_file()


def test_a_failure_reaches_the_script_in_its_own_words(a_logic, a_painted_volume, a_quick_starter):
    a_quick_starter.behaviour = "mendable"
    with pytest.raises(WorkerError, match="The model is for 2 classes") as failure:
        a_logic.train(*a_painted_volume)
    assert failure.value.hint == "Choose another model."


def test_the_kind_of_model_is_a_setting_like_others(a_logic, a_painted_volume, tmp_path):
    path = tmp_path / "mine.safetensors"
    assert a_logic.train(*a_painted_volume, modelPath=path, model="unet25d") == str(path)
    assert '"model": "unet25d"' in (a_logic.workflow.state.folder / "job.json").read_text()


def test_a_typo_in_a_setting_reaches_the_script(a_logic, a_painted_volume):
    with pytest.raises(SettingsError, match='no setting "epoch"'):
        a_logic.train(*a_painted_volume, epoch=3)


def test_slicer_lives_while_a_script_waits_and_can_cancel(a_logic, a_painted_volume, a_quick_starter):
    from PySide6.QtCore import QTimer

    a_quick_starter.behaviour = "report forever"
    QTimer.singleShot(300, a_logic.workflow.cancel)
    with pytest.raises(Cancelled):
        a_logic.train(*a_painted_volume)
    assert psutil.Process().children(recursive=True) == []


def test_what_a_script_has_chosen_is_what_the_panel_shows(a_hand, a_painted_volume, a_desktop):
    logic = a_desktop.module_file().VolumeSegmanticsLogic()
    model = logic.train(*a_painted_volume)
    a_hand.live()
    assert a_hand.ui.annotationSelector.currentNode() is a_painted_volume[1]
    assert a_hand.ui.modelComboBox.currentData() == model
    logic.close()


def test_the_module_says_what_the_extensions_index_asks_for(a_desktop):
    import types

    parent = types.SimpleNamespace()
    a_desktop.module_file().VolumeSegmantics(parent)
    assert parent.categories == ["Segmentation"]
    assert all([parent.title, parent.contributors, parent.helpText, parent.acknowledgementText])


def test_reloading_brings_the_packages_anew(a_hand, a_desktop, monkeypatch):
    import sys

    reloaded = []
    base = sys.modules["slicer.ScriptedLoadableModule"].ScriptedLoadableModuleWidget
    monkeypatch.setattr(base, "onReload", reloaded.append, raising=False)
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0].startswith("VolumeSegmantics")}
    a_hand.widget.onReload()
    assert reloaded == [a_hand.widget]
    assert "VolumeSegmanticsSlicer.panel" not in sys.modules
    sys.modules.update(kept)


@pytest.mark.slow
def test_the_self_test_passes_on_the_true_worker(a_hand, a_quick_starter, monkeypatch):
    from VolumeSegmanticsSlicer import self_test

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    a_quick_starter.behaviour = None
    self_test.strokes_become_a_segmentation(a_hand.widget)
