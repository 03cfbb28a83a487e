"""Which rows of a file belong to a split, and which of a split's rows are used.

Knows rows, columns and shares. Must not know what a column means: labels, tasks, losses.
"""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from manyheads.data.mixing import draw
from manyheads.data.read import Row

__all__ = ["part_of", "rows_of_part", "sampled"]


def part_of(texts: Sequence[object], shares: Mapping[str, float], rest: str = "train") -> str:
    """To which part a row with these values belongs: each part gets about its share of all different values.

    It follows from the values alone: the same values are in the same part wherever they stand, in any order of
    the rows and with any others beside them.
    """
    digest = blake2b(digest_size=8)
    for text in texts:
        digest.update(str(text).encode("utf-8", "surrogatepass") + b"\0")
    place = int.from_bytes(digest.digest(), "big") / 2**64
    for part, share in shares.items():
        if place < share:
            return part
        place -= share
    return rest


def rows_of_part(
    rows: Iterator[Row], part: str, shares: Mapping[str, float], columns: Sequence[str]
) -> Iterator[Row]:
    """The rows of one part, told by the values of `columns`; they keep their numbers."""
    return (row for row in rows if part_of([row.values[name] for name in columns], shares) == part)


def sampled(count: int, wanted: int | float, seed: int, purpose: str) -> NDArray[np.int64]:
    """[n] rows of `count`, in their order: n = `wanted`, or that share where it is a float (at least one row).

    They follow from (seed, purpose); a smaller sample is part of a larger one.
    """
    n = round(wanted * count) if isinstance(wanted, float) else wanted
    order = np.argsort(draw(count, seed, 0, f"sample of {purpose}", 0), kind="stable")
    return np.sort(order[: max(1, min(n, count))]).astype(np.int64, copy=False)
