"""Rows of text → token ids in a memory-mapped table that is made once and found again.

Knows rows, columns and a tokenizer's ids. Must not know labels' meaning, losses or models.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyheads.data.read import Row
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError, shown

__all__ = ["EncodedRows", "Place", "TokenCache", "encode_rows", "file_fingerprint", "text_of"]

_LAYOUT = 1  # raise when what is written below changes
_AT_ONCE = 1000

Sequences = Callable[[Sequence[str]], tuple[tuple[str, ...], ...]]


@dataclass(frozen=True)
class Place:
    """Where a row came from, for errors and for the predictions file."""

    file: str
    row: int
    line: int | None


@dataclass(frozen=True)
class EncodedRows:
    """The rows of one split as token ids: n examples with k sequences each.

    `ids` and `segments` hold all tokens end to end; sequence s runs from `starts[s]` to `starts[s + 1]`;
    example i has the sequences i·k … i·k + k − 1. `dropped` [n · k] counts the tokens that were cut.
    `values` are the rows' target values as the file gave them, or None for a split without the column.
    """

    ids: NDArray[np.int32]
    segments: NDArray[np.uint8]
    starts: NDArray[np.int64]
    dropped: NDArray[np.int32]
    sequences_per_example: int
    values: list[Any] | None
    places: list[Place]
    unlabelled: list[Place]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[n] tokens of each example, all its sequences together."""
        ends = self.starts[:: self.sequences_per_example]
        return np.diff(ends)

    @property
    def truncated(self) -> int:
        """How many examples lost tokens."""
        return int((self.dropped.reshape(-1, self.sequences_per_example).sum(1) > 0).sum())

    def batch(
        self, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Token ids [T], segment ids [T] and sequence lengths [len(rows) · k] of some examples, end to end."""
        k = self.sequences_per_example
        which = (rows[:, None] * k + np.arange(k)).ravel()
        first, lengths = self.starts[which], self.starts[which + 1] - self.starts[which]
        begins = np.cumsum(lengths) - lengths
        places = np.repeat(first - begins, lengths) + np.arange(int(lengths.sum()))
        return self.ids[places].astype(np.int64), self.segments[places].astype(np.int64), lengths

    def take(self, rows: NDArray[np.int64]) -> "EncodedRows":
        """Some of the examples, by number."""
        k = self.sequences_per_example
        ids, segments, lengths = self.batch(rows)
        which = (rows[:, None] * k + np.arange(k)).ravel()
        return EncodedRows(
            ids.astype(np.int32),
            segments.astype(np.uint8),
            np.concatenate([[0], np.cumsum(lengths)]),
            self.dropped[which],
            k,
            None if self.values is None else [self.values[row] for row in rows.tolist()],
            [self.places[row] for row in rows.tolist()],
            self.unlabelled,
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
            starts, dropped = (np.load(path / name) for name in ("starts.npy", "dropped.npy"))
            tokens = int(starts[-1])
            sizes = [(path / name).stat().st_size for name in ("ids.bin", "segments.bin")]
            table = json.loads((path / "table.json").read_text(encoding="utf-8"))
            whole = len(dropped) == len(starts) - 1 and {"places", "values", "unlabelled"} <= set(table)
        except (OSError, EOFError, ValueError, TypeError, IndexError):
            return None
        return path if whole and sizes == [4 * tokens, tokens] else None

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
    columns: Sequence[str],
    target: str | None,
    sequences: Sequences,
    sequences_per_example: int,
    tokenizer: Tokenizer,
    max_length: int,
    blank_labels: float = 0.01,
    cache: TokenCache | None = None,
    key: object = None,
) -> EncodedRows:
    """Encode the rows of one split, or find them in the cache.

    `sources` are (name, how to read it) pairs; `columns` hold the texts, `target` what is to be predicted
    (None: the split has no such column). `key` says, as JSON, what the sources' content is and how it is
    read; without a key or a cache nothing is kept. A row whose target is blank is left out and listed; more
    than the share `blank_labels` of them in one source is an InputError.
    """
    sources = list(sources)
    names = [source for source, _ in sources]
    named = json.dumps(
        [
            _LAYOUT,
            key,
            list(columns),
            target,
            sequences_per_example,
            max_length,
            tokenizer.fingerprint,
            blank_labels,
        ],
        sort_keys=True,
        default=str,
    )
    name = hashlib.sha256(named.encode()).hexdigest()[:32]
    if cache is not None and key is not None and (found := cache.find(name)) is not None:
        return _open(found, sequences_per_example, names)
    folder = cache.new(name) if cache is not None and key is not None else None
    try:
        table = _Writer(folder)
        for source, rows in sources:
            blank_before, before = len(table.unlabelled), table.rows
            table.begin(source)
            stream = rows()
            while chunk := list(islice(stream, _AT_ONCE)):
                _encode_chunk(table, source, chunk, columns, target, sequences, tokenizer, max_length)
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
        encoded = table.finish(sequences_per_example, target is not None)
    except BaseException:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if folder is None or cache is None:
        return encoded
    return _open(cache.keep(folder, name), sequences_per_example, names)


def text_of(value: object, place: Place, column: str) -> str:
    """A row's text; numbers are written out, anything else that is no text is an InputError."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise InputError(
        f"found {'null' if value is None else shown(value)}, expected a text",
        file=place.file,
        row=place.row,
        line=place.line,
        column=column,
    )


