"""Volume Segmantics in 3D Slicer: the module, its panel, its use from scripts, and its self-test.

Shells only; what they do is in ``VolumeSegmanticsSlicer``. This is the only file beside the packages, for Slicer takes
every ``.py`` in this folder for a module.
"""

import sys
import time
import unittest
from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

SOURCE_TREE = Path(__file__).resolve().parents[1]
if (SOURCE_TREE / "VolumeSegmanticsLib" / "__init__.py").is_file() and str(SOURCE_TREE) not in sys.path:
    sys.path.insert(0, str(SOURCE_TREE))  # once installed, the library lies beside this file

PACKAGES = ("VolumeSegmanticsSlicer", "VolumeSegmanticsLib")
PAUSE_SECONDS = 0.02


class VolumeSegmantics(ScriptedLoadableModule):
    """What Slicer's list of modules tells."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Volume Segmantics")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["Segmentations", "SubjectHierarchy", "Markups"]
        parent.contributors = ["VolumeSegmantics contributors"]
        parent.helpText = _(
            "Paint a few strokes of each material, press Train, and get the whole volume segmented under your own"
            " names and colours. Correct it where it is wrong, and train again. Nothing leaves this computer."
        )
        parent.acknowledgementText = _(
            "It stands on PyTorch, segmentation-models-pytorch and albumentations; the method of segmenting volumes"
            " slice by slice along several axes is that of Volume Segmantics (Diamond Light Source)."
        )
        slicer.app.connect("startupCompleted()", register_samples)


def register_samples():
    """Offer the simulated tomograms in the module Sample Data; Slicer has just started, so little is imported."""
    from VolumeSegmanticsSlicer.sample_data import register

    register(load=_load_sample)


def _load_sample(sample):
    from VolumeSegmanticsSlicer.desktop import load_sample

    return load_sample(sample)


class VolumeSegmanticsWidget(ScriptedLoadableModuleWidget):
    """The panel, while Slicer lasts.

    Attributes:
        workflow: What the panel shows and starts.
    """

    def __init__(self, parent=None):
        self.workflow = self.panel = self.ui_root = None
        ScriptedLoadableModuleWidget.__init__(self, parent)

    def setup(self):
        """Make the panel; called once, when the module is first opened."""
        ScriptedLoadableModuleWidget.setup(self)
        from VolumeSegmanticsSlicer.desktop import open_panel

        self.ui_root = slicer.util.loadUI(self.resourcePath("UI/VolumeSegmantics.ui"))
        self.layout.addWidget(self.ui_root)
        self.panel = open_panel(self.ui_root)
        self.workflow = self.panel.workflow
        slicer.app.aboutToQuit.connect(self.cleanup)
        if self.parent.property("isEntered"):
            self.enter()  # it was loaded anew while the user looks at it

    def enter(self):
        """Go on where the user left the panel."""
        if self.panel:
            self.panel.enter()

    def exit(self):
        """Put the painting tools away; a job goes on."""
        if self.panel:
            self.panel.leave()

    def cleanup(self):
        """End the panel, and with it what it runs: Slicer closes, or the module is loaded anew."""
        if self.panel:
            panel, self.panel = self.panel, None
            panel.close()
            self.workflow.close()
            self.ui_root.deleteLater()

    def onReload(self):
        """Load the module anew, its packages too."""
        for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class VolumeSegmanticsLogic(ScriptedLoadableModuleLogic):
    """Train and predict from scripts. What is chosen here is what the panel shows then.

    Attributes:
        workflow: All else that scripts can do, see ``VolumeSegmanticsSlicer/workflow.py``.
    """

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        from VolumeSegmanticsSlicer.desktop import new_workflow

        self.workflow = new_workflow(slicer.mrmlScene)

    def train(self, volumeNode, segmentationNode, waitForCompletion=True, *, modelPath=None, **settings):
        """Train a model on strokes.

        Args:
            volumeNode: The image.
            segmentationNode: What is painted on it.
            waitForCompletion: Whether to return only when it is trained. Slicer stays alive meanwhile. Otherwise
                ``workflow.pump()``, called now and then, takes in what the job tells.
            modelPath: The ``.safetensors`` file to write; the default is a new one in the user's folder of models.
            settings: Of ``TrainSettings``, such as ``epochs=20``.

        Returns:
            The path of the model file.

        Raises:
            VolumeSegmanticsError: With what is wrong and what to do; also when it fails while it runs.
            Cancelled: Somebody stopped it.
        """
        from VolumeSegmanticsSlicer.desktop import new_model_path

        from VolumeSegmanticsLib.settings import TrainSettings

        parameters = self.workflow.parameters
        parameters.choose("volume", volumeNode)
        parameters.choose("annotation", segmentationNode)
        parameters.keep(TrainSettings.from_dict(settings))
        path = modelPath or new_model_path(volumeNode.GetName())
        self.workflow.train(model=path)
        return self._end().outputs["model"] if waitForCompletion else str(path)

    def predict(self, volumeNode, modelPath, waitForCompletion=True, *, confidence=False, **settings):
        """Segment a volume with a model.

        Args:
            volumeNode: The image.
            modelPath: The model file.
            waitForCompletion: As in ``train``.
            confidence: Whether to make a volume node of the confidence too.
            settings: Of ``PredictSettings``, such as ``quality="high"``.

        Returns:
            The new segmentation node; None where it is not waited for.

        Raises:
            VolumeSegmanticsError: With what is wrong and what to do; also when it fails while it runs.
            Cancelled: Somebody stopped it.
        """
        from VolumeSegmanticsLib.settings import PredictSettings

        parameters = self.workflow.parameters
        parameters.choose("volume", volumeNode)
        for role in ("result", "confidence"):
            parameters.choose(role, None)
        parameters.model_path = modelPath
        parameters.keep(PredictSettings.from_dict(settings))
        self.workflow.predict(confidence=confidence)
        return slicer.mrmlScene.GetNodeByID(self._end().node_ids["result"]) if waitForCompletion else None

    def close(self):
        """End what runs, and let go of the scene."""
        self.workflow.close()

    def _end(self):
        """Wait for the end of the job with Slicer alive, and return its last state."""
        from VolumeSegmanticsSlicer.states import result_of

        while self.workflow.pump().is_running:
            slicer.app.processEvents()
            time.sleep(PAUSE_SECONDS)
        return result_of(self.workflow.state)


class VolumeSegmanticsTest(ScriptedLoadableModuleTest):
    """The whole way in a running Slicer: strokes painted with the Segment Editor, a small model, its result."""

    def setUp(self):
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear(0)

    def runTest(self):
        """Run what ``ctest`` and the Reload & Test button run."""
        self.setUp()
        try:
            self.test_strokes_become_a_segmentation()
        except unittest.SkipTest as reason:
            self.delayDisplay(f"Test skipped: {reason}")

    def test_strokes_become_a_segmentation(self):
        """Two materials are painted, learned, and found again where they are."""
        from VolumeSegmanticsSlicer.self_test import strokes_become_a_segmentation

        strokes_become_a_segmentation(slicer.modules.volumesegmantics.widgetRepresentation().self())
        self.delayDisplay("Test passed")
