"""The arguments of a run without a window.

None is called like one of Slicer's or Qt's own, which they would take for themselves.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.errors import InputError, SettingsError
from VolumeSegmanticsLib.settings import PredictSettings, Settings, TrainSettings


def read(arguments: Sequence[str]) -> argparse.Namespace:
    """Return what the arguments ask for; ``train`` and ``predict`` are settings by name.

    Raises:
        VolumeSegmanticsError: Something cannot be done.
        SystemExit: They are no arguments of ours, or ask for the usage; the reason has been told.
    """
    start = 1 if arguments[:1] == ["--"] else 0  # Slicer keeps this one for itself, Python does not
    options = parser().parse_intermixed_args(arguments[start:])
    options.train, options.predict = (
        _settings(TrainSettings, options.train),
        _settings(PredictSettings, options.predict),
    )
    _check(options)
    return options


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    parser = argparse.ArgumentParser(
        prog="volume_segmantics_batch.py",
        description="Train a model on painted volumes, and segment volumes with it.",
        epilog="Exit codes: 0 done, 1 a bug, 2 something that you can mend, 3 cancelled.",
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("volumes", nargs="+", metavar="VOLUME", help="file, or name of a volume of the scene")
    parser.add_argument(
        "--strokes", action="append", default=[], metavar="LABELS",
        help="train on this: file or name of a segmentation; the first belongs to the first volume, and so on",
    )  # fmt: skip
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="FILE",
        help="the .safetensors file to write, or without strokes to use",
    )
    parser.add_argument("--start-from", type=Path, metavar="FILE", help="training goes on from this model")
    parser.add_argument(
        "--results", type=Path, metavar="FOLDER", help="segment each volume; the result is VOLUME-result.seg.nrrd"
    )
    parser.add_argument("--confidence", action="store_true", help="also write VOLUME-confidence.nrrd, in percent")
    parser.add_argument(
        "--scene", type=Path, metavar="FILE", help=".mrml or .mrb scene in which names are looked up first"
    )
    parser.add_argument("--save-scene", type=Path, metavar="FILE", help="keep all in this .mrb scene")
    parser.add_argument(
        "--train", action="append", default=[], metavar="FIELD=VALUE", help="a setting of training, such as epochs=20"
    )
    parser.add_argument(
        "--predict",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a setting of prediction, such as quality=high",
    )
    parser.add_argument("--jobs-folder", type=Path, metavar="FOLDER", help="keep jobs and their logs here")
    parser.add_argument("--worker-python", type=Path, metavar="FILE", help="another Python to compute with")
    parser.add_argument("--usage", action="help", help="show this text")
    return parser


def _check(options: argparse.Namespace) -> None:
    """Find what is wrong before anything is read."""
    if len(options.strokes) > len(options.volumes):
        raise InputError(
            f"There are {len(options.strokes)} strokes for {len(options.volumes)} volumes.",
            "Name the volume of each, in the same order.",
        )
    if not options.strokes and not options.results:
        raise InputError("There is nothing to do.", "Give --strokes to train, --results to segment, or both.")
    if options.strokes and options.model.suffix != ".safetensors":
        raise InputError(
            f'The model file is called "{options.model.name}".', f"Call it {options.model.stem}.safetensors."
        )
    if not options.strokes and not options.model.is_file():
        raise InputError(f'There is no model "{options.model}".', "Check its name, or give --strokes to train one.")
    if options.save_scene and options.save_scene.suffix.lower() != ".mrb":
        raise InputError(f'The scene is called "{options.save_scene.name}".', "Scenes are saved as .mrb files.")
    for path in (options.save_scene, options.results and options.results / "result"):
        if path:
            io.check_writable(path)


def _settings(kind: type[Settings], assignments: Sequence[str]) -> dict[str, Any]:
    """Return the values of the settings that are named; all others stay as the scene remembers them."""
    texts = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise SettingsError(f'"{assignment}" gives no value.', "Write FIELD=VALUE.")
        texts[name.strip().replace("-", "_")] = text.strip()
    settings = kind.from_text(texts)
    return {name: getattr(settings, name) for name in texts}
