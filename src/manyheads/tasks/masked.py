"""The kind `mlm`: which token stands where one is masked.

Knows texts with masked tokens, token ids, and scores of all tokens of a vocabulary. Must not know data files,
recipes or the loop.

A text is its own answer: which of its tokens are hidden is drawn anew each time that a batch is made of it (Devlin et
al. 2019, section 3.1). A text to predict says itself what is hidden, as `[MASK]`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Annotated, Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.nn import functional as F

from manyheads.encoder.bert import Encoder
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layout import Layout, sums
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import shown
from manyheads.formulas import smart
from manyheads.formulas.mlm import Pieces, check_mix, cross_entropy, masked
from manyheads.tasks.documents import DocumentKind, DocumentSettings
from manyheads.tasks.head import Head
from manyheads.tasks.heads.masked_lm import MaskedLMHead
from manyheads.tasks.heads.relation import Relation
from manyheads.tasks.kind import Example, Kind, Prediction, Span, Tagged
from manyheads.tasks.texts import text_of

__all__ = ["MaskedLM", "MaskedLMSettings"]

_MASK = "[MASK]"
_MASKS = re.compile(re.escape(_MASK))
_ROWS_AT_ONCE = 256  # rows of the vocabulary's width that are copied for scoring


class MaskedLMSettings(DocumentSettings):
    """Settings of `kind: mlm`."""

    kind: Literal["mlm"] = "mlm"
    """Which kind of task this is."""
    rate: Annotated[float, Field(gt=0, le=1)] = 0.15
    """The probability that a token is asked; special tokens never are."""
    mix: Annotated[tuple[float, float, float], AfterValidator(check_mix)] = (0.8, 0.1, 0.1)
    """What is read instead of an asked token: shares of [MASK], of a random token, of the token itself."""
    whole_word: bool = False
    """Whether all pieces of a word are asked together, or none; the expected share of tokens stays `rate`."""
    n_best: Annotated[int, Field(ge=1)] = 5
    """How many tokens a prediction lists for each [MASK]."""


@final
class MaskedLM(DocumentKind[Grouped]):
    """Masked tokens; measures perplexity (first, the smaller the better), accuracy and loss over the masked tokens.

    Outputs are `Grouped`: a row [V] of logits a masked token, a group a sequence, V the encoder's vocabulary. Targets
    are the ids of the masked tokens, end to end. Soft targets and answers are probabilities [M, V].
    """

    Settings = MaskedLMSettings
    settings: MaskedLMSettings
    squared = False
    takes_pairs = False

    def __init__(self, settings: MaskedLMSettings, facts: Mapping[str, Any] | None = None) -> None:
        self.settings = settings
        self._tokenizer: Tokenizer | None = None
        self._pieces: Pieces | None = None

    def bind(self, tokenizer: Tokenizer) -> None:
        """Take the vocabulary whose tokens are masked and named; `lay` does it too."""
        if self._tokenizer is not tokenizer:
            self._tokenizer, self._pieces = tokenizer, None

    # ---- what it reads ----

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.settings.text,)

    @property
    def target_column(self) -> str:
        """The text's own: what is to be predicted stands in it."""
        return self.settings.text

    @property
    def reads(self) -> int:
        return 1

    @property
    def laid_by(self) -> Any:
        return [self.settings.text, "masked", self.cleaned_by]

    def input(self, values: Mapping[str, Any]) -> str:
        return text_of(values[self.settings.text], self.settings.text)

    def given(self, one: object) -> dict[str, Any]:
        """A text; of one without [MASK] nothing is asked, and its prediction is empty."""
        if not isinstance(one, str):
            raise ValueError(f"expected a text, found {shown(one)}")
        return {self.settings.text: one}

    def lay(self, inputs: Sequence[str], tokenizer: Tokenizer, max_length: int) -> Layout:
        """A sequence a text. Marks are on the tokens that are [MASK] in the text; their offsets are those in it."""
        self.bind(tokenizer)
        flat = tokenizer.encode_batch(map(self._read, inputs), max_length=max_length)
        marks = flat.ids == tokenizer.mask_id
        counts = sums(marks, flat.lengths).tolist()
        offsets = [
            found.span()
            for text, count in zip(inputs, counts, strict=True)
            for found in islice(_MASKS.finditer(text), count)  # those behind the cut are not asked
        ]
        return Layout(
            flat.ids,
            flat.segments.astype(np.uint8),
            flat.lengths,
            flat.dropped,
            np.ones(len(inputs), dtype=np.int32),
            marks,
            np.array(offsets, dtype=np.int32).reshape(-1, 2),
        )

    def _read(self, text: str) -> str:
        """A text as it is read, cleaned between its masks: small letters would make words of them."""
        return text if self.settings.clean is None else _MASK.join(map(self.cleaned, text.split(_MASK)))

    def draw(
        self, layout: Layout, follows: NDArray[np.bool_] | None, generator: np.random.Generator
    ) -> tuple[Layout, NDArray[np.float64], NDArray[np.int64]]:
        """Spans with masked tokens: ids as the model reads them, marks on the tokens that are asked; their true ids
        [M]; and how many of them each span has."""
        assert self._tokenizer is not None, "the kind is not bound to a tokenizer"
        if self._pieces is None:
            self._pieces = Pieces.of(self._tokenizer)
        settings = self.settings
        ids, asked = masked(
            np.asarray(layout.ids),
            self._pieces,
            rate=settings.rate,
            mix=settings.mix,
            generator=generator,
            whole_word=settings.whole_word,
            lengths=layout.lengths,
        )
        answers = np.asarray(layout.ids[asked], dtype=np.float64)
        laid = replace(layout, ids=ids, marks=asked, offsets=None)
        return laid, answers, sums(sums(asked, layout.lengths), layout.counts)

    # ---- what it learns ----

    def learn(self, values: Sequence[object]) -> None:
        """Nothing: the vocabulary is the tokenizer's."""

    def facts(self) -> dict[str, Any]:
        return {}

    def target(self, value: object, example: Example | None = None) -> list[float]:
        """None before the masks are drawn."""
        return []

    def build_head(
        self, hidden: int, dropout: float, relation: Relation | None = None, encoder: Encoder | None = None
    ) -> Head:
        """The head over `encoder`, whose word embeddings it shares; it drops nothing."""
        if relation is not None:
            raise ValueError("a relation layer is for tasks on pairs")
        if encoder is None:
            raise ValueError("the head of 'kind: mlm' needs the encoder whose word embeddings it shares")
        return MaskedLMHead(encoder.embeddings.word, eps=encoder.shape.eps)

    def loss(self, outputs: Grouped, targets: Tensor) -> Tensor:
        """Cross entropy of logits [M, V] with token ids [M] or probabilities [M, V], mean over masked tokens; 0, with a
        gradient of 0, where none is masked."""
        rows = outputs.rows
        if not len(rows):
            return rows.sum()
        if targets.ndim == 2:
            return F.cross_entropy(rows, targets.to(rows.dtype))
        return cross_entropy(rows, targets.to(rows.device).long())

    def soft(self, targets: Tensor, outputs: Grouped | None = None) -> Tensor:
        """One-hot rows [M, V]."""
        return F.one_hot(targets.long(), self.width if outputs is None else outputs.rows.shape[1]).to(
            targets.dtype
        )

    def counted(self, targets: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """[n] an example's masked tokens."""
        return sizes.astype(np.float64)

    def answers(self, outputs: Grouped) -> Tensor:
        return outputs.rows.softmax(1)

    @property
    def width(self) -> int:
        assert self._tokenizer is not None, "the kind is not bound to a tokenizer"
        return self._tokenizer.vocab_size

    def from_answers(self, answers: Tensor, outputs: Grouped) -> Grouped:
        return outputs.with_rows(answers.log())

    def aligned(self, answers: Tensor, teacher: Kind) -> Tensor:
        """A teacher must have the same vocabulary."""
        if not isinstance(teacher, MaskedLM):
            raise ValueError(f"is of kind {teacher.settings.kind}, expected {self.settings.kind}")
        theirs, ours = teacher._tokenizer, self._tokenizer
        if theirs is not None and ours is not None and theirs.fingerprint != ours.fingerprint:
            raise ValueError("has another vocabulary")
        return answers

    def tempered(self, outputs: Grouped, temperature: float) -> Grouped:
        return outputs.with_rows(outputs.rows / temperature)

    def distance(self, p: Grouped, q: Grouped) -> Tensor:
        """KL(P‖Q) + KL(Q‖P) of the distributions of each masked token, mean over them."""
        return smart.symmetric_kl(p.rows, q.rows)

    # ---- what it says ----

    def predictions(self, outputs: Grouped, examples: Sequence[Example] | None = None) -> list[Prediction]:
        """`label` are the most probable tokens, one for each masked token, with spaces between, `score` the product of
        their probabilities; `tokens` says them one by one with their places, and `spans` the `n_best` of each.

        A text without [MASK] has an empty label and no score. Tokens and spans stand only where it is known where a
        masked token lies, that is for [MASK] in the text.
        """
        assert self._tokenizer is not None, "the kind is not bound to a tokenizer"
        rows = outputs.rows.detach()
        count = min(self.settings.n_best, rows.shape[1])
        best = [part.double().softmax(1).topk(count) for part in torch.split(rows, _ROWS_AT_ONCE)]
        shares = [row for part in best for row in part.values.tolist()]
        ids = [row for part in best for row in part.indices.tolist()]
        ends = np.cumsum(outputs.rows_of_examples)
        found = []
        for number, (end, size) in enumerate(zip(ends, outputs.rows_of_examples, strict=True)):
            here = slice(int(end - size), int(end))
            names = [[self._tokenizer.id_to_token(one) or "" for one in row] for row in ids[here]]
            places = examples[number].offsets.tolist() if examples is not None else []
            if len(places) != size:
                places = []
            found.append(_prediction(names, shares[here], places))
        return found

    def measures(
        self, outputs: Grouped, targets: Tensor, examples: Sequence[Example] | None = None
    ) -> dict[str, float]:
        return self.totals(self.tallies(outputs, targets, examples).sum(0))

    def totals(self, sums: NDArray[np.float64]) -> dict[str, float]:
        """The measures from sums [5] of tallies, which may have been taken batch by batch."""
        _, _, count, log_likelihood, right = sums.tolist()
        loss = -log_likelihood / count if count else math.nan
        accuracy = right / count if count else math.nan
        return {"perplexity": float(self.measure_of(sums)), "accuracy": accuracy, "loss": loss}

    def tallies(
        self, outputs: Grouped, targets: Tensor, examples: Sequence[Example] | None = None
    ) -> NDArray[np.float64]:
        """[n, 5]: 1, the mean log-likelihood of the masked tokens (0 without any), how many they are, the sum of their
        log-likelihoods, and how many are the most probable ones."""
        rows, wanted = outputs.rows.detach(), targets.to(outputs.rows.device).long()
        likely, right = [torch.zeros(0, dtype=torch.float64)], [torch.zeros(0, dtype=torch.bool)]
        for part, ids in zip(
            torch.split(rows, _ROWS_AT_ONCE), torch.split(wanted, _ROWS_AT_ONCE), strict=True
        ):
            log = part.double().log_softmax(1)
            likely.append(log.gather(1, ids[:, None])[:, 0].cpu())
            right.append((log.argmax(1) == ids).cpu())
        owners = np.repeat(np.arange(len(outputs)), outputs.rows_of_examples)
        count = outputs.rows_of_examples.astype(np.float64)
        total, hits = (
            np.bincount(owners, torch.cat(each).double().numpy(), minlength=len(outputs))
            for each in (likely, right)
        )
        return np.column_stack([np.ones(len(count)), total / np.maximum(count, 1), count, total, hits])

    def measure_of(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """exp of the mean loss of a masked token."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.asarray(np.exp(-sums[..., 3] / sums[..., 2]))

    def goodness(self, first_measure: float) -> float:
        """1 / perplexity: the geometric mean of the probabilities of the true tokens."""
        return 0.0 if math.isnan(first_measure) else 1 / max(1.0, first_measure)

    def cells(self, prediction: Prediction) -> list[dict[str, Any]]:
        """The tokens, with spaces between, and their probability."""
        return [{"label": prediction.label, "score": prediction.score}]

    def told(self, value: Any) -> list[Any]:
        """The text."""
        return [value]


def _prediction(
    names: Sequence[Sequence[str]], shares: Sequence[Sequence[float]], places: Sequence[Sequence[int]]
) -> Prediction:
    """What the best tokens [M, n] with their probabilities say; `places` [M, 2] of the [MASK]s, or none."""
    return Prediction(
        label=" ".join(row[0] for row in names),
        score=math.prod(row[0] for row in shares) if shares else None,
        spans=tuple(
            Span(start, end, _MASK, name, share)
            for (start, end), row, probable in zip(places, names, shares, strict=False)
            for name, share in zip(row, probable, strict=True)
        ),
        tokens=tuple(
            Tagged(_MASK, start, end, row[0], probable[0])
            for (start, end), row, probable in zip(places, names, shares, strict=False)
        ),
    )
