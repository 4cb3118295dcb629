"""The folder of the user's models: what lies in it, a free name for the next one, and a card in words."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from VolumeSegmanticsLib.card import ModelCard, read_card
from VolumeSegmanticsLib.errors import ModelError, ResourceError

SUFFIX = ".safetensors"
UNFINISHED = ".unfinished" + SUFFIX
_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f]+')


def models_in(folder: Path) -> list[Path]:
    """Return the model files of a folder, the newest first; a folder that is not there holds none."""
    found = [(path.stat().st_mtime, path) for path in _files(folder) if not path.name.endswith(UNFINISHED)]
    return [path for _, path in sorted(found, reverse=True)]


def free_path(folder: Path, name: str) -> Path:
    """Return the path of a model that does not exist yet, by a name that may lack, or be unfit for a file."""
    stem = _NOT_IN_NAMES.sub("_", name).strip(" .") or "model"
    for n in itertools.count(1):
        path = folder / f"{stem}{f' {n}' if n > 1 else ''}{SUFFIX}"
        if not path.exists():
            return path
    raise AssertionError("numbers never end")


def new_model(folder: Path, name: str) -> Path:
    """Return the path of a model to be, in a folder that is made where it is missing; earlier models are kept.

    Raises:
        ResourceError: The folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f'The folder of models "{folder}" cannot be made ({error.strerror}).', "Choose another under Advanced."
        ) from error
    return free_path(folder, name)


def remove_models(folder: Path) -> int:
    """Delete all models of a folder, unfinished ones too, and return how many files that were."""
    files = list(_files(folder))
    for path in files:
        path.unlink()
    return len(files)


def card_of(path: Path) -> ModelCard | None:
    """Return the card of a model; None where it cannot be read."""
    try:
        return read_card(path)
    except (ModelError, OSError):
        return None


def told(card: ModelCard) -> str:
    """Return what a user wants to know of a model, in a few lines."""
    score = card.scores.get("mean_dice")
    return "\n".join(
        [
            f"{card.model}, tells apart: {', '.join(c.name for c in card.classes)}.",
            f"Voxels of {' × '.join(f'{step:.4g}' for step in card.spacing)} mm; planes {', '.join(card.axes)}.",
            f"Dice {score:.2f} on strokes that it had not learned." if score is not None else "It was not validated.",
            *([f"Goes on from {card.parent}."] if card.parent else []),
        ]
    )


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob(f"*{SUFFIX}") if path.is_file())
