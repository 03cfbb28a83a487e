"""One linear layer over the state of each token that answers are about.

Knows states and marked tokens. Must not know tags, words, spans or losses.
"""

from manyheads.encoder.bert import States
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layers import Linear, dropout
from manyheads.tasks.head import Head
from manyheads.tasks.heads.layer_choice import LAYERS, Layers, chosen

__all__ = ["TokenHead"]


class TokenHead(Head[Grouped]):
    """W · dropout(x) + b for each marked token, x its state: a group of rows [size, outputs] a sequence
    (Devlin et al. 2019, sections 4.2 and 5.3; `layers` chooses other states, table 7)."""

    apart = True
    reads = "marked"

    def __init__(self, hidden: int, outputs: int, *, layers: Layers = "last", dropout: float) -> None:
        super().__init__()
        self.layers: Layers = layers
        self.all_layers = not LAYERS[layers].only_last
        self.least_layers = LAYERS[layers].least
        self.dropout = dropout
        self.output = Linear(hidden * LAYERS[layers].width, outputs)

    def read(self, states: States) -> Grouped:
        return chosen(states, self.layers).marked()

    def forward(self, vectors: Grouped) -> Grouped:
        return vectors.with_rows(self.output(dropout(vectors.rows, self.dropout, self.training)))
