"""The kind `tagging`: a tag for each word, and the entities that the tags write.

Knows words, tags and scores of marked tokens. Must not know data files, recipes or the loop.

The first piece of a word stands for it, the others are read but not asked (Devlin et al. 2019, section 5.3). A
sentence that does not fit in one sequence goes over several, and every word of it is asked once.
"""

import json
import math
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar, final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from manyheads.encoder.bert import Encoder
from manyheads.encoder.clean import cleaned_with_offsets
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layout import Layout
from manyheads.encoder.tokenizer import Tokenizer, Word
from manyheads.errors import InputError, nearest, shown
from manyheads.formulas import calibration, metrics, smart
from manyheads.formulas.metrics.entities import entities, entity_counts, parted
from manyheads.tasks.head import Head
from manyheads.tasks.heads.bilstm import BiLSTMHead
from manyheads.tasks.heads.layer_choice import Layers
from manyheads.tasks.heads.relation import Relation
from manyheads.tasks.heads.tokens import TokenHead
from manyheads.tasks.kind import ColumnError, Example, Kind, KindSettings, Prediction, Span, Tagged
from manyheads.tasks.tags import Scheme, convert, detect, labels_of, moves, pieces_of, types_of, viterbi

__all__ = ["Tagging", "TaggingSettings"]

P = TypeVar("P")

_MOST_LABELS = 1000  # more tags than this are almost surely not tags
_SPACED = re.compile(r"\S+")
# Words of a text that only lends context: CJK characters, runs of letters, single signs, as BERT sees them.
_WORD = re.compile(
    "[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
    "|[^\\W\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
    "|[^\\w\\s]"
)


class TaggingSettings(KindSettings):
    """Settings of `kind: tagging`."""

    kind: Literal["tagging"] = "tagging"
    """Which kind of task this is."""
    words: str = "words"
    """The column with the words of a sentence: a list, or a text that `split` cuts."""
    tags: str = "tags"
    """The column with their tags: a list, or a text with spaces between them."""
    labels: tuple[str, ...] | None = None
    """The tags in their order; needed where the files write numbers. Default: those of the training rows' types,
    sorted."""
    scheme: Literal["auto", "iob1", "iob2", "bioes"] = "auto"
    """How the files' tags write entities; auto: as the training rows tell."""
    inside: Literal["iob2", "bioes"] = "iob2"
    """The scheme that is learnt and predicted; the files' tags are converted."""
    split: Literal["words", "spaces", "characters"] = "words"
    """What of a text is a word: what BERT's tokenizer takes for one (runs of letters, single signs, CJK characters),
    what stands between spaces, or each character."""
    context: Literal["none", "document"] = "none"
    """`document`: what a sentence leaves free of `max_length` is filled with the words before and after it in its
    document; they are read, not tagged."""
    document: str = "document"
    """For `context: document`: the column with what is the same in all sentences of a document."""
    decode: Literal["free", "valid"] = "free"
    """`free`: each word's most probable tag; `valid`: the most probable sequence that the scheme allows (Viterbi)."""
    head: Literal["linear", "bilstm"] = "linear"
    """The head over the states of the words' first pieces."""
    layers: Layers = "last"
    """The states that the head reads: of the `last` layer, the `embeddings`, `second_to_last`,
    `sum_last_four`, `concat_last_four` or `sum_all`."""
    width: Annotated[int, Field(ge=1)] | None = None
    """For `bilstm`: units in each direction; default 768."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the head's input that is dropped while training; default: the encoder's dropout."""
    max_length: Annotated[int, Field(ge=3)] = 128
    """Longest sequence in tokens, [CLS] and [SEP] included; a longer sentence goes over several sequences."""

    @model_validator(mode="after")
    def _width_belongs(self) -> Self:
        if self.width is not None and self.head != "bilstm":
            raise ValueError(f"'width' has no meaning for 'head: {self.head}'")
        return self

    @model_validator(mode="after")
    def _labels_are_tags(self) -> Self:
        for label in self.labels or ():
            try:
                parted(label, "bioes")
            except ValueError:
                raise ValueError(f"'labels' expects tags such as O and B-PER, found {shown(label)}") from None
        if self.labels is not None:
            twice = sorted({name for name in self.labels if self.labels.count(name) > 1})
            if twice:
                raise ValueError(f"'labels' names {', '.join(map(repr, twice))} twice")
            if not types_of(self.labels, "bioes"):
                raise ValueError("'labels' expects tags such as O and B-PER, found none of an entity")
        return self


