"""Rows → files: csv, tsv, JSON lines and parquet, and `.gz` of the text ones.

Knows columns by name and plain values. Must not know what a column means: labels, tasks.
"""

import gzip
import io
import json
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, cast, final

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

from manyheads.errors import InputError, nearest, shown
from manyheads.files import finite, replacing, reporting

__all__ = ["RowWriter", "labelled", "open_writer"]

_ROW_GROUP = 8192  # rows of parquet that are held before they are written

_SUFFIXES: Final[dict[str, str]] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}


@contextmanager
def open_writer(
    target: Path | BinaryIO | str,
    columns: Sequence[str],
    format: str | None = None,
    *,
    like: Mapping[str, Any] | None = None,
) -> Iterator["RowWriter"]:
    """Open a file of rows for writing; it takes its place when the block ends well, or not at all.

    A file is written beside its place and renamed, so that an error or Ctrl-C leaves nothing behind and
    an earlier file as it was. Streams and devices are written as the rows come; a stream stays open.

    Args:
        target: a path, a stream of bytes, or `-` for standard output.
        columns: the columns in their order; the header of csv and tsv.
        format: csv, tsv, jsonl or parquet; None: by the name's ending, csv for a stream.
        like: a value such as a column may hold, of columns whose type the first rows of parquet may not tell.
            Where it is a list or a dict, texts in the column are its JSON, and parquet is given what they say.

    Raises:
        InputError: an unknown format, no such folder, no permission.
        WorkError: the disk is full.
    """
    if isinstance(target, str | Path) and str(target) == "-":
        target = sys.stdout.buffer
    target = Path(target) if isinstance(target, str) else target
    kind = _format(target, format)
    with ExitStack() as stack:
        if isinstance(target, Path):
            stream = stack.enter_context(_opened(target))
            if target.suffix.lower() == ".gz":
                # Without name and time in the gzip header the same rows give the same bytes.
                packed = gzip.GzipFile("", "wb", compresslevel=6, fileobj=stream, mtime=0)
                stream = cast(BinaryIO, stack.enter_context(packed))
        else:
            stack.enter_context(reporting("standard output"))
            stream = target
        file = str(target) if isinstance(target, Path) else None
        sink = _SINKS[kind](stream, list(columns), file, like or {})
        try:
            yield RowWriter(sink)
            sink.finish()
        except BaseException:
            sink.abandon()
            raise
        stream.flush()


@final
class RowWriter:
    """Writes rows one after the other; made by `open_writer`."""

    def __init__(self, sink: "_Sink") -> None:
        self._sink = sink

    def write(self, values: Mapping[str, Any]) -> None:
        """Write one row.

        A column that `values` lacks is empty (None). A key that is no column is an InputError, except in
        JSON lines, whose rows need not be alike. Lists and dicts are JSON text in csv and tsv; in parquet they
        are lists and structs where the first rows are of one type, else JSON text.
        """
        self._sink.write(values)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file to write that is renamed in the end, or the device or pipe itself."""
    with reporting(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            with path.open("wb") as stream:
                yield stream
            return
        with replacing(path) as beside, beside.open("wb") as stream:
            yield stream


def _format(target: Path | BinaryIO, format: str | None) -> str:
    if format is not None and format not in _SINKS:
        raise InputError(
            f"unknown output format {format!r}; expected {', '.join(_SINKS)}{nearest(format, _SINKS)}"
        )
    if not isinstance(target, Path):
        return format or "csv"
    packed = target.suffix.lower() == ".gz"
    ending = (target.with_suffix("") if packed else target).suffix
    found = format or _SUFFIXES.get(ending.lower())
    if found is None or (packed and found == "parquet"):
        raise InputError(
            f"unknown kind of output file {ending + '.gz' * packed!r}; "
            f"expected {', '.join(_SUFFIXES)}, or .gz of all but parquet",
            file=target,
        )
    return found


# ---- one class a format ----


class _Sink(ABC):
    """Where rows go in one format."""

    def __init__(
        self, stream: BinaryIO, columns: list[str], file: str | None, like: Mapping[str, Any]
    ) -> None:
        self.stream, self.columns, self.file, self.like = stream, columns, file, like
        self.known = frozenset(columns)
        self.rows = 0

    @abstractmethod
    def write(self, values: Mapping[str, Any]) -> None: ...

    def finish(self) -> None:  # noqa: B027 - most formats have nothing left to write
        """Write what is still held."""

    def abandon(self) -> None:  # noqa: B027
        """Let go without writing."""

    def cells(self, values: Mapping[str, Any]) -> list[Any]:
        """The row's values in the order of the columns."""
        self.rows += 1
        if not self.known.issuperset(values):
            extra = next(key for key in values if key not in self.known)
            raise InputError(
                "the first row lacks this column; expected the same columns in all rows, or write jsonl",
                file=self.file,
                row=self.rows,
                column=str(extra),
            )
        return [values.get(column) for column in self.columns]


