"""The parent's side, with real processes: one terminal event, always last, and nothing left running."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import psutil
import pytest

from VolumeSegmanticsLib import launch
from VolumeSegmanticsLib.errors import WorkerError
from VolumeSegmanticsLib.events import (
    TERMINAL,
    EpochEnded,
    Failed,
    Finished,
    Log,
    Preview,
    Progress,
    WasCancelled,
    from_json,
    to_json,
)
from VolumeSegmanticsLib.jobs import Job
from VolumeSegmanticsLib.launch import WorkerProcess, clean_environment, event_in, find_python, lines_of

WORKERS = Path(__file__).with_name("workers")
PATIENCE = 60
DRIVER = str(WORKERS / "driver.py")
DIRECT = [sys.executable, "-u", DRIVER]
LAUNCHED = [sys.executable, str(WORKERS / "launcher.py"), DRIVER]
posix_only = pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")
pytestmark = posix_only


@pytest.fixture
def a_folder(tmp_path):
    return tmp_path / "Gewebe ü 3"


@pytest.fixture
def start(a_folder):
    """Start a task; at the end of the test nothing may be left of any."""
    started = []

    def start_one(task, *, command=DIRECT, grace_seconds=PATIENCE, **settings):
        Job.create(a_folder, task=task, settings=settings)
        worker = WorkerProcess(a_folder, command=command, grace_seconds=grace_seconds)
        started.append(worker)
        return worker

    yield start_one
    for worker in started:
        worker.close()
    assert survivors(a_folder) == []


@pytest.fixture
def a_script(tmp_path, start):
    """Start a worker that is only this text."""

    def start_it(text, **more):
        path = tmp_path / "script.py"
        path.write_text(text)
        return start("succeed", command=[sys.executable, "-u", str(path)], **more)

    return start_it


def survivors(folder):
    """Processes that have the folder on their command line, zombies too."""
    return [process.info for process in psutil.process_iter(["pid", "cmdline", "status"]) if is_of(folder, process)]


def is_of(folder, process):
    is_zombie = process.info["status"] == psutil.STATUS_ZOMBIE and process.ppid() == os.getpid()
    return is_zombie or str(folder) in (process.info["cmdline"] or ())


def await_event(worker, kind=Progress):
    """Return the first event of a kind; the others are gone."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for event in worker.poll():
            if isinstance(event, kind):
                return event
        time.sleep(0.01)
    raise AssertionError(f"no {kind.__name__} came")


def finish(worker):
    """Wait for the end and return all events that are left; the last, and no other, is terminal."""
    ending = worker.wait(PATIENCE)
    events = worker.poll()
    assert [event for event in events if isinstance(event, TERMINAL)] == [ending] == events[-1:]
    assert not worker.is_running
    assert worker.poll() == []
    return events


def is_alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def await_death(pid):
    deadline = time.monotonic() + PATIENCE
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} survives"
        time.sleep(0.02)


# Good ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [DIRECT, LAUNCHED], ids=["direct", "launched"])
def test_a_worker_tells_all_and_ends(start, a_folder, command):
    worker = start("succeed", command=command)
    ending = Finished({"model": str(a_folder / "model.safetensors")})
    assert finish(worker) == [*(Progress("train", done, 3) for done in (1, 2, 3)), ending]
    assert Job.open(a_folder).result() == ending


def test_events_come_while_the_worker_runs(start):
    worker = start("report forever")
    first = await_event(worker)
    assert await_event(worker).done > first.done
    assert worker.is_running
    assert worker.wait(0.01) is None


def test_a_failure_is_told_in_the_worker_s_own_words(start):
    assert finish(start("mendable"))[-1] == Failed("model", "The model is for 2 classes.", "Choose another model.")


def test_garbage_on_stdout_is_no_event(start):
    assert finish(start("print everywhere")) == [Progress("train", 1, 1), Finished()]


def test_all_may_be_called_again_after_the_end(start):
    worker = start("succeed")
    finish(worker)
    for _ in range(2):
        worker.stop()
        worker.kill()
        worker.close()
    assert isinstance(worker.wait(), Finished)
    assert worker.poll() == []


def test_a_worker_in_a_with_block_is_gone_after_it(a_folder):
    Job.create(a_folder, task="stop reporting")
    with WorkerProcess(a_folder, command=DIRECT) as worker:
        await_event(worker)
    assert worker.poll() == [WasCancelled()]
    assert survivors(a_folder) == []


def test_a_worker_leaves_no_open_files(start, a_folder):
    def descriptors():
        gc.collect()
        return sorted(str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink())

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    before = len(descriptors())
    worker = start("succeed")
    finish(worker)
    worker.close()
    assert len(descriptors()) == before


