"""What a report tells of a finished run: scores with their intervals, calibration, classes, lengths, the worst errors.

Knows runs, their models, kinds, and the recipe's files where they are at hand. Must not know how it is drawn or laid
out.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manyheads.data.encode import TokenCache, file_fingerprint
from manyheads.encoder.layout import spread
from manyheads.errors import InputError
from manyheads.evidence.answered import Answered, Confusion
from manyheads.evidence.interval import interval
from manyheads.evidence.outcome import Outcome, records
from manyheads.formulas import calibration
from manyheads.formulas.calibration import Reliability
from manyheads.model import Model
from manyheads.recipe import Recipe
from manyheads.tasks import Kind, Prediction
from manyheads.tasks.documents import DocumentKind
from manyheads.tasks.head import Rows, ordered
from manyheads.training.evaluate import outputs_of, score, tallies
from manyheads.training.splits import Split, TaskData, load_task, sources_of

__all__ = ["Calibration", "Findings", "Mistake", "Score", "SplitFindings", "TaskFindings", "find"]

Floats = NDArray[np.float64]
Piece = tuple[str, str | None]
"""A part of a text, and what it is marked as."""

_WORST = 12  # errors that are shown of a split
_FEWEST = 20  # answers by which a temperature is fitted here: of fewer it would say nothing
_EXCERPT = 400  # characters of a text that are shown


@dataclass(frozen=True)
class Score:
    """A measure of a task on a split."""

    name: str
    value: float
    interval: tuple[float, float] | None = None
    """95%, of the first measure alone; None where the run has no tallies."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """How often answers of about the same probability are right, as the head gives it and after temperature scaling."""

    what: str
    """What is counted: answers, or words."""
    before: Reliability
    after: Reliability | None
    """None for a kind whose probabilities are no softmax of its scores, and for few examples."""
    temperature: float | None
    """What the scores are divided by: the temperature that dev gives, all of it."""
    fitted: str
    """On which examples the temperatures of `after` were found."""


@dataclass(frozen=True)
class Mistake:
    """An example that was answered wrongly."""

    place: str
    texts: tuple[tuple[str, tuple[Piece, ...]], ...]
    """(name, the text in pieces)"""
    gold: str
    said: str
    confidence: float | None
    """The probability of what was said."""


@dataclass(frozen=True, eq=False)
class SplitFindings:
    """One scored split of a task."""

    name: str
    scores: tuple[Score, ...]
    examples: int | None = None
    confusion: Confusion | None = None
    calibration: Calibration | None = None
    worst: tuple[Mistake, ...] = ()
    wrong: int | None = None
    """How many answers are wrong, where an answer is right or wrong."""


@dataclass(frozen=True, eq=False)
class TaskFindings:
    """One task of a run."""

    name: str
    kind: str
    max_length: int
    splits: tuple[SplitFindings, ...]
    lengths: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """Split → tokens of each sequence before anything is cut."""
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    """Split → label → rows."""
    missing: str | None = None
    """Why nothing is told that needs the data; None where they are at hand."""


@dataclass(frozen=True, eq=False)
class Findings:
    """All that a report tells."""

    name: str
    folder: str
    tasks: tuple[TaskFindings, ...]
    records: list[dict[str, Any]]
    """The run's journal, in its order."""
    recipe: Recipe
    files: tuple[tuple[str, str], ...]
    """(file of data, its fingerprint as it is now, or why it has none)"""
    tokenizer: str | None
    """The tokenizer's fingerprint."""


def find(
    folder: Path,
    splits: Sequence[str] | None = None,
    *,
    overrides: Sequence[str] = (),
    model: Model | None = None,
    cache: TokenCache | None = None,
) -> Findings:
    """What a report on the run in `folder` tells; `splits` default to all that were scored.

    `overrides` change the recipe that says where the data are. `model`, where it is given, is the run's. Raises
    InputError where the folder is no finished run, or no task has such a split.
    """
    outcome = Outcome.open(folder)
    for split in splits or ():
        if split not in outcome.splits:
            known = ", ".join(outcome.splits) or "none"
            raise InputError(f"no scores of a split {split!r}; there are {known}", file=folder)
    recipe = outcome.run.recipe.with_overrides(overrides)
    if model is None and outcome.has_model:
        model = outcome.run.model()
    wanted = [one for one in outcome.splits if splits is None or one in splits]
    return Findings(
        recipe.name,
        str(folder),
        tuple(_task(name, outcome, recipe, wanted, model, cache) for name in recipe.tasks),
        list(records(folder)),
        recipe,
        tuple(_files(recipe)),
        None if model is None else model.tokenizer.fingerprint,
    )


# ---- one task ----


