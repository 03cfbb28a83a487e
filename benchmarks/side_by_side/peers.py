"""Plain fine-tuning of a checkpoint with transformers' own model classes and Trainer, one class for each kind.

Knows transformers, torch and examples. Must not know manyheads.

Every `fine_tune_…` trains on examples and says something of each dev example, in the form that
`side_by_side.measures` takes: a label, tags, the text of an answer, the number of an ending, scores of candidates.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForMultipleChoice,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    set_seed,
)

from side_by_side.examples import Choices, Query, Question, Sentence, Texts
from side_by_side.measures import squad_scores
from side_by_side.trainer import EpochClock, training_arguments

__all__ = ["PEERS", "Outcome", "Settings"]

Features = list[dict[str, Any]]


@dataclass(frozen=True)
class Settings:
    """What a fine-tuning is told; the rest is as in `side_by_side.trainer`."""

    model: str
    """Folder of the checkpoint."""
    seed: int
    epochs: float
    batch_size: int
    lr: float
    max_length: int
    dropout: float
    stride: int = 128
    """Tokens that neighbouring windows of a paragraph share."""


@dataclass(frozen=True)
class Outcome:
    """What came of a fine-tuning."""

    answers: list[Any]
    """One for each dev example."""
    seconds: float
    """Of the training epochs, without the evaluation."""
    steps: int
    sequences: int
    """Sequences that an epoch reads: windows, endings and candidates each count."""


class _FineTuning:
    """A network of one of transformers' classes under its Trainer."""

    def __init__(self, settings: Settings, architecture: Any, **options: Any) -> None:
        set_seed(settings.seed)
        self.settings = settings
        # Whatever truncation and padding stand in the tokenizer's file, each call below says its own.
        self.tokenizer: Any = AutoTokenizer.from_pretrained(settings.model)
        self.network = architecture.from_pretrained(
            settings.model,
            dtype=torch.float32,
            hidden_dropout_prob=settings.dropout,
            attention_probs_dropout_prob=settings.dropout,
            **options,
        )
        self.clock = EpochClock()

    def features(self, *texts: Sequence[str], **labels: Sequence[int]) -> Features:
        """One text or a pair in a sequence, for each example, with what is to be learnt."""
        encoded = self.tokenizer(*texts, truncation=True, max_length=self.settings.max_length)
        columns = {**encoded, **labels}
        return [{name: column[i] for name, column in columns.items()} for i in range(len(texts[0]))]

    def run(
        self, train: Features, dev: Features, collate: Callable[[Any], dict[str, Any]]
    ) -> tuple[list[NDArray[np.float32]], "Trainer"]:
        """Train, then read dev once; returns the outputs in dev's order, padded to the longest."""
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                model=self.network,
                args=training_arguments(
                    folder,
                    best=True,
                    epochs=self.settings.epochs,
                    batch_size=self.settings.batch_size,
                    lr=self.settings.lr,
                    seed=self.settings.seed,
                ),
                train_dataset=train,  # a list has all that it asks of a Dataset
                data_collator=collate,
                callbacks=[self.clock],
            )
            trainer.train()
            # Trainer would draw the rows it predicts in an order of its own too, and not tell which; sorted here, they
            # are in batches of similar lengths all the same.
            trainer.args.train_sampling_strategy = "sequential"
            order = sorted(range(len(dev)), key=lambda i: -size(dev[i]["input_ids"]))
            found: Any = trainer.predict([dev[i] for i in order]).predictions  # type: ignore[arg-type]
        outputs = list(found) if isinstance(found, tuple) else [found]
        back = np.argsort(order)
        return [np.asarray(one)[back] for one in outputs], trainer

    def outcome(self, trainer: "Trainer", answers: list[Any], sequences: int) -> Outcome:
        """The outcome of this training."""
        return Outcome(answers, self.clock.seconds, int(trainer.state.global_step), sequences)


def size(ids: Any) -> int:
    """Tokens of a sequence, or of all of an example's."""
    return sum(map(len, ids)) if ids and isinstance(ids[0], list) else len(ids)


# ---- a label for a text or a pair ----


def fine_tune_sequences(train: Sequence[Texts], dev: Sequence[Texts], settings: Settings) -> Outcome:
    """A label for each dev example, by AutoModelForSequenceClassification."""
    labels = sorted({one.label for one in train})
    tuning = _FineTuning(settings, AutoModelForSequenceClassification, num_labels=len(labels))

    def features(examples: Sequence[Texts]) -> Features:
        columns = zip(*(one.texts for one in examples), strict=True)
        # A label that training has not seen is told of as any other mistake: by the measures.
        numbers = [labels.index(one.label) if one.label in labels else 0 for one in examples]
        return tuning.features(*map(list, columns), labels=numbers)

    rows = features(train)
    (logits,), trainer = tuning.run(rows, features(dev), DataCollatorWithPadding(tuning.tokenizer))
    return tuning.outcome(trainer, [labels[best] for best in logits.argmax(-1)], len(rows))


