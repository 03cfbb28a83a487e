"""The kind `span`: the piece of a text that answers a question, or that nothing in it does.

Knows questions, contexts, answers by their offsets, and scores of tokens as starts and ends. Must not know data
files, recipes or the loop.

A context that is too long for one sequence is read in windows that overlap. Softmax runs over the context's tokens
of a window and [CLS], at which a window without the answer points (Devlin et al. 2019, sections 4.2 and 4.3).
"""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self, TypedDict, final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from manyheads.encoder import clean
from manyheads.encoder.bert import Encoder
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layout import Layout, sums
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError, shown
from manyheads.formulas import spans
from manyheads.formulas.metrics import squad
from manyheads.tasks.head import Head
from manyheads.tasks.heads.relation import Relation
from manyheads.tasks.heads.span import SpanHead
from manyheads.tasks.kind import ColumnError, Example, Kind, KindSettings, Prediction, Span
from manyheads.tasks.texts import text_of

__all__ = ["Answering", "Asked", "SpanSettings"]

_NOWHERE = -1.0  # the target of a window from which nothing is to be learnt
_NO_SPAN = 1e9  # log-odds of no answer where the context has no token that could be one


class SpanSettings(KindSettings):
    """Settings of `kind: span`."""

    kind: Literal["span"] = "span"
    """Which kind of task this is."""
    question: str = "question"
    """The column with the question."""
    context: str = "context"
    """The column with the text that the answer stands in."""
    answers: str = "answers"
    """The column with the answers: a list of {text, answer_start}, or lists of both under these two names; offsets
    in code points of the context. An empty list: the context has no answer."""
    id: str = "id"
    """The column with the question's name in the official predictions file, where there is one."""
    max_length: Annotated[int, Field(ge=5)] = 384
    """Longest sequence in tokens: [CLS] question [SEP] context [SEP]; a longer context is read in windows."""
    stride: Annotated[int, Field(ge=1)] = 128
    """Tokens from the start of one window to the start of the next."""
    question_length: Annotated[int, Field(ge=1)] = 64
    """Tokens that are read of a question; what is cut is counted and shown."""
    answer_length: Annotated[int, Field(ge=1)] = 30
    """The longest answer that is predicted, in tokens."""
    n_best: Annotated[int, Field(ge=1)] = 20
    """How many answers a prediction lists; their probabilities are relative to each other."""
    no_answer: Literal["auto"] | bool = "auto"
    """Whether a context may lack the answer; auto: as some training row says (SQuAD 2.0) or none (1.1)."""
    answers_at: Literal["strict", "nearest"] = "strict"
    """`strict`: an answer that does not stand at its offset is an error; `nearest`: it is looked for at the closest
    place where its text stands, and a question whose answers stand nowhere teaches nothing."""
    measure: Literal["squad", "cmrc"] = "squad"
    """Whose script counts exact matches and F1: SQuAD's, or that of CMRC 2018, which counts Chinese characters."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the head's input that is dropped while training; BERT drops none here."""

    @model_validator(mode="after")
    def _leaves_room(self) -> Self:
        if self.question_length + 3 >= self.max_length:
            raise ValueError(
                f"'question_length: {self.question_length}' leaves no token for a context in 'max_length: "
                f"{self.max_length}', three of which are special"
            )
        return self


class Asked(TypedDict):
    """An input: a question about a context, and its name where it has one."""

    question: str
    context: str
    id: str | None


class _Found(NamedTuple):
    """What outputs say of one question: spans as (start, end, score) in code points, best first; the score of no
    answer."""

    spans: list[tuple[int, int, float]]
    nothing: float

    @property
    def odds(self) -> float:
        """How much higher than the best span no answer is scored."""
        return self.nothing - self.spans[0][2] if self.spans else _NO_SPAN


