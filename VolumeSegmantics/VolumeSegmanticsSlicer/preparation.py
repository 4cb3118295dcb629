"""Sees to it that a job has the Python packages that it needs, when the user first asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from VolumeSegmanticsLib.errors import Cancelled

from .install import install, install_readers
from .readers import lacking_for
from .requirements import missing
from .user_choices import UserChoices

INSTALLING = "Python packages are being installed."


class Preparation:
    """Looks for packages, and installs them where the user agrees.

    Args:
        user: Names the Python that runs workers.
        confirm: Shows a question, and returns whether the answer is yes.
        breathe: Called again and again while it lasts, such as ``processEvents``.

    Attributes:
        report: Takes what is being done, line by line.
        refusal: Why nothing else can be done meanwhile; empty where it can.
        task: For which job it is being done; empty where it is not.
    """

    def __init__(
        self,
        user: UserChoices,
        confirm: Callable[[str], bool],
        breathe: Callable[[], object],
    ) -> None:
        self._user, self._confirm, self._breathe = user, confirm, breathe
        self.report: Callable[[str], object] = lambda line: None
        self._ready: set[str] = set()
        self._is_cancelled = False
        self.refusal = self.task = ""

    @property
    def is_running(self) -> bool:
        """Whether packages are being looked for or installed."""
        return bool(self.refusal)

    def cancel(self) -> None:
        """Stop as soon as that is possible."""
        self._is_cancelled = True

    def make_ready(self, task: str) -> None:
        """Return once the worker's Python has all that a job needs.

        Raises:
            Cancelled: The user does not agree, or has stopped it.
            DependencyError: It did not work.
        """
        python = self._user.python
        if python in self._ready:
            return
        with self._at_work(task, "The Python packages are being looked at."):
            self.report(self.refusal)
            if lacking := missing(python or None, breathe=self._live):
                self.refusal = INSTALLING
                install(lacking, python=python, confirm=self._confirm, report=self.report, breathe=self._live)
            self._ready.add(python)

    def make_readable(self, path: Path, task: str = "") -> None:
        """Return once Slicer's own Python has what reads a file; errors are those of ``make_ready``."""
        if lacking := lacking_for(path):
            with self._at_work(task, INSTALLING):
                install_readers(lacking, confirm=self._confirm, report=self.report, breathe=self._live)

    @contextmanager
    def _at_work(self, task: str, refusal: str) -> Iterator[None]:
        self.task, self.refusal, self._is_cancelled = task, refusal, False
        try:
            yield
        finally:
            self.refusal = self.task = ""

    def _live(self) -> None:
        if self._is_cancelled:
            raise Cancelled
        self._breathe()
