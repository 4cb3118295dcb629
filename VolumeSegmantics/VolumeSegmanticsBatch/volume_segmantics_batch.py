"""Train and segment without a window, in 3D Slicer or with the slicer-core package.

    Slicer --no-main-window --python-script volume_segmantics_batch.py --usage
    python volume_segmantics_batch.py --usage

Slicer reads this file in the encoding of the system, hence ASCII only; and it would stay open whatever is raised here,
hence nothing is.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

PACKAGES = ("VolumeSegmanticsLib", "VolumeSegmanticsSlicer")


def run() -> int:
    """Run the command, and return its exit code."""
    for folder in Path(__file__).resolve().parents[1:3]:
        # Installed, all packages lie side by side; in the sources the library lies one folder higher.
        if any((folder / name / "__init__.py").is_file() for name in PACKAGES):
            sys.path.insert(0, str(folder))
    try:
        from VolumeSegmanticsSlicer import batch

        return batch.main(sys.argv[1:])
    except BaseException:
        sys.stderr.write(traceback.format_exc())
        return 1


def leave(code: int) -> None:
    """End Slicer, which would stay open behind the script, with an exit code; without Slicer, end Python."""
    slicer = sys.modules.get("slicer")
    if getattr(slicer, "app", None) is not None:
        slicer.util.exit(code)
    else:
        sys.exit(code)


if __name__ == "__main__":
    leave(run())
