"""Batches without padding: the tokens of all sequences lie end to end, and this is the only place that knows padding.

Knows token ids, segment ids, positions and where each sequence begins. Must not know text, tasks or layers.
Letters in the docstrings: B sequences, T tokens of the batch end to end, L length of the longest, H hidden size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyheads.encoder.layout import Layout, spread, sums
from manyheads.errors import InputError

__all__ = ["Block", "Grouping", "Ragged", "kept", "pad", "pad_square"]

_OWN_BLOCK = 16  # so many sequences of exactly one length are a block of their own, without holes
_NEW_BLOCK_BELOW = 0.75  # a sequence shorter than this share of its block's length opens the next block


@dataclass(frozen=True, eq=False, slots=True)
class Block:
    """Some sequences of about the same length, laid out as a small rectangle for batched products."""

    first_slot: int
    count: int
    length: int
    mask: Tensor | None
    """[count, 1, length] 0 for a token and -inf for a hole (float32), or None where there is no hole."""
    sequences: NDArray[np.int64]
    """[count] which sequences of the batch these are, in the block's order."""


class Grouping(NamedTuple):
    """How a ragged batch is cut into blocks: S slots (tokens and holes) of all blocks end to end."""

    blocks: tuple[Block, ...]
    slots: int
    slot_of_token: Tensor | None
    """[T] the slot of each token, or None where slots and tokens lie in the same order without holes."""

    def spread(self, tokens: Tensor) -> Tensor:
        """[T, …] token rows to [S, …] slot rows; holes are zero."""
        if self.slot_of_token is None:
            return tokens
        shape = (self.slots, *tokens.shape[1:])
        return tokens.new_zeros(shape).index_copy_(0, self.slot_of_token, tokens)

    def gather(self, slots: Tensor) -> Tensor:
        """[S, …] slot rows back to [T, …] token rows; what stood in the holes is dropped."""
        return slots if self.slot_of_token is None else slots.index_select(0, self.slot_of_token)


