"""The command line: ``volseg train``, ``predict``, ``evaluate``, ``constrain``, ``demo``, ``info``, ``run``."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from . import __version__, memory, worker
from .errors import Cancelled, InputError, SettingsError, VolumeSegmanticsError
from .events import Event, Report
from .progress import ProgressLine
from .ranks import own_rank
from .settings import UNPAINTED, PredictSettings, Settings, TrainSettings

DONE, BUG, MENDABLE, CANCELLED = 0, 1, 2, 3

_TRAIN_FLAGS = ("model", "encoder", "weights", "unpainted", "axes", "device", "epochs", "max_minutes")
_PREDICT_FLAGS = ("quality", "axes", "fusion", "memory", "precision", "device", "cluster")


def run_and_exit() -> None:
    """Run the command that the process was started with, and end the process with its exit code."""
    memory.share_one_heap()
    sys.exit(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 done, 1 a bug (a traceback goes to stderr), 2 the user can mend it (one sentence and a hint), 3 cancelled.
    """
    options = _parser().parse_args(arguments)
    stop = threading.Event()
    line = ProgressLine(sys.stderr if own_rank().is_first else StringIO())

    def report(event: Event) -> None:
        if stop.is_set():
            raise Cancelled
        line(event)

    with _Signals(stop):
        try:
            code = options.command(options, report)
        except (Cancelled, KeyboardInterrupt):
            line.end("Cancelled.")
            return CANCELLED
        except VolumeSegmanticsError as error:
            line.end(f"Error: {error.message}\n{error.hint}".rstrip())
            return MENDABLE
        except Exception as error:
            if mendable := worker.explained(error):
                line.end(f"Error: {mendable.message}\n{mendable.hint}")
                return MENDABLE
            line.end(f"This is a bug in VolumeSegmantics {__version__}; please report it with these lines:")
            traceback.print_exc(file=sys.stderr)
            return BUG
    line.end()
    return DONE if code is None else int(code)


def _train(options: argparse.Namespace, report: Report) -> None:
    if len(options.files) % 2:
        raise InputError("Images and labels come in pairs.", "volseg train IMAGE LABELS [IMAGE LABELS …] -o MODEL")
    settings, path = _settings(TrainSettings, options, _TRAIN_FLAGS), _model_path(options.output)
    from . import api, distributed  # only now: loading torch takes seconds

    with distributed.joined(settings.device):
        trained = api.train(
            options.files[::2], options.files[1::2],
            output=path, start_from=options.start_from, settings=settings, report=report,
        )  # fmt: skip
    scores = trained.card.scores
    text = f"{trained.path}\n"
    if "mean_dice" in scores:
        text += f"mean Dice {scores['mean_dice']:.3f} on held-out labels\n"
    _tell(options, {"model": str(trained.path), "scores": scores}, text)


def _model_path(path: Path) -> Path:
    if path.suffix != ".safetensors":
        raise InputError(f'The model file is called "{path.name}".', f"Call it {path.stem}.safetensors.")
    return path


def _predict(options: argparse.Namespace, report: Report) -> None:
    settings = _settings(PredictSettings, options, _PREDICT_FLAGS)
    if Path(options.image).suffix == ".safetensors":
        raise InputError(f'"{options.image}" is a model, not an image.', "The order is IMAGE MODEL.")
    from . import api  # only now: loading torch takes seconds

    if options.plan:
        estimate = api.plan_prediction(
            options.image, options.model, output=options.output, confidence=options.confidence or False,
            settings=settings,
        )  # fmt: skip
        _tell(options, estimate.to_dict(), f"{estimate.text()}\n")
        return
    api.predict(
        options.image, options.model, output=options.output, confidence=options.confidence or False,
        settings=settings, report=report,
    )  # fmt: skip
    outputs = {"labels": str(options.output)}
    if options.confidence:
        outputs["confidence"] = str(options.confidence)
    _tell(options, outputs, "".join(f"{path}\n" for path in outputs.values()))


