"""From a recipe to what the loop draws from: each task's kind, its encoded splits and their targets.

Knows recipes, rows and kinds. Must not know models, optimisers or the loop.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyheads.data.encode import EncodedRows, Place, TokenCache, encode_rows, file_fingerprint
from manyheads.data.hub import read_hub
from manyheads.data.read import Row, column_names, read_rows
from manyheads.data.select import rows_of_part, sampled
from manyheads.encoder.layout import spread
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError
from manyheads.recipe import Recipe, TaskSettings
from manyheads.tasks import KINDS, Kind
from manyheads.tasks.documents import DocumentKind
from manyheads.tasks.kind import Example, examples_of
from manyheads.tasks.texts import TextSettings
from manyheads.training.documents import Answers, Drawn, Spans, Working, load_spans

__all__ = ["Split", "TaskData", "load_task", "load_tasks", "sources_of"]

Source = tuple[str, Callable[[], Iterator[Row]]]


@dataclass(frozen=True, eq=False)
class Split:
    """The examples of one split as token ids, and their targets."""

    rows: EncodedRows
    targets: NDArray[np.float64] | None
    """[M] all examples' target numbers end to end; None where the split has no labels."""
    sizes: NDArray[np.int64] | None = None
    """[n] numbers of each example; None: one each."""

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, rows: NDArray[np.int64], generator: np.random.Generator) -> Drawn:
        """Some examples, in that order; nothing of them is left to chance."""
        assert self.targets is not None
        if self.sizes is None:
            answers = Answers(self.targets[rows], np.ones(len(rows), dtype=np.int64))
        else:
            answers = Answers(self.targets[spread(self.sizes, rows)], self.sizes[rows])
        return Drawn(self.rows.batch(rows), (answers,))

    @cached_property
    def examples(self) -> list[Example] | None:
        """What the kind may look back at; None where there is nothing but the labels."""
        rows = self.rows
        if rows.inputs is None and rows.layout.marks is None and self.sizes is None:
            return None
        return examples_of(rows.layout, rows.inputs, rows.values)

    @property
    def digest(self) -> str:
        """A name for the content: other tokens, another order or other targets have another one."""
        digest = hashlib.blake2b(digest_size=16)
        laid = self.rows.layout
        arrays = (laid.ids, laid.segments, laid.lengths, laid.counts, laid.marks, self.targets)
        for array in arrays:
            if array is not None:
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class TaskData:
    """A task of the recipe with its kind, bound to the labels of its training rows, and its splits."""

    name: str
    section: TaskSettings
    kind: Kind
    splits: dict[str, Split]
    """Its splits, where it has rows."""
    spans: dict[str, Spans] = field(default_factory=dict)
    """Its splits, where it reads documents."""
    beside: tuple["TaskData", ...] = ()
    """The tasks that read what this one does, in the same pass; they have no splits of their own."""

    @property
    def train(self) -> Split | Spans:
        """What a training draws from."""
        return self.spans["train"] if self.spans else self.splits["train"]

    @property
    def reads_another(self) -> bool:
        """Whether it has no splits of its own."""
        return self.section.read_with is not None

    @property
    def lengths(self) -> dict[str, int]:
        """Split → how many examples."""
        return {name: len(split) for name, split in (self.spans or self.splits).items()}

    @property
    def left_out(self) -> list[str]:
        """The first documents that were left out as broken, each once, with their places."""
        problems = (str(one) for spans in self.spans.values() for one in spans.chunks.corpus.problems)
        return list(dict.fromkeys(problems))

    @property
    def digests(self) -> list[str]:
        """Names for the content of what is learnt and chosen by."""
        found: Mapping[str, Split | Spans] = self.spans or self.splits
        return [found[name].digest for name in ("train", "dev") if name in found]


