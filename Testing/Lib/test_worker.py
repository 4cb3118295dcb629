"""The child's side, with real processes: events have stdout to themselves, and the last is the terminal event."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from VolumeSegmanticsLib import worker
from VolumeSegmanticsLib.errors import Cancelled
from VolumeSegmanticsLib.events import EVENTS, TERMINAL, Failed, Finished, Log, Progress, WasCancelled, from_json
from VolumeSegmanticsLib.jobs import Job

DRIVER = [sys.executable, str(Path(__file__).with_name("workers") / "driver.py"), "run"]
PATIENCE = 60
posix_only = pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")


@pytest.fixture
def a_folder(tmp_path):
    return tmp_path / "Gewebe ü 3"


def start(folder, *options, **more) -> subprocess.Popen:
    more = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE} | more
    return subprocess.Popen([*DRIVER, *options, str(folder)], stdout=subprocess.PIPE, **more)


def finish(process):
    """Wait for the end; return the events, the exit code, and what came on stderr."""
    output, errors = process.communicate(timeout=PATIENCE)
    events = [from_json(line) for line in output.decode().splitlines()]
    assert None not in events, output
    assert [isinstance(event, TERMINAL) for event in events] == [False] * (len(events) - 1) + [True]
    return events, process.returncode, (errors or b"").decode()


def run(folder, task, *options, **settings):
    job = Job.create(folder, task=task, settings=settings)
    return job, *finish(start(folder, *options))


def await_first_event(process):
    return from_json(process.stdout.readline().decode())


def test_a_run_tells_its_events_and_keeps_the_last(a_folder):
    job, events, code, _ = run(a_folder, "succeed")
    ending = Finished({"model": str(job.folder / "model.safetensors")})
    assert events == [*(Progress("train", done, 3) for done in (1, 2, 3)), ending]
    assert (code, job.result()) == (0, ending)


def test_the_log_names_versions_settings_and_the_end(a_folder):
    job, _, _, errors = run(a_folder, "finish without outputs", epochs=7)
    log = job.log_path.read_text("utf-8")
    for word in ("start: task 'finish without outputs'", "versions: Python 3.", "'epochs': 7", "umlaut", "end: "):
        assert word in log
    assert errors == ""


def test_a_job_that_is_picked_up_goes_on_in_the_same_log_and_has_a_new_result(a_folder):
    job, *_ = run(a_folder, "finish without outputs")
    job.keep_result(Failed("old", "old"))
    finish(start(a_folder))
    assert job.log_path.read_text("utf-8").count("start: ") == 2
    assert job.result() == Finished()


@pytest.mark.parametrize(
    ("task", "code", "ending"),
    [
        ("mendable", 2, Failed("model", "The model is for 2 classes.", "Choose another model.")),
        ("interrupt", 3, WasCancelled()),
        ("cancelled", 3, WasCancelled()),
    ],
)
def test_an_ending_that_is_no_bug_has_its_exit_code_and_no_traceback(a_folder, task, code, ending):
    job, events, exit_code, _ = run(a_folder, task)
    assert (events[-1], exit_code, job.result()) == (ending, code, ending)
    assert "Traceback" not in job.log_path.read_text("utf-8")


@pytest.mark.parametrize(
    ("task", "failure"),
    [
        ("no memory", "memory"),
        ("no GPU memory", "memory"),
        ("disk full", "resource"),
        ("no package", "dependency"),
        ("no such task", "input"),
    ],
)
def test_what_the_user_can_mend_has_a_sentence_and_a_hint(a_folder, task, failure):
    _, events, code, _ = run(a_folder, task)
    assert (events[-1].code, code) == (failure, 2)
    assert events[-1].message.endswith(".")
    assert events[-1].hint


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("bug", "ZeroDivisionError: division by zero"),
        ("sys.exit", "SystemExit: 0"),
        ("own end", "AssertionError"),
        ("no JSON", "ValueError"),
    ],
)
def test_a_bug_has_one_sentence_on_stdout_and_its_traceback_in_the_log(a_folder, task, words):
    job, events, code, _ = run(a_folder, task)
    assert (events[-1].code, code) == ("bug", 1)
    assert words in events[-1].message
    assert "\n" not in events[-1].message
    assert str(job.log_path) in events[-1].hint
    assert "Traceback" in job.log_path.read_text("utf-8")


@posix_only
def test_all_that_is_printed_goes_to_the_log(a_folder):
    job, events, code, errors = run(a_folder, "print everywhere")
    assert (events, code, errors) == ([Progress("train", 1, 1), Finished()], 0, "")
    log = job.log_path.read_bytes()
    for words in ("from Python: ü", "to stderr", "by descriptor 2", "from C", "from a child", "EOFError", "a warning"):
        assert words.encode() in log
    assert b"\xff\xfe" in log
    assert len(log) > 4 << 20


def test_events_of_many_threads_are_whole_lines(a_folder):
    _, events, code, _ = run(a_folder, "report from threads")
    for stage in "abcd":
        assert [event.done for event in events[:-1] if event.stage[0] == stage] == list(range(200))
    assert code == 0


def test_nothing_is_told_after_the_end_and_threads_that_report_are_stopped(a_folder):
    _, events, code, _ = run(a_folder, "leave a thread")
    assert (events[-1], code) == (Finished(), 0)


@pytest.mark.parametrize("contents", [None, "{"])
def test_a_folder_without_a_good_job_fails_and_says_so_on_both_channels(a_folder, contents):
    if contents:
        a_folder.mkdir()
        (a_folder / "job.json").write_text(contents)
    events, code, errors = finish(start(a_folder))
    assert (len(events), events[0].code, code) == (1, "input", 2)
    assert events[0].message in errors


@pytest.mark.parametrize("name", ["log.txt", "result.json"])
def test_a_folder_that_cannot_be_written_fails_before_the_task_runs(a_folder, name):
    Job.create(a_folder, task="make a file")
    (a_folder / name).mkdir()
    events, code, _ = finish(start(a_folder))
    assert (len(events), events[0].code, code) == (1, "resource", 2)
    assert not (a_folder / "made").exists()


def test_a_run_that_cannot_keep_its_result_has_failed(a_folder):
    job, events, code, _ = run(a_folder, "block the result")
    assert (events[-1].code, code, job.result()) == ("resource", 2, None)


@posix_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("options", [(), ("--parent-watch",)])
def test_a_signal_means_stop(a_folder, number, options):
    job = Job.create(a_folder, task="report forever")
    stdin, open_end = os.pipe()
    process = start(a_folder, *options, stdin=stdin)
    await_first_event(process)
    process.send_signal(number)
    process.send_signal(number)
    events, code, _ = finish(process)
    os.close(stdin)
    os.close(open_end)
    assert (events[-1], code, job.result()) == (WasCancelled(), 3, WasCancelled())
    assert f"stopped: signal {number:d}" in job.log_path.read_text("utf-8")


@posix_only
def test_what_fails_because_of_the_stop_counts_as_cancelled(a_folder):
    job = Job.create(a_folder, task="stop and fail")
    process = start(a_folder)
    await_first_event(process)
    process.terminate()
    events, code, _ = finish(process)
    assert (events[-1], code) == (WasCancelled(), 3)
    assert "a child process was interrupted" in job.log_path.read_text("utf-8")


def test_the_end_of_stdin_means_stop_where_the_parent_is_watched(a_folder):
    _, events, code, _ = run(a_folder, "report forever", "--parent-watch")
    assert (events[-1], code) == (WasCancelled(), 3)


def test_the_end_of_stdin_means_nothing_otherwise(a_folder):
    _, events, code, _ = run(a_folder, "succeed")
    assert (events[-1].__class__, code) == (Finished, 0)


def test_what_comes_on_stdin_means_nothing(a_folder):
    Job.create(a_folder, task="succeed")
    process = start(a_folder, "--parent-watch", stdin=subprocess.PIPE)
    process.stdin.write(b"hello\n" * 1000)
    process.stdin.flush()
    while not isinstance(event := await_first_event(process), TERMINAL):
        pass
    assert isinstance(event, Finished)
    finish_quietly(process)


def finish_quietly(process):
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


@posix_only
def test_a_run_stops_when_nobody_listens(a_folder):
    job = Job.create(a_folder, task="report forever")
    with start(a_folder, stderr=subprocess.DEVNULL) as process:
        await_first_event(process)
        process.stdout.close()
        assert process.wait(PATIENCE) == 3
    assert job.result() == WasCancelled()


@posix_only
def test_a_silent_task_ends_when_the_parent_is_gone(a_folder):
    Job.create(a_folder, task="stop reporting")
    environment = os.environ | {"ORPHAN_SECONDS": "0.2"}
    with start(a_folder, "--parent-watch", stdin=subprocess.PIPE, stderr=None, env=environment) as process:
        await_first_event(process)
        process.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):  # somebody still listens, who could kill it
            process.wait(1)
        process.stdout.close()
        assert process.wait(PATIENCE) == 3


@posix_only
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_run_works_where_streams_are_closed(a_folder, closed):
    job = Job.create(a_folder, task="print everywhere")
    done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *DRIVER, str(a_folder)], timeout=PATIENCE)
    assert (done.returncode, job.result()) == (0, Finished())


def test_a_run_in_this_process_leaves_it_as_it_was(a_folder, capfd):
    def task(job, report):
        os.write(1, b"into the log")
        with pytest.raises(AssertionError):
            report(Finished())
        report(Log("info", "hello"))

    job = Job.create(a_folder, task="ours")
    before = signal.getsignal(signal.SIGINT)
    assert worker.run(a_folder, parent_watch=False, tasks={"ours": task}) == 0
    assert signal.getsignal(signal.SIGINT) is before
    os.write(1, b"after\n")
    *events, after = capfd.readouterr().out.splitlines()
    assert [from_json(line) for line in events] == [Log("info", "hello"), Finished()]
    assert after == "after"
    assert "into the log" in job.log_path.read_text("utf-8")


def test_a_run_in_a_thread_works_without_signals(a_folder, capfd):
    codes = []
    Job.create(a_folder, task="ours")
    run_it = lambda: codes.append(worker.run(a_folder, parent_watch=False, tasks={"ours": lambda *_: None}))  # noqa: E731
    thread = threading.Thread(target=run_it)
    thread.start()
    thread.join(PATIENCE)
    assert codes == [0]
    assert json.loads(capfd.readouterr().out)["event"] == "Finished"


def test_every_report_after_the_end_raises_cancelled(a_folder, capfd):
    kept = []
    Job.create(a_folder, task="ours")
    worker.run(a_folder, parent_watch=False, tasks={"ours": lambda _, report: kept.append(report)})
    with contextlib.suppress(Cancelled):
        kept[0](Progress("train", 1, 1))
        pytest.fail("the report did not raise")
    assert capfd.readouterr().out.count("event") == 1


def test_the_exit_codes_cover_every_terminal_event():
    endings = {Finished: Finished(), Failed: Failed("x", "x"), WasCancelled: WasCancelled()}
    assert set(endings) == {kind for kind in EVENTS.values() if kind in TERMINAL}
    assert [worker._exit_code(ending) for ending in endings.values()] == [0, 2, 3]
