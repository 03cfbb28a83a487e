"""Two layers of bidirectional LSTM over a sequence's tokens, for an encoder that stays as it is.

Knows states and rows in groups. Must not know words, tags, labels or losses.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from manyheads.encoder.bert import States
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layers import Linear, dropout
from manyheads.tasks.head import Head
from manyheads.tasks.heads.layer_choice import LAYERS, Layers, chosen

__all__ = ["BiLSTMHead"]

_DEPTH = 2


class BiLSTMHead(Head[Grouped]):
    """W · dropout(LSTM₂(dropout(LSTM₁(dropout(x))))) + b, each LSTM reading both ways (the feature-based model of
    Devlin et al. 2019, section 5.3).

    `width` is that of one direction, 768 in the paper's "two-layer 768-dimensional BiLSTM"; W sees both, 2 · width.
    Without `pool` it reads the marked tokens of each sequence and gives a row for each of them. With `pool` it
    reads all tokens of each sequence and gives [sequences, outputs]: W then sees the largest value that each
    unit has on any token (max pooling; Conneau et al. 2017, arXiv 1705.02364, section 3.2).

    It computes in the dtype of its parameters, whatever the encoder's products are computed in.
    """

    def __init__(
        self,
        hidden: int,
        outputs: int,
        *,
        layers: Layers = "last",
        pool: bool,
        width: int = 768,
        dropout: float,
    ) -> None:
        super().__init__()
        self.layers: Layers = layers
        self.all_layers = not LAYERS[layers].only_last
        self.least_layers = LAYERS[layers].least
        self.pool = pool
        self.apart = not pool
        self.reads = "tokens" if pool else "marked"
        self.dropout = dropout
        # Two modules, not one of two layers: the dropout between them is then ours, which SMART can replay.
        inputs = [hidden * LAYERS[layers].width] + [2 * width] * (_DEPTH - 1)
        self.lstms = nn.ModuleList(nn.LSTM(size, width, bidirectional=True) for size in inputs)
        self.output = Linear(2 * width, outputs)

    def read(self, states: States) -> Grouped:
        own = chosen(states, self.layers)
        return Grouped(own.tokens, own.ragged.lengths, own.ragged.counts) if self.pool else own.marked()

    def forward(self, vectors: Grouped) -> Grouped | Tensor:
        order = _Order.of(vectors.sizes)
        x = vectors.rows.to(self.output.weight.dtype)
        x = x.index_select(0, _on(x, order.packed))
        steps = torch.from_numpy(order.steps)
        for lstm in self.lstms:
            x = dropout(x, self.dropout, self.training)
            if not len(x):  # no token of the batch is marked; torch refuses a sequence of nothing
                x = x.new_zeros(0, self.output.weight.shape[1])
                continue
            x = lstm(PackedSequence(x, steps))[0].data
        x = x.index_select(0, _on(x, order.unpacked))
        if self.pool:
            x = _greatest(vectors.with_rows(x))
        outputs: Tensor = self.output(dropout(x, self.dropout, self.training))
        return outputs if self.pool else vectors.with_rows(outputs)


class _Order(NamedTuple):
    """How rows that lie sequence by sequence are put step by step, as torch's recurrent layers want them: the first
    rows of all sequences, the longest sequence's before the others', then all second rows, and so on."""

    packed: NDArray[np.int64]
    """[R] the row that stands at each place."""
    unpacked: NDArray[np.int64]
    """[R] the place of each row."""
    steps: NDArray[np.int64]
    """[longest] how many sequences have a row at each step."""

    @classmethod
    def of(cls, sizes: NDArray[np.int64]) -> "_Order":
        """For groups of these sizes [G]; an empty one has no part in it."""
        rank = np.empty(len(sizes), dtype=np.int64)
        rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
        step = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        packed = np.lexsort((np.repeat(rank, sizes), step))
        unpacked = np.empty_like(packed)
        unpacked[packed] = np.arange(len(packed))
        return cls(packed, unpacked, np.bincount(step))


def _on(like: Tensor, places: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(places).to(like.device)


def _greatest(grouped: Grouped) -> Tensor:
    """[R, C] → [G, C]: each column's greatest value in each group."""
    rows = grouped.rows
    lowest = rows.new_full((len(grouped.sizes), rows.shape[1]), -torch.inf)
    return lowest.scatter_reduce(0, grouped.owners[:, None].expand_as(rows), rows, "amax")
