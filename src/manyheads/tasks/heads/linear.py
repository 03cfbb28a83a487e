"""One linear layer over the vector of a sequence, or over features of the two vectors of a pair.

Knows states and vectors. Must not know labels or losses.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from manyheads.encoder.bert import States
from manyheads.encoder.layers import Linear, dropout
from manyheads.tasks.head import Head
from manyheads.tasks.heads.layer_choice import LAYERS, Layers, chosen
from manyheads.tasks.heads.pooling import POOLINGS, READ_BY, Pooling

__all__ = ["FEATURES", "Feature", "LinearHead"]

Feature = Literal["u", "v", "absdiff", "product"]

FEATURES: dict[Feature, Callable[[Tensor, Tensor], Tensor]] = {
    "u": lambda u, v: u,
    "v": lambda u, v: v,
    "absdiff": lambda u, v: (u - v).abs(),
    "product": lambda u, v: u * v,
}


class LinearHead(Head[Tensor]):
    """W · dropout(x) + b, with x the vector of the one sequence, or [u; v; |u − v|; u ∘ v] as chosen
    (Reimers & Gurevych 2019, section 3; `features` None means one sequence an example).

    `layers` chooses the states that the vector is drawn from; `pooled` reads the last layer's alone.
    """

    def __init__(
        self,
        hidden: int,
        outputs: int,
        *,
        pooling: Pooling,
        layers: Layers = "last",
        features: Sequence[Feature] | None = None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.pooling: Pooling = pooling
        self.reads = READ_BY[pooling]
        self.layers: Layers = layers
        self.all_layers = not LAYERS[layers].only_last
        self.least_layers = LAYERS[layers].least
        self.features = None if features is None else tuple(features)
        self.dropout = dropout
        width = hidden * LAYERS[layers].width
        self.output = Linear(width * (1 if self.features is None else len(self.features)), outputs)

    def read(self, states: States) -> Tensor:
        return POOLINGS[self.pooling](chosen(states, self.layers))

    def forward(self, vectors: Tensor) -> Tensor:
        x = vectors
        if self.features is not None:
            u, v = x[0::2], x[1::2]
            x = torch.cat([FEATURES[name](u, v) for name in self.features], dim=1)
        result: Tensor = self.output(dropout(x, self.dropout, self.training))
        return result
