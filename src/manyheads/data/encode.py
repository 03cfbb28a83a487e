"""Rows → token ids in a memory-mapped table that is made once and found again.

Knows rows, columns and token ids. Must not know what columns mean, losses or models.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from manyheads.data.read import Row
from manyheads.encoder.layout import Layout, spread
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError

__all__ = ["EncodedRows", "Lays", "Place", "TokenCache", "encode_rows", "file_fingerprint"]

_LAYOUT = 4  # raise when what is written below changes
_AT_ONCE = 1000


class Lays(Protocol):
    """What lays rows out as token ids: a kind of task, as far as this room knows of it."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that make an input."""

    @property
    def also(self) -> tuple[str, ...]:
        """Columns that are kept with the input where there are any."""

    @property
    def keeps_inputs(self) -> bool:
        """Whether the inputs are kept beside the ids."""

    @property
    def laid_by(self) -> Any:
        """What the layout depends on beside the tokenizer and the length, as JSON."""

    def gather(
        self, rows: Iterator[tuple["Place", dict[str, Any]]]
    ) -> Iterator[tuple["Place", dict[str, Any]]]:
        """Rows of a file as rows of examples."""

    def input(self, values: Mapping[str, Any]) -> Any:
        """A row's input; a ValueError with a `column` says what is wrong."""

    def kept(self, one: Any) -> Any:
        """What of an input is kept."""

    def lay(self, inputs: Sequence[Any], tokenizer: Tokenizer, max_length: int) -> Layout:
        """Inputs as token ids."""


@dataclass(frozen=True)
class Place:
    """Where a row came from, for errors and for the predictions file."""

    file: str
    row: int
    line: int | None
    line_a_word: bool = False
    """Whether its words stand in lines one after the other."""

    def of_word(self, word: int | None) -> "Place":
        """The place of a word of the row, by its number from 0: the same, but for its line where it has its own."""
        if word is None or self.line is None or not self.line_a_word:
            return self
        return replace(self, line=self.line + word)


@dataclass(frozen=True, eq=False)
class EncodedRows:
    """The examples of one split as token ids, laid out end to end.

    `values` are the rows' target values as the file gave them, or None for a split without the column; `inputs` what
    the rows' inputs were, where the kind of task keeps them.
    """

    layout: Layout
    values: list[Any] | None
    places: list[Place]
    unlabelled: list[Place]
    inputs: list[Any] | None = None
    members: list[list[int]] | None = None
    """The numbers of the rows that each example was made of; None: of one row each."""

    def __len__(self) -> int:
        return len(self.places)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """[n] tokens of each example, all its sequences together."""
        return self.layout.lengths_of_examples

    @cached_property
    def dropped(self) -> NDArray[np.int64]:
        """[n] tokens that were cut of each example."""
        return self.layout.dropped_of_examples

    def dropped_of(self, example: int) -> list[int]:
        """Tokens that were cut of each sequence of an example."""
        end = int(self._ends[example])
        found: list[int] = self.layout.dropped[end - int(self.layout.counts[example]) : end].tolist()
        return found

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """[n] one beyond the last sequence of each example."""
        return np.cumsum(self.layout.counts, dtype=np.int64)

    @property
    def truncated(self) -> int:
        """How many examples lost tokens."""
        return int((self.dropped > 0).sum())

    def batch(self, rows: NDArray[np.int64]) -> Layout:
        """Some examples, in that order; without the offsets, which only predictions look at."""
        whole = self.layout
        which = spread(whole.counts, rows)
        chosen = whole.lengths[which].astype(np.int64)
        begins = np.cumsum(chosen) - chosen
        places = np.repeat(self._starts[which] - begins, chosen) + np.arange(int(chosen.sum()))
        return Layout(
            np.asarray(whole.ids[places]),
            np.asarray(whole.segments[places]),
            whole.lengths[which],
            whole.dropped[which],
            whole.counts[rows],
            None if whole.marks is None else np.asarray(whole.marks[places]),
        )

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """[S] the first token of each sequence."""
        return np.cumsum(self.layout.lengths, dtype=np.int64) - self.layout.lengths

    def take(self, rows: NDArray[np.int64]) -> "EncodedRows":
        """Some of the examples, by number."""
        chosen = rows.tolist()
        return EncodedRows(
            self.layout.take(rows),
            None if self.values is None else [self.values[row] for row in chosen],
            [self.places[row] for row in chosen],
            self.unlabelled,
            None if self.inputs is None else [self.inputs[row] for row in chosen],
            None if self.members is None else [self.members[row] for row in chosen],
        )


