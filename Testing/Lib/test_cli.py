from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import save_file

from VolumeSegmanticsLib import __version__, api, cli, io
from VolumeSegmanticsLib.card import read_card
from VolumeSegmanticsLib.cli import BUG, CANCELLED, DONE, MENDABLE, main
from VolumeSegmanticsLib.volume import UNLABELLED, Grid, LabelMap, Volume

TINY = [
    "--encoder", "resnet18", "--weights", "none", "--epochs", "1", "--set", "encoder_depth=3", "--set", "crop_size=32",
    "--set", "batch_size=4", "--set", "crops_per_epoch=16", "--set", "learning_rate=0.001", "--set", "local_weight=0",
]  # fmt: skip


@pytest.fixture
def a_folder(a_scene, the_tiny_model, tmp_path):
    """Files to work with, in a folder with spaces and umlauts; the working directory is another one."""
    folder = tmp_path / "Proben für Ümit"
    io.write_volume(folder / "image.nrrd", Volume.of(a_scene.image))
    io.write_labels(folder / "labels.nrrd", LabelMap.of(a_scene.slices))
    io.write_labels(folder / "truth.nrrd", LabelMap.of(a_scene.truth))
    the_tiny_model.save(folder / "tiny.safetensors")
    return folder


@pytest.fixture
def run(a_folder, capsys):
    """Run a command on the files of the folder; words that look like a file's name mean one of them."""

    def run(*words):
        is_name = re.compile(r"[a-z]+\.[a-z.]+(/[a-z]+\.[a-z.]+)?").fullmatch
        code = main([str(a_folder / word) if is_name(word) else word for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


# What is made -------------------------------------------------------------------------------------------------------


def test_the_whole_round_runs_from_the_command_line(run, a_folder):
    code, out, err = run("train", "image.nrrd", "labels.nrrd", "-o", "new.safetensors", *TINY, "--json")
    assert code == DONE, err
    told = json.loads(out)
    assert told["model"] == str(a_folder / "new.safetensors")
    assert 0 <= told["scores"]["mean_dice"] <= 1
    assert read_card(a_folder / "new.safetensors").settings["crop_size"] == 32
    assert "epoch 1" in err

    outputs = ("-o", "out.seg.nrrd", "--confidence", "sure.nrrd")
    code, out, err = run("predict", "image.nrrd", "new.safetensors", *outputs, "--quality", "low", "--json")
    assert code == DONE, err
    assert json.loads(out) == {"labels": str(a_folder / "out.seg.nrrd"), "confidence": str(a_folder / "sure.nrrd")}

    code, out, err = run("evaluate", "out.seg.nrrd", "truth.nrrd", "-o", "scores.d", "--json")
    assert code == DONE, err
    assert json.loads(out) == json.loads((a_folder / "scores.d" / "scores.json").read_text())


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "image.nrrd", "tiny.safetensors", "-o", "out.nrrd"),
        ("evaluate", "truth.nrrd", "truth.nrrd"),
        ("info", "image.nrrd"),
        ("info", "tiny.safetensors"),
    ],
)
def test_results_are_told_to_people_or_as_one_json_object(words, run):
    code, out, err = run(*words)
    assert code == DONE, err
    assert out.strip()
    assert not out.startswith("{")
    code, out, err = run(*words, "--json")
    assert code == DONE, err
    assert isinstance(json.loads(out), dict)
    assert "{" not in err


def test_info_tells_what_a_model_holds(run):
    _, out, _ = run("info", "tiny.safetensors")
    assert "Pöre" in out
    assert "resnet18" in out
    assert "octaves" not in out
    _, out, _ = run("info", "image.nrrd", "--json")
    assert json.loads(out)["shape"] == [24, 40, 36]


def test_info_tells_people_short_scores_and_programs_exact_ones(run, a_folder, a_tiny_model):
    a_tiny_model.card = replace(
        a_tiny_model.card, scores={"mean_dice": 0.98607639, "dice": {"Pöre": 1 / 3}, "n": 12345}
    )
    a_tiny_model.save(a_folder / "scored.safetensors")
    _, out, _ = run("info", "scored.safetensors")
    assert "mean_dice: 0.9861\n" in out
    assert "Pöre: 0.3333\n" in out
    assert "n: 12345\n" in out
    _, out, _ = run("info", "scored.safetensors", "--json")
    told = json.loads(out)
    assert told["scores"]["mean_dice"] == 0.98607639
    assert "octaves" in told["settings"]