# ---- candidates of a query, each a pair of its own ----


def fine_tune_candidates(train: Sequence[Query], dev: Sequence[Query], settings: Settings) -> Outcome:
    """A score for each candidate of each dev query: P(relevant) by AutoModelForSequenceClassification on pairs."""
    tuning = _FineTuning(settings, AutoModelForSequenceClassification, num_labels=2)

    def features(queries: Sequence[Query]) -> Features:
        pairs = [
            (one.query, candidate, int(relevant))
            for one in queries
            for candidate, relevant in zip(one.candidates, one.relevant, strict=True)
        ]
        first, second, labels = zip(*pairs, strict=True)
        return tuning.features(list(first), list(second), labels=labels)

    rows = features(train)
    (logits,), trainer = tuning.run(rows, features(dev), DataCollatorWithPadding(tuning.tokenizer))
    scores = (logits[:, 1] - logits[:, 0]).tolist()  # rises with P(1), and does not round to 1
    ends = np.cumsum([len(one.candidates) for one in dev]).tolist()
    answers = [scores[end - len(one.candidates) : end] for one, end in zip(dev, ends, strict=True)]
    return tuning.outcome(trainer, answers, len(rows))


# ---- one of several endings ----


def fine_tune_choices(train: Sequence[Choices], dev: Sequence[Choices], settings: Settings) -> Outcome:
    """The number of an ending for each dev example, by AutoModelForMultipleChoice."""
    tuning = _FineTuning(settings, AutoModelForMultipleChoice)

    def features(examples: Sequence[Choices]) -> Features:
        count = len(examples[0].endings)
        flat = tuning.features(
            [one.text for one in examples for _ in one.endings],
            [ending for one in examples for ending in one.endings],
        )
        return [
            {name: [row[name] for row in flat[i * count : (i + 1) * count]] for name in flat[0]}
            | {"labels": one.label}
            for i, one in enumerate(examples)
        ]

    rows = features(train)
    collate = DataCollatorForMultipleChoice(tuning.tokenizer)
    (logits,), trainer = tuning.run(rows, features(dev), collate)
    return tuning.outcome(trainer, logits.argmax(-1).tolist(), sum(len(one.endings) for one in train))


# ---- a tag for each word ----


def fine_tune_words(train: Sequence[Sentence], dev: Sequence[Sentence], settings: Settings) -> Outcome:
    """Tags for the words of each dev sentence, by AutoModelForTokenClassification on their first pieces."""
    tags = sorted({tag for one in train for tag in one.tags})
    tuning = _FineTuning(settings, AutoModelForTokenClassification, num_labels=len(tags))

    def features(sentences: Sequence[Sentence]) -> tuple[Features, list[list[int | None]]]:
        encoded = tuning.tokenizer(
            [list(one.words) for one in sentences],
            is_split_into_words=True,
            truncation=True,
            max_length=settings.max_length,
        )
        rows, owners = [], []
        for i, one in enumerate(sentences):
            words = encoded.word_ids(i)
            first = [
                word if word is not None and word != before else None
                for before, word in zip([None, *words], words, strict=False)
            ]
            # A tag that training has not seen cannot be learnt; it is dev's, and dev's labels are not used.
            labels = [
                -100 if word is None or one.tags[word] not in tags else tags.index(one.tags[word])
                for word in first
            ]
            rows.append({name: column[i] for name, column in encoded.items()} | {"labels": labels})
            owners.append(first)
        return rows, owners

    rows, _ = features(train)
    dev_rows, owners = features(dev)
    (logits,), trainer = tuning.run(rows, dev_rows, DataCollatorForTokenClassification(tuning.tokenizer))
    answers = []
    for one, first, scores in zip(dev, owners, logits, strict=True):
        said = ["O"] * len(one.words)  # also of words that are cut off, or that have no piece at all
        for place, word in enumerate(first):
            if word is not None:
                said[word] = tags[int(scores[place].argmax())]
        answers.append(said)
    return tuning.outcome(trainer, answers, len(rows))


# ---- an answer in a paragraph ----

_BEST = 20  # starts and ends that are looked at in a window
_LONGEST = 30  # tokens of an answer


