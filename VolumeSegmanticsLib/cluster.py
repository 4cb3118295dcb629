"""Prediction on a cluster: parts of it are handed out to the workers of a dask scheduler, or to processes started here.

What a worker does is told in ``orders``, how parts come to workers in ``team``; what is done is written down where one
machine does so too.
"""

from __future__ import annotations

import hashlib
import json
import math
import pydoc
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import __version__, memory, orders, planning
from .big_prediction import identity
from .errors import DependencyError, ResourceError
from .events import Log, Progress, Report
from .intensity import Intensity
from .models import Model
from .orders import Order
from .parts import Parts
from .prediction import Prediction, Steps
from .scheduler import connected, dask_distributed, failures
from .settings import PredictSettings
from .stores import sample
from .team import Asking, Seat, Team, look, planned
from .unfinished import MODEL, Unfinished, remove
from .volume import Volume

_SAME = ("python", "distributed", "torch", "numpy")


@dataclass(frozen=True)
class Task:
    """A prediction that a cluster makes.

    Attributes:
        path: The image file; its dataset included.
        source: The file or folder alone.
        image: The same, opened here.
        model: What answers.
        settings: ``cluster`` says where.
        outputs: Files to be made, labels first.
        confidence: Whether the confidence is wanted too.
    """

    path: str
    source: Path
    image: Volume
    model: Model
    settings: PredictSettings
    outputs: list[Path]
    confidence: bool


def predict_on_cluster(task: Task, report: Report) -> tuple[Unfinished[Any], Prediction]:
    """Segment a volume, from where an interrupted run is.

    Returns:
        The run, to be removed when its result is written, and the result, which is read from the run's folder.

    Raises:
        DependencyError: dask.distributed is missing, here or there.
        ResourceError: No scheduler answers, or memory or disk are too small.
        InputError: Workers do not see the image, or the folder of the result.
    """
    if remark := Intensity.from_dict(task.model.card.intensity).remark_on(sample(task.image)):
        report(Log("warning", remark))
    with failures(), connected(task.settings.cluster, report) as client:
        team = Team(client, report)
        team.wait()
        return _Prediction(task, team, report).made()


