from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing import resource_tracker
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from VolumeSegmanticsLib import cluster, footprint, io, orders, predict, scheduler, slab_planning
from VolumeSegmanticsLib.blocks import Need, Plan
from VolumeSegmanticsLib.boxes import BoxPlan
from VolumeSegmanticsLib.cli import MENDABLE, main
from VolumeSegmanticsLib.errors import (
    Cancelled,
    DependencyError,
    InputError,
    ResourceError,
    SettingsError,
    VolumeSegmanticsError,
)
from VolumeSegmanticsLib.events import Log, Progress, ignore
from VolumeSegmanticsLib.parts import SlabParts
from VolumeSegmanticsLib.settings import PredictSettings
from VolumeSegmanticsLib.team import Team, planned
from VolumeSegmanticsLib.unfinished import MODEL, SESSION, Unfinished
from VolumeSegmanticsLib.volume import Grid

distributed = pytest.importorskip("distributed")

pytestmark = pytest.mark.filterwarnings("ignore:Creating scratch directories")  # takes dask long on a busy machine

GRID = Grid((36, 40, 34), (2.0, 1.0, 1.0), (3.0, -7.5, 11.0))
SMALL_BOXES = "from VolumeSegmanticsLib import box_planning; box_planning.SIDES = (32,)"
USUAL_BOXES = "from VolumeSegmanticsLib import box_planning, boxes; box_planning.SIDES = boxes.SIDES"


@pytest.fixture(scope="module")
def two_workers():
    """A scheduler with two worker processes, and a client that looks at them."""
    with scheduler.started(2) as started, distributed.Client(started, set_as_default=False) as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
def no_tracker_is_left():
    """Python leaves a process of its own behind those that it started; tests that come later count processes."""
    yield
    resource_tracker._resource_tracker._stop()


@pytest.fixture
def address(two_workers) -> str:
    return two_workers.scheduler.address


@pytest.fixture
def small_boxes(two_workers):
    """Workers that divide a volume into boxes of 32 voxels a side."""
    two_workers.run(exec, SMALL_BOXES)
    yield 32
    two_workers.run(exec, USUAL_BOXES)


@pytest.fixture(scope="module")
def the_files(tmp_path_factory, the_tiny_model, write_ball_and_slab):
    """An image, a local model that has learned it, and a network that knows nothing."""
    folder = write_ball_and_slab(tmp_path_factory.mktemp("Proben für Ümit"), GRID)
    the_tiny_model.save(folder / "tiny.safetensors")
    return folder


def run(folder, output, model="tiny", **options):
    return predict(folder / "image.nrrd", folder / f"{model}.safetensors", output=output, device="cpu", **options)


def here(folder, model, **options):
    """What this process says, with everything in memory."""
    return predict(folder / "image.nrrd", folder / f"{model}.safetensors", device="cpu", confidence=True, **options)


def texts(heard) -> list[str]:
    return [event.text for event in heard if isinstance(event, Log)]


def at_progress(act, part=0.0):
    """Return a report that acts once, when more than a part is predicted."""
    acted = []

    def report(event):
        is_far = isinstance(event, Progress) and event.stage == "predict" and event.done > part * event.total
        if is_far and not acted:
            acted.append(event)
            act()

    return report


def stop() -> None:
    raise Cancelled


def workers_of_ours() -> set[int]:
    return {each.pid for each in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(each.cmdline())}


