"""Stands in for PythonSlicer: starts the real program with its own stdin and stdout, and passes no signal on."""

from __future__ import annotations

import signal
import subprocess
import sys

signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("launcher: no end of line yet, ", end="", flush=True)
with subprocess.Popen([sys.executable, "-u", *sys.argv[1:]]) as program:
    print(f"launcher: started {program.pid}", file=sys.stderr, flush=True)
    sys.exit(program.wait())