@dataclass(frozen=True, eq=False)
class Ragged:
    """A batch of B sequences, T tokens end to end.

    `token_ids`, `segment_ids`, `positions` are [T] int64; `lengths` is [B] int64 on the host; an empty
    sequence is allowed nowhere (even an empty text has [CLS] and [SEP]).
    """

    token_ids: Tensor
    segment_ids: Tensor
    positions: Tensor
    lengths: NDArray[np.int64] = field(repr=False)
    marks: Tensor | None = field(default=None, repr=False)
    """[T] bool: the tokens that answers are about; None: answers are about whole sequences."""
    counts: NDArray[np.int64] | None = field(default=None, repr=False)
    """[examples] int64 on the host: sequences of each example; None: nobody asks."""

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], segments: Sequence[Sequence[int]] | None = None) -> Self:
        """A batch from lists of token ids, one list a sequence, and their segment ids (all 0 if absent)."""
        lengths = np.array([len(one) for one in ids], dtype=np.int64)
        flat = np.fromiter((i for one in ids for i in one), dtype=np.int64, count=int(lengths.sum()))
        kinds = (
            np.zeros_like(flat)
            if segments is None
            else np.fromiter((i for one in segments for i in one), dtype=np.int64, count=len(flat))
        )
        return cls.of_flat(flat, kinds, lengths)

    @classmethod
    def of_layout(cls, layout: Layout) -> Self:
        """A batch of all the examples that a kind of task laid out."""
        lengths = layout.lengths.astype(np.int64)
        flat = cls.of_flat(layout.ids.astype(np.int64), layout.segments.astype(np.int64), lengths)
        marks = None if layout.marks is None else torch.from_numpy(np.ascontiguousarray(layout.marks))
        return replace(flat, marks=marks, counts=layout.counts.astype(np.int64))

    @classmethod
    def of_flat(cls, ids: NDArray[np.int64], segments: NDArray[np.int64], lengths: NDArray[np.int64]) -> Self:
        """A batch from arrays that already lie end to end: ids [T], segments [T], lengths [B]."""
        if len(lengths) == 0 or int(lengths.min()) < 1:
            raise ValueError("a ragged batch needs at least one sequence, and each at least one token")
        starts = np.cumsum(lengths) - lengths
        positions = np.arange(len(ids), dtype=np.int64) - np.repeat(starts, lengths)
        return cls(
            torch.from_numpy(np.ascontiguousarray(ids, dtype=np.int64)),
            torch.from_numpy(np.ascontiguousarray(segments, dtype=np.int64)),
            torch.from_numpy(positions),
            np.ascontiguousarray(lengths, dtype=np.int64),
        )

    @classmethod
    def of_padded(
        cls,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Self:
        """A batch from padded [B, L] tensors; tokens whose mask is 0 are left out wherever they stand.

        A token keeps the position of its column, so a row padded on the left reads as in transformers.
        A row whose mask is all 0 keeps its first token (a sequence cannot be empty).
        """
        if input_ids.ndim != 2:
            raise ValueError(f"input_ids: expected shape [batch, length], found {list(input_ids.shape)}")
        size, length = input_ids.shape
        for name, other in (("attention_mask", attention_mask), ("token_type_ids", token_type_ids)):
            if other is not None and other.shape != input_ids.shape:
                raise ValueError(f"{name}: expected shape {[size, length]}, found {list(other.shape)}")
        keep = kept(attention_mask, size, length, input_ids.device)
        columns = (
            torch.arange(length, device=input_ids.device) if position_ids is None else position_ids
        ).expand(size, length)
        kinds = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        return cls(input_ids[keep], kinds[keep], columns[keep], keep.sum(1).cpu().numpy())

    def to(self, device: torch.device | str) -> Self:
        """The same batch with its tensors on `device`."""
        return type(self)(
            self.token_ids.to(device),
            self.segment_ids.to(device),
            self.positions.to(device),
            self.lengths,
            None if self.marks is None else self.marks.to(device),
            self.counts,
        )

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """T, the number of tokens of the whole batch."""
        return self.token_ids.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.token_ids.device

    @property
    def max_seqlen(self) -> int:
        """L, the length of the longest sequence in tokens."""
        return int(self.lengths.max())

    @cached_property
    def starts(self) -> Tensor:
        """[B] int64: the row of each sequence's first token."""
        return torch.from_numpy(np.cumsum(self.lengths) - self.lengths).to(self.device)

    @cached_property
    def cu_seqlens(self) -> Tensor:
        """[B + 1] int32: where each sequence begins and the last one ends, as varlen kernels want it."""
        ends = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int32)
        return torch.from_numpy(ends).to(self.device)

    @cached_property
    def longest_first(self) -> Tensor:
        """[B] int32 on the host: the sequences' numbers by falling length, as work is dealt out to threads."""
        return torch.from_numpy(np.argsort(-self.lengths, kind="stable").astype(np.int32))

    @cached_property
    def sequence_of_token(self) -> Tensor:
        """[T] int64: to which sequence each token belongs."""
        owners = np.repeat(np.arange(len(self.lengths), dtype=np.int64), self.lengths)
        return torch.from_numpy(owners).to(self.device)

    @cached_property
    def marked(self) -> NDArray[np.int64]:
        """[B] int64: how many tokens of each sequence are marked."""
        if self.marks is None:
            raise ValueError("the batch has no marked tokens")
        return sums(self.marks.cpu().numpy(), self.lengths)

    def select(self, which: NDArray[np.int64]) -> "Ragged":
        """Some of the sequences, in that order; the tokens keep their positions, marks and examples are left out."""
        tokens = torch.from_numpy(spread(self.lengths, which)).to(self.device)
        return Ragged(
            self.token_ids.index_select(0, tokens),
            self.segment_ids.index_select(0, tokens),
            self.positions.index_select(0, tokens),
            self.lengths[which],
        )

    def check(self, vocabulary: int, positions: int, segments: int) -> None:
        """Refuse ids, positions or segments that lie outside an encoder's tables (InputError)."""
        for name, values, size in (
            ("token id", self.token_ids, vocabulary),
            ("position", self.positions, positions),
            ("segment id", self.segment_ids, segments),
        ):
            low, high = (int(value) for value in torch.aminmax(values))
            if low < 0 or high >= size:
                bad = low if low < 0 else high
                raise InputError(f"{name} {bad}: the encoder has 0 to {size - 1}")

    @cached_property
    def grouping(self) -> Grouping:
        """The batch cut into blocks of sequences of about equal length; made once, used by every layer."""
        order = np.argsort(-self.lengths, kind="stable")
        ordered = self.lengths[order]
        blocks: list[Block] = []
        slot_starts = np.empty(len(order), dtype=np.int64)
        slots = begin = 0
        for end in _block_ends(ordered):
            length = int(ordered[begin])
            count = end - begin
            slot_starts[order[begin:end]] = slots + np.arange(count) * length
            blocks.append(
                Block(slots, count, length, self._holes(ordered[begin:end], length), order[begin:end])
            )
            slots += count * length
            begin = end
        slot_of_token = np.repeat(slot_starts, self.lengths) + (
            np.arange(self.tokens) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)
        )
        straight = slots == self.tokens and bool((slot_of_token == np.arange(slots)).all())
        return Grouping(
            tuple(blocks), slots, None if straight else torch.from_numpy(slot_of_token).to(self.device)
        )

    def _holes(self, lengths: NDArray[np.int64], length: int) -> Tensor | None:
        if int(lengths.min()) == length:
            return None
        hole = torch.from_numpy(np.arange(length) >= lengths[:, None])
        mask = torch.zeros(hole.shape, dtype=torch.float32).masked_fill_(hole, -torch.inf)
        return mask[:, None, :].to(self.device)


