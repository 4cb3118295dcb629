"""What the user can do, without a window: train, predict, evaluate, cancel, accept.

A job runs in a process of its own. What is known about it is a `State`, and what it made arrives as nodes:

           train, predict, live_start …             terminal event
    idle ───────────────────────────────> running ────────────────────> done | failed | cancelled
                         ^                   │                              ^         │
                         │     cancel, or    │                              │         │
                         │     scene closed  └───────> stopping ────────────┘         │
                         └────────────────────────────────────────────────────────────┘

One job runs at a time, on what the scene's `Parameters` named when it started. Nodes are held by ID: a job survives
that they are deleted, and its files stay in its folder. Strokes are only read, but for what the user accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from VolumeSegmanticsLib.constraints import parse
from VolumeSegmanticsLib.errors import InputError, VolumeSegmanticsError, WorkerError
from VolumeSegmanticsLib.events import Report
from VolumeSegmanticsLib.settings import (
    ConstrainSettings,
    EvaluateSettings,
    LiveSettings,
    PredictSettings,
    TrainSettings,
)

from .accepting import Region, Undo, accept
from .choices import WORDS, Choices
from .job_folders import (
    PREDICTION_FILE,
    AnyPath,
    Images,
    constrain_job,
    evaluate_job,
    live_job,
    plan_job,
    predict_file_job,
    predict_job,
    train_job,
)
from .live_mode import LiveMode
from .nodes import Node
from .observing import Observations
from .parameters import Parameters
from .previews import Watch
from .results import BOX, provenance_of, show_confidence, show_labels
from .runner import Runner, StartWorker, start_worker
from .segmentations import snapshot_of
from .starting import Write
from .states import Phase, State

S = TypeVar("S", TrainSettings, PredictSettings)


class Workflow:
    """The jobs of a scene, and the one act that changes its strokes.

    Args:
        scene: The MRML scene. Closing it stops the job.
        jobs_folder: Holds a folder for each job; None makes one for temporary files when the first job starts.
        start: Starts the worker of a job.
        save_for_undo: Called before strokes change, such as ``saveStateForUndo`` of the segment editor that the user
            works with, whose undo then takes it back. None leaves that to ``undo_accept``.

    Attributes:
        device: Computes the jobs, whatever the scene's settings say, as it belongs to the computer; empty: theirs.
    """

    def __init__(
        self,
        scene: Node,
        *,
        jobs_folder: AnyPath | None = None,
        start: StartWorker = start_worker,
        save_for_undo: Callable[[], object] | None = None,
    ) -> None:
        self.device = ""
        self.parameters = Parameters(scene)
        self._scene = scene
        self._choices = Choices(scene, self.parameters)
        self._closings = 0
        self._last_of_other_scene: Path | None = None
        self._observations = Observations()
        self._observations.add(scene, scene.StartCloseEvent, self._on_scene_closing)
        self._observations.add(scene, scene.EndImportEvent, self._on_scene_read)
        self._runner = Runner(jobs_folder, start)
        self._images = Images()
        self._undo = Undo()
        self._before_rules: tuple[Path, _Choice] | None = None
        self._watch = Watch()
        self._live: LiveMode | None = None
        self._save_for_undo = save_for_undo

    def __enter__(self) -> Workflow:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def state(self) -> State:
        """What is known about the present job, or else the last one."""
        return self._runner.state

    def allowed(self, action: str) -> str:
        """Return why something cannot be done now, a sentence for its tooltip; empty where it can.

        Args:
            action: The name of one of the methods below.
        """
        try:
            _CHECKS[action](self)
        except VolumeSegmanticsError as error:
            return str(error)
        return ""

    # Jobs: each method raises a VolumeSegmanticsError where its job cannot start; all that follows is in the state.

    def train(
        self,
        *,
        model: AnyPath | None = None,
        start_from: AnyPath | None = None,
        others: Sequence[tuple[Node, Node]] = (),
    ) -> None:
        """Start to train a model on the strokes inside the chosen region; in the end it is the chosen model.

        Args:
            model: The ``.safetensors`` file to write; the default lies in the job's folder.
            start_from: A model file that training goes on from.
            others: More pairs of volume and segmentation node to learn from.
        """
        self._check("train")
        settings = self._settings(TrainSettings)
        pairs = [(self._choices.node("volume"), self._choices.node("annotation")), *others]
        choice, box = _Choice(self._closings), self._choices.box()

        def write(folder: Path, report: Report, later: Write) -> None:
            part = train_job(
                folder,
                pairs,
                settings,
                self._images,
                model=model,
                start_from=start_from,
                box=box,
                report=report,
                write=later,
            )
            self._watch.begin(folder, part.start)

        def show(state: State) -> State:
            if choice.closings == self._closings:
                self.parameters.model_path = Path(state.outputs["model"])
            return state

        self._runner.start("train", write, show)

    def predict(self, *, output: AnyPath | None = None, confidence: AnyPath | bool = False) -> None:
        """Start to segment the volume, inside the chosen region, with the chosen model.

        The result refills the chosen result node; where none is chosen it gets a new one, which then is the chosen one.

        Args:
            output: The label file to write; the default lies in the job's folder.
            confidence: True for a volume node of the confidence too, or the image file to write it to.
        """
        self._check("predict")
        settings, model = self._settings(PredictSettings), self._choices.model()
        volume, box = self._choices.node("volume"), self._choices.box()
        ids = {role: self._choices.node_id(role) for role in ("volume", "result", "confidence")}
        provenance = {"Model": str(model), "Settings": settings.changed(), **({BOX: box.spans} if box else {})}
        choice = _Choice(self._closings, ids, provenance)
        self._runner.start(
            "predict",
            lambda folder, report, later: predict_job(
                folder,
                volume,
                model,
                settings,
                self._images,
                output=output,
                confidence=confidence,
                box=box,
                write=later,
            ),
            lambda state: self._show_prediction(state, choice),
        )

    def plan(self, *, confidence: bool = False) -> None:
        """Start to find out what ``predict`` would take: the state's outputs are those of the task ``plan``."""
        self._check("plan")
        settings, model = self._settings(PredictSettings), self._choices.model()
        volume, box = self._choices.node("volume"), self._choices.box()
        self._runner.start(
            "plan",
            lambda folder, report, later: plan_job(
                folder, volume, model, settings, self._images, confidence=confidence, box=box, write=later
            ),
            lambda state: state,
        )

    def predict_file(self, image: AnyPath, output: AnyPath) -> None:
        """Start to segment an image file with the chosen model; the scene is not changed, nor need it hold the image.

        Args:
            image: In any format that the library reads.
            output: The label file to write.
        """
        self._check("predict_file")
        settings, model = self._settings(PredictSettings), self._choices.model()
        self._runner.start(
            "predict",
            lambda folder, report, later: predict_file_job(folder, image, model, settings, output),
            lambda state: replace(state, note=f"The result is {state.outputs['labels']}"),
        )

    def evaluate(self, truth: Node | None = None) -> None:
        """Start to compare the result with a segmentation node, by default with the strokes.

        The figures are ``outputs["scores"]`` of the state, and lie in the folder ``outputs["folder"]`` with a picture.
        """
        self._check_free()
        settings = self.parameters.settings(EvaluateSettings)
        volume, result = self._choices.node("volume"), self._choices.node("result")
        known = truth or self._choices.node("annotation")
        self._runner.start(
            "evaluate",
            lambda folder, report, later: evaluate_job(
                folder, volume, result, known, settings, report=report, write=later
            ),
            lambda state: state,
        )

    def constrain(self, rules: str) -> None:
        """Start to make rules hold in the result, which is filled again; ``undo_constrain`` takes that back.

        What they changed are ``outputs["steps"]`` of the state, and ``outputs["before"]`` and ``["after"]``.

        Args:
            rules: Such as ``"min-size pores 50; inside pores matrix"``.
        """
        self._check("constrain")
        parse(rules)
        settings = ConstrainSettings(rules=rules)
        volume, result = self._choices.node("volume"), self._choices.node("result")
        ids = {"volume": str(volume.GetID()), "result": str(result.GetID())}
        earlier = _Choice(self._closings, ids, provenance_of(result))
        constrained = replace(earlier, provenance={**earlier.provenance, "Rules": rules})

        def show(state: State) -> State:
            shown = self._show_prediction(state, constrained)
            if state.folder is not None and shown.node_ids:
                self._before_rules = (state.folder / PREDICTION_FILE, earlier)
            return shown

        self._runner.start(
            "constrain",
            lambda folder, report, later: constrain_job(folder, volume, result, settings, report=report, write=later),
            show,
        )

    def undo_constrain(self) -> None:
        """Make the result what it was before rules were made to hold in it."""
        self._check("undo_constrain")
        assert self._before_rules is not None, "the check has seen it"
        labels, choice = self._before_rules
        result, volume = self._still_there(choice, "result"), self._choices.node("volume")
        show_labels(labels, volume, result=result, provenance=choice.provenance)
        self._before_rules = None

    def live_start(self, *, model: AnyPath | None = None, labels: bool = True) -> None:
        """Start live mode: a local model learns what is painted inside the chosen region, again after every change.

        The state's ``preview`` is what it makes of the slice in view, see ``watch``. It goes on until ``live_stop``, or
        ``cancel``; and it is cancelled when its volume or strokes are gone, or others are chosen.

        Args:
            model: The ``.safetensors`` file to write in the end; the default lies in the job's folder.
            labels: Whether the volume is segmented in the end, into the result node.
        """
        self._check("live_start")
        training = self._settings(TrainSettings)
        settings = LiveSettings.like(training, memory=self._settings(PredictSettings).memory)
        volume, strokes, box = self._choices.node("volume"), self._choices.node("annotation"), self._choices.box()
        ids = {role: self._choices.node_id(role) for role in ("volume", "annotation", "result")}
        choice = _Choice(self._closings, ids, {BOX: box.spans} if box else {})
        painted = snapshot_of(strokes, volume, unpainted=settings.unpainted)

        def write(folder: Path, report: Report, later: Write) -> None:
            part = live_job(folder, volume, settings, self._images, model=model, labels=labels, box=box, write=later)
            self._live = LiveMode(folder, part, ids, self._runner.send)

        self._runner.start("live", write, lambda state: self._show_live(state, choice))
        assert self._live is not None, "it has been written"
        self._live.paint(painted)
        self._tell_live_place()

    def live_update(self) -> None:
        """Tell live mode what is painted now: to be called when strokes have changed.

        Raises:
            InputError: The strokes cannot be used.
        """
        if self._is_live and self._live is not None and not self._cancel_if_astray():
            volume, strokes = (self._scene.GetNodeByID(self._live.ids[role]) for role in ("volume", "annotation"))
            self._live.paint(snapshot_of(strokes, volume, unpainted=self._settings(TrainSettings).unpainted))

    def live_stop(self, *, keep: bool = True) -> None:
        """End live mode.

        Args:
            keep: Whether the model is kept, and becomes the chosen one, and the volume is segmented if that was wanted.
                Otherwise nothing of it is left.
        """
        self._check("live_stop")
        assert self._live is not None, "the check has seen it"
        if keep:
            self._live.end()
        else:
            self.cancel()

    def watch(self, axis: str, index: int) -> None:
        """Say which slice of the volume is in view: previews of a training, and live mode, show it.

        Args:
            axis: ``"z"``, ``"y"`` or ``"x"``, which the slice is perpendicular to.
            index: Counted from 0.
        """
        self._watch.look_at(axis, index)
        if self.state.is_running and self.state.task == "train":
            self._watch.tell()
        self._tell_live_place()

    def cancel(self) -> None:
        """Ask the job to stop; nothing happens where none runs."""
        self._runner.cancel()

    def pump(self) -> State:
        """Take in what the job has told, without waiting for it, and return the state: for a timer."""
        if self._is_live:
            self._cancel_if_astray()
        return self._runner.pump()

    def wait(self, on_change: Callable[[State], object] | None = None) -> State:
        """Wait for the end of the job and return the state: for scripts. ``on_change`` gets every new state."""
        return self._runner.wait(on_change, pump=self.pump)

    def close(self) -> None:
        """End the job, and let go of the scene."""
        self._runner.close()
        self._observations.clear()

    # Strokes

    def accept(self, region: Region, *, overwrite: bool = False) -> int:
        """Copy the result inside a region into the strokes, and return how many voxels that were.

        Args:
            region: Such as ``Region.one_slice(volume_node, "z", 12)``.
            overwrite: Whether what the user has painted there is replaced too.
        """
        self._check("accept")
        strokes = self._choices.node("annotation")
        accepted = accept(
            self._choices.node("result"),
            strokes,
            self._choices.node("volume"),
            region,
            overwrite=overwrite,
            unpainted=self.parameters.settings(TrainSettings).unpainted,
            before_change=self._save_for_undo or (lambda: self._undo.save(strokes)),
        )
        if accepted and not self._save_for_undo:
            self._undo.settle(strokes)
        return accepted

    def undo_accept(self) -> None:
        """Make the strokes what they were before the last part was accepted."""
        self._check("undo_accept")
        self._undo.take_back(self._choices.node("annotation"))

    def _settings(self, kind: type[S]) -> S:
        """Return the scene's settings, on the device that was chosen for this computer."""
        settings = self.parameters.settings(kind)
        return replace(settings, device=self.device) if self.device else settings

    def _check(self, action: str) -> None:
        _CHECKS[action](self)

    @property
    def _is_live(self) -> bool:
        return self.state.phase is Phase.RUNNING and self.state.task == "live"

    def _check_live_stop(self) -> None:
        if not self._is_live:
            raise WorkerError("Live mode is not on.")
        if self._live is not None and self._live.is_ending:
            raise WorkerError("Live mode is being finished already.", "Wait for its end, or cancel it.")

    def _check_free(self) -> None:
        if self._is_live:
            raise WorkerError("Live mode is on.", "Turn it off first.")
        if self.state.is_running:
            raise WorkerError("A job is running.", "Wait for its end, or cancel it.")

    def _check_job(self, task: str) -> None:
        self._check_free()
        self._choices.check(task)

    def _check_cancel(self) -> None:
        if self.state.phase is Phase.STOPPING:
            raise WorkerError("The job is being stopped already.")
        if not self.state.is_running:
            raise WorkerError("No job is running.")

    def _check_undo_accept(self) -> None:
        if refusal := self._undo.refusal(self._choices.node("annotation")):
            raise InputError(refusal)

    def _check_undo_constrain(self) -> None:
        self._check_free()
        is_known = self._before_rules is not None and self._still_there(self._before_rules[1], "result") is not None
        if not is_known or self._before_rules[1].ids["volume"] != self._choices.node_id("volume"):
            raise InputError("No rules were applied that could be taken back.")

    # What becomes of a job's end, and of the scene's

    def _show_prediction(self, state: State, choice: _Choice) -> State:
        """Show a result where its volume still is, and say otherwise where it lies."""
        volume = self._still_there(choice, "volume")
        if volume is None:
            return replace(state, note=f"The volume is no longer in the scene. Its result is {state.outputs['labels']}")
        node_ids = {}
        self._before_rules = None
        for role, output, show in (("result", "labels", show_labels), ("confidence", "confidence", show_confidence)):
            if output in state.outputs:
                earlier = self._still_there(choice, role)
                node = show(state.outputs[output], volume, result=earlier, provenance=choice.provenance)
                self.parameters.choose(role, node)
                node_ids[role] = str(node.GetID())
        return replace(state, node_ids=node_ids)

    def _show_live(self, state: State, choice: _Choice) -> State:
        """Choose the model that live mode came to, and show its result."""
        made = replace(choice, provenance={"Model": state.outputs["model"], **choice.provenance})
        if choice.closings == self._closings:
            self.parameters.model_path = Path(state.outputs["model"])
        return self._show_prediction(state, made) if "labels" in state.outputs else state

    def _tell_live_place(self) -> None:
        if self._is_live and self._live is not None and (place := self._watch.seen_from(self._live.part.start)):
            self._live.look(place)

    def _cancel_if_astray(self) -> bool:
        """Cancel live mode where its nodes are no longer those that are chosen; return whether that was so."""
        assert self._live is not None, "it is on"
        astray = [role for role in ("volume", "annotation") if self._choices.node_id(role) != self._live.ids[role]]
        if astray and not self._live.is_ending:
            self._runner.cancel(f"The {WORDS[astray[0]]} is another now: live mode was turned off.")
        return bool(astray)

    def _still_there(self, choice: _Choice, role: str) -> Node | None:
        is_same_scene = choice.closings == self._closings
        return self._scene.GetNodeByID(choice.ids[role]) if is_same_scene and choice.ids[role] else None

    def _on_scene_closing(self, *_: object) -> None:
        self._closings += 1
        self._images.forget()
        self._undo.forget()
        self._before_rules = None
        self._last_of_other_scene = self.state.folder if self.state.is_running else None
        self._runner.cancel("The scene was closed.")
        self._runner.forget()

    def _on_scene_read(self, *_: object) -> None:
        """Forget what became of the job that ran when the scene before was closed."""
        if self.state.folder is not None and self.state.folder == self._last_of_other_scene:
            self._runner.forget()


@dataclass(frozen=True)
class _Choice:
    """What was chosen when a job started: after how many closings of the scene, node IDs by role, and provenance."""

    closings: int
    ids: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


_CHECKS: dict[str, Callable[[Workflow], None]] = {
    "train": lambda workflow: workflow._check_job("train"),
    "predict": lambda workflow: workflow._check_job("predict"),
    "plan": lambda workflow: workflow._check_job("predict"),
    "predict_file": lambda workflow: workflow._check_job("predict_file"),
    "evaluate": lambda workflow: workflow._check_job("evaluate"),
    "constrain": lambda workflow: workflow._check_job("constrain"),
    "undo_constrain": Workflow._check_undo_constrain,
    "live_start": lambda workflow: workflow._check_job("live"),
    "live_stop": Workflow._check_live_stop,
    "cancel": Workflow._check_cancel,
    "accept": lambda workflow: workflow._choices.check("accept"),
    "undo_accept": Workflow._check_undo_accept,
}
