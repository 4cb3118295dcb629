"""Prediction on a cluster: parts of it are handed out to the workers of a dask scheduler, or to processes started here.

What a worker does is told in ``orders``; what of it is done is written down where one machine does so too. A part whose
worker is lost is done again by another one: dask sees to that, and parts can be done twice.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import pydoc
import tempfile
import threading
import time
import uuid
import warnings
from asyncio import CancelledError
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from . import __version__, memory, orders, planning
from .big_prediction import identity
from .errors import Cancelled, DependencyError, ResourceError
from .events import Log, Progress, Report
from .intensity import Intensity
from .models import Model
from .orders import Order
from .parts import Parts
from .prediction import Prediction, Steps
from .settings import PredictSettings, local_workers
from .stores import sample
from .unfinished import MODEL, Unfinished, remove
from .volume import Volume

CONNECT_SECONDS = 10.0
"""How long a scheduler may take to answer."""

_POLL_SECONDS = 0.2  # after which somebody may cancel
_LOOK_SECONDS = 2.0  # between two looks at who is there
_DASK_SHARE = 0.6  # of a worker's limit: dask moves things to the disk beyond it
_DEAF = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # Ctrl-C is for us, who close the workers
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
    with _failures(), _connected(task.settings.cluster, report) as client:
        team = _Team(client, report)
        team.wait()
        _compare_versions(client, report)
        return _Prediction(task, team, report).made()


class _Prediction:
    """One prediction, and the team that makes it."""

    def __init__(self, task: Task, team: _Team, report: Report) -> None:
        self._task, self._team, self._report = task, team, report
        self._folder = Unfinished.folder_of(task.outputs[0]).absolute()
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
            budget = self._looked_around()
            run = known or self._begun(budget)
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

    def _looked_around(self) -> int:
        """Have every worker look at image and folder; return how many bytes each of them may take."""
        source = self._task.source
        size, text = source.stat().st_size, self._order.to_json()
        hosts = Counter(map(_host, self._team.threads))
        asked = {address: (text, size, hosts[_host(address)]) for address in self._team.threads}
        return min(self._team.ask(_look, asked))

    def _begun(self, budget: int) -> Unfinished[Any]:
        """Plan a run on a worker, and begin it."""
        threads = self._team.threads
        weakest = min(threads, key=lambda address: threads[address])
        (plan,) = self._team.ask(_planned, {weakest: (self._order.to_json(), budget, sum(threads.values()))})
        divided = self._way.kind.from_dict(plan)
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

        def hand_out(numbers: Iterable[int], tell: Callable[[int], None]) -> None:
            left = [number for number in numbers if not run.is_done(number)]
            with closing(self._team.done(text, left, parts.at_once)) as finished:
                for number in finished:
                    if number is not None:
                        run.finished(number)
                    tell(0 if number is None else parts.size(number))

        if copies:
            hand_out(range(copies), lambda _: self._report(Progress("read", min(run.done, copies), copies)))
        hand_out(range(copies, parts.count), Steps(total, self._report, before=before).done)


class _Team:
    """The workers.

    Attributes:
        threads: What each of them has, by its address; those that are gone are not there any more.
    """

    def __init__(self, client: Any, report: Report) -> None:
        self._client, self._report = client, report
        self._looked, self._bell = 0.0, threading.Event()
        self.threads: dict[str, int] = {}

    def wait(self) -> None:
        """Wait until there is a worker; a cluster may start them only now."""
        is_told = False
        while not self.look():
            if not is_told:
                self._report(Log("warning", "The scheduler has no workers: waiting for the first one."))
            is_told = True
            self._report(Progress("prepare", 0, 1))
            time.sleep(_POLL_SECONDS)

    def look(self) -> dict[str, int]:
        """Return who is there, as of some seconds ago."""
        if time.monotonic() - self._looked > _LOOK_SECONDS or not self.threads:
            before, self.threads = self.threads, dict(self._client.nthreads())
            self._looked = time.monotonic()
            if before and not self.threads:
                self._report(Log("warning", "All workers are gone: waiting for new ones."))
        return self.threads

    def ask(self, function: Callable[..., Any], asked: dict[str, tuple[Any, ...]]) -> list[Any]:
        """Return what workers answer to questions; those who leave do not matter as long as one is left."""
        futures = {
            self._client.submit(function, *question, workers=[address], pure=False): address
            for address, question in asked.items()
        }
        while not all(future.done() for future in futures):
            self._report(Progress("prepare", 0, 1))
            time.sleep(_POLL_SECONDS)
            gone = [future for future, address in futures.items() if address not in self.look() and not future.done()]
            for future in gone:
                del futures[future]
        if not futures:
            raise ResourceError("All workers are gone.", "Look at their logs; the same command goes on where it was.")
        return [_answer(future) for future in futures]

    def done(self, text: str, numbers: Iterable[int], at_once: int) -> Generator[int | None, None, None]:
        """Have parts done; yield the number of each as soon as it is, and None now and then while none is.

        Args:
            text: The order.
            numbers: Of the parts.
            at_once: Parts that a worker may have at the same time; no more than it has threads.
        """
        waiting, running = deque(numbers), dict[Any, tuple[int, str]]()
        try:
            while waiting or running:
                busy = Counter(address for _, address in running.values())
                for address, threads in self.look().items():
                    for number in _taken(waiting, min(threads, at_once) - busy[address]):
                        running[self._submitted(text, number, address)] = (number, address)
                self._bell.wait(_POLL_SECONDS)
                self._bell.clear()
                finished = [future for future in running if future.done()]
                for future in finished:
                    _answer(future)
                    yield running.pop(future)[0]
                if not finished:
                    yield None
        finally:
            with suppress(Exception):
                self._client.cancel(list(running))

    def _submitted(self, text: str, number: int, address: str) -> Any:
        """Hand a part to a worker; if that is lost, another one gets it."""
        future = self._client.submit(_do, text, number, workers=[address], allow_other_workers=True, pure=False)
        future.add_done_callback(lambda _: self._bell.set())
        return future


def _taken(waiting: deque[int], count: int) -> list[int]:
    return [waiting.popleft() for _ in range(min(count, len(waiting)))]


def _answer(future: Any) -> Any:
    """Return what a worker answered."""
    try:
        return future.result()
    except Cancelled:
        raise ResourceError(
            "Another process has begun to make the same result.", "Let it end, or write to another file."
        ) from None


def _host(address: str) -> str:
    return address.rpartition("://")[2].rpartition(":")[0]


# What workers are asked; they find these functions by name ----------------------------------------------------------


def _do(text: str, number: int) -> int:
    return orders.do(text, number, _own().state.nthreads)


def _look(text: str, image_bytes: int, sharing: int) -> int:
    allowed = orders.look(text, image_bytes, sharing)
    limit = _own().memory_manager.memory_limit
    return min(allowed, int(_DASK_SHARE * limit) - memory.in_use()) if limit else allowed


def _planned(text: str, budget: int, at_once: int) -> dict[str, Any]:
    return orders.planned(text, budget, at_once, _own().state.nthreads)


def _own() -> Any:
    return _distributed().get_worker()


# The scheduler ------------------------------------------------------------------------------------------------------


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise DependencyError(
            f"Prediction on a cluster needs the package {error.name}.",
            'Install it: pip install "volumesegmantics[cluster]"',
        ) from None
    return distributed


@contextmanager
def _connected(address: str, report: Report) -> Iterator[Any]:
    """Lend a client of a scheduler; what is started for it ends with it."""
    distributed = _distributed()
    with ExitStack() as stack:
        if count := local_workers(address):
            report(Log("info", f"Starting {count} workers."))
            address = stack.enter_context(_started(count)).scheduler_address
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", distributed.versions.VersionMismatchWarning)  # told by ourselves
        try:
            client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ResourceError(
                f"No scheduler answers at {address} ({str(error).splitlines()[0]}).",
                "Start it with: dask scheduler. It tells its address.",
            ) from error
        yield stack.enter_context(client)


@contextmanager
def _started(count: int) -> Iterator[Any]:
    """Lend a scheduler and workers on this machine, which share its threads."""
    distributed = _distributed()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        try:
            cluster = distributed.LocalCluster(
                n_workers=count, threads_per_worker=max(1, torch.get_num_threads() // count), processes=True,
                host="127.0.0.1", dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False},
                memory_limit=0, local_directory=folder, preload=[_DEAF], silence_logs=logging.CRITICAL,
            )  # fmt: skip
        except RuntimeError as error:
            raise ResourceError(
                f"Worker processes cannot be started ({error}).",
                'They import the script that starts them: what it does belongs under if __name__ == "__main__":',
            ) from error
        yield stack.enter_context(cluster)


def _compare_versions(client: Any, report: Report) -> None:
    """Make sure that workers have this library, in this version; tell what else is not the same.

    Raises:
        DependencyError: They have not.
    """
    for address, version in client.run(pydoc.locate, "VolumeSegmanticsLib.__version__").items():
        if version != __version__:
            has = f"has VolumeSegmantics {version}" if version else "does not find VolumeSegmantics"
            raise DependencyError(
                f"The worker {address} {has}, and this is {__version__}.",
                f'Install it into the Python of the workers: pip install "volumesegmantics[cluster]=={__version__}"',
            )
    told = client.get_versions(packages=_SAME)
    ours = told["client"]["packages"]
    for package in _SAME:
        theirs = {facts["packages"].get(package) for facts in told["workers"].values()} - {ours.get(package)}
        if theirs:
            report(Log(
                "warning",
                f"Workers have {package} {', '.join(map(str, theirs))}, and this process has {ours.get(package)}: "
                "install the same version if results differ or parts fail.",
            ))  # fmt: skip


@contextmanager
def _failures() -> Iterator[None]:
    """Turn what dask raises into sentences."""
    distributed = _distributed()
    try:
        yield
    except distributed.scheduler.KilledWorker as error:
        raise ResourceError(
            f"{error.allowed_failures + 1} workers have ended over the same part.",
            "Most probably there was not enough memory: give --memory less than they have. Their logs may tell more.",
        ) from error
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"A worker does not find the package {error.name}.", "Install it into the Python of the workers."
        ) from error
    except (CancelledError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ResourceError(
            f"The cluster is lost, or its disk ({reason}).", "Start it again: the same command goes on where it was."
        ) from error


__all__ = ["Task", "predict_on_cluster"]