# Stop and kill --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [DIRECT, LAUNCHED], ids=["direct", "launched"])
def test_a_worker_that_is_stopped_obeys(start, a_folder, command):
    worker = start("report forever", command=command)
    await_event(worker)
    worker.stop()
    worker.stop()
    assert finish(worker)[-1] == WasCancelled()
    assert Job.open(a_folder).result() == WasCancelled()  # its own word, in its own time


@pytest.mark.parametrize("command", [DIRECT, LAUNCHED], ids=["direct", "launched"])
def test_a_worker_that_does_not_obey_is_killed_after_the_grace_period(start, a_folder, command):
    worker = start("stop reporting", command=command, grace_seconds=0.2)
    await_event(worker)
    worker.stop()
    assert finish(worker)[-1] == WasCancelled()
    assert Job.open(a_folder).result() is None
    assert survivors(a_folder) == []


def test_kill_does_not_wait_for_the_grace_period(start):
    worker = start("stop reporting", command=LAUNCHED, grace_seconds=10 * PATIENCE)
    await_event(worker)
    worker.stop()
    worker.kill()
    assert finish(worker)[-1] == WasCancelled()


def test_a_worker_may_be_stopped_before_it_says_a_word(start):
    worker = start("report forever")
    worker.stop()
    assert finish(worker)[-1] == WasCancelled()


@pytest.mark.parametrize("returns", [True, False], ids=["finished", "killed"])
def test_what_the_worker_has_started_ends_with_it(start, returns):
    worker = start("start children", grace_seconds=1, **{"return": returns})
    children = [int(word) for word in await_event(worker, Log).text.split()]
    assert len(children) == 2
    if not returns:
        worker.kill()
    finish(worker)
    await_death(children[0])
    if not returns:
        await_death(children[1])
    elif is_alive(children[1]):  # a daemon in a session of its own, whose parent has ended well, is out of reach
        os.kill(children[1], signal.SIGKILL)


# Bad ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("kill itself", ("ended by SIGKILL", "run out of memory", "my last words")),
        ("segfault", ("ended by SIGSEGV", "Segmentation fault", "in segfault")),
        ("exit silently", ("ended with exit code 0", "Log: ")),
    ],
)
def test_a_worker_that_dies_is_told_with_its_last_words(start, a_folder, task, words):
    *_, ending = finish(start(task))
    assert ending.code == "worker-died"
    for word in (*words, str(a_folder / "log.txt")):
        assert word in f"{ending.message}\n{ending.hint}"


def test_what_was_told_before_a_sudden_death_is_not_lost(start):
    assert [type(event) for event in finish(start("kill itself"))] == [EpochEnded, Failed]


def test_the_last_words_are_those_of_this_run(start, a_folder):
    Job.create(a_folder, task="exit silently")
    (a_folder / "log.txt").write_text("an older run\n")
    *_, ending = finish(start("exit silently"))
    assert "an older run" not in ending.hint
    assert "start: task" in ending.hint


@posix_only
def test_a_launcher_that_is_killed_takes_the_worker_along(start, a_folder):
    worker = start("stop reporting", command=LAUNCHED, grace_seconds=0.2)
    await_event(worker)
    os.kill(worker.pid, signal.SIGKILL)
    *_, ending = finish(worker)
    assert ending.code == "worker-died"
    assert survivors(a_folder) == []


def test_a_worker_that_is_killed_behind_its_launcher_is_told(start, a_folder):
    worker = start("stop reporting", command=LAUNCHED)
    await_event(worker)
    (child,) = psutil.Process(worker.pid).children()
    child.kill()
    *_, ending = finish(worker)
    assert (ending.code, ending.message.startswith("The worker process ended with")) == ("worker-died", True)


@pytest.mark.parametrize("task", ["close stdout", "linger"])
def test_a_worker_that_does_not_go_home_is_killed(start, task):
    worker = start(task, grace_seconds=0.5)
    *_, ending = finish(worker)
    assert (ending == Finished({"model": "m"})) if task == "linger" else (ending.code == "worker-died")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'", id="import"),
        pytest.param("this is no Python", "SyntaxError", id="syntax"),
        pytest.param("import sys; sys.stdout.buffer.write(b'\\xff\\xfe' * 9)", "\ufffd" * 9, id="not UTF-8"),
        pytest.param("print('x' * 3_000_000, end='the end')", "xxxthe end", id="no end of line"),
        pytest.param("for n in range(300_000): print('line', n)", "line 299999", id="many lines"),
        pytest.param("print('[' * 1000); print('{\"event\": ' * 200_000)", '{"event"', id="deep"),
        pytest.param("", "It said nothing.", id="nothing"),
    ],
)
def test_whatever_is_printed_the_hint_has_its_end_and_stays_short(a_script, text, words):
    *others, ending = finish(a_script(text))
    assert (others, ending.code) == ([], "worker-died")
    assert words in ending.hint
    assert len(ending.hint) < launch.TAIL_LINES * launch.TAIL_CHARACTERS + 1000


