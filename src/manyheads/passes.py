"""One pass of an encoder over inputs of one task or of several, each reading what it needs; every sequence once.

Knows layouts, states and heads. Must not know models, requests or what asks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyheads.encoder.bert import Encoder, States
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layout import Layout, in_pieces, spread
from manyheads.encoder.ragged import Ragged
from manyheads.encoder.reading import Reading, Reads, rows_read
from manyheads.tasks.head import Head, Rows, joined, ordered, plain, regrouped

__all__ = [
    "TOKENS_AT_ONCE",
    "Part",
    "Reader",
    "ragged_batches",
    "read_all",
    "read_in_pieces",
    "read_together",
    "tokens_of_inputs",
    "whole",
]

TOKENS_AT_ONCE = 4096  # of one forward pass: enough for full products, little enough for the caches


@dataclass(frozen=True, eq=False)
class Reader:
    """Whoever reads the encoder's states: a head, or what makes a vector of a text. It is known by identity."""

    read: Callable[[States], Rows]
    """States of some inputs → a row for each, or rows in groups."""
    deep: bool = False
    """Whether it reads the states of all layers."""
    apart: bool = False
    """Whether it reads each sequence alone, so that an input of many may go through in pieces."""
    reads: Reads = "tokens"
    """Which tokens' last states it reads."""

    @classmethod
    def of_head(cls, head: Head) -> "Reader":
        """A task's head."""

        def read(states: States) -> Rows:
            outputs: Rows = head(head.read(states))
            return outputs

        return cls(read, head.all_layers, head.apart, head.reads)


@dataclass(frozen=True, eq=False)
class Part:
    """Some inputs as one reader reads them."""

    reader: Reader
    layout: Layout

    def __len__(self) -> int:
        return len(self.layout)

    def rows(self, begin: int, end: int) -> "Part":
        """The inputs from `begin` up to `end`."""
        if begin == 0 and end == len(self):
            return self
        return self.take(np.arange(begin, end, dtype=np.int64))

    def take(self, inputs: NDArray[np.int64]) -> "Part":
        """Some of the inputs, in that order."""
        return Part(self.reader, self.layout.take(inputs))


def tokens_of_inputs(parts: Sequence[Part]) -> NDArray[np.int64]:
    """[n] tokens of each of n inputs that all parts read, what they read alike counted once."""
    first = parts[0].layout
    if all(_same_tokens(first, part.layout) for part in parts[1:]):
        return first.lengths_of_examples
    totals = np.zeros(len(first), dtype=np.int64)
    seen: set[tuple[int, bytes, bytes]] = set()
    for layout in _distinct([part.layout for part in parts])[0]:
        owners = np.repeat(np.arange(len(layout)), layout.counts).tolist()
        for owner, (ids, segments) in zip(owners, _sequences(layout), strict=True):
            key = owner, ids.tobytes(), segments.tobytes()
            if key not in seen:
                seen.add(key)
                totals[owner] += len(ids)
    return totals


@torch.inference_mode()
def read_all(encoder: Encoder, parts: Sequence[Part], tokens: int = TOKENS_AT_ONCE) -> list[Rows]:
    """What each part's reader says of the inputs, which are the same ones for all parts: any number of them, in passes
    of at most `tokens` tokens (one input at least), from long to short. In the inputs' order."""
    # Where all readers let an input go through in pieces, the pieces are what is dealt out to passes.
    long = any(len(part) and int(part.layout.lengths_of_examples.max()) > tokens for part in parts)
    if long and len(parts) == 1 and parts[0].reader.apart:
        cut, pieces = in_pieces(parts[0].layout, tokens)
        (found,) = read_all(encoder, [Part(replace(parts[0].reader, apart=False), cut)], tokens)
        return [whole(found, pieces)]
    lengths = tokens_of_inputs(parts)
    if 0 < lengths.sum() <= tokens:
        return read_together(encoder, parts, tokens)
    order, batches = ragged_batches(lengths, tokens)
    said: list[list[Rows]] = [[] for _ in parts]
    for begin, end in batches:
        some = [part.take(order[begin:end]) for part in parts]
        for of_part, rows in zip(said, read_together(encoder, some, tokens), strict=True):
            of_part.append(rows)
    back = np.argsort(order, kind="stable")
    return [ordered(joined(of_part), back) for of_part in said]


@torch.inference_mode()
def read_together(encoder: Encoder, parts: Sequence[Part], tokens: int) -> list[Rows]:
    """What each part's reader says of its inputs, on the processor and in float32 or float64.

    One pass over all of them. Only where a part has more than `tokens` tokens, which a single long input may, each part
    goes alone, and in pieces of so many tokens if its reader allows that. (Several readers of one input count its
    tokens each, and it goes through once: their sum says nothing.)
    """
    long = any(len(part.layout.ids) > tokens for part in parts)
    if not long or not any(part.reader.apart for part in parts):
        return _one_pass(encoder, parts)
    found: list[Rows] = []
    for part in parts:
        cut, pieces = in_pieces(part.layout, tokens) if part.reader.apart else (part.layout, None)
        order, batches = ragged_batches(cut.lengths_of_examples, tokens)
        some: list[Rows] = []
        for begin, end in batches:
            some += _one_pass(encoder, [Part(part.reader, cut.take(order[begin:end]))])
        found.append(whole(ordered(joined(some), np.argsort(order, kind="stable")), pieces))
    return found


