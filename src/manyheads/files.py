"""Files that are either whole or not there: written beside their place, then renamed.

Knows paths and bytes. Must not know what the files mean.
"""

import errno
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from manyheads.errors import InputError, WorkError, shown

__all__ = ["finite", "line_encoding", "replacing", "reporting", "write_json", "write_text"]

# What a failed write means to a person; an OSError with another number is none of ours and passes.
_FULL = (errno.ENOSPC, errno.EDQUOT)
_BROKEN = (errno.EIO, errno.EFBIG)
_REFUSED = {
    errno.EACCES: "no permission to write here",
    errno.EPERM: "no permission to write here",
    errno.EROFS: "cannot be written: the file system is read-only",
    errno.ENAMETOOLONG: "cannot be written: the name is too long",
}


@contextmanager
def reporting(path: Path | str, *others: Path) -> Iterator[None]:
    """Turn an OSError of writing `path` (or `others`, its stand-ins) into one line for a person.

    Errors that name another file pass as they are.

    Raises:
        WorkError: the disk is full or broken.
        InputError: the place may not be written.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None and str(error.filename) not in {str(path), *map(str, others)}:
            raise
        if error.errno in _FULL:
            raise WorkError(f"{path}: the disk is full, or the quota is used up") from error
        if error.errno in _BROKEN:
            raise WorkError(f"{path}: cannot be written: {error.strerror}") from error
        if error.errno in _REFUSED:
            raise InputError(_REFUSED[error.errno], file=path) from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a file to write; it takes the place of `path` when the block ends well.

    The stand-in `.NAME.part-PID` lies in the same folder. It reaches the disk before it is renamed, so
    that a reader, also one after a power cut, finds the old file or the new one and nothing between. On
    any exception it is removed and the old file stays. Where `path` is a link, what it points to is
    replaced.

    Raises:
        InputError: no such folder, `path` is a folder or a device, or no permission.
        WorkError: the disk is full.
    """
    final = Path(os.path.realpath(path))
    beside = final.with_name(f".{final.name}.part-{os.getpid()}") if final.name else final
    with reporting(path, final, beside):
        if final.is_dir():
            raise InputError("is a folder; expected the name of a file", file=path)
        if final.exists() and not final.is_file():
            raise InputError("is no ordinary file and cannot be replaced", file=path)
        if not final.parent.is_dir():
            raise InputError(f"the folder {str(final.parent)!r} does not exist", file=path)
        try:
            yield beside
            with beside.open("r+b") as written:
                os.fsync(written.fileno())
            os.chmod(beside, _ordinary_mode())  # some libraries create their files for their owner alone
            os.replace(beside, final)
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
    with suppress(OSError):  # not every system lets a folder be opened; the file itself is safe already
        folder = os.open(final.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _ordinary_mode() -> int:
    """The mode that a new file gets from the umask."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, with `\\n` as it stands, in place of `path` (see `replacing`)."""
    with replacing(path) as beside:
        beside.write_bytes(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON in place of `path` (see `replacing` and `finite`)."""
    text = json.dumps(finite(value), ensure_ascii=False, indent=2, allow_nan=False)
    write_text(path, text + "\n")


def finite(value: Any) -> Any:
    """`value` of dicts, lists and numbers with None for every NaN and infinity, which JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def line_encoding(name: str) -> str:
    """The name of an encoding in which a line's end is found before the line is decoded; ValueError for others."""
    try:
        fits = "\n{".encode(name) == b"\n{"
    except (LookupError, UnicodeError):
        fits = False
    if not fits:
        raise ValueError(
            f"found {shown(name)}, expected an encoding with line ends of one byte, such as utf-8, latin-1 or gb18030"
        )
    return name
