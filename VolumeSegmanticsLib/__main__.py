"""The start of the command line, as ``python -m VolumeSegmanticsLib`` and as ``python FOLDER/__main__.py``."""

from __future__ import annotations

import sys


def _put_package_on_path() -> None:
    """Put the package's parent in place of the package itself, whose files would hide those of the standard library."""
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    from pathlib import Path  # only now: nothing of ours can stand in for it

    sys.path.insert(0, str(Path(__file__).absolute().parent.parent))


if __name__ == "__main__":
    if not __package__:
        _put_package_on_path()
    from VolumeSegmanticsLib.cli import run_and_exit

    run_and_exit()
