"""BERT's head for pairs of spans: whether the second follows the first.

Knows states and pooled vectors. Must not know documents, labels or losses.
"""

from torch import Tensor

from manyheads.encoder.bert import States
from manyheads.encoder.layers import Linear
from manyheads.tasks.head import Head

__all__ = ["NextSentenceHead"]


class NextSentenceHead(Head[Tensor]):
    """W v + b over the encoder's tanh-pooled vector v: logits [B, 2], next and not next (Devlin et al. 2019,
    section 3.1, task 2). Nothing is dropped before it, as in BERT's own code."""

    in_checkpoint = "next_sentence"
    reads = "first"

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.output = Linear(hidden, 2)

    def read(self, states: States) -> Tensor:
        return states.pooled()

    def forward(self, vectors: Tensor) -> Tensor:
        result: Tensor = self.output(vectors)
        return result