def _one_pass(encoder: Encoder, parts: Sequence[Part]) -> list[Rows]:
    layout, of_part = _every_sequence_once([part.layout for part in parts])
    lengths = layout.lengths.astype(np.int64)
    # From long to short: the blocks that attention may lay sequences out in then need no copying.
    order = np.argsort(-lengths, kind="stable")
    place = np.argsort(order, kind="stable")
    rows = spread(lengths, order) if len(order) > 1 else slice(None)
    ragged = Ragged.of_flat(
        layout.ids[rows].astype(np.int64), layout.segments[rows].astype(np.int64), lengths[order]
    )

    of_reader: dict[Reader, list[int]] = {}
    for number, part in enumerate(parts):
        of_reader.setdefault(part.reader, []).append(number)
    readings = []
    for reader, numbers in of_reader.items():
        marks = None
        if parts[numbers[0]].layout.marks is not None:
            marked = (parts[number].layout.marks for number in numbers)
            marks = np.concatenate([one for one in marked if one is not None])
        which = place[np.concatenate([of_part[number] for number in numbers])]
        readings.append(Reading(reader.reads, which, marks))
    deep = any(reader.deep for reader in of_reader)
    read = None if deep else rows_read(ragged.lengths, readings)
    device = encoder.device
    states = encoder.encode(
        ragged.to(device), all_layers=deep, rows=None if read is None else torch.from_numpy(read).to(device)
    )

    found: dict[int, Rows] = {}
    for (reader, numbers), (_, which, marks) in zip(of_reader.items(), readings, strict=True):
        counts = np.concatenate([parts[number].layout.counts for number in numbers]).astype(np.int64)
        told = None if marks is None else torch.from_numpy(marks).to(device)
        outputs = _on_processor(reader.read(states.select(which, told, counts)))
        begin = 0
        for number in numbers:
            end = begin + len(parts[number])
            found[number] = _slice(outputs, begin, end)
            begin = end
    return [found[number] for number in range(len(parts))]


def _every_sequence_once(layouts: Sequence[Layout]) -> tuple[Layout, list[NDArray[np.int64]]]:
    """The sequences that any layout has, each of them once, and which of them are each layout's."""
    distinct, of_layout = _distinct(layouts)
    if len(distinct) == 1:
        every = np.arange(len(distinct[0].lengths), dtype=np.int64)
        return distinct[0], [every for _ in layouts]
    seen: dict[tuple[bytes, bytes], int] = {}
    sequences: list[tuple[NDArray[np.int32], NDArray[np.uint8]]] = []
    places: list[NDArray[np.int64]] = []
    for layout in distinct:
        own = []
        for one in _sequences(layout):
            at = seen.setdefault((one[0].tobytes(), one[1].tobytes()), len(sequences))
            if at == len(sequences):
                sequences.append(one)
            own.append(at)
        places.append(np.array(own, dtype=np.int64))
    none = np.zeros(len(sequences), dtype=np.int32)
    together = Layout(
        np.concatenate([ids for ids, _ in sequences]),
        np.concatenate([segments for _, segments in sequences]),
        np.array([len(ids) for ids, _ in sequences], dtype=np.int32),
        none,
        none + 1,
    )
    return together, [places[at] for at in of_layout]


def _distinct(layouts: Sequence[Layout]) -> tuple[list[Layout], list[int]]:
    """The layouts that have not all the same tokens as one before, and which of these each layout is."""
    found: list[Layout] = []
    which = []
    for layout in layouts:
        at = next((at for at, other in enumerate(found) if _same_tokens(other, layout)), len(found))
        if at == len(found):
            found.append(layout)
        which.append(at)
    return found, which


def _same_tokens(a: Layout, b: Layout) -> bool:
    return a is b or (
        np.array_equal(a.lengths, b.lengths)
        and np.array_equal(a.counts, b.counts)
        and np.array_equal(a.ids, b.ids)
        and np.array_equal(a.segments, b.segments)
    )


def _sequences(layout: Layout) -> list[tuple[NDArray[np.int32], NDArray[np.uint8]]]:
    """(token ids, segments) of each sequence."""
    ends = np.cumsum(layout.lengths)[:-1]
    return list(zip(np.split(layout.ids, ends), np.split(layout.segments, ends), strict=True))


def _on_processor(outputs: Rows) -> Rows:
    outputs = outputs.cpu()
    numbers = plain(outputs)
    return regrouped(numbers.float(), outputs) if numbers.dtype is torch.bfloat16 else outputs


def _slice(outputs: Rows, begin: int, end: int) -> Rows:
    if isinstance(outputs, Tensor):
        return outputs[begin:end]
    assert isinstance(outputs, Grouped)
    return outputs.take(np.arange(begin, end, dtype=np.int64))


def ragged_batches(
    lengths: NDArray[Any], tokens: int = TOKENS_AT_ONCE
) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
    """Examples sorted from long to short and cut into batches of at most `tokens` tokens (at least one example).

    `lengths` [n] are tokens of each example. Returns the order [n] and (begin, end) places in it.
    """
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    batches, begin = [], 0
    while begin < len(order):
        used = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, used + tokens, side="right")))
        batches.append((begin, end))
        begin = end
    return order, batches


def read_in_pieces(layout: Layout, heads: Sequence[Head]) -> tuple[Layout, NDArray[np.int64] | None]:
    """The examples as they go through the encoder, and [n] how many pieces each is: a text in hundreds of windows
    would take as many times the memory of others. Whole (and None) where a head reads sequences together."""
    return in_pieces(layout, TOKENS_AT_ONCE) if all(head.apart for head in heads) else (layout, None)


def whole(outputs: Rows, pieces: NDArray[np.int64] | None) -> Rows:
    """Outputs of the examples from those of their pieces."""
    if pieces is None:
        return outputs
    assert isinstance(outputs, Grouped)  # as `Head.apart` says
    return outputs.merged(pieces)
