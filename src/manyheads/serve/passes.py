"""One pass of an encoder over inputs of different tasks, each reading what it needs; every sequence goes through once.

Knows layouts, states and heads. Must not know requests, queues or HTTP.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyheads.encoder.bert import Encoder, States
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layout import Layout, in_pieces
from manyheads.encoder.ragged import Ragged
from manyheads.model import ragged_batches, whole
from manyheads.tasks.head import Head, Rows, joined, ordered, plain, regrouped

__all__ = ["Part", "Reader", "read_together", "tokens_of_inputs"]


@dataclass(frozen=True, eq=False)
class Reader:
    """Whoever reads the encoder's states: a head, or what makes a vector of a text. It is known by identity."""

    read: Callable[[States], Rows]
    """States of some inputs → a row for each, or rows in groups."""
    deep: bool = False
    """Whether it reads the states of all layers."""
    apart: bool = False
    """Whether it reads each sequence alone, so that an input of many may go through in pieces."""

    @classmethod
    def of_head(cls, head: Head) -> "Reader":
        """A task's head."""

        def read(states: States) -> Rows:
            outputs: Rows = head(head.read(states))
            return outputs

        return cls(read, head.all_layers, head.apart)


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
        return Part(self.reader, self.layout.take(np.arange(begin, end, dtype=np.int64)))


def tokens_of_inputs(parts: Sequence[Part]) -> NDArray[np.int64]:
    """[n] tokens of each of n inputs that all parts read, what they read alike counted once."""
    first = parts[0].layout
    if len(parts) == 1:
        return first.lengths_of_examples
    totals = np.zeros(len(first), dtype=np.int64)
    seen: set[tuple[int, bytes, bytes]] = set()
    for part in parts:
        layout = part.layout
        owners = np.repeat(np.arange(len(layout)), layout.counts).tolist()
        for owner, (ids, segments) in zip(owners, _sequences(layout), strict=True):
            key = owner, ids.tobytes(), segments.tobytes()
            if key not in seen:
                seen.add(key)
                totals[owner] += len(ids)
    return totals


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
    seen: dict[tuple[bytes, bytes], int] = {}
    sequences: list[tuple[NDArray[np.int32], NDArray[np.uint8]]] = []
    of_part: list[list[int]] = []
    for part in parts:
        own = []
        for one in _sequences(part.layout):
            at = seen.setdefault((one[0].tobytes(), one[1].tobytes()), len(sequences))
            if at == len(sequences):
                sequences.append(one)
            own.append(at)
        of_part.append(own)
    lengths = np.array([len(ids) for ids, _ in sequences], dtype=np.int64)
    order = np.argsort(
        -lengths, kind="stable"
    )  # from long to short: the encoder's blocks then need no copying
    place = np.argsort(order, kind="stable")
    in_order = [sequences[at] for at in order.tolist()]
    ragged = Ragged.of_flat(
        np.concatenate([ids for ids, _ in in_order]).astype(np.int64),
        np.concatenate([segments for _, segments in in_order]).astype(np.int64),
        lengths[order],
    )
    device = next(encoder.parameters()).device
    states = encoder.encode(ragged.to(device), all_layers=any(part.reader.deep for part in parts))

    of_reader: dict[Reader, list[int]] = {}
    for number, part in enumerate(parts):
        of_reader.setdefault(part.reader, []).append(number)
    found: dict[int, Rows] = {}
    for reader, numbers in of_reader.items():
        which = place[np.concatenate([of_part[number] for number in numbers]).astype(np.int64)]
        layouts = [parts[number].layout for number in numbers]
        marks = None
        if layouts[0].marks is not None:
            marked = [layout.marks for layout in layouts if layout.marks is not None]
            marks = torch.from_numpy(np.concatenate(marked)).to(device)
        counts = np.concatenate([layout.counts for layout in layouts]).astype(np.int64)
        outputs = _on_processor(reader.read(states.select(which, marks, counts)))
        begin = 0
        for number in numbers:
            end = begin + len(parts[number])
            found[number] = _slice(outputs, begin, end)
            begin = end
    return [found[number] for number in range(len(parts))]


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