def _task(
    name: str,
    outcome: Outcome,
    recipe: Recipe,
    wanted: Sequence[str],
    model: Model | None,
    cache: TokenCache | None,
) -> TaskFindings:
    section = recipe.tasks[name]
    told = [
        SplitFindings(split, _scores(outcome, name, split), _count(outcome, name, split))
        for split in wanted
        if outcome.scores(split).get(name)
    ]
    bare = TaskFindings(name, section.kind, section.max_length, tuple(told))
    if model is None:
        return _without(bare, "the run's model was not kept")
    kind = model.task(name).kind
    if isinstance(kind, DocumentKind):
        return bare
    try:
        data = load_task(
            name,
            recipe,
            model.tokenizer,
            positions=model.network.encoder.shape.positions,
            kind=kind,
            cache=cache or TokenCache(),
        )
    except (InputError, OSError) as error:
        return _without(bare, str(error))
    shown = [one.name for one in told]
    answered = {
        split: _answered(name, split, model, data)
        for split in dict.fromkeys(["dev", *shown])
        if split in data.splits and data.splits[split].targets is not None and len(data.splits[split])
    }
    return TaskFindings(
        name,
        section.kind,
        section.max_length,
        tuple(
            _told(one, answered[one.name], answered.get("dev"), recipe, data) if one.name in answered else one
            for one in told
        ),
        {
            split: (rows.rows.layout.lengths + rows.rows.layout.dropped).astype(np.int64)
            for split, rows in data.splits.items()
        },
        _classes(data, answered),
    )


def _without(task: TaskFindings, reason: str) -> TaskFindings:
    return TaskFindings(task.name, task.kind, task.max_length, task.splits, missing=reason)


def _scores(outcome: Outcome, task: str, split: str) -> tuple[Score, ...]:
    """The measures, the first with its interval."""
    found = outcome.scores(split)[task]
    first, *_ = found
    return tuple(
        Score(name, value, interval(outcome, task, split) if name == first else None)
        for name, value in found.items()
    )


def _count(outcome: Outcome, task: str, split: str) -> int | None:
    return len(outcome.tallies(task, split)) if outcome.has_tallies(task, split) else None


@dataclass(frozen=True, eq=False)
class _Said:
    """A labelled split with what the model says of it."""

    answered: Answered
    rows: Split
    outputs: Rows
    targets: torch.Tensor
    predictions: list[Prediction]
    tallies: Floats

    @property
    def kind(self) -> Kind:
        return self.answered.kind

    def targets_of(self, which: NDArray[np.int64]) -> torch.Tensor:
        """The target numbers of some examples."""
        sizes = self.rows.sizes
        return self.targets[torch.from_numpy(which if sizes is None else spread(sizes, which))]

    def predicted(self, which: NDArray[np.int64], temperature: float) -> list[Prediction]:
        """What is said of some examples with scores divided by `temperature`."""
        examples = self.rows.examples
        some = None if examples is None else [examples[i] for i in which.tolist()]
        return self.kind.predictions(self.kind.tempered(ordered(self.outputs, which), temperature), some)


def _answered(name: str, split: str, model: Model, data: TaskData) -> _Said:
    rows = data.splits[split]
    outputs = outputs_of(model.network, name, rows)
    kind = data.kind
    assert rows.targets is not None
    return _Said(
        Answered(split, name, kind, score(kind, outputs, rows), rows, outputs),
        rows,
        outputs,
        torch.from_numpy(rows.targets),
        kind.predictions(kind.calibrated(outputs), rows.examples),
        tallies(kind, outputs, rows),
    )


def _told(
    bare: SplitFindings, said: _Said, dev: _Said | None, recipe: Recipe, data: TaskData
) -> SplitFindings:
    whole = np.arange(len(said.rows))
    confidence = _confidence(said, said.predicted(whole, 1.0), whole)
    worst, wrong = _worst(said, recipe, data)
    return SplitFindings(
        bare.name,
        bare.scores,
        len(said.rows),
        said.answered.confusion,
        None if confidence is None else _calibration(said, dev, confidence),
        worst,
        wrong,
    )


def _classes(data: TaskData, answered: Mapping[str, _Said]) -> dict[str, dict[str, int]]:
    """Rows of each label in every labelled split, where an answer is one label of a fixed set."""
    labels = next(
        (matrix.labels for said in answered.values() if (matrix := said.answered.confusion) is not None), None
    )
    if labels is None:
        return {}
    return {
        split: dict(
            zip(
                labels,
                np.bincount(rows.targets.astype(np.int64), minlength=len(labels)).tolist(),
                strict=True,
            )
        )
        for split, rows in data.splits.items()
        if rows.targets is not None
    }


# ---- calibration ----