class TokenCache:
    """A folder of encoded splits, one sub-folder a key. A split is found again when the files' content, the way
    they are read, the tokenizer and the length are the same."""

    def __init__(self, folder: Path | None = None) -> None:
        if folder is None:
            said = os.environ.get("MANYHEADS_CACHE")
            home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
            folder = Path(said) if said else Path(home) / "manyheads"
        self.folder = folder / "tokens"

    def find(self, key: str) -> Path | None:
        """The folder with this key, if it is whole."""
        path = self.folder / key
        try:
            lengths, dropped, counts = (np.load(path / f"{name}.npy") for name in _OF_SEQUENCES)
            tokens = int(lengths.sum(dtype=np.int64))
            table = json.loads((path / "table.json").read_text(encoding="utf-8"))
            named = {"ids": 4 * tokens, "segments": tokens}
            if table["marked"] is not None:
                named |= {"marks": tokens, "offsets": 8 * table["marked"]}
            whole = all((path / f"{name}.bin").stat().st_size == size for name, size in named.items())
            whole &= len(dropped) == len(lengths) == int(counts.sum(dtype=np.int64))
            whole &= {"places", "values", "unlabelled", "inputs"} <= set(table) and len(counts) == len(
                table["places"]
            )
        except (OSError, EOFError, ValueError, TypeError, KeyError, IndexError):
            return None
        return path if whole else None

    def new(self, key: str) -> Path | None:
        """A fresh folder to write into, or None where the cache cannot be written."""
        path = self.folder / f".{key}.part-{os.getpid()}"
        try:
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
        except OSError:
            return None
        return path

    def keep(self, written: Path, key: str) -> Path:
        """Give a written folder its name; where another process was faster, its folder is used."""
        path = self.folder / key
        if self.find(key) is None:
            shutil.rmtree(path, ignore_errors=True)
        try:
            os.replace(written, path)
        except OSError:
            if self.find(key) is None:  # something else stands there: use what was written where it is
                return written
            shutil.rmtree(written, ignore_errors=True)
        return path


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file's content."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except IsADirectoryError:
        raise InputError("is a folder, expected a file", file=path) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=path) from None


def encode_rows(
    sources: Iterable[tuple[str, Callable[[], Iterator[Row]]]],
    *,
    kind: Lays,
    target: str | None,
    tokenizer: Tokenizer,
    max_length: int,
    blank_labels: float = 0.01,
    cache: TokenCache | None = None,
    key: object = None,
) -> EncodedRows:
    """Encode the rows of one split, or find them in the cache.

    `sources` are (name, how to read it) pairs; `kind` says which columns make an input and how it is laid out,
    `target` is the column of what is to be predicted (None: the split has no such column). `key` says, as JSON,
    what the sources' content is and how it is read; without a key or a cache nothing is kept. A row whose target is
    blank is left out and listed; more than the share `blank_labels` of them in one source is an InputError.
    """
    sources = list(sources)
    names = [source for source, _ in sources]
    asked = [_LAYOUT, key, kind.laid_by, target, max_length, tokenizer.fingerprint, blank_labels]
    named = json.dumps([*asked, list(kind.columns), list(kind.also)], sort_keys=True, default=str)
    name = hashlib.sha256(named.encode()).hexdigest()[:32]
    if cache is not None and key is not None and (found := cache.find(name)) is not None:
        return _open(found, names)
    folder = cache.new(name) if cache is not None and key is not None else None
    try:
        table = _Writer(folder, kind.kept if kind.keeps_inputs else None)
        for source, rows in sources:
            blank_before, before = len(table.unlabelled), table.rows
            table.begin(source)
            stream = _examples(table, source, kind, rows(), target)
            while chunk := list(islice(stream, _AT_ONCE)):
                table.add(chunk, kind.lay([one for _, one, _ in chunk], tokenizer, max_length))
            blank = table.unlabelled[blank_before:]
            total = table.rows - before + len(blank)
            if len(blank) > blank_labels * total:
                first = blank[0]
                raise InputError(
                    f"no label; {len(blank)} of {total} rows have none (up to {blank_labels:.0%} are left out, "
                    "see 'blank_labels')",
                    file=first.file,
                    row=first.row,
                    line=first.line,
                    column=target,
                )
            if table.rows == before:
                raise InputError("no rows", file=source)
        encoded = table.finish(target is not None)
    except BaseException:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if folder is None or cache is None:
        return encoded
    return _open(cache.keep(folder, name), names)


