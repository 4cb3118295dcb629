"""Stand-ins for the widgets that only Slicer has, with the part of their properties, slots and signals that is used.

The panel sees them through a `Guard`, which lets through only what PythonQt lets a script do with the true widget: its
signals, slots and invokable methods in Slicer 5.10 and 5.12, not its plain C++ methods, nor what tests need besides.
"""

from __future__ import annotations

from PySide6.QtCore import Property, QObject, Signal
from PySide6.QtWidgets import (
    QComboBox,
    QFrame,
    QGridLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

WIDGET = frozenset({"blockSignals", "property", "setProperty", "setEnabled", "setVisible", "setToolTip"})
"""What the panel uses of every widget."""


class Guard:
    """A stand-in as a script in Slicer sees the true widget."""

    def __init__(self, widget):
        self._widget = widget

    def __getattr__(self, name):
        if name not in WIDGET | self._widget.CALLABLE:
            raise AttributeError(f"{type(self._widget).__name__} offers no {name} to scripts.")
        return getattr(self._widget, name)

    def setProperty(self, name, value):
        own = name.startswith("own")  # kept on the widget by the panel itself
        assert own or self._widget.metaObject().indexOfProperty(name) >= 0, f"{name} is no property"
        return self._widget.setProperty(name, value)


def stored(kind, name, default):
    """A Qt property that is kept as it is set."""

    def write(self, value):
        self.__dict__[name] = value
        if hasattr(self, "changed"):
            self.changed()

    return Property(kind, lambda self: self.__dict__.get(name, default), write)


class ctkCollapsibleButton(QGroupBox):
    """A titled box whose contents can be hidden."""

    contentsCollapsed = Signal(bool)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._collapsed, self._hidden = False, []

    text = Property(str, lambda self: self.title(), lambda self, text: self.setTitle(text))

    def _collapse(self, collapsed):
        self._collapsed = collapsed
        self._hide_contents()
        self.setMaximumHeight(20 if collapsed else 16_777_215)
        self.contentsCollapsed.emit(collapsed)

    def _hide_contents(self):
        if self._collapsed:
            mine = [child for child in self.children() if isinstance(child, QWidget) and not child.isHidden()]
            self._hidden += mine
            for child in mine:
                child.hide()
        else:
            for child in self._hidden:
                child.show()
            self._hidden = []

    def showEvent(self, event):
        super().showEvent(event)
        if self._collapsed:
            self._hide_contents()

    collapsed = Property(bool, lambda self: self._collapsed, _collapse)


class _Proxy(QObject):
    """What a selector leaves out of its list."""

    changed = Signal()
    hiddenNodeIDs = Property(
        "QStringList", lambda self: self.__dict__.get("_hidden", []), lambda self, ids: self._hide(ids)
    )

    def _hide(self, ids):
        self.__dict__["_hidden"] = ids
        self.changed.emit()


class qMRMLNodeComboBox(QWidget):
    """Lists the nodes of some classes in the scene."""

    CALLABLE = frozenset({
        "currentNodeIDChanged", "nodeActivated", "setMRMLScene", "setCurrentNodeID", "setCurrentNode", "currentNode",
        "sortFilterProxyModel",
    })  # fmt: skip
    currentNodeIDChanged = Signal(str)
    nodeActivated = Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._combo = QComboBox()
        self._combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        layout.addWidget(self._combo)
        self._combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._scene, self._tags, self._proxy = None, [], _Proxy(self)
        self._proxy.changed.connect(lambda: self._scene and self._fill())
        self._combo.currentTextChanged.connect(lambda _: self.currentNodeIDChanged.emit(self._id()))
        self._combo.activated.connect(lambda _: self.nodeActivated.emit(self.currentNode()))

    nodeTypes = stored("QStringList", "_types", [])
    showChildNodeTypes = stored(bool, "_children", True)
    addEnabled = stored(bool, "_add", True)
    removeEnabled = stored(bool, "_remove", True)
    renameEnabled = stored(bool, "_rename", False)
    noneEnabled = stored(bool, "_none", False)
    noneDisplay = stored(str, "_none_text", "None")
    sizeAdjustPolicy = stored(int, "_policy", 0)
    currentNodeID = Property(str, lambda self: self._id(), lambda self, node_id: self.setCurrentNodeID(node_id))

    def setMRMLScene(self, scene):
        self._let_go()
        self._scene = scene
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndBatchProcessEvent):
            self._tags.append(scene.AddObserver(event, self._fill))
        self._fill()

    def _let_go(self):
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._tags = []

    def _fill(self, *_):
        if self._scene.IsBatchProcessing():
            return
        chosen, row = self._id(), self._combo.currentIndex()
        self._combo.blockSignals(True)
        self._combo.clear()
        if self.noneEnabled:
            self._combo.addItem(self.noneDisplay, "")
        for n in range(self._scene.GetNumberOfNodes()):
            node = self._scene.GetNthNode(n)
            if self._lists(node):
                self._combo.addItem(node.GetName(), node.GetID())
        index = self._combo.findData(chosen)
        neighbour = max(0, min(row, self._combo.count() - 1))  # as QComboBox does where the chosen row goes
        self._combo.setCurrentIndex(index if index >= 0 else neighbour)
        self._combo.blockSignals(False)
        if self._id() != chosen:
            self.currentNodeIDChanged.emit(self._id())

    def _lists(self, node):
        is_a = node.IsA if self._children_shown() else (lambda name: node.GetClassName() == name)
        is_hidden = node.GetHideFromEditors() or node.GetID() in self._proxy.hiddenNodeIDs
        return not is_hidden and any(is_a(name) for name in self.nodeTypes)

    def _children_shown(self):
        return self.showChildNodeTypes

    def _id(self):
        return self._combo.currentData() or ""

    def sortFilterProxyModel(self):
        return self._proxy

    def currentNode(self):
        return self._scene.GetNodeByID(self._id()) if self._id() else None

    def setCurrentNodeID(self, node_id):
        self._combo.setCurrentIndex(max(0 if self.noneEnabled else -1, self._combo.findData(node_id)))

    def setCurrentNode(self, node):
        self.setCurrentNodeID(node.GetID() if node else "")


