"""Two vectors that score each token of a text as the start and as the end of an answer.

Knows states and marked tokens. Must not know questions, windows or losses.
"""

import torch
from torch import nn
from torch.nn import functional as F

from manyheads.encoder.bert import States
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layers import dropout
from manyheads.tasks.head import Head

__all__ = ["SpanHead"]


class SpanHead(Head[Grouped]):
    """S · x and E · x for the state x of each marked token: rows [M, 2], a group a sequence.

    S and E are all that a task on spans adds (Devlin et al. 2019, section 4.2). They have no bias: the same number
    added to all scores of a sequence is lost in the softmax over its tokens.
    """

    apart = True
    reads = "marked"

    def __init__(self, hidden: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.vectors = nn.Parameter(torch.empty(2, hidden))
        nn.init.normal_(self.vectors, std=0.02)

    def read(self, states: States) -> Grouped:
        """[M, H] the states of the marked tokens."""
        return states.marked()

    def forward(self, vectors: Grouped) -> Grouped:
        x = vectors.rows.to(self.vectors.dtype)
        return vectors.with_rows(F.linear(dropout(x, self.dropout, self.training), self.vectors))