def _block_ends(lengths: NDArray[np.int64]) -> Iterator[int]:
    """Where each block ends, for lengths [B] sorted from long to short.

    Many sequences of one length are a block without holes (a batch sorted by length then needs no copying at
    all); the others share a block as long as they are not much shorter than its first.
    """
    begins = np.flatnonzero(np.diff(lengths, prepend=lengths[0] + 1))
    counts = np.diff(begins, append=len(lengths))
    first: int | None = None  # the length of the open block's first sequence
    for begin, count in zip(begins.tolist(), counts.tolist(), strict=True):
        length = int(lengths[begin])
        own = count >= _OWN_BLOCK
        if first is not None and (own or length < first * _NEW_BLOCK_BELOW):
            yield begin
            first = None
        if own:
            yield begin + count
        elif first is None:
            first = length
    if first is not None:
        yield len(lengths)


def kept(mask: Tensor | None, size: int, length: int, device: torch.device) -> Tensor:
    """[B, L] bool: which places hold a token; a row of zeros keeps its first place."""
    if mask is None:
        return torch.ones(size, length, dtype=torch.bool, device=device)
    keep = mask.to(device) != 0
    empty = ~keep.any(dim=1)
    if bool(empty.any()):
        keep = keep.clone()
        keep[empty, 0] = True
    return keep


def pad(rows: Tensor, keep: Tensor) -> Tensor:
    """[T, …] token rows into a padded [B, L, …] tensor, at the places that `keep` [B, L] marks; zero elsewhere."""
    padded = rows.new_zeros((*keep.shape, *rows.shape[1:]))
    padded[keep] = rows
    return padded


def pad_square(weights: Tensor, keep: Tensor) -> Tensor:
    """[B, heads, l, l] weights between kept tokens into [B, heads, L, L] by the places of `keep` [B, L]."""
    size, length = keep.shape
    full = weights.new_zeros(size, weights.shape[1], length, length)
    for row, places in enumerate(keep):
        at = places.nonzero()[:, 0]
        full[row, :, at[:, None], at] = weights[row, :, : len(at), : len(at)]
    return full