@final
class Answering(Kind[Grouped]):
    """An answer from a text; measures F1 (first) and exact match in percent, as the data set's own script counts.

    Outputs are `Grouped`: a row a marked token ([CLS], then the context's tokens) with its score as start and as
    end, a group a window, as many windows as an example needs. Targets are two numbers a window: the place of the
    start's and the end's row in it, 0 where the window has no answer, −1 where it is not known. Soft targets and
    answers are probabilities [M, 2] that add up to 1 over a window in each column.
    """

    Settings = SpanSettings
    settings: SpanSettings
    squared = False
    keeps_inputs = True

    def __init__(self, settings: SpanSettings, facts: Mapping[str, Any] | None = None) -> None:
        self.settings = settings
        told = facts or {}
        said = None if settings.no_answer == "auto" else settings.no_answer
        self.no_answer: bool | None = told.get("no_answer", said)
        """Whether a context may lack the answer; None before `learn`."""
        self.threshold: float = told.get("threshold", 0.0)
        """τ: no answer is given where it is scored higher than the best span by more than this."""
        self.moved: dict[str, int] = {"nearest": 0, "nowhere": 0, "no token": 0}
        """Questions whose answer `target` took from another place than its offset; whose answers stood nowhere; and
        whose answer no token covers (control characters)."""

    # ---- what it reads ----

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.settings.question, self.settings.context)

    @property
    def also(self) -> tuple[str, ...]:
        return (self.settings.id,)

    @property
    def told_by(self) -> tuple[str, ...]:
        """All questions about a context stay together."""
        return (self.settings.context,)

    def remarks(self) -> list[str]:
        said = {
            "nearest": "answers do not stand at their offset and were taken from the nearest place where they do",
            "nowhere": "answers stand nowhere in their context: the questions are read, but not learnt from",
            "no token": "answers are made of characters that the tokenizer leaves out: not learnt from",
        }
        return [f"{count:,} {said[what]}" for what, count in self.moved.items() if count]

    @property
    def target_column(self) -> str:
        return self.settings.answers

    @property
    def reads(self) -> int:
        return 2

    @property
    def laid_by(self) -> Any:
        return [*self.columns, self.settings.question_length, self.settings.stride, self.cleaned_by]

    def input(self, values: Mapping[str, Any]) -> Asked:
        """A question may be empty, as two of CMRC 2018's are; a context may not."""
        question = text_of(values[self.settings.question], self.settings.question)
        context = text_of(values[self.settings.context], self.settings.context, empty=False)
        name = values.get(self.settings.id)
        if name is not None and (not isinstance(name, str | int) or isinstance(name, bool)):
            raise ColumnError(self.settings.id, f"found {shown(name)}, expected a text or a whole number")
        return {"question": question, "context": context, "id": None if name is None else str(name)}

    def given(self, one: object) -> dict[str, Any]:
        """(question, context)."""
        texts = tuple(one) if isinstance(one, Sequence) and not isinstance(one, str) else ()
        if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"expected a question and a text: (question, context), found {shown(one)}")
        return dict(zip(self.columns, texts, strict=True))

    def lay(self, inputs: Sequence[Asked], tokenizer: Tokenizer, max_length: int) -> Layout:
        """[CLS] question [SEP] window of the context [SEP], a sequence a window; the marks are on [CLS], whose
        offset is (0, 0), and on the window. What is cut of a question is counted at its first window."""
        numbers = {text: n for n, text in enumerate(dict.fromkeys(one["context"] for one in inputs))}
        followed = [clean.cleaned_with_offsets(text, self.settings.clean) for text in numbers]
        read = tokenizer([text for text, _ in followed])  # once for all questions of a paragraph
        contexts = [
            (np.array(ids[1:-1], dtype=np.int32), _with_marks(text, _placed(offsets[1:-1], origins)))
            for text, (_, origins), ids, offsets in zip(
                numbers, followed, read.input_ids, read.offsets, strict=True
            )
        ]
        questions = tokenizer([self.cleaned(one["question"]) for one in inputs]).input_ids
        most = min(self.settings.question_length, max(0, max_length - 4))
        cls, sep = np.array([tokenizer.cls_id], np.int32), np.array([tokenizer.sep_id], np.int32)
        at_cls = np.zeros((1, 2), np.int32)
        ids, offsets, lengths, dropped, counts = [], [], [], [], []
        for one, asked in zip(inputs, questions, strict=True):
            words = np.array(asked[1:-1], dtype=np.int32)
            kept = words[:most]
            tokens, places = contexts[numbers[one["context"]]]
            shown_in = spans.windows(len(kept), len(tokens), max_length, self.settings.stride) or [(0, 0)]
            for start, length in shown_in:
                ids += [cls, kept, sep, tokens[start : start + length], sep]
                offsets += [at_cls, places[start : start + length]]
                lengths.append([1, len(kept) + 1, length, 1])
            dropped += [len(words) - len(kept), *[0] * (len(shown_in) - 1)]
            counts.append(len(shown_in))
        parts = np.array(lengths, dtype=np.int32).reshape(-1, 4)
        return Layout(
            _joined(ids),
            np.repeat(np.tile(np.array([0, 0, 1, 1], np.uint8), len(parts)), parts.ravel()),
            parts.sum(axis=1, dtype=np.int32),
            np.array(dropped, dtype=np.int32),
            np.array(counts, dtype=np.int32),
            np.repeat(np.tile(np.array([True, False, True, False]), len(parts)), parts.ravel()),
            np.concatenate([*offsets, np.empty((0, 2), np.int32)]),
        )

    # ---- what it learns ----

    def learn(self, values: Sequence[object]) -> None:
        if self.no_answer is None:
            self.no_answer = any(_is_empty(value) for value in values)

    def facts(self) -> dict[str, Any]:
        return {"no_answer": bool(self.no_answer), "threshold": self.threshold}

    def target(self, value: object, example: Example | None = None) -> list[float]:
        """The rows of the start and the end in each window: the answer is the first of several that can be found.

        ValueError names the question and says what stands at the offset.
        """
        assert example is not None
        asked: Asked = example.input
        answers = _answers(value)
        windows = self._windows(example)
        if not answers:
            if not self.no_answer:
                raise ValueError(
                    f"{_called(asked)}found no answer, expected one; 'no_answer: true' is for contexts that may "
                    "lack it"
                )
            return [0.0] * (2 * len(windows))
        place = self._place(answers, asked)
        covered = None if place is None else _tokens(_of_context(example, windows), *place)
        if covered is None:
            self.moved["nowhere" if place is None else "no token"] += 1
            return [_NOWHERE] * (2 * len(windows))
        first, last = covered
        found: list[float] = []
        for start, length in windows:
            inside = start <= first and last < start + length
            found += [first - start + 1, last - start + 1] if inside else [0, 0]
        return [float(one) for one in found]

    def note(self, split: str, examples: Sequence[Example]) -> None:
        """ValueError where two questions that are answered have the same id: a file {id: text} would answer one for
        both. Of the training rows no such file is written."""
        if split == "train":
            return
        if twice := _twice([example.input["id"] for example in examples]):
            raise ValueError(twice)

    def _place(self, answers: Sequence[tuple[str, int]], asked: Asked) -> tuple[int, int] | None:
        """(start, end) in the context of the first answer that can be found there; ValueError where one may not be
        looked for."""
        context = asked["context"]
        chosen: tuple[int, int] | None = None
        moved = False
        for text, start in answers:
            if start >= 0 and context.startswith(text, start):
                chosen = chosen or (start, start + len(text))
                continue
            others = [at for at in range(len(context)) if context.startswith(text, at)]
            nearest = min(others, key=lambda at: (abs(at - start), at), default=None)
            if self.settings.answers_at == "strict":
                there = context[start : start + len(text)] if 0 <= start < len(context) else None
                found = f"where {shown(there)} stands" if there is not None else "beyond the context"
                hint = "nowhere in the context" if nearest is None else f"at {nearest}"
                raise ValueError(
                    f"{_called(asked)}the answer {shown(text)} is not at {start}, {found}, but {hint}; "
                    "'answers_at: nearest' takes the closest place"
                )
            if nearest is not None and chosen is None:
                chosen, moved = (nearest, nearest + len(text)), True
        self.moved["nearest"] += moved
        return chosen

    def _windows(self, example: Example) -> list[tuple[int, int]]:
        """(first token, tokens) of each window in the context: from the sizes, as `spans.windows` made them."""
        found, start = [], 0
        for length in (example.sizes - 1).tolist():
            found.append((start, length))
            start += min(length, self.settings.stride)
        return found

    def build_head(
        self, hidden: int, dropout: float, relation: Relation | None = None, encoder: Encoder | None = None
    ) -> Head:
        """No two vectors stand for an example here, so that a shared relation layer has nothing to read."""
        assert relation is None
        return SpanHead(hidden, dropout=self.settings.dropout)

    def loss(self, outputs: Grouped, targets: Tensor) -> Tensor:
        """Cross entropy of the start's and of the end's softmax over a window's rows, their mean; mean over the
        windows of which something is known (0 where there is none)."""
        log_p = outputs.log_softmax()
        if targets.ndim == 2:
            known = outputs.total(targets.to(log_p.dtype))[:, 0] > 0
            # A row that is ruled out may have the log-probability −inf, and 0 · −inf is no number.
            each = -outputs.total(targets.to(log_p.dtype) * log_p.masked_fill(targets == 0, 0.0))
        else:
            rows, known = self._rows(outputs, targets)
            each = -log_p.gather(0, rows) * known[:, None]
        return each.sum() / 2 / known.sum().clamp(min=1)

    def _rows(self, outputs: Grouped, targets: Tensor) -> tuple[Tensor, Tensor]:
        """[G, 2] the rows that hard targets name (any, where they name none), and [G] whether they do."""
        places = targets.to(outputs.rows.device).long().reshape(-1, 2)
        starts = torch.from_numpy(np.cumsum(outputs.sizes) - outputs.sizes).to(places.device)
        return starts[:, None] + places.clamp(min=0), places[:, 0] >= 0

    def counted(self, targets: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Windows of which something is known."""
        return sums(targets.reshape(-1, 2)[:, 0] >= 0, sizes // 2).astype(np.float64)

    def soft(self, targets: Tensor, outputs: Grouped | None = None) -> Tensor:
        """One-hot columns over each window; zeros where nothing is known of it."""
        assert outputs is not None
        rows, known = self._rows(outputs, targets)
        hot = known[:, None].expand(-1, 2).to(outputs.rows.dtype)
        return torch.zeros_like(outputs.rows).scatter(0, rows, hot)

    def answers(self, outputs: Grouped) -> Tensor:
        return outputs.log_softmax().exp()

    @property
    def width(self) -> int:
        return 2

    def from_answers(self, answers: Tensor, outputs: Grouped) -> Grouped:
        """Log-probabilities: windows compare by them as well, since one without the answer points at [CLS]."""
        least = torch.finfo(answers.dtype).tiny  # the log-odds of no answer stay finite
        return outputs.with_rows(answers.clamp(min=least).log())

    def mean(self, several: Sequence[tuple[Kind, Grouped]]) -> Grouped:
        """The mean of their scores, row by row: by scores windows are compared, and on their scale is τ.

        From probabilities of a window it could not be said which window the answer stands in.
        """
        rows = [self.aligned(outputs.rows.double(), kind) for kind, outputs in several]
        return several[0][1].with_rows(torch.stack(rows).mean(0))

    def aligned(self, answers: Tensor, teacher: Kind) -> Tensor:
        """A teacher must read in the same windows (and with the same tokenizer)."""
        if not isinstance(teacher, Answering):
            raise ValueError(f"is of kind {teacher.settings.kind}, expected {self.settings.kind}")
        for name in ("max_length", "question_length", "stride"):
            theirs, ours = getattr(teacher.settings, name), getattr(self.settings, name)
            if theirs != ours:
                raise ValueError(f"reads contexts with '{name}: {theirs}', expected {ours}")
        return answers

    def tempered(self, outputs: Grouped, temperature: float) -> Grouped:
        return outputs.with_rows(outputs.rows / temperature)

    def distance(self, p: Grouped, q: Grouped) -> Tensor:
        """KL(P‖Q) + KL(Q‖P) of the distributions of starts and of ends, their mean, mean over windows."""
        log_p, log_q = p.log_softmax(), q.log_softmax()
        # Both divergences in one sum: no term of it is negative.
        return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum() / (2 * max(1, len(p.sizes)))

    # ---- what it says ----

    def predictions(self, outputs: Grouped, examples: Sequence[Example] | None = None) -> list[Prediction]:
        """`label` is the answer, cut from the context (empty: none), `score` its probability among those of `spans`,
        the n best, and of no answer; `value` is how much higher than the best span no answer is scored."""
        assert examples is not None
        return [
            self._prediction(found, example.input["context"])
            for found, example in zip(
                self._found(outputs, examples, self.settings.n_best), examples, strict=True
            )
        ]

    def _prediction(self, found: _Found, context: str) -> Prediction:
        scores = [score for _, _, score in found.spans]
        if self.no_answer or not scores:
            scores.append(found.nothing)
        shares = np.exp(np.array(scores) - max(scores))
        shares /= shares.sum()
        listed = tuple(
            Span(start, end, context[start:end], "answer", share)
            for (start, end, _), share in zip(found.spans, shares.tolist(), strict=False)
        )
        silent = not listed or (self.no_answer and found.odds > self.threshold)
        return Prediction(
            label="" if silent else listed[0].text,
            score=float(shares[-1] if silent else shares[0]),
            value=found.odds if self.no_answer else None,
            spans=listed,
        )

    def _found(self, outputs: Grouped, examples: Sequence[Example], count: int) -> list[_Found]:
        """The `count` best spans of each example over all its windows, and the score of no answer.

        A start counts in the window that shows most of what stands around it; the score of no answer is the least
        of all windows' (both as in run_squad).
        """
        rows = outputs.rows.detach().cpu().double().numpy()
        found, at = [], 0
        for example in examples:
            windows = self._windows(example)
            fullest = spans.most_context(windows)
            nothing, best, here = np.inf, list[tuple[int, int, float]](), 0
            for number, (first, length) in enumerate(windows):
                scores = rows[at : at + 1 + length]
                nothing = min(nothing, float(scores[0].sum()))
                starts = np.where(fullest[first : first + length] == number, scores[1:, 0], -np.inf)
                offsets = example.offsets[here + 1 : here + 1 + length]
                best += [
                    (int(offsets[one.start, 0]), int(offsets[one.end, 1]), one.score)
                    for one in spans.nbest(
                        starts, scores[1:, 1], range(length), self.settings.answer_length, count
                    )
                ]
                at, here = at + 1 + length, here + 1 + length
            best.sort(key=lambda one: (-one[2], one[0], one[1]))
            found.append(_Found(best[:count], nothing))
        return found

    def _matches(
        self, outputs: Grouped, examples: Sequence[Example]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """How well each example's best span answers it [n, 2] (exact, F1), how well silence does [n, 2], and the
        log-odds of no answer [n]."""
        said, silent, odds = [], [], []
        for found, example in zip(self._found(outputs, examples, 1), examples, strict=True):
            golds = [text for text, _ in _answers(example.value)]
            start, end, _ = found.spans[0] if found.spans else (0, 0, 0.0)
            said.append(self._match(example.input["context"][start:end], golds))
            silent.append(self._match("", golds))
            odds.append(found.odds)
        return np.array(said).reshape(-1, 2), np.array(silent).reshape(-1, 2), np.array(odds)

    def _match(self, text: str, golds: Sequence[str]) -> squad.Match:
        if self.settings.measure == "cmrc":
            # CMRC asks nothing that its contexts do not answer; there silence is right as in SQuAD 2.0.
            return squad.cmrc_match(text, golds) if golds else squad.Match(float(not text), float(not text))
        return squad.squad_v2_match(text, golds) if self.no_answer else squad.squad_v1_match(text, golds)

    def _scored(self, outputs: Grouped, examples: Sequence[Example]) -> NDArray[np.float64]:
        """[n, 2] exact match and F1 of what is predicted for each example."""
        said, silent, odds = self._matches(outputs, examples)
        if not self.no_answer:
            return said
        return np.where((odds > self.threshold)[:, None], silent, said)

    def measures(
        self, outputs: Grouped, targets: Tensor, examples: Sequence[Example] | None = None
    ) -> dict[str, float]:
        """In percent under the names of the official scripts, F1 first; and the loss."""
        assert examples is not None
        scored = self._scored(outputs, examples)
        f1, exact = _percent(scored[:, 1]), _percent(scored[:, 0])
        loss = {"loss": float(self.loss(outputs, targets))}
        if self.settings.measure == "cmrc":
            return {"f1": f1, "em": exact, "average": (exact + f1) * 0.5, **loss}
        if not self.no_answer:
            return {"f1": f1, "exact_match": exact, **loss}
        found = {"f1": f1, "exact": exact}
        answerable = np.array([bool(_answers(example.value)) for example in examples], dtype=np.bool_)
        for prefix, part in (("HasAns", answerable), ("NoAns", ~answerable)):
            if part.any():
                found[f"{prefix}_f1"] = _percent(scored[part, 1])
                found[f"{prefix}_exact"] = _percent(scored[part, 0])
        return {**found, **loss}

    def tallies(
        self, outputs: Grouped, targets: Tensor, examples: Sequence[Example] | None = None
    ) -> NDArray[np.float64]:
        """[n, 3]: 1, F1, exact match, both from 0 to 1."""
        assert examples is not None
        scored = self._scored(outputs, examples)
        return np.stack([np.ones(len(scored)), scored[:, 1], scored[:, 0]], axis=1)

    def measure_of(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(100.0 * sums[..., 1] / sums[..., 0])

    def goodness(self, first_measure: float) -> float:
        """F1 as a fraction."""
        return 0.0 if np.isnan(first_measure) else first_measure / 100

    def tune(self, outputs: Grouped, targets: Tensor, examples: Sequence[Example] | None = None) -> None:
        """τ: the threshold with the best F1."""
        if self.no_answer and examples:
            said, silent, odds = self._matches(outputs, examples)
            self.threshold = squad.best_threshold(odds, said[:, 1], silent[:, 1])

    def cells(self, prediction: Prediction) -> list[dict[str, Any]]:
        """The answer, its probability and its place in the context (None where there is none); the log-odds of no
        answer where it may be one."""
        at = prediction.spans[0] if prediction.label else None
        said = {
            "label": prediction.label,
            "score": prediction.score,
            "start": None if at is None else at.start,
            "end": None if at is None else at.end,
        }
        return [said | ({"no_answer_odds": prediction.value} if self.no_answer else {})]

    def told(self, value: Any) -> list[Any]:
        """The answers' texts as a JSON list."""
        return [json.dumps([text for text, _ in _answers(value)], ensure_ascii=False)]

    def official(
        self, predictions: Sequence[Prediction], examples: Sequence[Example] | None
    ) -> dict[str, Any]:
        """{question id: answer}, and for SQuAD 2.0 {question id: log-odds of no answer}: what the official scripts
        take. Nothing where a question has no id; InputError where two have the same."""
        names = [example.input["id"] for example in examples or ()]
        if not names or None in names:
            return {}
        if twice := _twice(names):
            raise InputError(twice)
        pairs = list(zip(names, predictions, strict=True))
        files: dict[str, Any] = {".json": {name: one.label for name, one in pairs}}
        if self.no_answer:
            files["-null-odds.json"] = {name: one.value for name, one in pairs}
        return files


def _called(asked: Asked) -> str:
    return "" if asked["id"] is None else f"question {asked['id']}: "


def _twice(names: Sequence[str | None]) -> str:
    """What is wrong with questions' ids, of which any may be missing; "" where no two are the same."""
    seen = set[str]()
    for name in names:
        if name is not None and name in seen:
            return (
                f"found the id {shown(name)} twice, expected one of its own for each question: predictions are "
                "written under it; the task's 'id' names its column"
            )
        if name is not None:
            seen.add(name)
    return ""


def _is_empty(value: object) -> bool:
    """Whether a row's answers are none, in either form."""
    if isinstance(value, Mapping):
        return not value.get("text")
    return isinstance(value, list | tuple) and not value


def _answers(value: object) -> list[tuple[str, int]]:
    """(text, offset) of each answer: of a list of {text, answer_start}, or of an object with a list of each."""
    given: Sequence[Any] = []
    if isinstance(value, Mapping) and {"text", "answer_start"} <= set(value):
        texts, starts = value["text"], value["answer_start"]
        if isinstance(texts, str):
            texts, starts = [texts], [starts]
        if isinstance(texts, Sequence) and isinstance(starts, Sequence) and len(texts) == len(starts):
            given = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
        else:
            raise ValueError(f"found {shown(value)}, expected as many texts as offsets")
    elif isinstance(value, list | tuple):
        given = value
    else:
        raise ValueError(f"found {shown(value)}, expected a list of {{text, answer_start}}")
    found = []
    for answer in given:
        text = answer.get("text") if isinstance(answer, Mapping) else None
        start = answer.get("answer_start") if isinstance(answer, Mapping) else None
        if not isinstance(text, str) or not isinstance(start, int) or isinstance(start, bool):
            raise ValueError(
                f"found the answer {shown(answer)}, expected {{text, answer_start}}, a text and a whole number"
            )
        if not text:
            raise ValueError("found an answer without text; no answer at all is an empty list")
        found.append((text, start))
    return found


def _placed(places: Sequence[tuple[int, int]], origins: clean.Offsets | None) -> NDArray[np.int32]:
    """Tokens' places [n, 2] in the raw text, from those in the cleaned one and where its characters came from."""
    raw = [clean.original(start, end, origins) for start, end in places]
    return np.array(raw, dtype=np.int32).reshape(-1, 2)


def _with_marks(text: str, offsets: NDArray[np.int32]) -> NDArray[np.int32]:
    """Tokens' places [n, 2] with the combining marks behind them, which the tokenizer may take off ("e\\u0301")."""
    if text.isascii() or not len(offsets):
        return offsets.reshape(-1, 2)
    follows = np.append(offsets[1:, 0], len(text))
    wider = offsets.copy()
    for token in np.flatnonzero(follows > offsets[:, 1]):
        end = int(offsets[token, 1])
        while end < follows[token] and unicodedata.category(text[end]).startswith("M"):
            end += 1
        wider[token, 1] = end
    return wider


def _of_context(example: Example, windows: Sequence[tuple[int, int]]) -> NDArray[np.int32]:
    """[tokens, 2] the places of the context's tokens, each once although windows overlap."""
    parts, seen, at = [], 0, 0
    for start, length in windows:
        parts.append(example.offsets[at + 1 + seen - start : at + 1 + length])
        seen, at = start + length, at + 1 + length
    return np.concatenate(parts)


def _tokens(offsets: NDArray[np.int32], start: int, end: int) -> tuple[int, int] | None:
    """The first and the last token that hold something of the text from `start` to `end`; None where none does."""
    first = int(np.searchsorted(offsets[:, 1], start, side="right"))
    last = int(np.searchsorted(offsets[:, 0], end, side="left")) - 1
    return (first, last) if first <= last else None


def _joined(parts: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    return np.concatenate(parts) if parts else np.empty(0, np.int32)


def _percent(scores: NDArray[np.float64]) -> float:
    """The mean in percent, added up in order as the official scripts do."""
    return float(100.0 * sum(scores.tolist()) / len(scores))
