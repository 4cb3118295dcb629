"""A job's state in the words of the status line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from VolumeSegmanticsLib import memory

from .pace import SPANS
from .states import Phase, State

READY = "Ready."
VERBS = {
    "train": "Training",
    "predict": "Segmenting",
    "plan": "Estimating",
    "evaluate": "Comparing",
    "constrain": "Applying the rules",
    "live": "Live mode",
}
_ENDED = {
    "train": "The model is trained.",
    "predict": "The volume is segmented.",
    "evaluate": "Compared.",
    "constrain": "The rules hold.",
    "live": "Live mode has ended; its model is chosen.",
}
STAGES = {
    "prepare": "getting ready",
    "read": "reading the image",
    "try": "trying a few parts",
    "learning rate": "trying learning rates",
    "advice": "letting a quick model look at the strokes",
    "features": "looking around the painted voxels",
    "write": "writing the result",
}
LIVE_STAGES = {
    **STAGES,
    "wait": "paint some voxels of at least two classes",
    "learn": "learning",
    "segment": "looking at the rest of the volume",
    "ready": "up to date",
}
BAR_STEPS = 1000
_SECONDS_A_MINUTE, _MINUTES_AN_HOUR = 60, 60


def headline(state: State) -> str:
    """Return one line that says where a job is."""
    return _HEADLINES[state.phase](state)


def is_error(state: State) -> bool:
    """Tell whether the job has failed."""
    return state.phase is Phase.FAILED


def bar_of(state: State) -> tuple[int, int]:
    """Return the value of a progress bar and its maximum; a maximum of 0 means that nobody knows."""
    if not state.is_running:
        return (BAR_STEPS if state.phase is Phase.DONE else 0), BAR_STEPS
    is_known = state.task in SPANS or state.total > 0
    return round(BAR_STEPS * state.pace.part), BAR_STEPS if is_known else 0


def duration(seconds: float) -> str:
    """Return a time that is left, no finer than anybody can know."""
    if seconds < _SECONDS_A_MINUTE:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / _SECONDS_A_MINUTE)
    if minutes < _MINUTES_AN_HOUR:
        return f"{minutes} min"
    return f"{minutes // _MINUTES_AN_HOUR} h {minutes % _MINUTES_AN_HOUR:02d} min"


def _running(state: State) -> str:
    words = [VERBS.get(state.task, "Working")]
    stages = LIVE_STAGES if state.task == "live" else STAGES
    if state.stage and state.stage != state.task:
        words.append(stages.get(state.stage, state.stage))
    if state.epochs:
        last = state.epochs[-1]
        words.append(f"epoch {last.epoch}")
        if last.train_loss is not None:
            words.append(f"loss {last.train_loss:.3f}")
        if last.valid_dice is not None:
            words.append(f"Dice {last.valid_dice:.3f}")
    if state.seconds_left is not None and state.task != "live":
        words.append(f"{duration(state.seconds_left)} left")
    return words[0] + (": " if len(words) > 1 else " …") + ", ".join(words[1:])


def cost(outputs: Mapping[str, Any]) -> str:
    """Return what a prediction would take, as the task ``plan`` has found it out."""
    words = [duration(outputs["seconds"]), f"{memory.told(outputs['memory_bytes'])} of memory"]
    if outputs["disk_bytes"]:
        words.append(f"{memory.told(outputs['disk_bytes'])} on the disk until it is done")
    return f"About {', '.join(words)}; without reading and writing."


def _done(state: State) -> str:
    if state.task == "plan":
        return cost(state.outputs)
    best = f" Best Dice {state.best_dice:.3f}." if state.best_dice is not None else ""
    changed = sum(step["changed"] for step in state.outputs.get("steps", ()))
    steps = f" {changed} voxels have changed." if "steps" in state.outputs else ""
    return " ".join(filter(None, [_ENDED.get(state.task, "Done.") + best + steps, state.note]))


def _failed(state: State) -> str:
    assert state.error is not None
    remedy = state.error.hint.partition("\n")[0]  # what follows are a worker's last words, which the log has too
    return " ".join(filter(None, [state.error.message, remedy, state.note]))


_HEADLINES = {
    Phase.IDLE: lambda state: READY,
    Phase.RUNNING: _running,
    Phase.STOPPING: lambda state: f"{state.note} Stopping …".strip(),
    Phase.DONE: _done,
    Phase.FAILED: _failed,
    Phase.CANCELLED: lambda state: f"{state.note} Stopped; nothing was changed.".strip(),
}
