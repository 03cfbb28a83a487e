"""Rows of numbers in groups of any size, end to end: scores of tokens, of candidates, of windows.

Knows tensors and group sizes. Must not know tasks, tokens or labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyheads.encoder.layout import spread, sums

__all__ = ["Grouped"]


@dataclass(frozen=True, eq=False)
class Grouped:
    """R rows in G groups of B examples."""

    rows: Tensor
    """[R, C]"""
    sizes: NDArray[np.int64]
    """[G] rows of each group; a group may be empty."""
    counts: NDArray[np.int64] | None = None
    """[B] groups of each example; None: one each."""

    def __post_init__(self) -> None:
        if int(self.sizes.sum()) != len(self.rows):
            raise ValueError(f"groups of {int(self.sizes.sum())} rows together, but {len(self.rows)} rows")
        if self.counts is not None and int(self.counts.sum()) != len(self.sizes):
            raise ValueError(
                f"examples of {int(self.counts.sum())} groups together, but {len(self.sizes)} groups"
            )

    def __len__(self) -> int:
        return len(self.sizes if self.counts is None else self.counts)

    @cached_property
    def owners(self) -> Tensor:
        """[R] int64: to which group each row belongs, on the rows' device."""
        which = np.repeat(np.arange(len(self.sizes), dtype=np.int64), self.sizes)
        return torch.from_numpy(which).to(self.rows.device)

    @property
    def rows_of_examples(self) -> NDArray[np.int64]:
        """[B] rows of each example, all its groups together."""
        return self.sizes if self.counts is None else sums(self.sizes, self.counts)

    def with_rows(self, rows: Tensor) -> "Grouped":
        """Other numbers [R, …] in the same groups."""
        return Grouped(rows, self.sizes, self.counts)

    def to(self, device: torch.device | str) -> "Grouped":
        """The same on `device`."""
        return self.with_rows(self.rows.to(device))

    def cpu(self) -> "Grouped":
        """The same on the processor."""
        return self.with_rows(self.rows.cpu())

    def detach(self) -> "Grouped":
        """The same without a graph."""
        return self.with_rows(self.rows.detach())

    def float(self) -> "Grouped":
        """The same in float32."""
        return self.with_rows(self.rows.float())

    def double(self) -> "Grouped":
        """The same in float64."""
        return self.with_rows(self.rows.double())

    def total(self, values: Tensor) -> Tensor:
        """Sums over each group's rows: [R, …] → [G, …]."""
        zeros = values.new_zeros(len(self.sizes), *values.shape[1:])
        return zeros.index_add(0, self.owners, values)

    def log_softmax(self) -> Tensor:
        """[R, C] log-probabilities: each column's softmax over the rows of a group."""
        plain = self.rows.detach()
        highest = plain.new_full((len(self.sizes), *plain.shape[1:]), -torch.inf)
        places = self.owners.reshape(-1, *[1] * (plain.ndim - 1)).expand_as(plain)
        highest = highest.scatter_reduce(0, places, plain, "amax")
        shifted = self.rows - highest.index_select(0, self.owners)
        totals = self.total(shifted.exp()).log()
        return shifted - totals.index_select(0, self.owners)

    def split(self) -> list[Tensor]:
        """The rows of each group, [size, C] a group."""
        return list(torch.split(self.rows, self.sizes.tolist()))

    def take(self, examples: NDArray[np.int64]) -> "Grouped":
        """Some of the examples, in that order."""
        groups = examples if self.counts is None else spread(self.counts, examples)
        rows = torch.from_numpy(spread(self.sizes, groups)).to(self.rows.device)
        counts = None if self.counts is None else self.counts[examples]
        return replace(self, rows=self.rows.index_select(0, rows), sizes=self.sizes[groups], counts=counts)

    def merged(self, pieces: NDArray[np.int64]) -> "Grouped":
        """The examples that these were cut from: the next pieces[0] of them are the first, and so on.

        Where a group is an example its rows come together; else its groups do.
        """
        if self.counts is None:
            return Grouped(self.rows, sums(self.sizes, pieces))
        return Grouped(self.rows, self.sizes, sums(self.counts, pieces))

    @classmethod
    def joined(cls, parts: Sequence["Grouped"]) -> "Grouped":
        """One after the other."""
        counts = [part.counts for part in parts if part.counts is not None]
        return cls(
            torch.cat([part.rows for part in parts]),
            np.concatenate([part.sizes for part in parts]),
            np.concatenate(counts) if counts else None,
        )