class _Text(_Sink):
    """Fields between delimiters; a field that `quoted` finds something in stands in double quotes."""

    delimiter: str
    quoted: re.Pattern[str]

    def __init__(
        self, stream: BinaryIO, columns: list[str], file: str | None, like: Mapping[str, Any]
    ) -> None:
        super().__init__(stream, columns, file, like)
        self._line(columns)

    def write(self, values: Mapping[str, Any]) -> None:
        self._line(map(_text, self.cells(values)))

    def _line(self, fields: Any) -> None:
        line = self.delimiter.join(
            '"' + field.replace('"', '""') + '"' if self.quoted.search(field) else field for field in fields
        )
        # The empty field of a single column would be an empty line, which readers skip.
        self.stream.write(((line or '""') + "\n").encode())


@final
class _Csv(_Text):
    delimiter = ","
    quoted = re.compile(r'[",\r\n]')


@final
class _Tsv(_Text):
    # A quote inside a field needs no quoting, and without it a reader with and one without quoting
    # find the same text; only a tab, a line end or a quote in front leave no choice.
    delimiter = "\t"
    quoted = re.compile(r'[\t\r\n]|\A"')


@final
class _JsonLines(_Sink):
    def write(self, values: Mapping[str, Any]) -> None:
        ordered = {column: values.get(column) for column in self.columns} | dict(values)
        self.stream.write(f"{_json(ordered)}\n".encode())


@final
class _Parquet(_Sink):
    """Types are those of `like`, else of the first rows; a column that is empty there is text, and so is one of lists
    or dicts that have no type in common, or one that is left open, such as lists that are all empty."""

    def __init__(
        self, stream: BinaryIO, columns: list[str], file: str | None, like: Mapping[str, Any]
    ) -> None:
        super().__init__(stream, columns, file, like)
        self.tap = _Tap(stream)
        self.held: list[list[Any]] = []
        self.writer: pq.ParquetWriter | None = None
        self.types: list[Any] = [
            pa.array([like[column]]).type if like.get(column) is not None else None for column in columns
        ]
        self.in_json = [isinstance(like.get(column), _NESTED) for column in columns]

    def write(self, values: Mapping[str, Any]) -> None:
        cells = self.cells(values)
        self.held.append(
            [
                json.loads(cell) if in_json and isinstance(cell, str) else cell
                for cell, in_json in zip(cells, self.in_json, strict=True)
            ]
        )
        if len(self.held) == _ROW_GROUP:
            self._flush()

    def finish(self) -> None:
        if self.held or self.writer is None:
            self._flush()
        if self.writer is not None:
            self.writer.close()

    def abandon(self) -> None:
        self.tap.shut = True
        if self.writer is not None:
            with suppress(pa.ArrowException, OSError):
                self.writer.close()

    def _flush(self) -> None:
        arrays = [self._array(place, column) for place, column in enumerate(self.columns)]
        if self.writer is None:
            self.types = [pa.string() if pa.types.is_null(array.type) else array.type for array in arrays]
            self.writer = pq.ParquetWriter(
                self.tap, pa.schema(list(zip(self.columns, self.types, strict=True)))
            )
        table = pa.Table.from_arrays(
            [array.cast(type) for array, type in zip(arrays, self.types, strict=True)],
            schema=self.writer.schema,
        )
        self.writer.write_table(table)
        self.held.clear()

    def _array(self, place: int, column: str) -> pa.Array:
        cells = [row[place] for row in self.held]
        wanted = self.types[place]
        if any(isinstance(cell, _NESTED) for cell in cells):
            if wanted is None and (array := _nested(cells)) is not None:
                return array
            if wanted is None or not pa.types.is_nested(wanted):
                cells = [_json(cell) if isinstance(cell, _NESTED) else cell for cell in cells]
        try:
            return _exact(cells, wanted)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
            # One by one, to name the row: only on the way out.
            number = self.rows - len(cells)
            for end, cell in enumerate(cells, 1):
                try:
                    _exact(cells[:end] if wanted is None else [cell], wanted)
                except (pa.ArrowException, OverflowError, UnicodeEncodeError):
                    number += end
                    break
            expected = "the type of the rows before" if wanted is None else str(wanted)
            raise InputError(
                f"found {shown(cell)}, expected {expected} (parquet has one type a column; "
                "write csv or jsonl instead)",
                file=self.file,
                row=number,
                column=column,
            ) from error