class _Prediction:
    """One prediction, and the team that makes it."""

    def __init__(self, task: Task, team: Team, report: Report) -> None:
        self._task, self._team, self._report = task, team, report
        self._folder = Unfinished.folder_of(task.outputs[0]).absolute()
        self._told: set[str] = set()
        settings = {**task.settings.to_dict(), "cluster": ""}
        self._facts = identity(
            task.image, task.source, task.model, PredictSettings(**settings), confidence=task.confidence
        )
        self._facts["setting"]["cluster"] = True  # one machine keeps other files
        about = hashlib.sha256(json.dumps(self._facts).encode()).hexdigest()
        self._order = Order(
            task.path, task.model.card.channels, str(self._folder), about, uuid.uuid4().hex, settings,
            task.confidence, {},
        )  # fmt: skip
        here = replace(self._order, settings={**settings, "device": "cpu"})
        self._way = orders.way_of(task.image, task.model, here)

    def made(self) -> tuple[Unfinished[Any], Prediction]:
        """Do what is not done yet."""
        known = Unfinished.find(self._folder, self._facts, self._way.kind, self._report)
        with self._session():
            seats = self._team.waited_for(self._welcome())
            if not (seats and self._team.threads):
                raise _all_gone()
            run = known or self._begun(seats)
            parts = self._order.parts(self._way, run.plan)
            done = run.done + len(run.ahead)
            if not done:
                parts.create()
            elif known:
                self._report(Log("info", f"An interrupted prediction goes on: {done} of {parts.count} steps."))
            self._work(run, parts)
        return run, parts.prediction(planning.budget(self._task.settings))

    @contextmanager
    def _session(self) -> Iterator[None]:
        """Lay the model where workers find it, and say that it is we who want something of them."""
        is_new = not self._folder.is_dir()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._task.model.save(self._folder / MODEL)
            orders.begin_session(self._order)
        except OSError as error:
            raise ResourceError(
                f"{self._folder} cannot be made ({error.strerror}).", "Choose another folder."
            ) from error
        try:
            yield
        finally:
            orders.end_session(self._order)
            if is_new and not Unfinished.has_begun(self._folder):
                remove(self._folder)

    def _welcome(self) -> Asking[list[Seat]]:
        """Have new workers look at image and folder before they get parts; return what they have.

        Raises:
            DependencyError: They have not this library in this version.
            InputError: They do not see image or folder.
        """
        team, source = self._team, self._task.source
        newcomers = team.newcomers()
        yield from self._compare_versions(newcomers)
        size, text = source.stat().st_size, self._order.to_json()
        hosts = Counter(map(_host, team.threads))
        asked = {address: (text, size, hosts[_host(address)]) for address in newcomers}
        seats = yield from team.ask(look, asked)
        team.welcome(seats)
        return list(seats.values())

    def _keep_welcoming(self) -> Asking[None]:
        while True:
            if self._team.newcomers():
                yield from self._welcome()
            yield

    def _compare_versions(self, addresses: Sequence[str]) -> Asking[None]:
        """Make sure that workers have this library, in this version; tell once what else is not the same."""
        ours = ("VolumeSegmanticsLib.__version__",)
        versions = yield from self._team.ask(pydoc.locate, dict.fromkeys(addresses, ours))
        for address, version in versions.items():
            if version != __version__:
                has = f"has VolumeSegmantics {version}" if version else "does not find VolumeSegmantics"
                wanted = f"volumesegmantics[cluster]=={__version__}"
                raise DependencyError(
                    f"The worker {address} {has}, and this is {__version__}.",
                    f'Install it into the Python of the workers: pip install "{wanted}"',
                )
        find = dask_distributed().versions.get_versions
        found, here = (yield from self._team.ask(find, dict.fromkeys(addresses, (_SAME,)))), find(_SAME)["packages"]
        for package in _SAME:
            others = {facts["packages"].get(package) for facts in found.values()} - {here.get(package)}
            if others and package not in self._told:
                self._told.add(package)
                self._report(Log(
                    "warning",
                    f"Workers have {package} {', '.join(map(str, others))}, and this process has {here.get(package)}: "
                    "install the same version if results differ or parts fail.",
                ))  # fmt: skip

    def _begun(self, seats: Sequence[Seat]) -> Unfinished[Any]:
        """Plan a run on a worker, and begin it."""
        budget, sharing = min(seat.budget for seat in seats), max(Counter(seat.device for seat in seats).values())
        plans: dict[str, Any] = {}
        while not plans:  # who is asked may be lost
            threads = self._team.threads
            if not threads:
                raise _all_gone()
            weakest = min(threads, key=lambda address: threads[address])
            question = (self._order.to_json(), budget, sum(threads.values()), sharing)
            plans = self._team.waited_for(self._team.ask(planned, {weakest: question}))
        divided = self._way.kind.from_dict(plans[weakest])
        planning.check_writers(
            self._task.outputs, 3 * math.prod(self._task.image.grid.shape), planning.budget(self._task.settings)
        )
        planning.check_disk(divided, self._folder.parent)
        place = f'{memory.told(divided.disk_bytes)} in "{self._folder.name}"'
        self._report(Log("info", f"{divided.told()}, on {len(threads)} workers, with {place} until it is done."))
        return Unfinished.begin(self._folder, self._facts, divided)

    def _work(self, run: Unfinished[Any], parts: Parts) -> None:
        """Hand out what is not done yet: copies of the image first, since others read them."""
        text = self._order.with_plan(run.plan).to_json()
        copies = len(parts.copies)
        total = sum(map(parts.size, range(parts.count)))
        before = sum(parts.size(number) for number in range(parts.count) if run.is_done(number))
        welcoming = self._keep_welcoming()

        def hand_out(numbers: Iterable[int], tell: Callable[[int], None]) -> None:
            left = [number for number in numbers if not run.is_done(number)]
            with closing(self._team.done(text, left, parts.at_once)) as finished:
                for number in finished:
                    next(welcoming)
                    if number is not None:
                        run.finished(number)
                    tell(0 if number is None else parts.size(number))

        if copies:
            hand_out(range(copies), lambda _: self._report(Progress("read", min(run.done, copies), copies)))
        hand_out(range(copies, parts.count), Steps(total, self._report, before=before).done)


def _all_gone() -> ResourceError:
    return ResourceError("All workers are gone.", "Look at their logs; the same command goes on where it was.")


def _host(address: str) -> str:
    return address.rpartition("://")[2].rpartition(":")[0]


__all__ = ["Task", "predict_on_cluster"]