def load_tasks(
    recipe: Recipe,
    tokenizer: Tokenizer,
    *,
    positions: int,
    cache: TokenCache | None = None,
    working: Working | None = None,
) -> list[TaskData]:
    """All tasks of a recipe with all their splits, in its order. See `load_task`."""
    loaded: dict[str, TaskData] = {}
    # A task that uses another's head has its labels, and one that reads with another has nothing to read.
    for name in sorted(recipe.tasks, key=lambda one: _rank(recipe.tasks[one])):
        section = recipe.tasks[name]
        if section.read_with is not None:
            loaded[name] = TaskData(name, section, KINDS[section.kind](section), {})
            continue
        kind = None
        if section.head_of is not None:
            kind = KINDS[section.kind](_settings(name, recipe), loaded[section.head_of].kind.facts())
        loaded[name] = load_task(
            name,
            recipe,
            tokenizer,
            positions=positions,
            kind=kind,
            cache=cache,
            beside=[one for one in loaded.values() if one.section.read_with == name],
            working=working,
        )
    return [loaded[name] for name in recipe.tasks]


def _rank(section: TaskSettings) -> int:
    return 0 if section.read_with is not None else 1 if section.head_of is None else 2


def _settings(name: str, recipe: Recipe) -> TaskSettings:
    """A task's section, as its kind shall see it."""
    section = recipe.tasks[name]
    related = recipe.relation is not None and name in recipe.relation.tasks
    return section.related() if related and isinstance(section, TextSettings) else section


def load_task(
    name: str,
    recipe: Recipe,
    tokenizer: Tokenizer,
    *,
    positions: int,
    kind: Kind | None = None,
    splits: list[str] | None = None,
    max_length: int | None = None,
    cache: TokenCache | None = None,
    beside: Sequence[TaskData] = (),
    working: Working | None = None,
) -> TaskData:
    """Read and encode a task's splits (default: all that the recipe names).

    `positions` is the encoder's limit in tokens; `kind`, where given, is that of a trained model, whose labels
    the rows must have, and `max_length` its limit (default: the recipe's). `beside` are the tasks that read with it.
    Raises InputError with file, row and column for anything that does not fit.
    """
    section = recipe.tasks[name]
    length = section.max_length if max_length is None else max_length
    if length > positions:
        raise InputError(
            f"tasks.{name}.max_length: {length} is more than the {positions} positions the encoder has"
        )
    learnt = kind is not None
    kind = kind or KINDS[section.kind](_settings(name, recipe))
    found: dict[str, Split] = {}
    wanted = section.split_names if splits is None else splits
    if isinstance(kind, DocumentKind):
        kinds = [kind, *(one.kind for one in beside if isinstance(one.kind, DocumentKind))]
        root = Path(recipe.data or ".")
        spans = load_spans(
            name, section, kinds, wanted, tokenizer, length, root, cache=cache, working=working
        )
        return TaskData(name, section, kind, {}, spans, tuple(beside))
    for split in sorted(wanted, key=lambda one: one != "train"):  # labels are learnt from the training rows
        sources, key, columns = sources_of(section, split, Path(recipe.data or "."), kind.told_by)
        target: str | None = kind.target_column
        if split not in ("train", "dev") and not _labelled(sources, columns, kind.target_column):
            target = None
        by = _held_by(section) if split == "train" or split in _shares(section) else ()
        rows = encode_rows(
            [
                (source, partial(read, need=[*kind.columns, *([target] if target else []), *by]))
                for source, read in sources
            ],
            kind=kind,
            target=target,
            tokenizer=tokenizer,
            max_length=length,
            blank_labels=section.blank_labels,
            cache=cache,
            key=key,
        )
        if not learnt and rows.values is not None:
            try:
                kind.learn(rows.values)
            except ValueError as error:
                index: int | None = getattr(error, "index", None)  # which of the values, if it is one
                if index is None:
                    raise InputError(f"tasks.{name}: {error}", file=sources[0][0], column=target) from None
                place = rows.places[index].of_word(getattr(error, "word", None))
                raise _at(place, str(error), target) from None
            learnt = True
        if split == "train" and rows.values is not None:
            worth = np.flatnonzero([kind.teaches(value) for value in rows.values])
            rows = rows if len(worth) == len(rows) else rows.take(worth)
        if split in section.sample:
            chosen = sampled(len(rows), section.sample[split], section.sample_seed, f"{name}/{split}")
            rows = rows.take(chosen)
        found[split] = Split(rows, *_targets(rows, kind))
        _look(kind, found[split], split, sources[0][0])
    return TaskData(name, section, kind, found)