def _exact(cells: list[Any], wanted: Any) -> pa.Array:
    """Cells as an array of a type; an ArrowException also where a struct would lose keys that it has no field for."""
    array = pa.array(cells, type=wanted)
    if wanted is not None and pa.types.is_nested(wanted) and not _same(array.to_pylist(), cells):
        raise pa.ArrowInvalid("keys that the struct has not")
    return array


def _nested(cells: list[Any]) -> pa.Array | None:
    """Lists or dicts as lists and structs, if that is what they all are and nothing of them is added or lost."""
    try:
        array = pa.array(cells)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return None
    return array if not _is_open(array.type) and _same(array.to_pylist(), cells) else None


def _is_open(type: Any) -> bool:
    """Whether an inferred type says of some part not what it is: of lists that are all empty, of a struct without
    fields, of values that are all missing."""
    if pa.types.is_struct(type):
        return type.num_fields == 0 or any(
            _is_open(type.field(place).type) for place in range(type.num_fields)
        )
    return bool(_is_open(type.value_type) if pa.types.is_list(type) else pa.types.is_null(type))


def _same(found: Any, given: Any) -> bool:
    """Whether what stands in an array is what was given: no key more or less, no number rounded."""
    if isinstance(given, np.generic | np.ndarray):
        given = given.tolist()
    if isinstance(given, dict):
        return (
            isinstance(found, dict)
            and found.keys() == given.keys()
            and all(_same(found[key], value) for key, value in given.items())
        )
    if isinstance(given, list | tuple):
        return isinstance(found, list) and len(found) == len(given) and all(map(_same, found, given))
    return bool(found == given or (found != found and given != given))


class _Tap(io.RawIOBase):
    """A stream that knows its position, which a pipe does not, and that can be shut.

    The parquet writer writes the file's end whenever it is closed; after an error that end must not
    arrive, or half of the rows would look like all of them.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._place, self.shut = stream, 0, False

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def write(self, data: Any) -> int:
        if not self.shut:
            self._stream.write(data)
        self._place += len(data)
        return len(data)


_SINKS: Final[dict[str, type[_Sink]]] = {
    "csv": _Csv,
    "tsv": _Tsv,
    "jsonl": _JsonLines,
    "parquet": _Parquet,
}

_NESTED = (dict, list, tuple, np.ndarray)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    return _json(value) if isinstance(value, _NESTED) else str(value)


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError:  # a number that is not finite; once more through JSON, which leaves plain values
        return json.dumps(finite(json.loads(json.dumps(value, default=_plain))), ensure_ascii=False)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)


# The columns that every labelled file may have; a column of the caller's with such a name is moved aside.
_ADDED = ("label", "score", "value", "truncated", "tokens_dropped")


def labelled(
    values: Mapping[str, Any], cells: Mapping[str, Any], dropped: int, *, probabilities: bool
) -> dict[str, Any]:
    """A row's values with its prediction's cells behind them, and how many tokens of it were cut.

    A column of the row that has the name of an added one becomes `input.NAME`. Without `probabilities` the cells
    `p:LABEL` are left out.
    """
    kept = {key: cell for key, cell in cells.items() if probabilities or not key.startswith("p:")}
    added = {**kept, "truncated": dropped > 0, "tokens_dropped": dropped}
    ours = {*_ADDED, *added}
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = key
        while name in ours or (name != key and name in values):
            name = f"input.{name}"
        found[name] = value
    return found | added
