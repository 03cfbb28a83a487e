"""A layer that similar tasks share, and the linear layer of each of them over it.

Knows states and vectors. Must not know labels, losses or which tasks share a layer.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyheads.encoder.bert import States
from manyheads.encoder.layers import Linear, dropout
from manyheads.tasks.head import Head
from manyheads.tasks.heads.pooling import POOLINGS, READ_BY, Pooling

__all__ = ["Relation", "RelationHead"]

_EPS = 1e-8  # keeps the division finite for a vector of zeros


class Relation(nn.Module):
    """r = LeakyReLU(W (u ∘ v) / (‖u‖ ‖v‖ + ε)): the scaled Hadamard product, whose sum is the cosine of u and v,
    through one layer of width 2H (the relation layer of the minBERT project, its section 4.6). [B, H] → [B, 2H].

    W begins as the identity above its negative, so that nothing is lost to the nonlinearity: with a the slope, the
    upper half of r less the lower half is (1 + a) times the product.
    """

    def __init__(self, hidden: int, negative_slope: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.cat([torch.eye(hidden), -torch.eye(hidden)]))
        self.negative_slope = negative_slope

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        lengths = u.norm(dim=1, keepdim=True) * v.norm(dim=1, keepdim=True)
        return F.leaky_relu(F.linear(u * v / (lengths + _EPS), self.weight), self.negative_slope)


class RelationHead(Head[Tensor]):
    """W₂ · dropout(H r) + b over the relation r of the two vectors of each example: [B, outputs].

    The entries of r are of the size 1/H; the factor H lets the layer learn at the usual rate. With `start`
    (a, b) the single output begins as a + (b − a) times the cosine, exactly.
    """

    def __init__(
        self,
        relation: Relation,
        outputs: int,
        *,
        pooling: Pooling,
        dropout: float,
        start: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        # In a tuple the shared layer is not this head's: its parameters are counted and saved once, by the network.
        self._relation = (relation,)
        self.pooling: Pooling = pooling
        self.reads = READ_BY[pooling]
        self.dropout = dropout
        width, hidden = relation.weight.shape
        self.output = Linear(width, outputs)
        if start is not None:
            share = (start[1] - start[0]) / (hidden * (1 + relation.negative_slope))
            with torch.no_grad():
                self.output.weight[:, :hidden] = share
                self.output.weight[:, hidden:] = -share
                self.output.bias.fill_(start[0])

    def read(self, states: States) -> Tensor:
        return POOLINGS[self.pooling](states)

    def forward(self, vectors: Tensor) -> Tensor:
        (relation,) = self._relation
        r = relation(vectors[0::2], vectors[1::2])
        result: Tensor = self.output(dropout(r * vectors.shape[1], self.dropout, self.training))
        return result