def _evaluate(options: argparse.Namespace, report: Report) -> None:
    from . import api

    scores = api.evaluate(
        options.prediction, options.truth, output=options.output, unpainted=options.unpainted, report=report
    )
    _tell(options, scores.to_dict(), scores.table() + "\n")


def _constrain(options: argparse.Namespace, report: Report) -> None:
    from . import api

    made = api.constrain(
        options.labels, options.rule, output=options.output, unpainted=options.unpainted, topology=options.topology,
        report=report,
    )  # fmt: skip
    _tell(options, {"labels": str(options.output), **made.to_dict()}, f"{options.output}\n{made.table()}\n")


def _demo(options: argparse.Namespace, report: Report) -> None:
    from . import demo

    made = demo.run(options.output, report_to=report)
    files = {name: str(path) for name, path in made.files.items()}
    _tell(options, {"files": files, "scores": made.scores.to_dict()}, f"{made.scores.table()}\n{files['overview']}\n")


def _info(options: argparse.Namespace, report: Report) -> None:
    from .card import read_card

    path = Path(options.file)
    if path.suffix == ".safetensors":
        facts: dict[str, Any] = dataclasses.asdict(read_card(path))
        if not options.json:
            facts["settings"] = TrainSettings.of_model(facts["model"], facts["settings"])
            facts["scores"] = _rounded(facts["scores"])
    else:
        from . import io

        facts = io.describe(path)
    _tell(options, facts, _as_text(facts))


def _run(options: argparse.Namespace, report: Report) -> int:
    return int(worker.run(options.folder, parent_watch=options.parent_watch))


def _settings(kind: type[Any], options: argparse.Namespace, flags: Sequence[str]) -> Any:
    """Return the settings that the flags and ``--set`` ask for."""
    texts = {name: getattr(options, name) for name in flags if getattr(options, name) is not None}
    for assignment in options.set or []:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise SettingsError(f'"--set {assignment}" gives no value.', "Write --set FIELD=VALUE.")
        texts[name.strip().replace("-", "_")] = text.strip()
    return kind.from_text(texts)


def _tell(options: argparse.Namespace, facts: dict[str, Any], text: str) -> None:
    """Write the result to stdout: as JSON or for people. Of several processes one does."""
    if not own_rank().is_first:
        return
    sys.stdout.write(json.dumps(facts, default=str) + "\n" if options.json else text)
    sys.stdout.flush()


def _rounded(value: Any) -> Any:
    """Return scores, or what is in them, with four digits."""
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _as_text(facts: dict[str, Any], indent: str = "") -> str:
    lines = []
    for name, value in facts.items():
        if name == "history":
            lines.append(f"{indent}history: {len(value)} epochs")
        elif isinstance(value, dict):
            lines.append(f"{indent}{name}:\n{_as_text(value, indent + '  ')}".rstrip())
        elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
            rows = (", ".join(f"{k} {v}" for k, v in entry.items() if v != "") for entry in value)
            lines.append(f"{indent}{name}:\n" + "\n".join(f"{indent}  {row}" for row in rows))
        else:
            lines.append(f"{indent}{name}: {value}")
    return "\n".join(lines) + "\n"


