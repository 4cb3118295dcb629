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
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from . import __version__, memory, orders, planning
from .big_prediction import identity
from .errors import Cancelled, DependencyError, ResourceError
from .events import Log, Progress, Report, ignore
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
_FETCH_SECONDS = 5.0  # after which a worker that has answered may be lost
_LOOK_SECONDS = 2.0  # between two looks at who is there
_DASK_SHARE = 0.6  # of a worker's limit: dask moves things to the disk beyond it
_DEAF = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # Ctrl-C is for us, who close the workers
_SAME = ("python", "distributed", "torch", "numpy")

_T = TypeVar("_T")
_Asking = Generator[None, None, _T]
"""A conversation with workers: each step looks whether they have answered, and none of them waits."""


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
        return _Prediction(task, team, report).made()


class _Prediction:
    """One prediction, and the team that makes it."""

    def __init__(self, task: Task, team: _Team, report: Report) -> None:
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

    def _welcome(self) -> _Asking[list[_Seat]]:
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
        seats = yield from team.ask(_look, asked)
        team.welcome(seats)
        return list(seats.values())

    def _keep_welcoming(self) -> _Asking[None]:
        while True:
            if self._team.newcomers():
                yield from self._welcome()
            yield

    def _compare_versions(self, addresses: Sequence[str]) -> _Asking[None]:
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
        find = _distributed().versions.get_versions
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

    def _begun(self, seats: Sequence[_Seat]) -> Unfinished[Any]:
        """Plan a run on a worker, and begin it."""
        threads = self._team.threads
        weakest = min(threads, key=lambda address: threads[address])
        budget, sharing = min(seat.budget for seat in seats), max(Counter(seat.device for seat in seats).values())
        question = (self._order.to_json(), budget, sum(threads.values()), sharing)
        plans = self._team.waited_for(self._team.ask(_planned, {weakest: question}))
        if not plans:
            raise _all_gone()
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


@dataclass(frozen=True)
class _Seat:
    """What a worker has.

    Attributes:
        budget: Bytes of memory that it may take.
        device: Tells its device from those of others; several workers may share one.
    """

    budget: int
    device: str


class _Team:
    """The workers.

    Attributes:
        threads: What each of them has, by its address; those that are gone are not there any more.
    """

    def __init__(self, client: Any, report: Report) -> None:
        self._client, self._report = client, report
        self._looked, self._bell = 0.0, threading.Event()
        self._welcomed: set[str] = set()
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

    def newcomers(self) -> list[str]:
        """Return the addresses of workers that are not welcome yet."""
        return [address for address in self.look() if address not in self._welcomed]

    def welcome(self, addresses: Iterable[str]) -> None:
        """Let workers get parts."""
        self._welcomed.update(addresses)

    def waited_for(self, asking: _Asking[_T]) -> _T:
        """Return what a conversation ends with."""
        while True:
            try:
                next(asking)
            except StopIteration as end:
                return cast(_T, end.value)
            self._report(Progress("prepare", 0, 1))
            time.sleep(_POLL_SECONDS)

    def ask(self, function: Callable[..., Any], asked: dict[str, tuple[Any, ...]]) -> _Asking[dict[str, Any]]:
        """Return what workers answer to questions, by their addresses; those who leave are left out."""
        waiting = {
            address: self._client.submit(function, *question, workers=[address], pure=False)
            for address, question in asked.items()
        }
        answers: dict[str, Any] = {}
        while waiting:
            there = self.look()
            for address, future in list(waiting.items()):
                if future.done():
                    with suppress(_Late):
                        answers[address] = _answer(future)
                if address in answers or address not in there:
                    del waiting[address]
            if waiting:
                yield
        return answers

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
                    if address not in self._welcomed:
                        continue
                    for number in _taken(waiting, min(threads, at_once) - busy[address]):
                        running[self._submitted(text, number, address)] = (number, address)
                self._bell.wait(_POLL_SECONDS)
                self._bell.clear()
                finished = [future for future in running if future.done()]
                for future in finished:
                    if future.status in ("error", "cancelled"):
                        _answer(future)  # raises it; the number is known already
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


class _Late(Exception):
    """An answer is there, and does not come."""


def _all_gone() -> ResourceError:
    return ResourceError("All workers are gone.", "Look at their logs; the same command goes on where it was.")


def _answer(future: Any) -> Any:
    """Return what a worker answered.

    Raises:
        _Late: It does not come: its worker may have ended in between.
    """
    try:
        return future.result(timeout=_FETCH_SECONDS)
    except Cancelled:
        raise ResourceError(
            "Another process has begun to make the same result.", "Let it end, or write to another file."
        ) from None
    except _distributed().TimeoutError as error:
        if future.status == "error":  # raised by the worker
            raise
        raise _Late from error


def _host(address: str) -> str:
    return address.rpartition("://")[2].rpartition(":")[0]


# What workers are asked; they find these functions by name ----------------------------------------------------------


def _do(text: str, number: int) -> int:
    return orders.do(text, number, _own().state.nthreads)


def _look(text: str, image_bytes: int, sharing: int) -> _Seat:
    allowed = orders.look(text, image_bytes, sharing)
    limit = _own().memory_manager.memory_limit
    budget = min(allowed, int(_DASK_SHARE * limit) - memory.in_use()) if limit else allowed
    return _Seat(budget, orders.device_of(text))


def _planned(text: str, budget: int, at_once: int, sharing: int) -> dict[str, Any]:
    return orders.planned(text, budget, at_once, _own().state.nthreads, sharing)


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
        hint = "Start it with: dask scheduler. It tells its address."
        if count := local_workers(address):
            report(Log("info", f"Starting {count} workers."))
            address = stack.enter_context(_started(count, report)).scheduler_address
            hint = "It was started here; this machine may be too busy, or its firewall in the way."
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", distributed.versions.VersionMismatchWarning)  # told by ourselves
        try:
            client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ResourceError(f"No scheduler answers at {address} ({str(error).splitlines()[0]}).", hint) from error
        yield stack.enter_context(client)


@contextmanager
def _started(count: int, report: Report = ignore) -> Iterator[Any]:
    """Lend a scheduler and workers on this machine, which share its threads; they end also when somebody cancels."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        threads = max(1, torch.get_num_threads() // count)  # as many as this thread has
        starting = stack.enter_context(ThreadPoolExecutor(1)).submit(_local_cluster, count, threads, folder)
        stack.callback(_close, starting)
        while not starting.done():
            report(Progress("prepare", 0, 1))
            wait([starting], _POLL_SECONDS)
        if isinstance(error := starting.exception(), RuntimeError):
            raise ResourceError(
                f"Worker processes cannot be started ({error}).",
                'They import the script that starts them: what it does belongs under if __name__ == "__main__":',
            ) from error
        yield starting.result()


def _local_cluster(count: int, threads: int, folder: str) -> Any:
    return _distributed().LocalCluster(
        n_workers=count, threads_per_worker=threads, processes=True, memory_limit=0, local_directory=folder,
        host="127.0.0.1", dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False}, preload=[_DEAF],
        silence_logs=logging.CRITICAL,
    )  # fmt: skip


def _close(starting: Future[Any]) -> None:
    """Close a cluster as soon as it is there, if it ever is."""
    if not starting.exception():
        with suppress(_distributed().TimeoutError):  # on a busy machine, workers that were killed may end later
            starting.result().close()


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
