"""Which devices the user can choose, asked of the driver: torch stays out of this process."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import dataclass

_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
_NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)


@dataclass(frozen=True)
class Device:
    """A device: its name in ``TrainSettings.device``, and in words."""

    name: str
    title: str


ALWAYS = (Device("auto", "Automatic"), Device("cpu", "Processor (CPU)"))


class DeviceQuery:
    """Asks for the graphics cards without waiting for the answer; without a driver there are none."""

    def __init__(self, command: tuple[str, ...] = _QUERY) -> None:
        try:
            self._process: subprocess.Popen[str] | None = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True,
                creationflags=_NO_WINDOW,
            )  # fmt: skip
        except OSError:
            self._process = None
        self._cards = ""

    @property
    def is_over(self) -> bool:
        """Whether the answer is there."""
        return self._process is None or self._process.poll() is not None

    def devices(self) -> tuple[Device, ...]:
        """Return all devices that are known by now."""
        if self._process is not None and self.is_over:
            answer = self._process.communicate()[0]
            self._cards = answer if self._process.returncode == 0 else ""
            self._process = None
        return (*ALWAYS, *_apple(), *cards_in(self._cards))

    def close(self) -> None:
        """End the question."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def cards_in(text: str) -> tuple[Device, ...]:
    """Return the devices that lines such as ``NVIDIA H200, 143771`` (MiB) tell of."""
    rows = [line.rsplit(",", 1) for line in text.splitlines() if "," in line]
    return tuple(Device(f"cuda:{n}", f"{name.strip()}{_memory(mib)}") for n, (name, mib) in enumerate(rows))


def _memory(mib: str) -> str:
    return f", {int(mib) / 1024:.0f} GB" if mib.strip().isdigit() else ""


def _apple() -> tuple[Device, ...]:
    is_apple = sys.platform == "darwin" and platform.machine() == "arm64"
    return (Device("mps", "Apple GPU"),) if is_apple else ()