class _TagError(ValueError):
    """What is wrong with a sentence's tags: `word` is the number of the word in the sentence, `index` that of the
    sentence in what was to be learnt; both from 0, None where they are not known."""

    index: int | None = None

    def __init__(self, message: str, word: int | None = None) -> None:
        super().__init__(message if word is None else f"word {word + 1}: {message}")
        self.word = word


class _Framed(NamedTuple):
    """The words of a sentence, and those around it as text with spaces."""

    words: object
    before: str
    after: str


@final
class Tagging(Kind[Grouped]):
    """Tags of words; measures the F1 of entities (first), precision and recall as conlleval counts them, and accuracy.

    Outputs are `Grouped`: a row [labels] a word, a group a sequence. Targets are the numbers of the words' labels,
    end to end.
    """

    Settings = TaggingSettings
    settings: TaggingSettings
    squared = False
    keeps_inputs = True

    def __init__(self, settings: TaggingSettings, facts: Mapping[str, Any] | None = None) -> None:
        self.settings = settings
        self._take_temperature(facts)
        self._learnt = bool(facts)
        self.scheme: Scheme = "iob2" if settings.scheme == "auto" else settings.scheme
        self._name(())
        if facts:
            self.scheme = facts["scheme"]
            self._name(tuple(facts["labels"]))
        elif settings.labels:
            self._name_types(types_of(settings.labels, "bioes"))

    def _name_types(self, types: Sequence[str]) -> None:
        made, given = labels_of(types, self.settings.inside), self.settings.labels or ()
        self._name(given if set(given) == set(made) else made)

    def _name(self, labels: tuple[str, ...]) -> None:
        self.labels: tuple[str, ...] = labels
        self._number = {label: number for number, label in enumerate(labels)}

    # ---- what it reads ----

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.settings.words,)

    @property
    def also(self) -> tuple[str, ...]:
        return () if self.settings.context == "none" else (self.settings.document,)

    @property
    def target_column(self) -> str:
        return self.settings.tags

    @property
    def reads(self) -> int:
        return 1

    @property
    def laid_by(self) -> Any:
        settings = self.settings
        around = () if settings.context == "none" else (settings.document, settings.max_length)
        return [settings.words, settings.split, settings.context, *around, self.cleaned_by]

    def gather(self, rows: Iterator[tuple[P, dict[str, Any]]]) -> Iterator[tuple[P, dict[str, Any]]]:
        """With `context: document`, each sentence with the words around it; so many are held as fill a sequence."""
        return rows if self.settings.context == "none" else self._with_context(rows)

    def _with_context(self, rows: Iterator[tuple[P, dict[str, Any]]]) -> Iterator[tuple[P, dict[str, Any]]]:
        room = self.settings.max_length - 2
        column = self.settings.words
        held: list[tuple[P, dict[str, Any], list[str]]] = []  # sentences of one document, with their words
        waiting = 0  # the first of them that has not been given on
        document: object = None
        for place, values in rows:
            before, document = document, self._document(values)
            if document != before:
                yield from (_framed(held, number, room, column) for number in range(waiting, len(held)))
                held, waiting = [], 0
            held.append((place, values, self._loose(values.get(column))))
            while waiting < len(held) and _count(held[waiting + 1 :]) >= room:
                yield _framed(held, waiting, room, column)
                waiting += 1
            while waiting and _count(held[1:waiting]) >= room:
                del held[0]
                waiting -= 1
        yield from (_framed(held, number, room, column) for number in range(waiting, len(held)))

    def _document(self, values: Mapping[str, Any]) -> object:
        if self.settings.document not in values:
            raise ColumnError(
                self.settings.document,
                "'context: document' needs this column, with what is the same in all sentences of a document",
            )
        return values[self.settings.document]

    def _loose(self, value: object) -> list[str]:
        """The words of a sentence as context for others; what is none is told when its own turn comes."""
        if isinstance(value, str):
            return [*"".join(value.split())] if self.settings.split == "characters" else _WORD.findall(value)
        return (
            [part for word in value for part in str(word).split()] if isinstance(value, list | tuple) else []
        )

    def input(self, values: Mapping[str, Any]) -> Any:
        """A list of words or a text; with context, {words: one of these, before: text, after: text}."""
        found = values[self.settings.words]
        if isinstance(found, _Framed):
            return {"words": self._sentence(found.words), "before": found.before, "after": found.after}
        return self._sentence(found)

    def kept(self, one: Any) -> Any:
        """Without the context: nothing is predicted for it."""
        return _words_in(one)

    def _sentence(self, value: object) -> list[str] | str:
        column = self.settings.words
        if isinstance(value, str):
            return value
        if not isinstance(value, list | tuple):
            found = "null" if value is None else shown(value)
            raise ColumnError(column, f"found {found}, expected a list of words or a text")
        for number, word in enumerate(value, start=1):
            if not isinstance(word, str):
                found = "null" if word is None else shown(word)
                raise ColumnError(column, f"word {number}: found {found}, expected a text")
        return list(value)

    def given(self, one: object) -> dict[str, Any]:
        if isinstance(one, str):
            return {self.settings.words: one}
        if isinstance(one, Sequence) and all(isinstance(word, str) for word in one):
            return {self.settings.words: list(one)}
        raise ValueError(f"expected a text or a list of words, found {shown(one)}")

    def lay(self, inputs: Sequence[Any], tokenizer: Tokenizer, max_length: int) -> Layout:
        """Each sentence in one sequence, or several; the words' first pieces are marked, each in one sequence."""
        room = max_length - 2
        if room < 1:
            raise InputError(
                f"found max_length {max_length}, expected 3 or more: [CLS], a word's piece and [SEP]"
            )
        sentences = [self._words(_words_in(one), tokenizer) for one in inputs]
        read = [self._read(_words_in(one), words) for one, words in zip(inputs, sentences, strict=True)]
        around = [
            tuple(self.cleaned(one[side]).split() for side in ("before", "after"))
            if isinstance(one, dict)
            else ([], [])
            for one in inputs
        ]
        texts = chain(
            (word for words in read for word in words),
            (word for sides in around for side in sides for word in side),
        )
        pieces = pieces_of(texts, tokenizer)
        unknown = [tokenizer.unk_id]
        ids: list[int] = []
        marks: list[bool] = []
        lengths: list[int] = []
        dropped: list[int] = []
        counts: list[int] = []
        for words, sides in zip(read, around, strict=True):
            before, after = ([pieces[word] for word in side if pieces[word]] for side in sides)
            stream = [*before, *(pieces[word] or unknown for word in words), *after]
            sizes = [min(len(one), room) for one in stream]
            windows = list(_windows(sizes, len(before), len(before) + len(words), room))
            for begin, first, last, end in windows or [(0, 0, 0, 0)]:
                start = len(ids)
                ids.append(tokenizer.cls_id)
                marks.append(False)
                for place in range(begin, end):
                    ids += stream[place][:room]
                    marks.append(first <= place < last)
                    marks += [False] * (sizes[place] - 1)
                ids.append(tokenizer.sep_id)
                marks.append(False)
                lengths.append(len(ids) - start)
                dropped.append(sum(len(stream[place]) - sizes[place] for place in range(first, last)))
            counts.append(max(1, len(windows)))
        places = [(word.start, word.end) for words in sentences for word in words]
        return Layout(
            np.array(ids, dtype=np.int32),
            np.zeros(len(ids), dtype=np.uint8),
            np.array(lengths, dtype=np.int32),
            np.array(dropped, dtype=np.int32),
            np.array(counts, dtype=np.int32),
            np.array(marks, dtype=np.bool_),
            np.array(places, dtype=np.int32).reshape(-1, 2),
        )

    def _words(self, sentence: list[str] | str, tokenizer: Tokenizer) -> list[Word]:
        """The words with their places in the sentence's text, which of a list is its words with spaces between."""
        if not isinstance(sentence, str):
            ends = np.cumsum([len(word) + 1 for word in sentence]).tolist()
            return [
                Word(word, end - 1 - len(word), end - 1) for word, end in zip(sentence, ends, strict=True)
            ]
        match self.settings.split:
            case "characters":
                return [Word(sign, place, place + 1) for place, sign in enumerate(sentence)]
            case "spaces":
                return [Word(found[0], *found.span()) for found in _SPACED.finditer(sentence)]
        found = tokenizer.words(sentence)
        return found if sentence.isascii() else [_with_accents(word, sentence) for word in found]

    def _read(self, sentence: list[str] | str, words: list[Word]) -> list[str]:
        """The words as they are read; one that cleaning takes away is empty."""
        whole = sentence if isinstance(sentence, str) else " ".join(sentence)
        text, offsets = cleaned_with_offsets(whole, self.settings.clean)
        if offsets is None:
            return [word.text for word in words]
        begins = [begin for begin, _ in offsets]
        return [
            text[bisect_left(begins, word.start) : bisect_left(begins, word.end)].strip() for word in words
        ]

    # ---- what it learns ----

    def learn(self, values: Sequence[object]) -> None:
        """The types and the scheme. What is no tag is left to `target`; where it leaves nothing to learn, the
        ValueError tells of the first such value, and has its number, from 0, as `index`."""
        if self._learnt:
            return
        known = []
        wrong: _TagError | None = None
        for index, value in enumerate(values):
            try:
                tags = self._tags(value)
                _check(tags, "bioes")
            except _TagError as error:
                if wrong is None:
                    wrong, error.index = error, index
                continue
            known.append(tags)
        if self.settings.scheme == "auto":
            self.scheme = detect(known)
        if not self.labels:
            types = sorted({type_ for tags in known for type_ in types_of(tags, "bioes")})
            if not types:
                raise wrong or ValueError("expected tags such as O and B-PER, found none of an entity")
            if len(types) > _MOST_LABELS:
                raise ValueError(
                    f"expected tags, found {len(types)} different types such as {shown(types[0])}"
                )
            self._name_types(types)
        self._learnt = True

    def facts(self) -> dict[str, Any]:
        return self._with_temperature({"labels": list(self.labels), "scheme": self.scheme})

    def target(self, value: object, example: Example | None = None) -> list[float]:
        """The numbers of the words' labels. A ValueError about one word has its number, from 0, as `word`."""
        tags = self._tags(value)
        if example is not None and len(tags) != (words := int(example.sizes.sum())):
            found = f"{len(tags)} tag{'s' * (len(tags) != 1)} for {words} word{'s' * (words != 1)}"
            raise ValueError(
                f"found {found}, expected one each{self._better_split(example.input, len(tags))}"
            )
        _check(tags, self.scheme)
        numbers = []
        for place, label in enumerate(convert(tags, self.scheme, self.settings.inside)):
            number = self._number.get(label)
            if number is None:
                known = types_of(self.labels, self.settings.inside)
                type_ = parted(label, self.settings.inside)[1]
                expected = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
                raise _TagError(
                    f"found {shown(tags[place])}, expected one of the types {expected}{nearest(type_, known)}",
                    word=place,
                )
            numbers.append(float(number))
        return numbers

    def _better_split(self, one: Any, tags: int) -> str:
        """A hint at the `split` that gives a text as many words as it has tags, if one does."""
        text = _words_in(one)
        if not isinstance(text, str):
            return ""
        words = {"spaces": len(_SPACED.findall(text)), "characters": len(text)}
        fitting = [split for split in words if words[split] == tags and split != self.settings.split]
        return f"; `split: {fitting[0]}` would give as many words" if fitting else ""

    def _tags(self, value: object) -> list[str]:
        """The tags as the file writes them, numbers by their names; _TagError for what are none."""
        if isinstance(value, str):
            if value.lstrip().startswith("["):
                raise _TagError(
                    f"found {shown(value)}, a list as text; expected tags with spaces between them"
                )
            return value.split()
        if not isinstance(value, list | tuple):
            raise _TagError(f"found {'null' if value is None else shown(value)}, expected a list of tags")
        names = self.settings.labels
        tags = []
        for place, tag in enumerate(value):
            if isinstance(tag, str):
                tags.append(tag)
            elif isinstance(tag, int) and not isinstance(tag, bool) and names and 0 <= tag < len(names):
                tags.append(names[tag])
            else:
                expected = "a tag such as O or B-PER"
                if isinstance(tag, int):
                    expected = (
                        f"a number below {len(names)}" if names else f"{expected} ('labels' names numbers)"
                    )
                found = "null" if tag is None else shown(tag)
                raise _TagError(f"found {found}, expected {expected}", word=place)
        return tags

    def build_head(
        self, hidden: int, dropout: float, relation: Relation | None = None, encoder: Encoder | None = None
    ) -> Head:
        if relation is not None:
            raise ValueError("a relation layer is for tasks on pairs")
        settings, outputs = self.settings, len(self.labels)
        share = dropout if settings.dropout is None else settings.dropout
        if settings.head == "linear":
            return TokenHead(hidden, outputs, layers=settings.layers, dropout=share)
        return BiLSTMHead(
            hidden, outputs, layers=settings.layers, pool=False, width=settings.width or 768, dropout=share
        )

    def loss(self, outputs: Grouped, targets: Tensor) -> Tensor:
        """Cross entropy of logits [W, labels] with label numbers [W] or probabilities [W, labels], mean over words."""
        if not len(outputs.rows):
            return outputs.rows.sum()
        soft = targets.ndim == 2
        return F.cross_entropy(outputs.rows, targets.to(outputs.rows.dtype) if soft else targets.long())

    def counted(self, targets: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Words."""
        return sizes.astype(np.float64)

    def soft(self, targets: Tensor, outputs: Grouped | None = None) -> Tensor:
        return F.one_hot(targets.long(), len(self.labels)).to(targets.dtype)

    def answers(self, outputs: Grouped) -> Tensor:
        return outputs.rows.softmax(1)

    def from_answers(self, answers: Tensor, outputs: Grouped) -> Grouped:
        return outputs.with_rows(answers.log())

    def aligned(self, answers: Tensor, teacher: Kind) -> Tensor:
        if not isinstance(teacher, Tagging):
            raise ValueError(f"is of kind {teacher.settings.kind}, expected {self.settings.kind}")
        if sorted(teacher.labels) != sorted(self.labels):
            raise ValueError(f"has the labels {', '.join(teacher.labels)}, expected {', '.join(self.labels)}")
        return answers[:, [teacher.labels.index(label) for label in self.labels]]

    def tempered(self, outputs: Grouped, temperature: float) -> Grouped:
        return outputs.with_rows(outputs.rows / temperature)

    def distance(self, p: Grouped, q: Grouped) -> Tensor:
        """KL(P‖Q) + KL(Q‖P) of each word's two distributions, mean over words (Jiang et al. 2020, equation 3)."""
        return smart.symmetric_kl(p.rows, q.rows)

    # ---- what it says ----

    def predictions(self, outputs: Grouped, examples: Sequence[Example] | None = None) -> list[Prediction]:
        """`tokens`: each word's tag; `spans`: the entities that they write, read as conlleval reads them, with the
        mean probability of their words' tags."""
        if examples is None:
            raise ValueError("tags are told with their words, and the examples are not known")
        numbers, log = self._decoded(outputs)
        shares = np.exp(log[np.arange(len(log)), numbers])
        told = []
        begin = 0
        for example, size in zip(examples, outputs.rows_of_examples.tolist(), strict=True):
            own = slice(begin, begin + size)
            labels = [self.labels[number] for number in numbers[own].tolist()]
            told.append(self._told(example, labels, shares[own].tolist()))
            begin += size
        return told

    def _told(self, example: Example, labels: list[str], shares: list[float]) -> Prediction:
        text = _text_of(example.input)
        places = example.offsets.tolist()
        words = tuple(
            Tagged(text[start:end], start, end, label, share)
            for (start, end), label, share in zip(places, labels, shares, strict=True)
        )
        spans = []
        for type_, first, last in entities(labels, self.settings.inside):
            start, end = places[first][0], places[last - 1][1]
            score = math.fsum(shares[first:last]) / (last - first)
            spans.append(Span(start, end, text[start:end], type_, score))
        return Prediction(spans=tuple(spans), tokens=words)

    def measures(
        self, outputs: Grouped, targets: Tensor, examples: Sequence[Example] | None = None
    ) -> dict[str, float]:
        numbers, _ = self._decoded(outputs)
        right, said, true = self._counts(outputs, targets, numbers).sum(0).tolist()
        gold = targets.long().cpu().numpy()
        return {
            "f1": 2 * right / (said + true) if right else 0.0,
            "precision": right / said if said else 0.0,
            "recall": right / true if true else 0.0,
            "accuracy": metrics.accuracy(gold, numbers) if len(gold) else math.nan,
            "loss": float(self.loss(outputs, targets)),
        }

    def tallies(
        self, outputs: Grouped, targets: Tensor, examples: Sequence[Example] | None = None
    ) -> NDArray[np.float64]:
        """[n, 5]: 1, whether all entities of the sentence are right and no other is said, how many are right, said,
        true."""
        counts = self._counts(outputs, targets, self._decoded(outputs)[0])
        whole = (counts[:, 0] == counts[:, 1]) & (counts[:, 0] == counts[:, 2])
        return np.column_stack([np.ones(len(counts)), whole, counts]).astype(np.float64)

    def measure_of(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """F1 of the entities; 0, as conlleval says, where there are none."""
        right, both = sums[..., 2], sums[..., 3] + sums[..., 4]
        return np.asarray(np.where(right > 0, 2 * right / np.maximum(both, 1), 0.0))

    def goodness(self, first_measure: float) -> float:
        return 0.0 if math.isnan(first_measure) else first_measure

    def fitted_temperature(self, outputs: Grouped, targets: Tensor) -> float:
        """Of each word's softmax over the labels. The most probable tags of a sentence stay the same ones: all of
        them are divided alike."""
        return calibration.temperature(outputs.rows, targets)

    def cells(self, prediction: Prediction) -> list[dict[str, Any]]:
        """`tags` with spaces between, as the model has learnt them, and `spans` as JSON."""
        spans = [
            {
                "start": span.start,
                "end": span.end,
                "text": span.text,
                "label": span.label,
                "score": span.score,
            }
            for span in prediction.spans
        ]
        tags = " ".join(word.label for word in prediction.tokens)
        return [{"tags": tags, "spans": json.dumps(spans, ensure_ascii=False)}]

    def told(self, value: Any) -> list[Any]:
        """The tags as the model has learnt them, with spaces between."""
        return [" ".join(convert(self._tags(value), self.scheme, self.settings.inside))]

    def _decoded(self, outputs: Grouped) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """[W] the words' label numbers, and [W, labels] log-probabilities."""
        log = outputs.rows.detach().double().log_softmax(1).cpu().numpy()
        if self.settings.decode == "free":
            return log.argmax(1), log
        allowed = moves(self.labels, self.settings.inside)
        return viterbi(log, outputs.rows_of_examples, allowed), log

    def _counts(self, outputs: Grouped, targets: Tensor, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n, 3] entities of each sentence: right, said, true."""
        ends = np.cumsum(outputs.rows_of_examples).tolist()
        both = []
        for found in (targets.long().tolist(), numbers.tolist()):
            names = [self.labels[number] for number in found]
            both.append([names[begin:end] for begin, end in zip([0, *ends], ends, strict=False)])
        return entity_counts(both[0], both[1], self.settings.inside)


# ---- sentences ----


def _check(tags: Sequence[str], scheme: Scheme) -> None:
    """_TagError, with the word, for what is no tag of the scheme."""
    for place, tag in enumerate(tags):
        try:
            parted(tag, scheme)
        except ValueError as error:
            raise _TagError(str(error), word=place) from None


def _words_in(one: Any) -> list[str] | str:
    """The words of an input, or its text."""
    words: list[str] | str = one["words"] if isinstance(one, dict) else one
    return words


def _text_of(one: Any) -> str:
    """The text that an input's offsets count in."""
    words = _words_in(one)
    return words if isinstance(words, str) else " ".join(words)


def _with_accents(word: Word, text: str) -> Word:
    """A word with the combining marks behind it, which the tokenizer may have dropped."""
    end = word.end
    while end < len(text) and unicodedata.combining(text[end]):
        end += 1
    return word if end == word.end else Word(text[word.start : end], word.start, end)


# ---- context ----


def _count(held: Sequence[tuple[Any, Any, list[str]]]) -> int:
    return sum(len(words) for _, _, words in held)


def _framed(
    held: Sequence[tuple[P, dict[str, Any], list[str]]], number: int, room: int, column: str
) -> tuple[P, dict[str, Any]]:
    """A sentence with as many of the words around it as may find a place beside it, a piece for each at least."""
    place, values, words = held[number]
    free = max(0, room - len(words))
    before = [word for _, _, own in held[:number] for word in own][-free:] if free else []
    after = [word for _, _, own in held[number + 1 :] for word in own][:free]
    framed = _Framed(values.get(column), " ".join(before), " ".join(after))
    return place, {**values, column: framed}


def _windows(sizes: Sequence[int], first: int, last: int, room: int) -> Iterator[tuple[int, int, int, int]]:
    """Sequences for the words `first` … `last` of a stream of words of so many pieces each, none above `room`.

    Each is (begin, first, last, end): the words from begin to end are read, those from first to last are asked. As
    many words are asked as fit; the rest of the room is shared by the words on both sides.
    """
    place = first
    while place < last:
        end, free = place, room
        while end < last and sizes[end] <= free:
            free -= sizes[end]
            end += 1
        begin, stop, left = place, end, free // 2
        while stop < len(sizes) and sizes[stop] <= free - left:
            free -= sizes[stop]
            stop += 1
        while begin > 0 and sizes[begin - 1] <= free:
            begin -= 1
            free -= sizes[begin]
        while stop < len(sizes) and sizes[stop] <= free:  # what the left side had no use for
            free -= sizes[stop]
            stop += 1
        yield begin, place, end, stop
        place = end