def _examples(
    table: "_Writer", source: str, kind: Lays, rows: Iterator[Row], target: str | None
) -> Iterator[tuple[Place, Any, Any]]:
    """(place, input, target value) of each labelled example; what is wrong with a row is an InputError."""
    place = Place(source, 0, None)
    taken: list[int] = []  # the rows that no example has yet

    def labelled() -> Iterator[tuple[Place, dict[str, Any]]]:
        nonlocal place
        for row in rows:
            place = Place(source, row.number, row.line, row.line_a_word)
            if target is not None and _blank(row.values[target]):
                table.unlabelled.append(place)
                continue
            taken.append(row.number)
            yield place, row.values

    try:
        begun = False
        for at, values in kind.gather(labelled()):
            if begun:  # the example before has the rows up to this one's first
                table.members.append([row for row in taken if row < at.row])
                taken[:] = [row for row in taken if row >= at.row]
            place, begun = at, True
            yield at, kind.input(values), None if target is None else values[target]
        if begun:
            table.members.append(taken)
    except InputError:  # of the file itself
        raise
    except ValueError as error:
        column = getattr(error, "column", None)
        at = place.of_word(getattr(error, "word", None))
        raise InputError(str(error), file=at.file, row=at.row or None, line=at.line, column=column) from None


def _blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


_OF_SEQUENCES = ("lengths", "dropped", "counts")
_OF_TOKENS: dict[str, Any] = {"ids": np.int32, "segments": np.uint8, "marks": np.bool_, "offsets": np.int32}


class _Writer:
    """Token arrays that grow on disk (or in memory where there is no folder)."""

    def __init__(self, folder: Path | None, kept: Callable[[Any], Any] | None) -> None:
        self.folder = folder
        self.parts: list[Layout] = []
        self.sequences: dict[str, list[NDArray[np.int32]]] = {name: [] for name in _OF_SEQUENCES}
        self.marked: int | None = None
        self.files: list[str] = []
        self.places: list[tuple[int, int, int | None]] = []
        self.line_a_word: set[int] = set()  # the files whose rows have a line a word
        self.values: list[Any] = []
        self.members: list[list[int]] = []
        self.kept = kept
        self.inputs: list[Any] | None = None if kept is None else []
        self.unlabelled: list[Place] = []

    @property
    def rows(self) -> int:
        return len(self.places)

    def begin(self, source: str) -> None:
        self.files.append(source)

    def add(self, examples: Sequence[tuple[Place, Any, Any]], layout: Layout) -> None:
        for place, one, value in examples:
            self.places.append((len(self.files) - 1, place.row, place.line))
            if place.line_a_word:
                self.line_a_word.add(len(self.files) - 1)
            self.values.append(value)
            if self.inputs is not None and self.kept is not None:
                self.inputs.append(self.kept(one))
        if self.folder is None:
            self.parts.append(layout)
            return
        for name in _OF_SEQUENCES:
            self.sequences[name].append(getattr(layout, name).astype(np.int32))
        if layout.offsets is not None:
            self.marked = (self.marked or 0) + len(layout.offsets)
        for name, dtype in _OF_TOKENS.items():
            array = getattr(layout, name)
            if array is not None:
                with open(self.folder / f"{name}.bin", "ab") as file:
                    array.astype(dtype).tofile(file)

    def finish(self, labelled: bool) -> EncodedRows:
        members = self.members if any(len(one) != 1 for one in self.members) else None
        if self.folder is not None:
            for name, parts in self.sequences.items():
                np.save(self.folder / f"{name}.npy", np.concatenate(parts))
            table = {
                "places": self.places,
                "line_a_word": sorted(self.line_a_word),
                "values": self.values if labelled else None,
                "inputs": self.inputs,
                "members": members,
                "marked": self.marked,
                "unlabelled": [
                    [self.files.index(place.file), place.row, place.line] for place in self.unlabelled
                ],
            }
            (self.folder / "table.json").write_text(json.dumps(table, default=str), encoding="utf-8")
            return _open(self.folder, self.files)
        return EncodedRows(
            Layout.joined(self.parts),
            self.values if labelled else None,
            [Place(self.files[file], row, line, file in self.line_a_word) for file, row, line in self.places],
            self.unlabelled,
            self.inputs,
            members,
        )


def _open(folder: Path, files: Sequence[str]) -> EncodedRows:
    """The split in a cache folder; `files` are the sources' names of today (the content is the same)."""
    table = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    lengths, dropped, counts = (np.load(folder / f"{name}.npy") for name in _OF_SEQUENCES)

    def mapped(name: str) -> Any:
        return np.memmap(folder / f"{name}.bin", dtype=_OF_TOKENS[name], mode="r")

    line_a_word = set(table.get("line_a_word", ()))
    marks = offsets = None
    if table["marked"] is not None:
        marks = mapped("marks")
        offsets = mapped("offsets").reshape(-1, 2) if table["marked"] else np.zeros((0, 2), np.int32)
    return EncodedRows(
        Layout(mapped("ids"), mapped("segments"), lengths, dropped, counts, marks, offsets),
        table["values"],
        [Place(files[file], row, line, file in line_a_word) for file, row, line in table["places"]],
        [Place(files[file], row, line) for file, row, line in table["unlabelled"]],
        table["inputs"],
        table["members"],
    )
