"""The interface of a head: what turns the encoder's states into a task's outputs.

Knows states and tensors. Must not know labels, losses, files or recipes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import TypeVar

from manyheads.encoder.bert import States
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.reading import Reads

__all__ = ["Head", "Rows", "joined", "ordered", "plain", "regrouped"]

Rows = Tensor | Grouped
"""What a head reads and what it says: a tensor with one row (or k) an example, or rows in groups."""

R = TypeVar("R", default=Any)


class Head(nn.Module, ABC, Generic[R]):
    """A small module over the encoder's states, one for each task.

    What it reads from the encoder and what it makes of it are apart: where the encoder is frozen, the first is
    computed once.
    """

    all_layers: bool = False
    """Whether it reads the states of all layers, not of the last alone."""
    apart: bool = False
    """Whether it answers in groups of rows, those of a sequence from that sequence alone: an example of many sequences
    may then go through the encoder in pieces."""
    least_layers: int = 0
    """How many layers the encoder must have at least."""
    reads: Reads = "tokens"
    """Which tokens' states it reads of each sequence: the last layer is computed for these. (In the first one's an
    encoder with causal attention has seen nothing.)"""
    in_checkpoint: ClassVar[str | None] = None
    """What a checkpoint of BERT calls this head, where it has one beside the encoder (`checkpoint.HEAD_NAMES`)."""

    @property
    def weights_a_row(self) -> int:
        """How many weights each of its rows is multiplied with, where they matter beside the encoder's. Here: none."""
        return 0

    def use(self, compute: torch.dtype | None) -> None:
        """Choose the dtype of large matrix products, as `Encoder.use` does for the layers. Here: there are none."""

    @abstractmethod
    def read(self, states: States) -> R:
        """What the head needs of the states: a row for each sequence, [B · k, H], k sequences for each example side
        by side (k = 2 for a pair encoded apart); or rows in groups. It has no parameters of the head's."""

    @abstractmethod
    def forward(self, vectors: R) -> Rows:
        """What `read` gave → outputs for the examples: a row each, [B, outputs], or rows in groups."""


def plain(rows: Rows) -> Tensor:
    """The numbers alone."""
    return rows if isinstance(rows, Tensor) else rows.rows


def regrouped(numbers: Tensor, like: Rows) -> Rows:
    """Numbers in the groups of `like`."""
    return numbers if isinstance(like, Tensor) else like.with_rows(numbers)


def joined(parts: Sequence[Rows]) -> Rows:
    """Parts of one head's rows, one after the other."""
    tensors = [part for part in parts if isinstance(part, Tensor)]
    return torch.cat(tensors) if tensors else Grouped.joined([p for p in parts if isinstance(p, Grouped)])


def ordered(rows: Rows, examples: NDArray[np.int64]) -> Rows:
    """Outputs of some examples, in that order."""
    return rows[torch.from_numpy(examples)] if isinstance(rows, Tensor) else rows.take(examples)