def test_of_several_terminal_events_the_first_counts_and_nothing_follows(a_script):
    lines = [to_json(event) for event in (Progress("a", 1, 2), Failed("first", "m"), Progress("a", 2, 2), Finished())]
    assert finish(a_script("\n".join(f"print({line!r})" for line in lines))) == [
        Progress("a", 1, 2),
        Failed("first", "m"),
    ]


def test_a_result_counts_where_the_event_was_lost(a_script, a_folder):
    line = to_json(Finished({"model": "m"}))
    text = f"import os, pathlib; pathlib.Path({str(a_folder / 'result.json')!r}).write_text({line!r}); os.abort()"
    assert finish(a_script(text)) == [Finished({"model": "m"})]


def test_the_result_of_an_earlier_run_does_not_count(start, a_folder):
    Job.create(a_folder, task="succeed").keep_result(Finished())
    with WorkerProcess(a_folder, command=[sys.executable, "-c", "pass"]) as worker:
        assert finish(worker)[-1].code == "worker-died"


def test_a_worker_that_cannot_be_started_is_told_in_a_sentence(tmp_path):
    with pytest.raises(WorkerError, match="cannot be started") as caught:
        WorkerProcess(tmp_path, python=tmp_path / "no-python")
    assert caught.value.hint


def test_a_missing_folder_is_told_by_the_worker(tmp_path):
    with WorkerProcess(tmp_path / "missing", command=DIRECT) as worker:
        assert finish(worker)[-1].code == "input"


@posix_only
@pytest.mark.parametrize("command", [DIRECT, LAUNCHED], ids=["direct", "launched"])
@pytest.mark.parametrize("task", ["report forever", "stop reporting"])
def test_a_parent_that_is_killed_takes_its_worker_along(a_folder, command, task):
    Job.create(a_folder, task=task)
    words = [sys.executable, str(WORKERS / "parent.py"), str(a_folder), *command]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=os.environ | {"ORPHAN_SECONDS": "0.3"}) as parent:
        pid = int(parent.stdout.readline())
        family = [pid, *(child.pid for child in psutil.Process(pid).children())]
        parent.kill()
    for member in family:
        await_death(member)


# The queue and the lines ----------------------------------------------------------------------------------------------


def test_a_parent_that_does_not_poll_keeps_what_matters_and_no_more(a_script):
    epochs = [EpochEnded(n, 0.5, None, None, 0.1, False) for n in (1, 2)]
    text = f"""
print({to_json(epochs[0])!r}); print({to_json(Log("info", "hello"))!r}); print({to_json(Preview("p.png"))!r})
for n in range(20_000): print('{{"event": "Progress", "stage": "a", "done": %d, "total": 0}}' % n)
print({to_json(epochs[1])!r}); print({to_json(Finished())!r})
"""
    events = finish(a_script(text))
    assert len(events) <= launch.QUEUE_EVENTS + 1
    assert [event for event in events if not isinstance(event, Progress)] == [
        *(epochs[0], Log("info", "hello"), Preview("p.png")),
        *(epochs[1], Finished()),
    ]
    progress = [event.done for event in events if isinstance(event, Progress)]
    assert progress == list(range(20_000 - len(progress), 20_000))


def test_a_flood_of_epochs_is_kept_whole(a_script):
    line = to_json(EpochEnded(1, 0.5, None, None, 0.1, False))
    events = finish(a_script(f"print('\\n'.join([{line!r}] * 3000)); print({to_json(Finished())!r})"))
    assert len(events) == 3001


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([], [b""]),
        ([b"a\nb\n"], [b"a", b"b", b""]),
        ([b"a", b"b\n\nc"], [b"ab", b"", b"c"]),
        ([b"123456789", b"0\nx"], [b"34567890", b"x"]),
        ([b"1234", b"5678", b"9", b"\n"], [b"23456789", b""]),
    ],
)
def test_lines_are_cut_and_bounded(monkeypatch, chunks, lines):
    monkeypatch.setattr(launch, "LINE_BYTES", 8)
    assert list(lines_of(chunks)) == lines


def test_any_chunks_of_a_stream_give_the_same_lines():
    stream = "ü\n\nbc\r\nd".encode()
    for size in range(1, len(stream) + 1):
        chunks = [stream[start : start + size] for start in range(0, len(stream), size)]
        assert list(lines_of(chunks)) == stream.split(b"\n")


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (b'{"event": "WasCancelled"}', WasCancelled()),
        (b'{"event": "WasCancelled"}\r', WasCancelled()),
        (b'launcher: \xff {"event": "WasCancelled"}', WasCancelled()),
        (b'{"event": "Finished", "outputs": {"a": {"event": 1}}}', Finished({"a": {"event": 1}})),
        (b'{"event": "Log", "level": "info", "text": "{\\"event\\": 1}"}', Log("info", '{"event": 1}')),
        (b'{"event": "WasCancelled"} and more', None),
        (b'{"event": "Unknown"}', None),
        (b'{"event": "Log", "level": "\xff"}', None),
        (b'{"event": ' * 100_000, None),
        (b"", None),
    ],
)
def test_an_event_is_found_in_its_line(line, event):
    assert event_in(line) == event