def test_flags_and_assignments_reach_the_settings(run, a_folder, monkeypatch):
    class Enough(Exception):
        pass

    seen = {}

    def train(images, labels, **keywords):
        seen.update(keywords, images=images, labels=labels)
        raise Enough

    monkeypatch.setattr(api, "train", train)
    files = ("a.nrrd", "b.nrrd", "c.nrrd", "d.nrrd", "-o", "m.safetensors", "--start-from", "tiny.safetensors")
    flags = ("--axes", "zy", "--max-minutes", "0.5", "--set", "crop-size = 96", "--set", "loss=dice")
    code, _, err = run("train", *files, *flags)
    assert code == BUG
    assert "Enough" in err
    assert seen["settings"].changed() == {"axes": "zy", "max_minutes": 0.5, "crop_size": 96, "loss": "dice"}
    assert seen["images"] == [str(a_folder / "a.nrrd"), str(a_folder / "c.nrrd")]
    assert seen["labels"] == [str(a_folder / "b.nrrd"), str(a_folder / "d.nrrd")]
    assert seen["start_from"] == str(a_folder / "tiny.safetensors")


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("line", ["", "dance", "train", "predict a b", "evaluate a", "info a b"])
def test_wrong_words_are_the_users_to_mend(line, capsys):
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == MENDABLE
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "usage", "guess"),
    [
        ("predict a b -o c --qualty low", "usage: volseg predict", "--quality"),
        ("train a b -o c --epoch-s=3", "usage: volseg train", "--epochs"),
        ("predct a b", "usage: volseg", "predict"),
        ("evaluate a b --unpainted ignor", "usage: volseg evaluate", "ignore"),
    ],
)
def test_a_misspelt_word_is_guessed_beside_the_usage_of_its_command(line, usage, guess, capsys):
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    err = capsys.readouterr().err
    assert ended.value.code == MENDABLE
    assert err.startswith(usage)
    assert err.endswith(f"\nDid you mean {guess}?\n")


def test_a_plan_needs_no_place_for_a_result(run, a_folder):
    before = {path.name for path in a_folder.iterdir()}
    code, out, err = run("predict", "image.nrrd", "tiny.safetensors", "--plan")
    assert code == DONE, err
    assert "memory" in out
    assert {path.name for path in a_folder.iterdir()} == before


def test_wrong_settings_are_told_before_torch_is_loaded():
    code = "import sys; from VolumeSegmanticsLib.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    for words in (("train", "a", "b", "-o", "m.safetensors"), ("predict", "a", "b", "-o", "c.nrrd")):
        line = [sys.executable, "-c", code, *words, "--set", "nonsense=3"]
        assert subprocess.run(line, capture_output=True, text=True, check=True).stdout == f"{MENDABLE} False\n"


# Bad input ----------------------------------------------------------------------------------------------------------


def move(folder, name):
    """Labels that know where they lie: between the voxels of the image."""
    labels = io.read_labels(folder / name)
    grid = Grid(labels.grid.shape, (1.0, 1.0, 1.0), (0.4, 0.0, 0.0))
    io.write_labels(folder / name, LabelMap.of(np.array(labels.array), grid))


def write_labels(folder, change):
    labels = np.array(io.read_labels(folder / "labels.nrrd").array)
    io.write_labels(folder / "labels.nrrd", LabelMap.of(change(labels)))


def write_image(folder, change):
    image = io.read_volume(folder / "image.nrrd")
    io.write_volume(folder / "image.nrrd", Volume(change(np.array(image.array, np.float32)), image.grid))


def cut_off(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1000])


def write_foreign_model(folder):
    import torch

    save_file({"a": torch.zeros(2)}, folder / "tiny.safetensors")


def in_one_place(labels):
    labels[...] = UNLABELLED
    labels[0, 0, :8] = [0, 0, 0, 0, 1, 1, 1, 1]
    return labels


def nan_there(image):
    image[0, 0, :8] = np.nan
    return image


def training(*, to="new.safetensors"):
    return ("train", "image.nrrd", "labels.nrrd", "-o", to, *TINY)


def predicting(*, to="new.nrrd"):
    return ("predict", "image.nrrd", "tiny.safetensors", "-o", to)


TRAIN, PREDICT = training(), predicting()
EVALUATE = ("evaluate", "labels.nrrd", "truth.nrrd")


def nothing(folder) -> None:
    pass


