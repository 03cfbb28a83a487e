"""The two ways a command can end badly, and how a value is shown to the person who must mend it.

Knows nothing but words: no files are opened here, nothing is printed.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

__all__ = ["InputError", "ManyheadsError", "WorkError", "nearest", "shown"]


class ManyheadsError(Exception):
    """Anything that manyheads itself reports in one line, without a traceback."""

    exit_status = 1


class WorkError(ManyheadsError):
    """It failed while working: out of memory, a loss that is not finite, a full disk (exit status 1)."""


class InputError(ManyheadsError, ValueError):
    """What the caller gave is wrong (exit status 2).

    `str()` is one line that names the place (file, row, line, column) before it says what was found
    and what was expected.
    """

    exit_status = 2

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        row: int | None = None,
        line: int | None = None,
        column: str | None = None,
    ) -> None:
        place = [] if file is None else [str(file)]
        if row is not None:
            place.append(f"row {row}" + (f" (line {line})" if line is not None else ""))
        elif line is not None:
            place.append(f"line {line}")
        if column is not None:
            place.append(f"column {column!r}")
        text = " ".join(message.split("\n")) if "\n" in message else message
        super().__init__(f"{', '.join(place)}: {text}" if place else text)
        self.message = text  # without the place
        self.file, self.row, self.line, self.column = file, row, line, column


def shown(value: object, width: int = 60) -> str:
    """`value` as it may stand in an error: its repr on one line, cut to `width` characters."""
    text = repr(value)
    return text if len(text) <= width else text[: width - 1] + "…"


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name closest to `word`, or an empty string."""
    match = get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""
