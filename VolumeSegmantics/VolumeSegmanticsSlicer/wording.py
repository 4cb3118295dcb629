"""A job's state in the words of the status line."""

from __future__ import annotations

from .states import Phase, State

READY = "Ready."
VERBS = {
    "train": "Training",
    "predict": "Segmenting",
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
    "learning rate": "trying learning rates",
    "advice": "letting a quick model look first",
    "features": "looking around the painted voxels",
    "write": "writing the result",
}
LIVE_STAGES = {
    "wait": "paint some voxels of at least two classes",
    "learn": "learning",
    "segment": "looking at the rest of the volume",
    "ready": "up to date",
}
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
        return (1 if state.phase is Phase.DONE else 0), 1
    return min(state.done, state.total), state.total


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


def _done(state: State) -> str:
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
