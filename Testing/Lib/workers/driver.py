"""Stands in for the library's ``__main__`` with tasks that behave badly: ``driver.py run [--parent-watch] FOLDER``."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

from VolumeSegmanticsLib import worker
from VolumeSegmanticsLib.errors import Cancelled, ModelError
from VolumeSegmanticsLib.events import EpochEnded, Finished, Log, Progress

HOUR = 3600.0
SILENT_CHILD = [sys.executable, "-c", f"import time; time.sleep({HOUR})"]


def succeed(job, report):
    for done in range(1, 4):
        report(Progress("train", done, 3))
    return {"model": job.path("model.safetensors")}


def finish_without_outputs(job, report):
    report(Log("info", "nothing to keep, not even an umlaut: ü"))


def report_forever(job, report):
    done = 0
    while True:
        report(Progress("train", done, 0))
        done += 1
        time.sleep(0.01)


def stop_reporting(job, report):
    with contextlib.suppress(Cancelled):
        report(Progress("train", 0, 1))
    time.sleep(HOUR)


def print_everywhere(job, report):
    if sys.stdout:  # None where it was closed
        print("from Python: ü")
        sys.stdout.flush()
    print("to stderr", file=sys.stderr)
    os.write(1, b"invalid \xff\xfe utf-8, without an end")
    os.write(1, b'\n{"event": "Failed", "code": "fake", "message": "", "hint": ""}\n')
    os.write(2, b"by descriptor 2\n")
    ctypes.CDLL(None).puts(b"from C")
    ctypes.CDLL(None).fflush(None)
    subprocess.run([sys.executable, "-c", "print('from a child'); print('stdin:', input())"], check=False)
    warnings.warn("a warning", stacklevel=1)
    os.write(1, b"x" * (4 << 20))
    report(Progress("train", 1, 1))


def report_from_threads(job, report):
    def tell(stage):
        for done in range(200):
            report(Progress(f"{stage} " + "x" * 6000, done, 200))

    threads = [threading.Thread(target=tell, args=(stage,)) for stage in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def leave_a_thread(job, report):
    def tell():
        try:
            while True:
                report(Log("info", "still here"))
        except Cancelled:
            return

    threading.Thread(target=tell).start()


def kill_itself(job, report):
    print("my last words")
    report(EpochEnded(1, 0.5, None, None, 1e-3, True))
    os.kill(os.getpid(), signal.SIGKILL)


def segfault(job, report):
    ctypes.string_at(0)


def exit_silently(job, report):
    os._exit(0)


def close_stdout(job, report):
    report(Progress("train", 1, 1))
    os.closerange(3, 64)
    time.sleep(HOUR)


def linger(job, report):
    threading.Thread(target=time.sleep, args=(HOUR,)).start()
    return {"model": "m"}


def start_children(job, report):
    """One in this session, one in a session of its own, both deaf to SIGTERM by default of their sleep."""
    children = [subprocess.Popen(SILENT_CHILD), subprocess.Popen(SILENT_CHILD, start_new_session=True)]
    report(Log("info", " ".join(str(child.pid) for child in children)))
    while not job.settings.get("return"):
        report(Progress("train", 0, 0))
        time.sleep(0.01)


def spoil(what):
    def task(job, report):
        raise what

    return task


def stop_and_fail(job, report):
    try:
        report_forever(job, report)
    except Cancelled as error:
        raise RuntimeError("a child process was interrupted") from error


TASKS = {
    "succeed": succeed,
    "finish without outputs": finish_without_outputs,
    "report forever": report_forever,
    "stop reporting": stop_reporting,
    "print everywhere": print_everywhere,
    "report from threads": report_from_threads,
    "leave a thread": leave_a_thread,
    "kill itself": kill_itself,
    "segfault": segfault,
    "exit silently": exit_silently,
    "close stdout": close_stdout,
    "linger": linger,
    "start children": start_children,
    "stop and fail": stop_and_fail,
    "bug": spoil(ZeroDivisionError("division by zero\nin two lines")),
    "sys.exit": spoil(SystemExit(0)),
    "interrupt": spoil(KeyboardInterrupt()),
    "mendable": spoil(ModelError("The model is for 2 classes.", hint="Choose another model.")),
    "no memory": spoil(MemoryError()),
    "no GPU memory": spoil(type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")),
    "disk full": spoil(OSError(28, "No space left on device", "a.nrrd")),
    "no package": spoil(ModuleNotFoundError("No module named 'torch'", name="torch.nn")),
    "cancelled": spoil(Cancelled()),
    "own end": lambda job, report: report(Finished()),
    "no JSON": lambda job, report: {"dice": float("nan")},
    "make a file": lambda job, report: job.path("made").touch(),
    "block the result": lambda job, report: job.result_path.mkdir(),
}

if __name__ == "__main__":
    _, _, *options, folder = sys.argv
    worker.ORPHAN_SECONDS = float(os.environ.get("ORPHAN_SECONDS", worker.ORPHAN_SECONDS))
    sys.exit(worker.run(folder, parent_watch="--parent-watch" in options, tasks=TASKS))
