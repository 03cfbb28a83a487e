"""One vector that scores the candidates of an example, a sequence each.

Knows states and vectors. Must not know what the candidates are: endings of a story, answers to a query.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyheads.encoder.bert import States
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layers import dropout
from manyheads.tasks.head import Head, Rows
from manyheads.tasks.heads.pooling import POOLINGS, READ_BY, Pooling

__all__ = ["CandidatesHead"]


class CandidatesHead(Head):
    """V · dropout(C_i) for the vector C_i of each candidate's sequence: scores [S, 1], a group an example.

    V is all that a task on candidates adds (Devlin et al. 2019, section 4.4; the relevance of Liu et al. 2019,
    section 3, without its sigmoid, which would bound how far two scores can lie apart). It has no bias: the same
    number added to all scores of a group is lost in the softmax over them.
    """

    apart = True

    def __init__(self, hidden: int, *, pooling: Pooling, dropout: float) -> None:
        super().__init__()
        self.pooling: Pooling = pooling
        self.reads = READ_BY[pooling]
        self.dropout = dropout
        self.vector = nn.Parameter(torch.empty(1, hidden))
        nn.init.normal_(self.vector, std=0.02)

    def read(self, states: States) -> Grouped:
        """[S, H] the vectors of all candidates, a group an example."""
        counts = states.ragged.counts
        sizes = np.ones(len(states.ragged), dtype=np.int64) if counts is None else counts
        return Grouped(POOLINGS[self.pooling](states), sizes)

    def forward(self, vectors: Rows) -> Grouped:
        assert isinstance(vectors, Grouped)
        x: Tensor = vectors.rows.to(self.vector.dtype)
        return vectors.with_rows(F.linear(dropout(x, self.dropout, self.training), self.vector))
