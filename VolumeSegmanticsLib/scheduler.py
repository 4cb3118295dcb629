"""A dask scheduler: the one at an address, or one that is started here with workers of its own."""

from __future__ import annotations

import errno
import logging
import tempfile
import warnings
from asyncio import CancelledError
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch

from .errors import DependencyError, ResourceError
from .events import Log, Progress, Report, ignore
from .settings import local_workers

CONNECT_SECONDS = 10.0
"""How long a scheduler may take to answer."""

POLL_SECONDS = 0.2
"""After which somebody may cancel."""

_AT_START = """
import signal
from VolumeSegmanticsLib import memory
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for us, who close the workers
memory.share_one_heap()
"""


def dask_distributed() -> Any:
    """Return the package.

    Raises:
        DependencyError: It is missing.
    """
    try:
        import distributed as package
    except ImportError as error:
        raise DependencyError(
            f"Prediction on a cluster needs the package {error.name}.",
            'Install it: pip install "volumesegmantics[cluster]"',
        ) from None
    return package


@contextmanager
def connected(address: str, report: Report) -> Iterator[Any]:
    """Lend a client of a scheduler; what is started for it ends with it."""
    dask = dask_distributed()
    with ExitStack() as stack:
        hint = "Start it with: dask scheduler. It tells its address."
        if count := local_workers(address):
            report(Log("info", f"Starting {count} workers."))
            address = stack.enter_context(started(count, report)).scheduler_address
            hint = "It was started here; this machine may be too busy, or its firewall in the way."
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", dask.versions.VersionMismatchWarning)  # told by ourselves
        try:
            client = dask.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ResourceError(f"No scheduler answers at {address} ({str(error).splitlines()[0]}).", hint) from error
        yield stack.enter_context(client)


@contextmanager
def started(count: int, report: Report = ignore) -> Iterator[Any]:
    """Lend a scheduler and workers on this machine, which share its threads; they end also when somebody cancels."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        threads = max(1, torch.get_num_threads() // count)  # as many as this thread has
        starting = stack.enter_context(ThreadPoolExecutor(1)).submit(_local_cluster, count, threads, folder)
        stack.callback(_close, starting)
        while not starting.done():
            report(Progress("prepare", 0, 1))
            wait([starting], POLL_SECONDS)
        if isinstance(error := starting.exception(), RuntimeError):
            raise ResourceError(
                f"Worker processes cannot be started ({error}).",
                'They import the script that starts them: what it does belongs under if __name__ == "__main__":',
            ) from error
        yield starting.result()


def _local_cluster(count: int, threads: int, folder: str) -> Any:
    return dask_distributed().LocalCluster(
        n_workers=count, threads_per_worker=threads, processes=True, memory_limit=0, local_directory=folder,
        host="127.0.0.1", dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False}, preload=[_AT_START],
        silence_logs=logging.CRITICAL,
    )  # fmt: skip


def _close(starting: Future[Any]) -> None:
    """Close a cluster as soon as it is there, if it ever is."""
    if not starting.exception():
        with suppress(dask_distributed().TimeoutError):  # on a busy machine, workers that were killed may end later
            starting.result().close()


@contextmanager
def failures() -> Iterator[None]:
    """Turn what dask raises into sentences."""
    dask = dask_distributed()
    try:
        yield
    except dask.scheduler.KilledWorker as error:
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


__all__ = ["CONNECT_SECONDS", "POLL_SECONDS", "connected", "dask_distributed", "failures", "started"]
