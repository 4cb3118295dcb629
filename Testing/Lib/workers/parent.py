"""A parent that starts the worker, tells its process, and waits to be killed: ``parent.py FOLDER COMMAND…``."""

from __future__ import annotations

import sys
import time

from VolumeSegmanticsLib.events import Progress
from VolumeSegmanticsLib.launch import WorkerProcess

_, folder, *command = sys.argv
worker = WorkerProcess(folder, command=command)
while not any(isinstance(event, Progress) for event in worker.poll()):
    time.sleep(0.01)
print(worker.pid, flush=True)
time.sleep(3600)
