"""Predicts with two workers, prints who was started for that, and is killed in the middle: ``IMAGE MODEL OUTPUT``."""

from __future__ import annotations

import os
import signal
import sys

import psutil

from VolumeSegmanticsLib import predict
from VolumeSegmanticsLib.events import Progress


def die_in_the_middle(event):
    if isinstance(event, Progress) and event.stage == "predict" and event.done > event.total / 3:
        print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    image, model, output = sys.argv[1:]
    predict(image, model, output=output, device="cpu", cluster="local:2", report=die_in_the_middle)