def sources_of(
    section: TaskSettings, split: str, data: Path, texts: Sequence[str]
) -> tuple[list[tuple[str, Callable[..., Iterator[Row]]]], Any, list[str] | None]:
    """How to read one split: (name, reader) pairs, what identifies the content, the columns of the first source.

    Content and columns are None where they are not known before reading (a hub data set). `texts` are the columns
    that tell rows apart: by them a split is held out unless the section names another column.
    """
    shares = _shares(section)
    part = split if split == "train" or split in shares else None
    whole = "train" if split in shares else split
    by = [*_held_by(section)] or list(texts)

    def reader(name: str, read: Callable[..., Iterator[Row]]) -> Callable[..., Iterator[Row]]:
        if not shares or part is None:
            return read
        return lambda **named: _held(name, rows_of_part(read(**named), part, shares, by), part)

    if section.hub is not None:
        hub = section.hub
        where = hub.splits[whole]
        name = f"{hub.path}:{where}"
        return [(name, reader(name, partial(read_hub, hub.path, split=where, name=hub.name)))], None, None
    assert section.files is not None  # a section has either
    paths = [data / path for path in section.files[whole]]
    dialect = section.dialect(whole)
    headers = [
        column_names(path, dialect) for path in paths
    ]  # names what is wrong before any content is hashed
    key = [[file_fingerprint(path) for path in paths], [path.name for path in paths], dialect.model_dump()]
    if shares and part is not None:
        key += [part, shares, by]
    readers: list[tuple[str, Callable[..., Iterator[Row]]]] = [
        (str(path), reader(str(path), partial(read_rows, path, dialect))) for path in paths
    ]
    return readers, key, headers[0]


def _held(name: str, rows: Iterator[Row], part: str) -> Iterator[Row]:
    """The rows of a part, of which there must be one."""
    first = next(rows, None)
    if first is None:
        raise InputError(
            f"none of the training rows falls into the part {part!r}; see 'hold_out': a larger share, another 'by'",
            file=name,
        )
    yield first
    yield from rows


def _labelled(
    sources: Sequence[tuple[str, Callable[..., Iterator[Row]]]], columns: Sequence[str] | None, target: str
) -> bool:
    """Whether a split that may lack labels has some."""
    if columns is not None:
        return target in columns
    # A data set of the hub has the same columns in every split: where the labels are kept back, each is −1, which of
    # a class number has become None.
    return any(row.values.get(target) not in (None, "", -1) for _, read in sources for row in read())


def _shares(section: TaskSettings) -> dict[str, float]:
    """{split that is cut from the training rows: its share}."""
    return section.hold_out.shares if section.hold_out is not None else {}


def _held_by(section: TaskSettings) -> tuple[str, ...]:
    """The column that tells which rows are held out, where the section names one."""
    named = section.hold_out.by if section.hold_out is not None else None
    return (named,) if named else ()


def _targets(rows: EncodedRows, kind: Kind) -> tuple[NDArray[np.float64] | None, NDArray[np.int64] | None]:
    """All examples' target numbers end to end, and how many each has (None: one)."""
    if rows.values is None:
        return None, None
    examples = examples_of(rows.layout, rows.inputs, rows.values)
    found: list[float | Sequence[float]] = []
    for i, value in enumerate(rows.values):
        try:
            found.append(kind.target(value, examples[i]))
        except ValueError as error:
            place = rows.places[i].of_word(getattr(error, "word", None))  # in CoNLL files it has its own line
            raise _at(place, str(error), kind.target_column) from None
    if all(isinstance(one, float) for one in found):
        return np.array(found, dtype=np.float64), None
    each = [np.atleast_1d(np.asarray(one, dtype=np.float64)) for one in found]
    return np.concatenate(each), np.array([len(one) for one in each], dtype=np.int64)


def _look(kind: Kind, split: Split, name: str, file: str) -> None:
    """Let the kind look at the split as a whole; a dev split by which nothing can be measured is an InputError."""
    if split.examples is not None:
        try:
            kind.note(name, split.examples)
        except ValueError as error:
            raise InputError(str(error), file=file) from None
    if name == "dev" and split.targets is not None:
        sizes = np.ones(len(split), dtype=np.int64) if split.sizes is None else split.sizes
        if not kind.counted(split.targets, sizes).any():
            raise InputError(
                "no row of the dev split can be measured by", file=file, column=kind.target_column
            )


def _at(place: Place, message: str, column: str | None) -> InputError:
    return InputError(message, file=place.file, row=place.row, line=place.line, column=column)
