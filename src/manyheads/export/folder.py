"""A folder that is either whole or not there, and what went into it.

Knows paths and the lines of a table. Must not know models or formats.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from manyheads.errors import InputError
from manyheads.files import reporting

__all__ = ["Line", "new_folder"]


@dataclass(frozen=True, slots=True)
class Line:
    """What became of a task, or of the encoder."""

    name: str
    """The task's name; `encoder` for the encoder alone."""
    became: str | None
    """The class, the outputs or the folder that it is now; None: it is left out."""
    note: str = ""
    """Why it is left out, or what a caller must do beside."""


@contextmanager
def new_folder(place: str | Path) -> Iterator[Path]:
    """Give an empty folder to write into; it becomes `place` when the block ends well.

    It lies beside `place` as `.NAME.part-PID` and is removed on any exception. InputError where `place` is something
    else than an empty folder or nothing, where its parent is missing, or where writing is not allowed; WorkError where
    the disk is full.
    """
    final = Path(os.path.realpath(place))
    if final.exists() and not final.is_dir():
        raise InputError("is a file, expected a new folder", file=place)
    if not final.parent.is_dir():
        raise InputError(f"the folder {str(final.parent)!r} does not exist", file=place)
    beside = final.with_name(f".{final.name}.part-{os.getpid()}")
    with reporting(place, final, beside):
        if final.is_dir() and any(final.iterdir()):
            raise InputError("is not empty, expected a new folder", file=place)
        beside.mkdir()
        try:
            yield beside
            os.replace(beside, final)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
