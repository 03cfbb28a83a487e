"""From a recipe to what the loop draws from: each task's kind, its encoded splits and their targets.

Knows recipes, rows and kinds. Must not know models, optimisers or the loop.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyheads.data.encode import EncodedRows, TokenCache, encode_rows, file_fingerprint
from manyheads.data.hub import read_hub
from manyheads.data.read import Row, column_names, read_rows
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError
from manyheads.recipe import Recipe, TaskSettings
from manyheads.tasks import KINDS, Kind

__all__ = ["Split", "TaskData", "load_task", "sources_of", "split_names"]

Source = tuple[str, Callable[[], Iterator[Row]]]


@dataclass(frozen=True)
class Split:
    """The examples of one split as token ids, and their targets [n] (None where the split has no labels)."""

    rows: EncodedRows
    targets: NDArray[np.float64] | None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def digest(self) -> str:
        """A name for the content: other tokens, another order or other targets have another one."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (self.rows.ids, self.rows.segments, self.rows.starts, self.targets):
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


def load_task(
    name: str,
    recipe: Recipe,
    tokenizer: Tokenizer,
    *,
    positions: int,
    kind: Kind | None = None,
    splits: list[str] | None = None,
    cache: TokenCache | None = None,
) -> TaskData:
    """Read and encode a task's splits (default: all that the recipe names).

    `positions` is the encoder's limit in tokens; `kind`, where given, is that of a trained model, whose labels
    the rows must have. Raises InputError with file, row and column for anything that does not fit.
    """
    section = recipe.tasks[name]
    if section.max_length > positions:
        raise InputError(
            f"tasks.{name}.max_length: {section.max_length} is more than the {positions} positions the encoder has"
        )
    learnt = kind is not None
    kind = kind or KINDS[section.kind](section)
    found: dict[str, Split] = {}
    wanted = split_names(section) if splits is None else splits
    for split in sorted(wanted, key=lambda one: one != "train"):  # labels are learnt from the training rows
        sources, key, columns = sources_of(section, split, Path(recipe.data or "."))
        target: str | None = kind.target_column
        if split not in ("train", "dev") and columns is not None and target not in columns:
            target = None
        rows = encode_rows(
            [
                (source, partial(read, need=[*kind.columns, *([target] if target else [])]))
                for source, read in sources
            ],
            columns=kind.columns,
            target=target,
            sequences=kind.sequences,
            sequences_per_example=kind.sequences_per_example,
            tokenizer=tokenizer,
            max_length=section.max_length,
            blank_labels=section.blank_labels,
            cache=cache,
            key=key,
        )
        if not learnt and rows.values is not None:
            try:
                kind.learn(rows.values)
            except ValueError as error:
                raise InputError(f"tasks.{name}: {error}", file=sources[0][0], column=target) from None
            learnt = True
        found[split] = Split(rows, _targets(rows, kind))
    return TaskData(name, section, kind, found)


def split_names(section: TaskSettings) -> list[str]:
    """The splits that a section names, in its order."""
    return list(section.hub.splits if section.hub is not None else section.files or {})


def sources_of(
    section: TaskSettings, split: str, data: Path
) -> tuple[list[tuple[str, Callable[..., Iterator[Row]]]], Any, list[str] | None]:
    """How to read one split: (name, reader) pairs, what identifies the content, the columns of the first source.

    Content and columns are None where they are not known before reading (a hub data set).
    """
    if section.hub is not None:
        hub = section.hub
        where = hub.splits[split]
        name = f"{hub.path}:{where}"
        return [(name, partial(read_hub, hub.path, split=where, name=hub.name))], None, None
    assert section.files is not None  # a section has either
    paths = [data / path for path in section.files[split]]
    dialect = section.read
    headers = [
        column_names(path, dialect) for path in paths
    ]  # names what is wrong before any content is hashed
    key = [[file_fingerprint(path) for path in paths], [path.name for path in paths], dialect.model_dump()]
    readers: list[tuple[str, Callable[..., Iterator[Row]]]] = [
        (str(path), partial(read_rows, path, dialect)) for path in paths
    ]
    return readers, key, headers[0]


def _targets(rows: EncodedRows, kind: Kind) -> NDArray[np.float64] | None:
    if rows.values is None:
        return None
    numbers = np.empty(len(rows.values), dtype=np.float64)
    for i, value in enumerate(rows.values):
        try:
            numbers[i] = kind.target(value)
        except ValueError as error:
            place = rows.places[i]
            raise InputError(
                str(error), file=place.file, row=place.row, line=place.line, column=kind.target_column
            ) from None
    return numbers
