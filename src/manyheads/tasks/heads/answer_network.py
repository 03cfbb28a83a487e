"""The stochastic answer network: an answer about two texts, reached in several steps of reading.

Knows states and the two segments of a packed pair. Must not know labels or losses.
"""

import numpy as np
import torch
from torch import Tensor, nn

from manyheads.encoder.bert import States
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layers import Linear, dropout, keep_mask
from manyheads.encoder.layout import sums
from manyheads.tasks.head import Head
from manyheads.tasks.heads.layer_choice import LAYERS, Layers, chosen

__all__ = ["AnswerNetworkHead"]


class AnswerNetworkHead(Head[Grouped]):
    """K answers of a GRU that looks again and again at the first text, averaged (Liu et al. 2018, arXiv 1804.07888,
    section 2; with BERT's states for memories: MT-DNN, Liu et al. 2019, arXiv 1901.11504, section 3).

    The memories of a pair are its tokens' states: Mᵖ those of segment 0, [CLS] and the first [SEP] among them, Mʰ
    those of segment 1 with its [SEP], so that an empty text has a memory too. With H the width of a state

        s₀ = Σⱼ αⱼ Mʰⱼ                αⱼ ∝ exp(w₀ · Mʰⱼ)
        xₖ = Σⱼ βⱼ Mᵖⱼ                βⱼ ∝ exp(sₖ₋₁ · W₁ Mᵖⱼ)
        sₖ = GRU(sₖ₋₁, xₖ)            k = 1 … K − 1
        zₖ = W₃ dropout([sₖ; xₖ; |sₖ − xₖ|; sₖ ∘ xₖ]) + b₃

    and x₀ is what s₀ itself reads, which the equations leave open. Pₖ = softmax(zₖ), and the outputs [B, outputs] are
    log P of the mean P of the Pₖ, logits of the same distribution; with `numbers` they are the mean of the zₖ.
    While training each step's answer is left out of an example's mean with the probability `prediction_dropout`; an
    example that would lose all of them loses none.
    """

    def __init__(
        self,
        hidden: int,
        outputs: int,
        *,
        numbers: bool = False,
        layers: Layers = "last",
        steps: int = 5,
        prediction_dropout: float = 0.1,
        dropout: float,
    ) -> None:
        super().__init__()
        self.layers: Layers = layers
        self.all_layers = not LAYERS[layers].only_last
        self.least_layers = LAYERS[layers].least
        self.numbers = numbers
        self.steps = steps
        self.prediction_dropout = prediction_dropout
        self.dropout = dropout
        width = hidden * LAYERS[layers].width
        self.begin = nn.Parameter(torch.empty(width))  # w₀
        self.attend = nn.Parameter(torch.empty(width, width))  # W₁
        for weight in (self.begin, self.attend):
            nn.init.normal_(weight, std=0.02)
        self.recur = nn.GRUCell(width, width)
        self.output = Linear(4 * width, outputs)  # W₃, b₃

    def read(self, states: States) -> Grouped:
        """The states of all tokens, two groups an example: segment 0 and segment 1.

        ValueError where a sequence is no pair.
        """
        own = chosen(states, self.layers)
        ragged = own.ragged
        second = sums(ragged.segment_ids.cpu().numpy(), ragged.lengths)
        if not second.all():
            raise ValueError("expected pairs packed in one sequence each, found a sequence of one segment")
        sizes = np.stack([ragged.lengths - second, second], 1).ravel()
        return Grouped(own.tokens, sizes, np.full(len(second), 2))

    def forward(self, vectors: Grouped) -> Tensor:
        memories = vectors.with_rows(vectors.rows.to(self.output.weight.dtype))
        first, second = _memory(memories, 0), _memory(memories, 1)
        s = _weighed(second, second.rows @ self.begin)
        x = self._reading(first, s)
        answers = [self._answer(s, x)]
        for step in range(1, self.steps):
            if step > 1:  # x₁ is x₀: both are what s₀ reads
                x = self._reading(first, s)
            s = self.recur(x, s)
            answers.append(self._answer(s, x))
        return self._mean(torch.stack(answers, 1))

    def _reading(self, memory: Grouped, s: Tensor) -> Tensor:
        """[B, H]: what the state s [B, H] finds in the memory."""
        asked = (s @ self.attend).index_select(0, memory.owners)
        return _weighed(memory, (asked * memory.rows).sum(1))

    def _answer(self, s: Tensor, x: Tensor) -> Tensor:
        """[B, outputs]: z of one step."""
        features = torch.cat([s, x, (s - x).abs(), s * x], 1)
        answer: Tensor = self.output(dropout(features, self.dropout, self.training))
        return answer

    def _mean(self, answers: Tensor) -> Tensor:
        """z of all steps [B, K, outputs] → outputs [B, outputs], over the steps that are not left out."""
        kept = answers.new_ones(answers.shape[:2], dtype=torch.bool)
        if self.training and self.prediction_dropout > 0:
            kept = keep_mask(answers.shape[:2], self.prediction_dropout, answers) > 0
            kept = kept | ~kept.any(1, keepdim=True)
        left_out, count = ~kept[:, :, None], kept.sum(1, keepdim=True).to(answers.dtype)
        if self.numbers:
            return answers.masked_fill(left_out, 0.0).sum(1) / count
        return answers.log_softmax(2).masked_fill(left_out, -torch.inf).logsumexp(1) - count.log()


def _memory(memories: Grouped, which: int) -> Grouped:
    """Of two groups an example the first (0) or the second (1)."""
    places = np.flatnonzero(np.repeat(np.arange(len(memories.sizes)) % 2 == which, memories.sizes))
    rows = memories.rows.index_select(0, torch.from_numpy(places).to(memories.rows.device))
    return Grouped(rows, memories.sizes[which::2])


def _weighed(memory: Grouped, scores: Tensor) -> Tensor:
    """[B, H]: the sum of each memory's rows, weighed by the softmax of their scores [R]."""
    weights = memory.with_rows(scores[:, None]).log_softmax().exp()
    return memory.total(weights * memory.rows)