def have_ended(pids, patience):
    """Tell whether processes of nobody end within some seconds; one whose end nobody has asked for has ended too."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        running = psutil.process_iter(["status"])
        if not any(each.pid in pids and each.info["status"] != psutil.STATUS_ZOMBIE for each in running):
            return True
        time.sleep(0.1)
    return False


# The same answer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", ["medium", "high"])
def test_slabs_on_a_cluster_say_what_one_process_says(quality, the_files, tmp_path, address, heard):
    options = {"quality": "high", "axes": "z"} if quality == "high" else {}
    run(
        the_files,
        tmp_path / "out.zarr",
        cluster=address,
        confidence=tmp_path / "sure.nrrd",
        report=heard.append,
        **options,
    )
    expected = here(the_files, "tiny", **options)
    labels, sure = io.read_labels(tmp_path / "out.zarr"), io.read_volume(tmp_path / "sure.nrrd")
    assert np.mean(labels.array != expected.labels.array) < 1e-4
    assert np.abs(sure.array.astype(int) - expected.confidence).max() <= 1
    assert labels.grid == sure.grid == GRID
    assert any("In slabs" in text and "on 2 workers" in text for text in texts(heard))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zarr", "sure.nrrd"]


@pytest.mark.parametrize("name", ["image.nrrd", "image.h5"])
def test_boxes_on_a_cluster_say_what_one_process_says(name, the_files, tmp_path, address, small_boxes, heard):
    io.write_volume(tmp_path / name, io.read_volume(the_files / "image.nrrd"))
    result = predict(
        tmp_path / name, the_files / "local.safetensors", output=tmp_path / "out.seg.nrrd", device="cpu",
        confidence=True, cluster=address, report=heard.append,
    )  # fmt: skip
    expected = here(the_files, "local")
    assert any("In boxes of 32 × 32 × 32 voxels" in text for text in texts(heard))
    labels = io.read_labels(tmp_path / "out.seg.nrrd", unpainted="background")
    assert np.mean(labels.array != expected.labels.array) < 1e-4
    assert np.abs(result.confidence.astype(int) - expected.confidence).max() <= 1
    assert [c.name for c in labels.classes][1:] == ["Ball", "Slab"]


# Mishaps ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_when_a_worker_is_killed_nothing_is_lost_or_doubled(the_files, tmp_path, address, two_workers, heard):
    pids = two_workers.run(os.getpid)
    kill = at_progress(lambda: os.kill(min(pids.values()), signal.SIGKILL))

    def report(event):
        heard.append(event)
        kill(event)

    run(the_files, tmp_path / "out.nrrd", cluster=address, report=report)
    assert set(two_workers.run(os.getpid).values()) != set(pids.values())
    expected = here(the_files, "tiny").labels.array
    assert np.mean(io.read_labels(tmp_path / "out.nrrd").array != expected) < 1e-4
    steps = [event for event in heard if isinstance(event, Progress) and event.stage == "predict"]
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[-1].done == steps[-1].total


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_when_the_worker_that_plans_is_killed_another_one_plans(the_files, tmp_path, address, two_workers, monkeypatch):
    ask, killed = Team.ask, []

    def killing(self, function, asked):
        if function is planned and not killed:
            (asked_one,) = asked
            killed.append(asked_one)
            os.kill(two_workers.run(os.getpid, workers=[asked_one])[asked_one], signal.SIGKILL)
        return ask(self, function, asked)

    monkeypatch.setattr(Team, "ask", killing)
    run(the_files, tmp_path / "out.nrrd", cluster=address)
    assert killed
    expected = here(the_files, "tiny").labels.array
    assert np.mean(io.read_labels(tmp_path / "out.nrrd").array != expected) < 1e-4
    two_workers.wait_for_workers(2)


def test_a_cancelled_run_goes_on_where_it_was(the_files, tmp_path, address, heard):
    with pytest.raises(Cancelled):
        run(the_files, tmp_path / "out.nrrd", cluster=address, report=at_progress(stop, 0.3))
    assert not (tmp_path / "out.nrrd").exists()
    run(the_files, tmp_path / "out.nrrd", cluster=address, report=heard.append)
    assert any("An interrupted prediction goes on" in text for text in texts(heard))
    first = next(event for event in heard if isinstance(event, Progress) and event.stage == "predict")
    assert first.done > 0.3 * first.total
    run(the_files, tmp_path / "undisturbed.nrrd", cluster=address)
    assert (tmp_path / "out.nrrd").read_bytes() == (tmp_path / "undisturbed.nrrd").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_what_a_killed_process_began_goes_on_and_its_workers_end(the_files, tmp_path, address, heard):
    script = Path(__file__).parent / "workers" / "share_and_die.py"
    names = [the_files / "image.nrrd", the_files / "tiny.safetensors", tmp_path / "out.nrrd"]
    killed = subprocess.run([sys.executable, script, *names], stdout=subprocess.PIPE)
    assert killed.returncode == -signal.SIGKILL
    its_workers = {int(pid) for pid in killed.stdout.split()}
    assert len(its_workers) > 1
    run(the_files, tmp_path / "out.nrrd", cluster="local:2", report=heard.append)
    assert any("An interrupted prediction goes on" in text for text in texts(heard))
    run(the_files, tmp_path / "undisturbed.nrrd", cluster=address)
    assert (tmp_path / "out.nrrd").read_bytes() == (tmp_path / "undisturbed.nrrd").read_bytes()
    assert have_ended(its_workers, patience=60)


def test_one_process_does_not_take_up_what_a_cluster_began(the_files, tmp_path, address, heard):
    with pytest.raises(Cancelled):
        run(the_files, tmp_path / "out.nrrd", cluster=address, report=at_progress(stop))
    run(the_files, tmp_path / "out.nrrd", report=heard.append)
    assert "An interrupted prediction with another setting was found: starting anew." in texts(heard)
    assert not (tmp_path / "out.nrrd.unfinished").exists()


def test_workers_started_here_end_when_the_run_is_cancelled(the_files, tmp_path):
    before, during = workers_of_ours(), []

    def look_and_stop(event):
        during.extend(workers_of_ours() - before)
        if during:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(the_files, tmp_path / "out.nrrd", cluster="local:1", report=look_and_stop)
    assert len(during) == 1
    assert not psutil.wait_procs([psutil.Process(pid) for pid in workers_of_ours() - before], timeout=60)[1]
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_told_and_leaves_nothing(the_files, tmp_path, address):
    with pytest.raises(ResourceError, match="The program alone takes") as caught:
        run(the_files, tmp_path / "out.nrrd", cluster=address, memory="10MB")
    assert "memory" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_workers_that_come_later_are_looked_at_before_they_get_parts(
    the_files, tmp_path, address, two_workers, monkeypatch
):
    def exchange_workers():
        monkeypatch.setattr(cluster, "__version__", "99.0")
        for pid in two_workers.run(os.getpid).values():
            os.kill(pid, signal.SIGTERM)

    with pytest.raises(DependencyError, match=r"has VolumeSegmantics .*, and this is 99.0"):
        run(the_files, tmp_path / "out.nrrd", cluster=address, report=at_progress(exchange_workers))
    two_workers.wait_for_workers(2)


def test_questions_to_a_worker_can_be_cancelled(two_workers):
    team = Team(two_workers, lambda _: stop())
    (first, *_) = team.look()
    with pytest.raises(Cancelled):
        team.waited_for(team.ask(time.sleep, {first: (1,)}))


def test_a_worker_that_ends_over_a_question_is_left_out(two_workers):
    team = Team(two_workers, ignore)
    first, second = team.look()
    assert team.waited_for(team.ask(exec, {first: ("import os; os._exit(1)",), second: ("",)})) == {second: None}
    two_workers.wait_for_workers(2)


class AnsweringLate:
    """A client with one worker, and what it answers: nothing comes at first, and 7 when it is asked again."""

    status = "finished"

    def __init__(self) -> None:
        self.asked = 0

    def nthreads(self):
        return {"tcp://there:1": 1}

    def submit(self, *_, **__):
        return self

    def done(self):
        return True

    def result(self, timeout):
        self.asked += 1
        if self.asked == 1:
            raise distributed.TimeoutError
        return 7


def test_an_answer_that_does_not_come_at_once_is_waited_for():
    team = Team(AnsweringLate(), ignore)
    assert team.waited_for(team.ask(int, {"tcp://there:1": ()})) == {"tcp://there:1": 7}


# What is refused ----------------------------------------------------------------------------------------------------


def test_a_scheduler_that_does_not_answer_is_told(the_files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scheduler, "CONNECT_SECONDS", 0.3)
    names = [str(the_files / "image.nrrd"), str(the_files / "tiny.safetensors"), "-o", str(tmp_path / "out.zarr")]
    assert main(["predict", *names, "--cluster", "tcp://127.0.0.1:9"]) == MENDABLE
    told = capsys.readouterr().err
    assert "Error: No scheduler answers at tcp://127.0.0.1:9" in told
    assert "dask scheduler" in told


def test_a_missing_package_is_told(the_files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(DependencyError, match="needs the package distributed") as caught:
        run(the_files, tmp_path / "out.nrrd", cluster="local:2")
    assert 'pip install "volumesegmantics[cluster]"' in caught.value.hint


def test_workers_of_another_version_are_told(the_files, tmp_path, address, monkeypatch):
    monkeypatch.setattr(cluster, "__version__", "99.0")
    with pytest.raises(DependencyError, match=r"has VolumeSegmantics .*, and this is 99.0") as caught:
        run(the_files, tmp_path / "out.nrrd", cluster=address)
    assert "volumesegmantics[cluster]==99.0" in caught.value.hint


@pytest.mark.parametrize("text", ["local", "local:0", "local:two", "host:8786"])
def test_an_address_that_is_none_is_refused(text):
    with pytest.raises(SettingsError, match=f'The setting cluster is "{text}"'):
        PredictSettings(cluster=text)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"fusion": "mean"}, "needs all voxels in one process", id="a fusion of all views"),
        pytest.param({"box": [[0, 8], [0, 8], [0, 8]]}, "A cluster predicts whole volumes", id="a box"),
        pytest.param({"output": None}, "A cluster reads the image from a file", id="no file for the result"),
    ],
)
def test_what_a_cluster_cannot_do_is_refused_at_once(options, expected, the_files, tmp_path):
    arguments = {"output": tmp_path / "out.nrrd", **options}
    with pytest.raises((SettingsError, InputError), match=expected):
        run(the_files, cluster="tcp://127.0.0.1:9", **arguments)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(ModuleNotFoundError(name="torch"), "A worker does not find the package torch", id="a package"),
        pytest.param(OSError("Timed out"), r"The cluster is lost, or its disk \(Timed out\)", id="the scheduler"),
        pytest.param(
            distributed.scheduler.KilledWorker("part", None, 3), "4 workers have ended over the same part", id="a part"
        ),
    ],
)
def test_what_dask_raises_becomes_a_sentence(error, expected):
    with pytest.raises(VolumeSegmanticsError, match=expected) as caught, scheduler.failures():
        raise error
    assert caught.value.hint


# What a worker is asked ---------------------------------------------------------------------------------------------


@pytest.fixture
def an_order(the_files, tmp_path) -> orders.Order:
    settings = PredictSettings(device="cpu").to_dict()
    order = orders.Order(str(the_files / "image.nrrd"), 1, str(tmp_path), "", "ours", settings, False, {})
    orders.begin_session(order)
    return order


def size_of(order) -> int:
    return Path(order.image).stat().st_size


def test_a_worker_that_sees_image_and_folder_tells_its_memory(an_order):
    alone, shared = (orders.look(an_order.to_json(), size_of(an_order), sharing) for sharing in (1, 4))
    assert alone > 2 * shared > 0


def test_a_worker_that_does_not_see_the_image_says_so(an_order):
    size = size_of(an_order)
    with pytest.raises(InputError, match="does not see the image") as caught:
        orders.look(an_order.to_json(), size + 1, 1)
    assert "that all machines of the cluster see" in caught.value.hint


def test_a_worker_that_does_not_see_the_folder_says_so(an_order):
    orders.end_session(an_order)
    with pytest.raises(InputError, match="does not see the folder"):
        orders.look(an_order.to_json(), size_of(an_order), 1)


def test_a_part_without_its_folder_says_so(an_order, tmp_path):
    lost = replace(an_order, folder=str(tmp_path / "elsewhere" / "out.unfinished"))
    with pytest.raises(InputError, match=r"does not see the folder .*elsewhere"):
        orders.do(lost.to_json(), 0, 1)


def test_workers_on_a_device_share_its_memory(an_order, the_tiny_model, tmp_path, monkeypatch):
    """With 400 bytes a pixel, slices of 40 × 36 pixels take 0.6 MB: eight go into 5 MB, two into a quarter of it."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10_000_000, 20_000_000))
    cuda = torch.device("cuda")

    def need_of(predictor, sharing):
        memory = footprint.free_on(cuda, sharing=sharing)
        return Need(11, 11, 100_000, device_pixel=400, device_memory=memory)

    monkeypatch.setattr(slab_planning, "need_of", need_of)
    the_tiny_model.save(tmp_path / MODEL)
    alone, shared = (orders.planned(an_order.to_json(), 10**9, 2, 1, sharing) for sharing in (1, 4))
    assert alone["batch"][0] // shared["batch"][0] == 4


