"""BERT's head for masked tokens: a layer, and the product with the word embeddings.

Knows states, marked tokens and the table of word vectors. Must not know texts, which tokens are masked, or losses.
"""

import torch
from torch import nn

from manyheads.encoder.bert import States
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layers import Linear, product
from manyheads.tasks.head import Head

__all__ = ["MaskedLMHead"]


class MaskedLMHead(Head[Grouped]):
    """E · LayerNorm(gelu(W x + b)) + c for the state x of each marked token: rows [M, V], a group a sequence, E [V, H]
    the encoder's word embeddings (Devlin et al. 2019, section 3.1; the layer before the product is that of BERT's
    own code).

    Nothing is computed for tokens without a mark: of 15% masked tokens the product costs 15%. The encoder's `eps` is
    that of the LayerNorm here.
    """

    in_checkpoint = "masked_lm"
    reads = "marked"

    def __init__(self, words: nn.Embedding, *, eps: float) -> None:
        super().__init__()
        # In a tuple the table is not this head's: it is counted and saved once, with the encoder.
        self._words = (words,)
        hidden = words.embedding_dim
        self.dense = Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden, eps=eps)
        self.bias = nn.Parameter(torch.zeros(words.num_embeddings))
        self.compute: torch.dtype | None = None
        """The dtype of the two products; None: the parameters' own."""

    @property
    def weights_a_row(self) -> int:
        return self.dense.weight.numel() + self._words[0].weight.numel()

    def use(self, compute: torch.dtype | None) -> None:
        """Choose the dtype of the products, as `Encoder.use` does for the layers."""
        self.compute = self.dense.compute = compute

    def read(self, states: States) -> Grouped:
        """[M, H] the states of the marked tokens."""
        return states.marked()

    def forward(self, vectors: Grouped) -> Grouped:
        x = self.norm(self.dense.then_gelu(vectors.rows).to(self.norm.weight.dtype))
        (words,) = self._words
        return vectors.with_rows(product(x, words.weight, self.bias, self.compute))