def _encode_chunk(
    table: "_Writer",
    source: str,
    rows: Sequence[Row],
    columns: Sequence[str],
    target: str | None,
    sequences: Sequences,
    tokenizer: Tokenizer,
    max_length: int,
) -> None:
    texts: list[tuple[str, ...]] = []
    for row in rows:
        place = Place(source, row.number, row.line)
        value = None if target is None else row.values[target]
        if target is not None and (value is None or (isinstance(value, str) and not value.strip())):
            table.unlabelled.append(place)
            continue
        texts.extend(sequences([text_of(row.values[column], place, column) for column in columns]))
        table.add_row(place, value)
    if not texts:
        return
    packed = len(texts[0]) == 2
    flat = tokenizer.encode_batch(
        [one[0] for one in texts], [one[1] for one in texts] if packed else None, max_length=max_length
    )
    table.add_tokens(flat.ids, flat.segments, flat.lengths, flat.dropped)


class _Writer:
    """Token arrays that grow on disk (or in memory where there is no folder)."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.parts: dict[str, list[NDArray[Any]]] = {"ids": [], "segments": []}
        self.lengths: list[NDArray[np.int32]] = []
        self.dropped: list[NDArray[np.int32]] = []
        self.files: list[str] = []
        self.places: list[tuple[int, int, int | None]] = []
        self.values: list[Any] = []
        self.unlabelled: list[Place] = []

    @property
    def rows(self) -> int:
        return len(self.places)

    def begin(self, source: str) -> None:
        self.files.append(source)

    def add_row(self, place: Place, value: object) -> None:
        self.places.append((len(self.files) - 1, place.row, place.line))
        self.values.append(value)

    def add_tokens(
        self,
        ids: NDArray[np.int32],
        segments: NDArray[np.int32],
        lengths: NDArray[np.int32],
        dropped: NDArray[np.int32],
    ) -> None:
        for name, array in (("ids", ids.astype(np.int32)), ("segments", segments.astype(np.uint8))):
            if self.folder is None:
                self.parts[name].append(array)
            else:
                with open(self.folder / f"{name}.bin", "ab") as file:
                    array.tofile(file)
        self.lengths.append(lengths)
        self.dropped.append(dropped)

    def finish(self, k: int, labelled: bool) -> EncodedRows:
        starts = np.concatenate([[0], np.cumsum(np.concatenate(self.lengths), dtype=np.int64)])
        dropped = np.concatenate(self.dropped)
        if self.folder is not None:
            np.save(self.folder / "starts.npy", starts)
            np.save(self.folder / "dropped.npy", dropped)
            table = {
                "places": self.places,
                "values": self.values if labelled else None,
                "unlabelled": [
                    [self.files.index(place.file), place.row, place.line] for place in self.unlabelled
                ],
            }
            (self.folder / "table.json").write_text(json.dumps(table, default=str), encoding="utf-8")
            return _open(self.folder, k, self.files)
        return EncodedRows(
            np.concatenate(self.parts["ids"]),
            np.concatenate(self.parts["segments"]),
            starts,
            dropped,
            k,
            self.values if labelled else None,
            [Place(self.files[file], row, line) for file, row, line in self.places],
            self.unlabelled,
        )


def _open(folder: Path, k: int, files: Sequence[str]) -> EncodedRows:
    """The split in a cache folder; `files` are the sources' names of today (the content is the same)."""
    table = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    return EncodedRows(
        np.memmap(folder / "ids.bin", dtype=np.int32, mode="r"),
        np.memmap(folder / "segments.bin", dtype=np.uint8, mode="r"),
        np.load(folder / "starts.npy"),
        np.load(folder / "dropped.npy"),
        k,
        table["values"],
        [Place(files[file], row, line) for file, row, line in table["places"]],
        [Place(files[file], row, line) for file, row, line in table["unlabelled"]],
    )