BAD = {
    "labels of another grid": (lambda f: move(f, "labels.nrrd"), TRAIN, "does not lie on the voxels"),
    "labels of one class only": (lambda f: write_labels(f, lambda a: a | 254), TRAIN, "Only one class"),
    "no labels": (lambda f: write_labels(f, lambda a: np.full_like(a, 255)), TRAIN, "abel"),
    "labels on NaN only": (
        lambda f: (write_labels(f, in_one_place), write_image(f, nan_there)), TRAIN, "NaN"
    ),
    "an image of NaN": (lambda f: write_image(f, lambda a: a * np.nan), TRAIN, "NaN"),
    "a constant image": (lambda f: write_image(f, lambda a: a * 0 + 3), TRAIN, "constant"),
    "a constant image to predict": (lambda f: write_image(f, lambda a: a * 0 + 3), PREDICT, "constant"),
    "a truncated image": (lambda f: cut_off(f, "image.nrrd"), TRAIN, "image.nrrd"),
    "truncated labels": (lambda f: cut_off(f, "labels.nrrd"), TRAIN, "labels.nrrd"),
    "a truncated image to predict": (lambda f: cut_off(f, "image.nrrd"), PREDICT, "image.nrrd"),
    "an image of text": (lambda f: (f / "image.nrrd").write_text("no image"), PREDICT, "image.nrrd"),
    "no such image": (nothing, ("predict", "nowhere.nrrd", "tiny.safetensors", "-o", "new.nrrd"), "nowhere.nrrd"),
    "a truncated model": (lambda f: cut_off(f, "tiny.safetensors"), PREDICT, "truncated"),
    "a foreign model": (write_foreign_model, PREDICT, "no model of VolumeSegmantics"),
    "an image for a model": (nothing, ("predict", "image.nrrd", "image.nrrd", "-o", "new.nrrd"), "not a model"),
    "a model for an image": (nothing, ("predict", "tiny.safetensors", "image.nrrd", "-o", "new.nrrd"), "IMAGE MODEL"),
    "a model to learn from": (
        nothing, ("train", "tiny.safetensors", "labels.nrrd", "-o", "new.safetensors", *TINY), "is a model"
    ),
    "no such model": (nothing, ("predict", "image.nrrd", "nowhere.safetensors", "-o", "new.nrrd"), "no model file"),
    "a truncated model to go on from": (
        lambda f: cut_off(f, "tiny.safetensors"), (*TRAIN, "--start-from", "tiny.safetensors"), "truncated"
    ),
    "an unknown setting": (nothing, (*TRAIN, "--set", "epoch=3"), "epochs"),
    "a setting out of range": (nothing, (*TRAIN, "--set", "epochs=0"), "goes from 1"),
    "a setting that is no number": (nothing, (*TRAIN, "--epochs", "many"), "whole number"),
    "no value": (nothing, (*TRAIN, "--set", "epochs"), "FIELD=VALUE"),
    "a setting of the other command": (nothing, (*PREDICT, "--set", "epochs=3"), "epochs"),
    "an unknown axis": (nothing, (*PREDICT, "--axes", "w"), "axes"),
    "an unknown encoder": (nothing, (*TRAIN, "--encoder", "resnet19"), "resnet18"),
    "a pair that is refused": (
        nothing, (*TRAIN, "--encoder", "mit_b0", "--set", "architecture=UnetPlusPlus", "--set", "encoder_depth=0"),
        "another pair",
    ),
    "weights that are not there": (nothing, (*TRAIN, "--weights", "nowhere.pth"), "nowhere.pth"),
    "weights that are not there, before no image": (
        nothing, ("train", "nowhere.nrrd", "labels.nrrd", "-o", "new.safetensors", *TINY, "--weights", "nowhere.pth"),
        "nowhere.pth",
    ),
    "a device that is not there": (nothing, (*TRAIN, "--device", "cuda:99"), "cuda:99"),
    "a device that is not there to predict": (nothing, (*PREDICT, "--device", "tpu"), "tpu"),
    "arithmetic that is not there": (nothing, (*PREDICT, "--device", "cpu", "--precision", "float16"), "float16"),
    "a place that cannot be written": (nothing, predicting(to="image.nrrd/x.nrrd"), "written"),
    "a model in a place that cannot be written": (nothing, training(to="image.nrrd/m.safetensors"), "written"),
    "a result of no known format": (nothing, predicting(to="new.docx"), "formats"),
    "a model of another suffix": (nothing, training(to="m.pth"), "m.safetensors"),
    "an image without labels": (nothing, ("train", "image.nrrd", "-o", "new.safetensors", *TINY), "pairs"),
    "scores of another grid": (lambda f: move(f, "truth.nrrd"), EVALUATE, "does not lie on the voxels"),
    "scores in a place that cannot be written": (nothing, (*EVALUATE, "-o", "image.nrrd/scores.d"), "image.nrrd"),
    "a truth without labels": (
        lambda f: io.write_labels(f / "truth.nrrd", LabelMap.of(np.full((24, 40, 36), 255, np.uint8))), EVALUATE, "abel"
    ),
    "nothing to tell about": (nothing, ("info", "nowhere.nrrd"), "nowhere.nrrd"),
    "no job": (nothing, ("run", "nowhere.d"), ""),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_a_sentence_with_a_remedy_and_nothing_is_lost(case, run, a_folder):
    spoil, words, expected = BAD[case]
    spoil(a_folder)
    before = {path.name: path.read_bytes() for path in a_folder.iterdir()}
    code, out, err = run(*words)
    assert code == MENDABLE, err
    assert expected in err + out
    assert "Traceback" not in err
    assert "bug" not in err
    if words[0] != "run":
        assert out == ""
        sentence, _, remedy = err[err.index("Error: ") :].strip().partition("\n")
        assert sentence.endswith((".", ")"))
        assert remedy
    assert {path.name: path.read_bytes() for path in a_folder.iterdir()} == before


def test_a_model_of_other_channels_is_refused(run, a_folder, a_scene):
    colours = np.stack([a_scene.image] * 2, axis=3)
    io.write_volume(a_folder / "colours.npy", Volume.of(colours))
    code, _, err = run("train", "colours.npy", "labels.nrrd", "-o", "two.safetensors", *TINY)
    assert code == DONE, err
    code, _, err = run("predict", "image.nrrd", "two.safetensors", "-o", "new.nrrd")
    assert code == MENDABLE
    assert "1 channels" in err


def test_imagenet_weights_out_of_reach_are_a_sentence(run, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    code, _, err = run(*TRAIN, "--weights", "imagenet")
    assert code == MENDABLE
    assert "--weights none" in err


# How it ends --------------------------------------------------------------------------------------------------------


def raising(error):
    def function(*_, **__):
        raise error

    return function


MENDED = {
    "no memory": MemoryError("Unable to allocate 8 GiB"),
    "a full disk": OSError(28, "No space left on device"),
    "a missing package": ModuleNotFoundError("No module named 'torch'", name="torch"),
}


@pytest.mark.parametrize("error", MENDED.values(), ids=MENDED)
def test_what_the_user_can_mend_is_no_bug(error, run, monkeypatch):
    monkeypatch.setattr(api, "evaluate", raising(error))
    code, _, err = run(*EVALUATE)
    assert code == MENDABLE
    assert "Traceback" not in err


def test_a_bug_is_told_with_its_traceback(run, monkeypatch):
    monkeypatch.setattr(api, "evaluate", raising(KeyError("oops")))
    code, out, err = run(*EVALUATE, "--json")
    assert code == BUG
    assert out == ""
    assert "Traceback" in err
    assert "KeyError: 'oops'" in err
    assert __version__ in err


def test_a_package_that_is_not_installed_is_a_sentence(a_folder):
    code = "import sys; sys.modules['torch'] = None; from VolumeSegmanticsLib.cli import run_and_exit; run_and_exit()"
    ended = subprocess.run(
        [sys.executable, "-c", code, "predict", str(a_folder / "image.nrrd"), "m.safetensors", "-o", "r.nrrd"],
        capture_output=True, encoding="utf-8", cwd=a_folder, check=False,
    )  # fmt: skip
    assert ended.returncode == MENDABLE, ended.stderr
    assert "torch" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_ctrl_c_stops_at_the_next_report(run, monkeypatch):
    def evaluate(*_, report, **__):
        from VolumeSegmanticsLib.events import Progress

        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        for n in range(1000):
            time.sleep(0.01)
            report(Progress("evaluate", n, 1000))

    monkeypatch.setattr(api, "evaluate", evaluate)
    before = signal.getsignal(signal.SIGINT)
    code, _, err = run(*EVALUATE)
    assert code == CANCELLED
    assert "Cancelled" in err
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_ctrl_c_insists(run, monkeypatch):
    ended = []

    def evaluate(*_, **__):
        for delay in (0.1, 0.3):
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
        time.sleep(20)  # deaf
        ended.append(True)

    monkeypatch.setattr(api, "evaluate", evaluate)
    assert run(*EVALUATE)[0] == CANCELLED
    assert not ended


def test_every_setting_has_its_flag_or_is_told_in_the_help(capsys):
    for command, kind in (("train", cli.TrainSettings), ("predict", cli.PredictSettings)):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        told = capsys.readouterr().out
        for name in kind().to_dict():
            assert name in told.replace("-\n", "-").replace("-", "_") or f"--{name.replace('_', '-')}" in told