class _Signals:
    """While this is entered, Ctrl-C and SIGTERM ask for a stop; the second Ctrl-C insists."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {name: signal.signal(name, self._ask) for name in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt
        self._stop.set()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="volseg", description="From a few brush strokes to a full segmentation.")
    parser.add_argument("--version", action="version", version=f"VolumeSegmantics {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = _command(commands, "train", _train, "train a model on images and labels")
    train.add_argument("files", nargs="+", metavar="IMAGE LABELS", help="pairs of image and label file")
    train.add_argument(
        "-o", "--output", type=Path, required=True, metavar="MODEL", help="the .safetensors file to write"
    )
    train.add_argument("--start-from", metavar="MODEL", help="go on from this model")
    _add_flags(train, TrainSettings, _TRAIN_FLAGS)

    predict = _command(commands, "predict", _predict, "segment an image with a model")
    predict.add_argument("image", metavar="IMAGE")
    predict.add_argument("model", metavar="MODEL")
    output = predict.add_argument(
        "-o", "--output", type=Path, required=True, metavar="LABELS", help="the label file to write"
    )
    predict.add_argument("--confidence", metavar="FILE", help="also write how sure the model is, in percent")
    predict.add_argument(
        "--plan", action=_Instead, spares=output, help="only tell what it will take: memory, disk and time"
    )
    _add_flags(predict, PredictSettings, _PREDICT_FLAGS)

    evaluate = _command(commands, "evaluate", _evaluate, "compare a prediction with the truth")
    evaluate.add_argument("prediction", metavar="PREDICTION")
    evaluate.add_argument("truth", metavar="TRUTH", help="voxels of 255 are left out")
    evaluate.add_argument("-o", "--output", metavar="FOLDER", help="write scores.json and a picture here")
    evaluate.add_argument("--unpainted", default="auto", choices=("auto", "ignore", "background"), help="what 0 means")

    constrain = _command(commands, "constrain", _constrain, "make sizes, order and distances of materials hold")
    constrain.add_argument("labels", metavar="LABELS")
    constrain.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="the label file to write")
    constrain.add_argument("--rule", action="append", required=True, metavar="RULE", help="repeat it for several")
    constrain.add_argument("--rules", action=_TellRules, nargs=0, help="list the rules, and end")
    constrain.add_argument("--unpainted", default="background", choices=UNPAINTED, help="what 0 means (background)")
    constrain.add_argument("--no-topology", dest="topology", action="store_false", help="do not count objects")

    demo = _command(commands, "demo", _demo, "simulate, paint, train, predict, evaluate: the whole round")
    demo.add_argument("-o", "--output", default="demo", metavar="FOLDER", help="where it leaves everything (demo)")

    info = _command(commands, "info", _info, "tell what a file holds: an image's grid, a model's card")
    info.add_argument("file", metavar="FILE")

    run = _command(commands, "run", _run, "run a job folder, as the panel in 3D Slicer does")
    run.add_argument("folder", metavar="FOLDER")
    run.add_argument("--parent-watch", action="store_true", help="stop when stdin ends")
    return parser


def _command(
    commands: Any, name: str, function: Callable[[argparse.Namespace, Report], int | None], help: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(command=function)
    return parser


class _Parser(argparse.ArgumentParser):
    """Shows the usage of the command that was given, and guesses what a misspelt word was meant to be."""

    def parse_known_args(self, *arguments: Any) -> Any:  # type: ignore[override]
        """Refuse unknown words here, where the flags of the command are known."""
        options, unknown = super().parse_known_args(*arguments)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """End with the message, and with the known word that is nearest to the one it complains about."""
        if found := re.search(r"(?:invalid choice: '|unrecognized arguments: )([^\s'=]+)", message):
            known = re.findall(r"[\w-]+", message[found.end() :] + self.format_usage())
            near = difflib.get_close_matches(found[1], known, n=1)
            message += f"\nDid you mean {near[0]}?" if near else ""
        super().error(message)


class _Instead(argparse.Action):
    """A flag of something else to do, for which another argument is not needed."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, spares: argparse.Action, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=False, help=help)
        self._spares = spares

    def __call__(self, parser: argparse.ArgumentParser, options: argparse.Namespace, *_: object) -> None:
        setattr(options, self.dest, True)
        self._spares.required = False


class _TellRules(argparse.Action):
    """Lists the rules of ``constrain``; only then is what they need loaded."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from .constraints import usages

        sys.stdout.write(f"{usages()}\n")
        parser.exit()


def _add_flags(parser: argparse.ArgumentParser, kind: type[Settings], flags: Sequence[str]) -> None:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in flags:
        field = fields[name]
        metavar = "|".join(field.metadata["choices"] or [name.upper()])
        default = f" ({field.default})" if field.default != "" else ""
        help = f"{field.metadata['help']}{default}".replace("%", "%%")
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, metavar=metavar, help=help)
    others = ", ".join(name for name in fields if name not in flags)
    parser.add_argument("--set", action="append", metavar="FIELD=VALUE", help=f"any other setting: {others}")
