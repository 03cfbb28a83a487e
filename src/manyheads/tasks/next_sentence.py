"""The kind `nsp`: whether the second of two spans followed the first in its document.

Knows pairs of spans, what a row says of them, and logits. Must not know documents, data files, recipes or the loop.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from manyheads.encoder.bert import Encoder
from manyheads.encoder.layout import Layout
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import shown
from manyheads.formulas import smart
from manyheads.tasks.documents import DocumentKind, DocumentSettings
from manyheads.tasks.head import Head
from manyheads.tasks.heads.next_sentence import NextSentenceHead
from manyheads.tasks.heads.relation import Relation
from manyheads.tasks.kind import Example, Kind, Prediction
from manyheads.tasks.texts import text_of

__all__ = ["NextSentence", "NextSentenceSettings"]

_LABELS = ("next", "not_next")  # in the order of BERT's two outputs


class NextSentenceSettings(DocumentSettings):
    """Settings of `kind: nsp`."""

    kind: Literal["nsp"] = "nsp"
    """Which kind of task this is."""
    pairs_of: str | None = None
    """Instead of files: a task of `kind: mlm` that then reads pairs; both learn from one pass of the encoder."""
    pair: tuple[str, str] = ("first", "second")
    """The two columns with the spans, in files to predict."""


@final
class NextSentence(DocumentKind[Tensor]):
    """Whether a span is the next one; measures accuracy (first) and loss.

    Outputs are logits [B, 2], next and not next. Targets are 0 where it is the next, 1 where it is not (the order in
    which BERT's checkpoints have them).
    """

    Settings = NextSentenceSettings
    settings: NextSentenceSettings
    squared = False
    takes_pairs = True

    def __init__(self, settings: NextSentenceSettings, facts: Mapping[str, Any] | None = None) -> None:
        self.settings = settings
        self.labels = _LABELS

    def bind(self, tokenizer: Tokenizer) -> None:
        """Nothing: the labels are no tokens."""

    # ---- what it reads ----

    @property
    def columns(self) -> tuple[str, ...]:
        return self.settings.pair

    @property
    def target_column(self) -> str:
        """None in the rows: whether a span follows is drawn."""
        return _LABELS[0]

    @property
    def reads(self) -> int:
        return 2

    @property
    def laid_by(self) -> Any:
        return [*self.settings.pair, self.cleaned_by]

    def input(self, values: Mapping[str, Any]) -> tuple[str, str]:
        first, second = (self.cleaned(text_of(values[column], column)) for column in self.columns)
        return first, second

    def given(self, one: object) -> dict[str, Any]:
        texts = tuple(one) if isinstance(one, Sequence) and not isinstance(one, str) else ()
        if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"expected a pair of texts, found {shown(one)}")
        return dict(zip(self.columns, texts, strict=True))

    def lay(self, inputs: Sequence[tuple[str, str]], tokenizer: Tokenizer, max_length: int) -> Layout:
        """[CLS] first [SEP] second [SEP], a sequence a pair."""
        flat = tokenizer.encode_batch(
            [first for first, _ in inputs], [second for _, second in inputs], max_length=max_length
        )
        counts = np.ones(len(inputs), dtype=np.int32)
        return Layout(flat.ids, flat.segments.astype(np.uint8), flat.lengths, flat.dropped, counts)

    def draw(
        self, layout: Layout, follows: NDArray[np.bool_] | None, generator: np.random.Generator
    ) -> tuple[Layout, NDArray[np.float64], NDArray[np.int64]]:
        """The pairs as they are, and 0 for those that follow, 1 for those that do not."""
        assert follows is not None, "spans that are no pairs"
        return layout, (~follows).astype(np.float64), np.ones(len(follows), dtype=np.int64)

    # ---- what it learns ----

    def learn(self, values: Sequence[object]) -> None:
        """Nothing: the labels are always these two."""

    def facts(self) -> dict[str, Any]:
        return {}

    def target(self, value: object, example: Example | None = None) -> list[float]:
        """None before the pairs are drawn."""
        return []

    def build_head(
        self, hidden: int, dropout: float, relation: Relation | None = None, encoder: Encoder | None = None
    ) -> Head:
        """It drops nothing, as in BERT."""
        if relation is not None:
            raise ValueError("a relation layer is for pairs that are encoded apart")
        return NextSentenceHead(hidden)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy of logits [B, 2] with 0 or 1 [B], or probabilities [B, 2]."""
        soft = targets.ndim == 2
        return F.cross_entropy(outputs, targets.to(outputs.dtype) if soft else targets.long())

    def soft(self, targets: Tensor, outputs: Tensor | None = None) -> Tensor:
        return F.one_hot(targets.long(), 2).to(targets.dtype)

    def answers(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(1)

    @property
    def width(self) -> int:
        return 2

    def from_answers(self, answers: Tensor, outputs: Tensor) -> Tensor:
        return answers.log()

    def aligned(self, answers: Tensor, teacher: Kind) -> Tensor:
        if not isinstance(teacher, NextSentence):
            raise ValueError(f"is of kind {teacher.settings.kind}, expected {self.settings.kind}")
        return answers

    def tempered(self, outputs: Tensor, temperature: float) -> Tensor:
        return outputs / temperature

    def distance(self, p: Tensor, q: Tensor) -> Tensor:
        """KL(P‖Q) + KL(Q‖P) of the two distributions."""
        return smart.symmetric_kl(p, q)

    # ---- what it says ----

    def predictions(self, outputs: Tensor, examples: Sequence[Example] | None = None) -> list[Prediction]:
        return [
            Prediction(
                label=_LABELS[best], score=row[best], probabilities=dict(zip(_LABELS, row, strict=True))
            )
            for row in outputs.double().softmax(1).tolist()
            for best in [int(row[1] > row[0])]
        ]

    def measures(
        self, outputs: Tensor, targets: Tensor, examples: Sequence[Example] | None = None
    ) -> dict[str, float]:
        return self.totals(self.tallies(outputs, targets, examples).sum(0))

    def totals(self, sums: NDArray[np.float64]) -> dict[str, float]:
        count, _, log_likelihood = sums.tolist()
        return {
            "accuracy": float(self.measure_of(sums)),
            "loss": -log_likelihood / count if count else math.nan,
        }

    def tallies(
        self, outputs: Tensor, targets: Tensor, examples: Sequence[Example] | None = None
    ) -> NDArray[np.float64]:
        """[n, 3]: 1, right or not, the log-likelihood of what is true."""
        wanted = targets.long()
        right = self._guess(outputs) == wanted.numpy()
        likely = outputs.detach().double().log_softmax(1).gather(1, wanted[:, None])[:, 0]
        return np.column_stack([np.ones(len(right)), right, likely.numpy()]).astype(np.float64)

    def _guess(self, outputs: Tensor) -> NDArray[np.int64]:
        """[B] 0 or 1, as in `predictions`."""
        return np.asarray((outputs[:, 1] > outputs[:, 0]).long().numpy())

    def measure_of(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(sums[..., 1] / sums[..., 0])

    def goodness(self, first_measure: float) -> float:
        return 0.0 if math.isnan(first_measure) else first_measure

    def cells(self, prediction: Prediction) -> list[dict[str, Any]]:
        """The label, its probability, and both labels' as `p:LABEL`."""
        shares = prediction.probabilities or {}
        return [
            {"label": prediction.label, "score": prediction.score}
            | {f"p:{name}": share for name, share in shares.items()}
        ]

    def told(self, value: Any) -> list[Any]:
        """None: rows have no label."""
        return [value]
