"""The model file: weights as safetensors, the card in its header. Data only: nothing in it is ever executed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..card import CARD_KEY, ModelCard, read_card, read_metadata
from ..errors import DependencyError, ModelError, ResourceError
from ..io.atomic import replacing


def save(path: str | Path, tensors: dict[str, Tensor], card: ModelCard) -> Path:
    """Write a model file; an earlier one is replaced only when the new one is whole.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    return write_tensors(path, tensors, {CARD_KEY: card.to_json()})


def load(path: str | Path) -> tuple[ModelCard, Tensors]:
    """Open a model file.

    Raises:
        ModelError: It is missing, truncated, foreign, or of a newer version.
    """
    return read_card(path), Tensors(Path(path))


class Tensors(Mapping[str, Tensor]):
    """The tensors of a safetensors file, each read only when it is asked for, so that no two are in memory at a time.

    Raises:
        ModelError: The file is missing, truncated or damaged.
    """

    def __init__(self, path: Path) -> None:
        read_metadata(path)
        self._path = path
        with _opened(path) as opened:
            self._names = list(opened.keys())

    def __getitem__(self, name: str) -> Tensor:
        with _opened(self._path) as opened:
            tensor: Tensor = opened.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Path:
    """Write tensors and texts as one safetensors file, atomically."""
    path = Path(path)
    try:
        with replacing(path) as draft:
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            _safetensors().save_file(plain, draft, metadata)
    except Exception as error:
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise ResourceError(
                f"The model cannot be written to {path} ({error}).", "Free some space, or choose another folder."
            ) from None
        raise
    return path


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file onto the CPU.

    Raises:
        ModelError: The file is missing, truncated or damaged.
    """
    return dict(Tensors(path))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with _safetensors().safe_open(path, framework="pt") as opened:
            yield opened
    except Exception as error:
        raise ModelError(
            f'The model file "{path.name}" is damaged ({error}).', "Copy it again, or train it again."
        ) from None


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise DependencyError("safetensors is missing.", "Install it: pip install safetensors") from None
    return safetensors.torch
