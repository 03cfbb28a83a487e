"""Which tokens' last states somebody reads: what the last layer need not compute is left out.

Knows sequences, marked tokens and arrays. Must not know heads or layers.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from manyheads.encoder.layout import spread

__all__ = ["Reading", "Reads", "rows_read"]

Reads = Literal["first", "last", "marked", "tokens"]
"""Of each sequence the first token, the last, the marked ones, or all."""

# With so many of the tokens read, taking them out and putting them back costs what leaving the others out saves.
_NEARLY_ALL = 0.8


class Reading(NamedTuple):
    """What one reader wants of a batch."""

    reads: Reads
    sequences: NDArray[np.int64]
    """[s] which of the batch's sequences it reads."""
    marks: NDArray[np.bool_] | None = None
    """Which of their tokens are marked, these sequences end to end."""


def rows_read(lengths: NDArray[np.int64], readings: Iterable[Reading]) -> NDArray[np.int64] | None:
    """The rows of the tokens that any reader wants, ascending and at least one; None: all of them.

    `lengths` [B] are the tokens of each sequence of the batch.
    """
    wanted = np.zeros(int(lengths.sum()), dtype=np.bool_)
    ends = np.cumsum(lengths)
    for reads, sequences, marks in readings:
        if reads == "first":
            wanted[(ends - lengths)[sequences]] = True
        elif reads == "last":
            wanted[ends[sequences] - 1] = True
        elif reads == "marked" and marks is not None:
            wanted[spread(lengths, sequences)[marks]] = True
        else:
            return None
    rows = np.flatnonzero(wanted)
    if len(rows) > _NEARLY_ALL * len(wanted):
        return None
    return rows if len(rows) else np.zeros(1, dtype=np.int64)
