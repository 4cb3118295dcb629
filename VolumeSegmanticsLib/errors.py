"""What can go wrong in a way that the user can mend, and cancelling, which is no error."""

from __future__ import annotations


class VolumeSegmanticsError(Exception):
    """A failure that the user can mend: one sentence that says what is wrong, and a hint that says what to do.

    Args:
        message: What is wrong, with the value that is wrong.
        hint: What to do about it; may be empty.
    """

    code = "error"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class SettingsError(VolumeSegmanticsError):
    """A setting is unknown, out of range, or does not go with another."""

    code = "settings"


class InputError(VolumeSegmanticsError):
    """An image or label file, or what it holds, cannot be used."""

    code = "input"


class ModelError(VolumeSegmanticsError):
    """A model file cannot be read, or does not fit the image."""

    code = "model"


class ResourceError(VolumeSegmanticsError):
    """Disk, memory or device are missing, full or not writable."""

    code = "resource"


class TooLittleMemory(ResourceError):
    """A prediction does not fit into the memory.

    Args:
        message, hint: As of every error.
        needed: Bytes into which it would fit, beside what the program itself takes; 0 where that is not known.
        otherwise: What else would help, as the end of a sentence.
    """

    def __init__(self, message: str, hint: str = "", *, needed: float = 0, otherwise: str = "") -> None:
        super().__init__(message, hint)
        self.needed, self.otherwise = needed, otherwise


class DependencyError(VolumeSegmanticsError):
    """A package, or something it would have to download, is missing."""

    code = "dependency"


class WorkerError(VolumeSegmanticsError):
    """The worker process ended without an answer."""

    code = "worker"


class Cancelled(Exception):
    """The user stopped the run. Raised by ``report``; never wrapped, never swallowed."""
