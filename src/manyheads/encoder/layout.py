"""Examples as sequences of token ids, end to end: what a kind of task makes of rows, before any batch.

Knows arrays of ids. Must not know text, labels or tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Layout", "in_pieces", "marked", "spread", "sums"]


@dataclass(frozen=True, eq=False)
class Layout:
    """n examples with S sequences and T tokens; M of the tokens are marked: answers are about them."""

    ids: NDArray[np.int32]
    """[T] token ids, special tokens included."""
    segments: NDArray[np.uint8]
    """[T] 0 up to and including the first [SEP] of a sequence, 1 after it."""
    lengths: NDArray[np.int32]
    """[S] tokens of each sequence."""
    dropped: NDArray[np.int32]
    """[S] tokens that were cut of each."""
    counts: NDArray[np.int32]
    """[n] sequences of each example."""
    marks: NDArray[np.bool_] | None = None
    """[T] which tokens are marked; None: answers are about whole sequences."""
    offsets: NDArray[np.int32] | None = None
    """[M, 2] where each marked token lies in its example's text: start and end in code points."""

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def lengths_of_examples(self) -> NDArray[np.int64]:
        """[n] tokens of each example, all its sequences together."""
        return sums(self.lengths, self.counts)

    @property
    def dropped_of_examples(self) -> NDArray[np.int64]:
        """[n] tokens that were cut of each example."""
        return sums(self.dropped, self.counts)

    def take(self, examples: NDArray[np.int64]) -> Self:
        """Some of the examples, in that order."""
        which = spread(self.counts, examples)
        tokens = spread(self.lengths, which)
        marks = offsets = None
        if self.marks is not None:
            marks = np.asarray(self.marks[tokens])
            if self.offsets is not None:
                place = np.cumsum(self.marks) - 1
                offsets = np.asarray(self.offsets[place[tokens[marks]]])
        return type(self)(
            np.asarray(self.ids[tokens]),
            np.asarray(self.segments[tokens]),
            self.lengths[which],
            self.dropped[which],
            self.counts[examples],
            marks,
            offsets,
        )

    @classmethod
    def joined(cls, parts: Sequence["Layout"]) -> Self:
        """Layouts one after the other; either all have marks or none has."""

        def whole(name: str) -> Any:
            each = [getattr(part, name) for part in parts]
            return None if each[0] is None else np.concatenate(each)

        names = ("ids", "segments", "lengths", "dropped", "counts", "marks", "offsets")
        return cls(*map(whole, names))


def marked(parts: Sequence[Layout]) -> list[Layout]:
    """The layouts of several tasks so that they can be joined: where one has marks, the others have empty ones.

    Offsets are left out: they belong to the texts of one task.
    """
    if all(part.marks is None for part in parts):
        return list(parts)
    return [
        replace(
            part,
            marks=np.zeros(len(part.ids), np.bool_) if part.marks is None else part.marks,
            offsets=None,
        )
        for part in parts
    ]


def in_pieces(layout: Layout, tokens: int) -> tuple[Layout, NDArray[np.int64]]:
    """The layout with each example of more than `tokens` tokens cut into several, between its sequences.

    A piece has as many sequences one after the other as fit, one at least; shorter examples are a piece each. What
    is said of a sequence alone can be said of pieces and is put together by `Grouped.merged`. Returns the pieces as
    a layout of the same tokens and [n] how many of them each example has.
    """
    if not len(layout) or int(layout.lengths_of_examples.max()) <= tokens:
        return layout, np.ones(len(layout), dtype=np.int64)
    lengths = layout.lengths.tolist()
    counts, pieces = list[int](), list[int]()
    at = 0
    for count in layout.counts.tolist():
        before, held = len(counts), 0
        for length in lengths[at : at + count]:
            if len(counts) == before or held + length > tokens:
                counts.append(0)
                held = 0
            counts[-1] += 1
            held += length
        if not count:
            counts.append(0)
        pieces.append(len(counts) - before)
        at += count
    return replace(layout, counts=np.array(counts, dtype=np.int32)), np.array(pieces, dtype=np.int64)


def spread(sizes: NDArray[Any], which: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the rows of some groups lie, for groups of `sizes` rows end to end: [sum of sizes[which]] places."""
    chosen = sizes[which].astype(np.int64)
    ends = np.cumsum(sizes, dtype=np.int64)
    first = ends[which] - chosen
    begins = np.cumsum(chosen) - chosen
    return np.repeat(first - begins, chosen) + np.arange(int(chosen.sum()))


def sums(values: NDArray[Any], counts: NDArray[Any]) -> NDArray[np.int64]:
    """Sums of the values of each group; a group may be empty."""
    ends = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    places = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    found: NDArray[np.int64] = np.diff(ends[places])
    return found
