"""The cosine of the two vectors of a pair.

Knows states and vectors. Must not know ranges, values or losses.
"""

from torch import Tensor
from torch.nn import functional as F

from manyheads.encoder.bert import States
from manyheads.tasks.head import Head
from manyheads.tasks.heads.pooling import POOLINGS, READ_BY, Pooling

__all__ = ["CosineHead"]


class CosineHead(Head[Tensor]):
    """u · v / (‖u‖ ‖v‖) for the two sequences of each example: [B, 1], from −1 to 1. It has no parameters.

    There is no dropout on u and v: dropped separately, two equal vectors would no longer have cosine 1.
    """

    def __init__(self, *, pooling: Pooling) -> None:
        super().__init__()
        self.pooling: Pooling = pooling
        self.reads = READ_BY[pooling]

    def read(self, states: States) -> Tensor:
        return POOLINGS[self.pooling](states)

    def forward(self, vectors: Tensor) -> Tensor:
        return F.cosine_similarity(vectors[0::2], vectors[1::2], dim=1)[:, None]