def _confidence(
    said: _Said, predictions: Sequence[Prediction], which: NDArray[np.int64]
) -> tuple[str, list[float], list[bool]] | None:
    """(what is counted, how probable each is said to be, whether it is right) of some examples."""
    chosen = which.tolist()
    if any(one.tokens for one in predictions):
        tags = [_tags(said, i) for i in chosen]
        pairs = [
            (word.score, word.label == tag)
            for one, own in zip(predictions, tags, strict=True)
            for word, tag in zip(one.tokens, own, strict=True)
        ]
        return "words", [score for score, _ in pairs], [right for _, right in pairs]
    if any(one.score is None for one in predictions):
        return None
    told = [float(one.score or 0.0) for one in predictions]
    if any(one.ranking for one in predictions):
        relevant = [said.targets_of(np.array([i])) for i in chosen]
        pairs = [
            (score, bool(own[one.ranking[0]] > 0))
            for score, one, own in zip(told, predictions, relevant, strict=True)
            if bool((own > 0).any())
        ]
        return "queries", [score for score, _ in pairs], [right for _, right in pairs]
    return "answers", told, (said.tallies[which, 1] >= 1).tolist()


def _tags(said: _Said, example: int) -> list[str]:
    """The gold tags of an example, as the model has learnt them."""
    assert said.rows.rows.values is not None
    return [tag for cell in said.kind.told(said.rows.rows.values[example]) for tag in str(cell).split()]


def _temperature(said: _Said, which: NDArray[np.int64]) -> float | None:
    """The temperature that some examples give; None for a kind that gives no softmax of its scores as probabilities."""
    return said.kind.fitted_temperature(ordered(said.outputs, which), said.targets_of(which))


def _calibration(
    said: _Said, dev: _Said | None, told: tuple[str, list[float], list[bool]]
) -> Calibration | None:
    what, confidence, right = told
    if not confidence:
        return None
    before = calibration.reliability(confidence, right)
    if dev is None or len(dev.rows) < _FEWEST:
        return Calibration(what, before, None, None, "")
    everything = np.arange(len(dev.rows))
    whole = _temperature(dev, everything)
    if whole is None:
        return Calibration(what, before, None, None, "")
    if said.answered.split != "dev":
        parts = [(np.arange(len(said.rows)), whole)]
        fitted = "dev"
    else:
        # Each half is scaled by what the other one gives, so that no answer has a part in its own scaling.
        shuffled = np.random.default_rng(0).permutation(len(said.rows))
        halves = [np.sort(half) for half in np.array_split(shuffled, 2)]
        parts = []
        for half, other in (halves, halves[::-1]):
            own = _temperature(said, other)
            assert own is not None
            parts.append((half, own))
        fitted = "the other half of dev"
    scaled: list[float] = []
    came: list[bool] = []
    for which, temperature in parts:
        found = _confidence(said, said.predicted(which, temperature), which)
        assert found is not None
        scaled += found[1]
        came += found[2]
    return Calibration(what, before, calibration.reliability(scaled, came), whole, fitted)


# ---- errors ----


def _worst(said: _Said, recipe: Recipe, data: TaskData) -> tuple[tuple[Mistake, ...], int | None]:
    """The worst errors: those that were said with the most confidence, or are furthest from the value."""
    wrong = np.array([_wrongness(said, i) for i in range(len(said.rows))])
    places = [int(i) for i in np.argsort(-wrong, kind="stable")[:_WORST] if wrong[i] > 0]
    if not places:
        return (), 0
    kept = said.rows.rows.inputs
    texts = {i: kept[i] for i in places} if kept is not None else _texts(said, places, recipe, data)
    mistakes = tuple(_mistake(said, i, texts.get(i)) for i in places)
    numbers = said.predictions[0].value is not None and said.predictions[0].label is None
    return mistakes, None if numbers else int((wrong > 0).sum())


def _wrongness(said: _Said, example: int) -> float:
    """How bad an answer is: 0 where it is right."""
    one = said.predictions[example]
    if one.tokens:
        return math.fsum(
            word.score
            for word, tag in zip(one.tokens, _tags(said, example), strict=True)
            if word.label != tag
        )
    if one.ranking:
        own = said.targets_of(np.array([example]))
        right = bool(own[one.ranking[0]] > 0) or not bool((own > 0).any())
        return 0.0 if right else float(one.score or 0.0)
    if one.label is None and one.value is not None:
        return abs(one.value - float(said.targets[example]))
    return float(one.score or 0.0) * (1 - float(said.tallies[example, 1]))


