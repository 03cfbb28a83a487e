"""What the kinds share whose examples have several candidates: a score each, and the softmax over an example's.

Knows texts with their candidates, and scores in groups. Must not know which candidate is right, files or the loop.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import field_validator
from torch import Tensor

from manyheads.encoder.bert import Encoder
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layout import Layout
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import shown
from manyheads.formulas.calibration import temperature_of_groups
from manyheads.tasks.head import Head
from manyheads.tasks.heads.candidates import CandidatesHead
from manyheads.tasks.heads.pooling import Pooling
from manyheads.tasks.heads.relation import Relation
from manyheads.tasks.kind import ColumnError, Kind, KindSettings
from manyheads.tasks.texts import text_of

__all__ = ["CandidateKind", "CandidateSettings", "Candidates", "settled", "texts_of"]

# The same sequence gets scores that differ in the last digits by where it stands in a batch: a matrix product adds
# up the rows at its edges in another order. Relative to the score, or to 1 where that is more.
_ROUNDING = 1e-6

Candidates = tuple[str, list[str]]
"""An input: the text, and the candidates that are read beside it."""


class CandidateSettings(KindSettings):
    """What the head over the candidates' sequences sees."""

    pooling: Pooling | None = None
    """The vector of a text with a candidate: `pooled` (the encoder's tanh pooler, the default), `cls` (the first
    token's last state) or `mean` (over the tokens)."""
    dropout: float | None = None
    """Share of the head's input that is dropped while training; default: the encoder's dropout."""

    @field_validator("dropout")
    @classmethod
    def _a_share(cls, value: float | None) -> float | None:
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"'dropout' expects a share from 0 up to 1, found {value}")
        return value


class CandidateKind(Kind[Grouped]):
    """The part of a kind whose outputs are scores [R, 1], one a candidate in a group an example.

    Soft targets and answers are shares [R, 1]: they add up to 1 over a group, or to 0 where nothing is known of it.
    """

    settings: Any
    squared = False

    @property
    def reads(self) -> int:
        return 0

    def lay(self, inputs: Sequence[Candidates], tokenizer: Tokenizer, max_length: int) -> Layout:
        """A sequence a candidate: the text, and packed with it the candidate."""
        flat = tokenizer.encode_batch(
            [text for text, candidates in inputs for _ in candidates],
            [candidate for _, candidates in inputs for candidate in candidates],
            max_length=max_length,
        )
        counts = np.array([len(candidates) for _, candidates in inputs], dtype=np.int32)
        return Layout(flat.ids, flat.segments.astype(np.uint8), flat.lengths, flat.dropped, counts)

    def facts(self) -> dict[str, Any]:
        return self._with_temperature({})

    def build_head(
        self, hidden: int, dropout: float, relation: Relation | None = None, encoder: Encoder | None = None
    ) -> Head:
        """No two vectors stand for an example here, so that a shared relation layer has nothing to read."""
        assert relation is None
        share = dropout if self.settings.dropout is None else self.settings.dropout
        return CandidatesHead(hidden, pooling=self.settings.pooling or "pooled", dropout=share)

    def loss(self, outputs: Grouped, targets: Tensor) -> Tensor:
        """Cross entropy of each group's softmax with its shares, mean over the groups that have any.

        A group counts as much as its shares add up to (1, or less where gold that knows nothing is mixed with a
        teacher). Where none has any the loss is 0, with a gradient of 0.
        """
        soft = targets if targets.ndim == 2 else self.soft(targets, outputs)
        shares = soft.to(outputs.rows.dtype)
        # A candidate that is ruled out may have the log-probability −inf, and 0 · −inf is no number.
        crossed = -(shares * outputs.log_softmax().masked_fill(shares == 0, 0.0)).sum()
        known = shares.sum()
        return crossed / torch.where(known > 0, known, torch.ones_like(known))

    def answers(self, outputs: Grouped) -> Tensor:
        return outputs.log_softmax().exp()

    def from_answers(self, answers: Tensor, outputs: Grouped) -> Grouped:
        return outputs.with_rows(
            answers.log()
        )  # the logarithm of 0 is an answer too: the softmax gives 0 again

    def aligned(self, answers: Tensor, teacher: Kind) -> Tensor:
        if type(teacher) is not type(self):
            raise ValueError(f"is of kind {teacher.settings.kind}, expected {self.settings.kind}")
        return answers

    def tempered(self, outputs: Grouped, temperature: float) -> Grouped:
        return outputs.with_rows(outputs.rows / temperature)

    def fitted_temperature(self, outputs: Grouped, targets: Tensor) -> float:
        """Of the softmax over an example's candidates."""
        return temperature_of_groups(outputs.rows, self.soft(targets, outputs), outputs.owners)

    def distance(self, p: Grouped, q: Grouped) -> Tensor:
        """KL(P‖Q) + KL(Q‖P) of the two distributions over an example's candidates, mean over examples."""
        log_p, log_q = p.log_softmax(), q.log_softmax()
        # Both divergences in one sum: no term of it is negative.
        return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum() / max(1, len(p.sizes))

    def measure_of(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(sums[..., 1] / sums[..., 0])

    def goodness(self, first_measure: float) -> float:
        """The measure itself: a mean over examples, from 0 to 1."""
        return 0.0 if math.isnan(first_measure) else first_measure

    def _given(self, one: object, wanted: str) -> tuple[str, list[str]]:
        """(text, candidates) of what a caller hands over."""
        if isinstance(one, Sequence) and not isinstance(one, str) and len(one) == 2:
            text, candidates = one
            listed = isinstance(candidates, Sequence) and not isinstance(candidates, str)
            if isinstance(text, str) and listed and all(isinstance(each, str) for each in candidates):
                return text, list(candidates)
        raise ValueError(f"expected {wanted}, found {shown(one)}")


def settled(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The scores [candidates] of one example, those that differ by rounding alone made equal to the highest of them."""
    equal: list[float] = scores.tolist()
    highest = math.nan
    for place in np.argsort(-scores, kind="stable").tolist():
        if highest - equal[place] <= _ROUNDING * max(1.0, abs(highest)):
            equal[place] = highest
        else:  # also the first, and any that is not finite
            highest = equal[place]
    return np.array(equal)


def texts_of(value: object, column: str) -> list[str]:
    """A column's list of texts; anything else is a ColumnError."""
    if not isinstance(value, list | tuple):
        found = "null" if value is None else shown(value)
        raise ColumnError(column, f"found {found}, expected a list of texts")
    return [text_of(each, column) for each in value]