def test_a_part_that_nobody_wants_any_more_is_not_done(an_order):
    orders.begin_session(replace(an_order, session="somebody else's"))
    with pytest.raises(Cancelled):
        orders.do(an_order.to_json(), 0, 1)


def test_another_order_leaves_a_running_part_alone(an_order, the_tiny_model, tmp_path, monkeypatch):
    """It comes when the slab of the first one is loaded, before the network is asked; that ends, then it is closed."""
    the_tiny_model.save(tmp_path / MODEL)
    plan = Plan(True, GRID.shape, (40, 40, 40), (2, 2, 2), 0, 1, False, 0, 0)
    first, second = (replace(an_order, about=name).with_plan(plan) for name in ("first", "second"))
    for order in (first, second):
        order.parts(order.way(), plan).create()
    load, close, closed = SlabParts._loaded, SlabParts.close, []

    def load_and_be_disturbed(parts, slab):
        monkeypatch.setattr(SlabParts, "_loaded", load)
        orders.do(second.to_json(), 0, 1)
        assert not closed
        return load(parts, slab)

    monkeypatch.setattr(SlabParts, "close", lambda parts: (closed.append(parts), close(parts)))
    monkeypatch.setattr(SlabParts, "_loaded", load_and_be_disturbed)
    assert orders.do(first.to_json(), 0, 1) == 0
    assert len(closed) == 1


def test_parts_that_end_out_of_turn_are_remembered(tmp_path):
    shape = (8, 8, 8)
    begun = Unfinished.begin(tmp_path, {}, BoxPlan(True, shape, shape, (1, 1, 1), 1, 0, 0, 0))
    for number in (2, 0):
        begun.finished(number)
    known = Unfinished.find(tmp_path, {}, BoxPlan, lambda _: None)
    assert (known.done, known.ahead) == (1, [2])
    assert [known.is_done(number) for number in range(4)] == [True, False, True, False]
    known.finished(1)
    assert (known.done, known.ahead) == (3, [])


def test_of_a_run_that_was_killed_before_it_began_nothing_is_told(tmp_path, heard):
    folder = tmp_path / "out.unfinished"
    folder.mkdir()
    for name in (MODEL, f"somebody{SESSION}"):
        (folder / name).touch()
    assert Unfinished.find(folder, {}, BoxPlan, heard.append) is None
    assert not heard
    assert not folder.exists()


def test_errors_keep_their_hint_on_the_way():
    told = distributed.protocol.pickle.loads(distributed.protocol.pickle.dumps(InputError("What.", "Hint.")))
    assert (told.message, told.hint) == ("What.", "Hint.")