def _mistake(said: _Said, example: int, texts: Any) -> Mistake:
    one, rows = said.predictions[example], said.rows.rows
    assert rows.values is not None
    place = rows.places[example]
    where = f"row {place.row} of {Path(place.file).name}"
    told = said.kind.told(rows.values[example])
    if one.tokens:
        tags = _tags(said, example)
        gold = ", ".join(
            f"{word.text} {tag}" for word, tag in zip(one.tokens, tags, strict=True) if tag != "O"
        )
        text = texts if isinstance(texts, str) else " ".join(texts or [word.text for word in one.tokens])
        marks = [(span.start, span.end, span.label) for span in one.spans]
        words = ", ".join(f"{span.text} {span.label} ({span.score:.2f})" for span in one.spans)
        return Mistake(where, (("text", _marked(text, marks)),), gold or "none", words or "none", None)
    if one.ranking:
        query, candidates = texts
        own = said.targets_of(np.array([example])).tolist()
        gold = " | ".join(text for text, relevant in zip(candidates, own, strict=True) if relevant > 0)
        best = candidates[one.ranking[0]]
        return Mistake(where, (("query", _marked(query)),), _cut(gold), _cut(best), one.score)
    if one.label is None:
        return Mistake(where, _named(texts), f"{float(said.targets[example]):g}", f"{one.value:.3f}", None)
    if one.probabilities is None and one.spans:
        at = one.spans[0]
        marks = [(at.start, at.end, "said")] if one.label else []
        shown = tuple(
            (name, _marked(str(text), marks if name == "context" else ()))
            for name, text in texts.items()
            if text is not None and name != "id"
        )
        answers = json.loads(told[0])
        gold = " | ".join(dict.fromkeys(answers)) if answers else "no answer"
        return Mistake(where, shown, _cut(gold), _cut(one.label or "no answer"), one.score)
    return Mistake(where, _named(texts), str(told[0]), one.label, one.score)


def _named(texts: Any) -> tuple[tuple[str, tuple[Piece, ...]], ...]:
    """Texts by the names of their columns, whole or cut."""
    found = []
    for name, value in (texts or {}).items():
        if value is None:
            continue
        listed = value if isinstance(value, list | tuple) else [value]
        found += [
            (name if len(listed) == 1 else f"{name} {number}", _marked(str(one)))
            for number, one in enumerate(listed)
        ]
    return tuple(found)


def _marked(text: str, marks: Sequence[tuple[int, int, str]] = ()) -> tuple[Piece, ...]:
    """A text in pieces, those between start and end with their names; far from the first mark it is cut."""
    begin, end = 0, len(text)
    if end > _EXCERPT:
        middle = marks[0][0] if marks else 0
        begin = max(0, min(middle - _EXCERPT // 2, end - _EXCERPT))
        end = begin + _EXCERPT
    pieces: list[Piece] = [("…", None)] if begin else []
    at = begin
    for start, stop, name in sorted(marks):
        start, stop = max(start, at), min(stop, end)
        if start >= stop:
            continue
        pieces += [(text[at:start], None), (text[start:stop], name)]
        at = stop
    pieces.append((text[at:end] + ("…" if end < len(text) else ""), None))
    return tuple(piece for piece in pieces if piece[0])


def _cut(text: str) -> str:
    return text if len(text) <= _EXCERPT else text[: _EXCERPT - 1] + "…"


def _texts(said: _Said, places: Sequence[int], recipe: Recipe, data: TaskData) -> dict[int, dict[str, Any]]:
    """The columns that make the inputs of some examples, read again from the recipe's files."""
    kind = said.kind
    wanted: dict[tuple[str, int], int] = {}
    for example in places:
        place = said.rows.rows.places[example]
        wanted[place.file, place.row] = example
    sources, _, _ = sources_of(data.section, said.answered.split, Path(recipe.data or "."), kind.told_by)
    found: dict[int, dict[str, Any]] = {}
    for name, read in sources:
        if not any(file == name for file, _ in wanted):
            continue
        for row in read():
            example = wanted.get((name, row.number), -1)
            if example >= 0:
                found[example] = {column: row.values.get(column) for column in kind.columns}
                if len(found) == len(wanted):
                    return found
    return found


# ---- how to do it again ----


def _files(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Every file of data with its fingerprint, in the order in which the recipe names them."""
    seen: set[str] = set()
    for section in recipe.tasks.values():
        for paths in (section.files or {}).values():
            for path in paths:
                if str(path) in seen:
                    continue
                seen.add(str(path))
                whole = Path(recipe.data or ".") / path
                try:
                    yield str(path), _folder(whole) if whole.is_dir() else str(file_fingerprint(whole))
                except (InputError, OSError):
                    yield str(path), "not at hand"
        if section.hub is not None:
            yield f"{section.hub.path} (hub)", "as the hub has it"


def _folder(path: Path) -> str:
    return f"a folder of {sum(1 for one in path.rglob('*') if one.is_file()):,} files"