def fine_tune_answers(train: Sequence[Question], dev: Sequence[Question], settings: Settings) -> Outcome:
    """The text of an answer for each dev question, by AutoModelForQuestionAnswering.

    As in transformers' example for question answering: overlapping windows; a window without the answer points at
    [CLS]; of the best starts and ends the pair with the greatest sum, over all windows of a question. Where
    questions may have no answer, "" wins by more than a threshold that is chosen on dev, as the official script
    for v2.0 chooses it.
    """
    tuning = _FineTuning(settings, AutoModelForQuestionAnswering)
    rows, _ = _windows(tuning, train)
    dev_rows, windows = _windows(tuning, dev)
    (starts, ends), trainer = tuning.run(rows, dev_rows, DataCollatorWithPadding(tuning.tokenizer))
    best: list[tuple[float, str]] = [(-np.inf, "")] * len(dev)
    none = [np.inf] * len(dev)
    for (owner, offsets), start, end in zip(windows, starts, ends, strict=True):
        none[owner] = min(none[owner], float(start[0] + end[0]))
        score, begin, stop = _best_span(start, end, offsets)
        if score > best[owner][0]:
            best[owner] = (score, dev[owner].context[begin:stop])
    answers = [text for _, text in best]
    if any(not one.answers for one in [*train, *dev]):
        odds = [nothing - score for nothing, (score, _) in zip(none, best, strict=True)]
        threshold = _threshold(dev, answers, odds)
        answers = ["" if odd > threshold else text for text, odd in zip(answers, odds, strict=True)]
    return tuning.outcome(trainer, answers, len(rows))


Window = tuple[int, list[tuple[int, int] | None]]
"""The number of the question, and for each token its characters in the paragraph; None outside the paragraph."""


def _windows(tuning: _FineTuning, questions: Sequence[Question]) -> tuple[Features, list[Window]]:
    encoded = tuning.tokenizer(
        [one.question.lstrip() for one in questions],  # blanks in front would crowd out the paragraph
        [one.context for one in questions],
        truncation="only_second",
        max_length=tuning.settings.max_length,
        stride=tuning.settings.stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    rows: Features = []
    windows: list[Window] = []
    for i, owner in enumerate(encoded["overflow_to_sample_mapping"]):
        offsets = [
            place if part == 1 else None
            for place, part in zip(encoded["offset_mapping"][i], encoded.sequence_ids(i), strict=True)
        ]
        first, last = _tokens_of_answer(questions[owner], offsets)
        names = ("input_ids", "token_type_ids", "attention_mask")
        row = {name: encoded[name][i] for name in names}
        rows.append(row | {"start_positions": first, "end_positions": last})
        windows.append((owner, offsets))
    return rows, windows


def _tokens_of_answer(question: Question, offsets: Sequence[tuple[int, int] | None]) -> tuple[int, int]:
    """The first and the last token of the first answer; [CLS] twice where it is not all in the window."""
    if not question.answers:
        return 0, 0
    text, begin = question.answers[0]
    end = begin + len(text)
    inside = [place for place, offset in enumerate(offsets) if offset is not None]
    first = [place for place in inside if offsets[place][0] <= begin]  # type: ignore[index]
    last = [place for place in inside if offsets[place][1] >= end]  # type: ignore[index]
    if not first or not last or offsets[inside[-1]][1] < end:  # type: ignore[index]
        return 0, 0
    return first[-1], last[0]


def _best_span(
    start: NDArray[np.float32], end: NDArray[np.float32], offsets: Sequence[tuple[int, int] | None]
) -> tuple[float, int, int]:
    """(sum of the scores, first character, one beyond the last) of the window's best answer."""
    found = (-np.inf, 0, 0)
    # The rows of a batch are padded: what is beyond this window's own tokens does not count.
    firsts, lasts = (np.argsort(-one[: len(offsets)], kind="stable")[:_BEST] for one in (start, end))
    for i in firsts.tolist():
        for j in lasts.tolist():
            first, last = offsets[i], offsets[j]
            if first is None or last is None or not i <= j < i + _LONGEST:
                continue
            if (score := float(start[i] + end[j])) > found[0]:
                found = (score, first[0], last[1])
    return found


def _threshold(questions: Sequence[Question], answers: Sequence[str], odds: Sequence[float]) -> float:
    """The threshold with the greatest F1: questions are given their answers in the order of rising odds of none."""
    gains = [
        squad_scores(one, text, True)[0] - squad_scores(one, "", True)[0]
        for one, text in zip(questions, answers, strict=True)
    ]
    order = np.argsort(np.asarray(odds), kind="stable")
    sums = np.cumsum(np.asarray(gains)[order])
    best = int(sums.argmax())
    return float(odds[order[best]]) if sums[best] > 0 else -np.inf


PEERS: dict[str, Callable[[Any, Any, Settings], Outcome]] = {
    "sequences": fine_tune_sequences,
    "candidates": fine_tune_candidates,
    "choices": fine_tune_choices,
    "words": fine_tune_words,
    "answers": fine_tune_answers,
}