class Effect:
    """A tool of the Segment Editor; painting goes through Slicer's own logic."""

    def __init__(self, editor, name):
        self.editor, self.name = editor, name

    def defaultModifierLabelmap(self):
        logic = self.editor.logic()
        assert logic.ResetModifierLabelmapToDefault()
        return logic.GetModifierLabelmap()

    def modifySelectedSegmentByLabelmap(self, labelmap, mode):
        assert mode == "add"
        logic, editor = self.editor.logic(), self.editor
        logic.ModifySegmentByLabelmap(
            editor.segmentation, editor.segment_id, labelmap, logic.ModificationModeAdd, False, False
        )


class qMRMLSegmentEditorWidget(QFrame):
    """A picture of the Segment Editor; its undo, overwriting and painting are those of Slicer's own logic."""

    CALLABLE = frozenset({
        "setMRMLScene", "setMRMLSegmentEditorNode", "setSegmentationNode", "setSourceVolumeNode", "setCurrentSegmentID",
        "setEffectNameOrder", "setActiveEffect", "effectByName", "updateEffectList",
        "saveStateForUndo", "setMaximumNumberOfUndoStates", "setSegmentationNodeSelectorVisible",
        "setSourceVolumeNodeSelectorVisible", "setSwitchToSegmentationsButtonVisible", "setAutoShowSourceVolumeNode",
        "installKeyboardShortcuts", "uninstallKeyboardShortcuts", "removeViewObservations",
    })  # fmt: skip

    def __init__(self, parent=None):
        super().__init__(parent)
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self.calls, self.node, self.scene = [], None, None
        self.effect, self.segment_id, self.shortcuts, self.observing = None, "", False, False
        self._logic = None
        self._layout = QVBoxLayout(self)
        self._list = QLabel("")
        self._layout.addWidget(self._list)

    unorderedEffectsVisible = stored(bool, "_unordered", True)

    show3DButtonVisible = stored(bool, "_show_3d", True)

    def updateEffectList(self):
        pass

    def setAutoShowSourceVolumeNode(self, shown):
        self.shows_by_itself = shown

    def setEffectNameOrder(self, names):
        grid = QGridLayout()
        for n, name in enumerate(names):
            button = QPushButton(name)
            button.setToolTip(name)
            grid.addWidget(button, n // 3, n % 3)
        self._layout.addLayout(grid)
        self.effects = names

    def logic(self):
        import slicer

        if self._logic is None:
            self._logic = slicer.vtkSlicerSegmentEditorLogic()
        self._logic.SetMRMLScene(self.scene)
        self._logic.SetSegmentEditorNode(self.node)
        self._logic.SetSegmentationNode(self.segmentation)
        self._logic.SetSourceVolumeNode(self.volume)
        return self._logic

    def setMRMLSegmentEditorNode(self, node):
        self.calls.append("node")
        self.node = node

    def setMRMLScene(self, scene):
        self.calls.append("scene")
        self.scene = scene

    def setSegmentationNode(self, node):
        assert node is None or (self.node and self.scene), "need to set segment editor and segmentation nodes first"
        self.calls.append("segmentation")
        if self.node:
            self.node.SetAndObserveSegmentationNode(node)
        names = []
        if node:
            segmentation = node.GetSegmentation()
            names = [segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())]
        self._list.setText("\n".join(names))

    def setSourceVolumeNode(self, node):
        assert self.segmentation, "need to set segment editor and segmentation nodes first"
        self.calls.append("volume")
        self.node.SetAndObserveSourceVolumeNode(node)

    @property
    def segmentation(self):
        return self.node.GetSegmentationNode() if self.node else None

    @property
    def volume(self):
        return self.node.GetSourceVolumeNode() if self.node else None

    def setActiveEffect(self, effect):
        assert self.node or effect is None, "Invalid segment editor parameter set node"
        self.effect = effect

    def setActiveEffectByName(self, name):
        assert self.node, "Invalid segment editor parameter set node"
        assert name in self.effects
        self.effect = Effect(self, name)

    def effectByName(self, name):
        return Effect(self, name)

    def activeEffect(self):
        return self.effect

    def setCurrentSegmentID(self, segment_id):
        self.segment_id = segment_id

    def saveStateForUndo(self):
        self.calls.append("save for undo")

    def installKeyboardShortcuts(self):
        self.shortcuts = True

    def uninstallKeyboardShortcuts(self):
        self.shortcuts = False

    def removeViewObservations(self):
        self.observing = False

    def setSegmentationNodeSelectorVisible(self, visible):
        pass

    setSourceVolumeNodeSelectorVisible = setSwitchToSegmentationsButtonVisible = setSegmentationNodeSelectorVisible

    def setMaximumNumberOfUndoStates(self, number):
        self.undo_states = number


class qMRMLSegmentationShow3DButton(QPushButton):
    """Shows surfaces of a segmentation."""

    CALLABLE = frozenset({"setSegmentationNode", "toggled"})

    def setSegmentationNode(self, node):
        self.node = node


ALL = (ctkCollapsibleButton, qMRMLNodeComboBox, qMRMLSegmentEditorWidget, qMRMLSegmentationShow3DButton)