# How it is started ----------------------------------------------------------------------------------------------------

SLICER = {
    "HOME": "/home/a",
    "PATH": "/slicer/bin:/usr/bin",
    "PYTHONHOME": "/slicer/python",
    "PYTHONNOUSERSITE": "1",
    "LD_LIBRARY_PATH": "/slicer/lib:/cuda/lib",
    "DYLD_LIBRARY_PATH": "/slicer/lib",
    "QT_PLUGIN_PATH": "/slicer/plugins",
    "SSL_CERT_FILE": "/slicer/cert.pem",
    "APPLAUNCHER_LEVEL": "1",
    "APPLAUNCHER_0_PATH": "/usr/bin",
    "APPLAUNCHER_0_LD_LIBRARY_PATH": "/cuda/lib",
}


def test_slicer_s_own_python_inherits_everything():
    assert clean_environment(SLICER, external=False) == SLICER | launch.ALWAYS_SET


def test_another_python_gets_what_was_there_before_slicer():
    expected = {"HOME": "/home/a", "PATH": "/usr/bin", "LD_LIBRARY_PATH": "/cuda/lib"}
    assert clean_environment(SLICER, external=True) == expected | launch.ALWAYS_SET


def test_the_environment_that_was_given_is_not_changed():
    before = dict(SLICER)
    clean_environment(SLICER, external=True)
    assert before == SLICER


@pytest.mark.parametrize("executable", ["/opt/Slicer/bin/SlicerApp-real", "", None])
def test_a_program_that_is_no_python_takes_pythonslicer(monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(shutil, "which", {"PythonSlicer": "/opt/Slicer/bin/PythonSlicer"}.get)
    assert find_python() == "/opt/Slicer/bin/PythonSlicer"
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(WorkerError):
        find_python()


@pytest.mark.parametrize("name", ["python", "python3.12", "python.exe", "Python.exe", "PythonSlicer", "pythonw.exe"])
def test_a_program_that_is_a_python_takes_itself(monkeypatch, name):
    monkeypatch.setattr(sys, "executable", f"/somewhere/{name}")
    assert find_python() == f"/somewhere/{name}"


@pytest.fixture
def a_copy_of_the_package(tmp_path):
    """The real ``__main__.py`` in a package whose other files would hide the standard library's."""
    package = tmp_path / "a b" / "VolumeSegmanticsLib"
    package.mkdir(parents=True)
    shutil.copy(Path(launch.__file__).with_name("__main__.py"), package)
    (package / "__init__.py").write_text("")
    for name in ("pathlib", "json", "fnmatch"):
        (package / f"{name}.py").write_text("raise RuntimeError('hides the standard library')")
    tell = "import json, sys; print(json.dumps([sys.path, sys.argv[1:], __package__])); sys.exit(3)"
    (package / "cli.py").write_text(f"def run_and_exit():\n    {tell}\n")
    return package


@pytest.mark.parametrize("way", ["file", "folder", "module", "relative", "safe path"])
def test_the_command_line_starts_from_anywhere(a_copy_of_the_package, way):
    package, name = a_copy_of_the_package, "VolumeSegmanticsLib"
    ways = {
        "file": [str(package / "__main__.py")],
        "folder": [str(package)],
        "module": ["-m", name],
        "relative": [f"{name}/__main__.py"],
        "safe path": ["-P", str(package / "__main__.py")],
    }
    if way == "safe path" and sys.version_info < (3, 11):
        pytest.skip("Python 3.11 brought it")
    words = [sys.executable, "-u", *ways[way], "run", "--parent-watch", "x"]
    done = subprocess.run(words, cwd=package.parent, capture_output=True, timeout=PATIENCE)
    assert done.returncode == 3, done.stderr
    path, arguments, inside = json.loads(done.stdout)
    assert path[0] == str(package.parent)
    assert str(package) not in path
    assert (arguments, inside) == (["run", "--parent-watch", "x"], name)


def test_the_worker_is_started_by_its_path_and_unbuffered():
    python, *words = launch.default_command()
    assert (python, words) == (sys.executable, ["-u", str(Path(launch.__file__).with_name("__main__.py"))])


def test_every_event_of_the_worker_survives_its_line():
    for event in chain([Progress("a", 1, 2, 0.5)], [Failed("a", "ü\n", "h")]):
        assert from_json(to_json(event)) == event_in(to_json(event).encode()) == event
