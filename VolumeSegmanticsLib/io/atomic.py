"""Writing so that a file is either the earlier one or the whole new one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a draft's path; when the block ends well, the draft takes the place of ``path``.

    The draft lies in a hidden folder beside ``path``, which never outlives the block. Whatever else is written beside
    the draft (the voxels of a detached header) is moved too, and before it. The draft's suffixes are in lower case,
    since some writers know no others.

    Raises:
        OSError: Nothing can be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as folder:
        stem, dot, suffixes = path.name.partition(".")
        draft = Path(folder) / (stem + dot + suffixes.lower())
        yield draft
        for companion in Path(folder).iterdir():
            if companion != draft:
                companion.replace(path.parent / companion.name)
        _exchange(draft, path)


def _exchange(draft: Path, path: Path) -> None:
    if not (draft.is_dir() and path.is_dir()):
        draft.replace(path)
        return
    earlier = draft.parent / ".earlier"  # a folder that holds files cannot be replaced in one step
    path.replace(earlier)
    try:
        draft.replace(path)
    except OSError:
        earlier.replace(path)
        raise
