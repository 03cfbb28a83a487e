"""Files → rows: csv, tsv, JSON lines, JSON arrays, SQuAD's JSON, CoNLL columns, parquet, `.gz` of the text ones.

Knows bytes, lines and columns by name. Must not know what a column means: labels, tokens, tasks.

Rows stream: memory does not grow with the file, except for a JSON array (its text is held whole), SQuAD's
JSON (which is one object) and for parquet from a stream (parquet is read from its end). Completely empty
lines are skipped in every text format, CRLF ends a line like LF, and a UTF-8 byte order mark is dropped.
"""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple, Self, cast

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]
from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from manyheads.data import squad
from manyheads.data.conll import Sentence, read_conll
from manyheads.errors import InputError, nearest, shown

__all__ = ["Dialect", "Row", "column_names", "read_rows"]

_CHUNK = 1 << 16
# The csv module holds a field whole, and a quote that is never closed would make the rest of the file
# one field: this bounds the damage. In characters; far above any document that a row holds.
_LONGEST_FIELD = 1 << 24
_PARQUET_BATCH = 1024

_SUFFIXES: Final[dict[str, str]] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "txt",  # settled by what it begins with
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".conll": "conll",
    ".iob": "conll",
    ".bio": "conll",
}

# What a file that is no text begins with, and what to do about it.
_MAGIC: Final[dict[bytes, str]] = {
    b"\x1f\x8b": "found gzip data; give the file a name that ends in .gz",
    b"PK\x03\x04": "found a zip archive or a spreadsheet; unpack it, or save the sheet as csv",
    b"\xd0\xcf\x11\xe0": "found an Excel sheet; save it as csv",
    b"PAR1": "found parquet data; say `format: parquet`",
}


def _repeated(names: Iterable[str]) -> str | None:
    """The first name that comes a second time; columns without a name do not count."""
    seen = set[str]()
    for name in names:
        if name and name in seen:
            return name
        seen.add(name)
    return None


class Dialect(BaseModel):
    """How the rows of a file are written; `auto` settles it by the file's name."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    format: Literal["auto", "csv", "tsv", "jsonl", "json", "parquet", "conll", "squad"] = "auto"
    """The format; auto: by the file's name without `.gz`. A `.txt` is JSON where it begins like JSON with
    objects, else tsv; a stream is looked at in the same way, and is csv without a tab in its first line.
    `squad`, the JSON of SQuAD 1.1 and 2.0 with one question a row, is always said."""

    delimiter: str | None = None
    """One character between fields; auto: the tab for tsv, for csv the tab if the first line has one, else the
    comma, else the semicolon, and for conll the tab if the first line has one, else spaces."""

    quoting: Literal["auto", "csv", "none"] = "auto"
    """`csv`: fields may stand in double quotes; `none`: a quote is text. auto: none for tsv, csv for csv."""

    header: bool = True
    """The first line names the columns."""

    columns: list[str] | None = None
    """The columns' names where there is no header line (`header: false`); of `conll`, which has none ever, all
    columns of a line from the left (default: the first is `words`, the last `tags`)."""

    encoding: str = "utf-8"
    """How the text is encoded: utf-8, latin-1, gb18030, utf-16 or another that Python knows."""

    extra_columns: Literal["error", "ignore", "join"] = "error"
    """What to do with fields beyond the last named column; `join`: they are part of it, with the delimiters between,
    as in lines of a label and a text with spaces."""

    missing_columns: Literal["error", "empty"] = "error"
    """What to do with a row that ends before the last column: `empty` leaves the rest of it empty, such as the label of
    a row that a line break has torn in two, which is then left out and counted."""

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        if value is not None and (len(value) != 1 or value in '"\r\n\0'):
            raise ValueError(f"found {shown(value)}, expected one character that is no quote and no line end")
        return value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            b"x".decode(value, "ignore")
            codecs.getincrementaldecoder(value)
        except (LookupError, UnicodeError) as error:
            raise ValueError(f"found {shown(value)}, expected one such as utf-8 or latin-1") from error
        return value

    @model_validator(mode="after")
    def _names_from_one_place(self) -> Self:
        if self.header and self.columns is not None and self.format != "conll":
            raise ValueError("`columns` is for a file without a header line: say `header: false` too")
        if not self.header and not self.columns and self.format != "conll":
            raise ValueError("`header: false` needs `columns: […]`, the names of the columns")
        if again := _repeated(self.columns or []):
            raise ValueError(f"`columns` names {again!r} twice")
        return self


class Row(NamedTuple):
    """One data row: `number` counts from 1, `line` is the file's line it starts in (None for parquet
    and SQuAD's JSON, whose rows are questions); `line_a_word`: its words stand in lines one after the
    other, as in CoNLL files."""

    number: int
    line: int | None
    values: dict[str, Any]
    line_a_word: bool = False


_AUTO = Dialect()


def read_rows(
    source: Path | BinaryIO,
    dialect: Dialect = _AUTO,
    *,
    need: Sequence[str] = (),
    name: str | None = None,
    allow_empty: bool = False,
) -> Iterator[Row]:
    """The rows of a file, or of a stream of bytes such as standard given, which need not be seekable.

    The file is opened, its header checked for the columns `need` and its first row read before this
    returns; the rest follows as it is asked for. Values of text tables are strings, those of JSON and
    parquet what they are there. Columns without a name are kept as `''`, unless there are several.

    Args:
        name: what errors call the source; its path if None.
        allow_empty: a file without rows gives none; otherwise it is an error.

    Raises:
        InputError: whatever is wrong with the file, with file, row, line and column where they apply.
    """
    rows = _rows(source, dialect, need, _called(source, name))
    first = next(rows, None)
    if first is not None:
        return chain([first], rows)
    if not allow_empty:
        raise InputError("no rows: empty, or nothing but a header", file=_called(source, name))
    return iter(())


def column_names(source: Path | BinaryIO, dialect: Dialect = _AUTO, *, name: str | None = None) -> list[str]:
    """The names of the columns: of the header, of the parquet schema, or the keys of the first JSON row."""
    with _opened(source, dialect, (), _called(source, name)) as given:
        names, rows = _READERS[given.format](given)
        if names is None:
            first = next(rows, None)
            names = [] if first is None else list(first.values)
        return names


def _rows(source: Path | BinaryIO, dialect: Dialect, need: Sequence[str], file: str) -> Iterator[Row]:
    with _opened(source, dialect, need, file) as given:
        _, rows = _READERS[given.format](given)
        yield from rows


def _called(source: Path | BinaryIO, name: str | None) -> str:
    return name or (str(source) if isinstance(source, Path) else "input")


# ---- bytes ----


@dataclass(frozen=True)
class _Input:
    """An opened source, its format settled; `named` is the format before its first bytes were looked at."""

    file: str
    named: str
    format: str
    stream: BinaryIO
    dialect: Dialect
    need: Sequence[str]


class _DamageError(Exception):
    """Bytes that are no text; the reader of rows adds file and row."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line

    def at(self, file: str, row: int | None = None) -> InputError:
        return InputError(str(self), file=file, row=row if self.line is not None else None, line=self.line)


class _Rejoined(io.RawIOBase):
    """A stream with the bytes that were read ahead put back in front."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data, self._head = self._head[: len(buffer)], self._head[len(buffer) :]
        data = data or _some(self._rest, len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _some(stream: BinaryIO, size: int) -> bytes:
    """Some bytes, as soon as there are any; b'' at the end. Damaged gzip data is a _DamageError."""
    # read1 where there is one: read would hold a slow pipe's rows back until `size` bytes have come.
    read = stream.read1 if isinstance(stream, io.BufferedIOBase) else stream.read
    try:
        return read(size) or b""
    except EOFError as error:
        raise _DamageError("the gzip data ends too early: the file was cut off") from error
    except gzip.BadGzipFile as error:
        raise _DamageError(f"expected gzip data (the name ends in .gz): {error}") from error
    except zlib.error as error:
        raise _DamageError("the gzip data is damaged") from error
    except OSError as error:
        raise _DamageError(f"cannot be read: {error.strerror or error}") from error


def _open_file(path: Path, file: str) -> BinaryIO:
    if path.is_dir():
        raise InputError("is a folder; expected a file", file=file)
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        if not path.parent.is_dir():
            raise InputError(f"no such file: there is no folder {str(path.parent)!r}", file=file) from error
        siblings = (sibling.name for sibling in path.parent.iterdir())
        raise InputError(f"no such file{nearest(path.name, siblings)}", file=file) from error
    except PermissionError as error:
        raise InputError("no permission to read it", file=file) from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=file) from error


@contextmanager
def _opened(source: Path | BinaryIO, dialect: Dialect, need: Sequence[str], file: str) -> Iterator[_Input]:
    """Open, unpack and look at the first bytes; a stream that was given stays open."""
    named = _format_by_name(source, file) if dialect.format == "auto" else dialect.format
    with ExitStack() as stack:
        packed = False
        if isinstance(source, Path):
            stream = stack.enter_context(_open_file(source, file))
            packed = source.suffix.lower() == ".gz"
        else:
            stream = source
        if named == "parquet":
            if not isinstance(source, Path):
                stream = io.BytesIO(stream.read())
            yield _Input(file, named, named, stream, dialect, need)
            return
        try:
            head = b"" if packed else _head(stream)
            if not isinstance(source, Path):
                packed = head.startswith(b"\x1f\x8b")
                stream = cast(BinaryIO, io.BufferedReader(_Rejoined(head, stream), _CHUNK))
            if packed:
                stream = cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=stream)))
                head = _head(stream)
        except _DamageError as damage:
            raise damage.at(file) from damage
        if packed or isinstance(source, Path):
            stream = cast(BinaryIO, io.BufferedReader(_Rejoined(head, stream), _CHUNK))
        format = _format_by_look(named, head, dialect.encoding)
        if format == "parquet":  # only a stream without a given format comes here
            stream = io.BytesIO(stream.read())
        else:
            _refuse_magic(head, dialect.encoding, file)
        yield _Input(file, named, format, stream, dialect, need)


def _format_by_name(source: Path | BinaryIO, file: str) -> str:
    if not isinstance(source, Path):
        return "stream"
    path = source.with_suffix("") if (packed := source.suffix.lower() == ".gz") else source
    format = _SUFFIXES.get(path.suffix.lower())
    if format is None or (packed and format == "parquet"):
        ending = path.suffix + ".gz" * packed
        raise InputError(
            f"unknown kind of file{f' {ending!r}' if ending else ', its name has no ending'}; expected "
            f"{', '.join(_SUFFIXES)}, or .gz of all but parquet; or say `format: …`",
            file=file,
        )
    return format


def _head(stream: BinaryIO) -> bytes:
    """The first bytes: at least two lines that are not empty, or all there is, or a chunk."""
    head = b""
    while len(head) < _CHUNK and b"\n" not in head.strip():
        more = _some(stream, _CHUNK)
        if not more:
            break
        head += more
    return head


def _format_by_look(named: str, head: bytes, encoding: str) -> str:
    """Settle `txt`, `stream` and `json` by the first bytes."""
    if named not in ("txt", "stream", "json"):
        return named
    if named == "stream" and head.startswith(b"PAR1"):
        return "parquet"
    decoded = head.decode(encoding, "replace").lstrip("\ufeff")
    text = decoded.lstrip()
    if named == "json":
        return "jsonl" if text.startswith("{") else "json"
    # A sentence may begin with a bracket; rows in JSON are objects and begin with more than that.
    if re.match(r"\[\s*[{\]]", text):
        return "json"
    if re.match(r'\{\s*["}]', text):
        return "jsonl"
    first_line = decoded.lstrip("\r\n").partition("\n")[0]
    return "tsv" if named == "txt" or "\t" in first_line else "csv"


def _refuse_magic(head: bytes, encoding: str, file: str) -> None:
    for magic, message in _MAGIC.items():
        if head.startswith(magic):
            raise InputError(f"{message}; expected text", file=file)
    if _is_utf8(encoding) and head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError("found UTF-16 text, expected UTF-8: say `encoding: utf-16`", file=file)


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


# ---- lines ----


def _lines(stream: BinaryIO, encoding: str) -> Iterator[str]:
    """The lines with their ends; a lone CR does not end a line.

    Raises _DamageError, naming the line, at the first byte that is no text, after the lines before it.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig" if _is_utf8(encoding) else encoding)()
    line, pending = 1, list[str]()
    damage: str | None = None
    ended = False
    while not ended and damage is None:
        text = ""
        try:
            chunk = _some(stream, _CHUNK)
            ended = not chunk
            text = decoder.decode(chunk, final=ended)
        except _DamageError as error:
            damage = str(error)
        except UnicodeDecodeError as error:
            text = error.object[: error.start].decode(error.encoding, "replace")
            damage = f"byte {error.object[error.start]:#04x} is not {encoding.upper()}"
            if _is_utf8(encoding):
                damage += "; if the file is Latin-1 say `encoding: latin-1`"
        if "\0" in text:
            text = text.partition("\0")[0]
            damage = "found a NUL byte, expected text; if the file is UTF-16 say `encoding: utf-16`"
        first, *rest = text.split("\n")
        pending.append(first)
        line += len(rest)
        if rest:
            yield "".join(pending) + "\n"
            yield from (whole + "\n" for whole in rest[:-1])
            pending = [rest[-1]]
    if damage is not None:
        raise _DamageError(damage, line)
    if last := "".join(pending):
        yield last


# ---- csv, tsv ----

_Records = Iterator[tuple[int, list[str]]]


class _QuoteError(Exception):
    """Quotes that do not pair; the reader of rows adds file and row."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def _read_delimited(given: _Input) -> tuple[list[str], Iterator[Row]]:
    file, dialect = given.file, given.dialect
    quoted = dialect.quoting == "csv" or (dialect.quoting == "auto" and given.format == "csv")
    try:
        lines = _lines(given.stream, dialect.encoding)
        leading = []
        for line in lines:  # up to the first that is not empty, which tells the delimiter
            leading.append(line)
            if line.strip("\r\n"):
                break
        delimiter = dialect.delimiter or _delimiter(given.format, leading[-1] if leading else "")
        lines = chain(leading, lines)
        records = _quoted_records(lines, delimiter) if quoted else _plain_records(lines, delimiter)
        names, line_number = dialect.columns or [], None
        if dialect.header:
            line_number, names = next(records, (None, []))
    except _DamageError as damage:
        raise damage.at(file) from damage
    except _QuoteError as error:
        raise InputError(str(error), file=file, line=error.line) from error
    if dialect.header:
        if line_number is None:
            raise InputError("the file is empty; expected a header line", file=file)
        if any(re.search(r"\r(?!\n)", name) for name in names):
            raise InputError("lines end in CR alone, expected LF or CRLF", file=file, line=line_number)
        if again := _repeated(names):
            raise InputError(f"the header names column {again!r} twice", file=file, line=line_number)
    _check_columns(names, given.need, file, line_number, quoted)
    return names, _delimited_rows(given, names, records, delimiter, quoted)


def _delimited_rows(
    given: _Input, names: list[str], records: _Records, delimiter: str, quoted: bool
) -> Iterator[Row]:
    width, number = len(names), 0
    unnamed = names.count("") > 1  # none of them could be asked for
    try:
        for line, fields in records:
            number += 1
            if len(fields) != width:
                beyond = len(fields) > width
                if (given.dialect.extra_columns if beyond else given.dialect.missing_columns) == "error":
                    raise InputError(
                        f"found {_ragged(fields, names, quoted)}", file=given.file, row=number, line=line
                    )
                if beyond and given.dialect.extra_columns == "join":
                    fields[width - 1] = delimiter.join(fields[width - 1 :])
                del fields[width:]
                fields += [""] * (width - len(fields))
            values = dict(zip(names, fields, strict=True))
            if unnamed:
                del values[""]
            yield Row(number, line, values)
    except _DamageError as damage:
        raise damage.at(given.file, number + 1) from damage
    except _QuoteError as error:
        raise InputError(str(error), file=given.file, row=number + 1, line=error.line) from error


def _ragged(fields: list[str], names: list[str], quoted: bool) -> str:
    message = f"{len(fields)} field{'s' * (len(fields) != 1)}, expected {len(names)} ({_listed(names)})"
    if not quoted and any(field.startswith('"') for field in fields):
        message += "; a field begins with a quote: if fields are quoted say `quoting: csv`"
    elif len(fields) > len(names):
        message += "; `extra_columns: ignore` drops what is beyond"
    return message


def _delimiter(format: str, first_line: str) -> str:
    if format == "tsv":
        return "\t"
    bare = re.sub(r'"[^"]*"', "", first_line)
    return next((mark for mark in "\t,;" if mark in bare), ",")


def _plain_records(lines: Iterable[str], delimiter: str) -> _Records:
    for number, line in enumerate(lines, 1):
        if bare := line.rstrip("\r\n"):
            yield number, bare.split(delimiter)


def _quoted_records(lines: Iterable[str], delimiter: str) -> _Records:
    """Records with the line each starts in; a quoted field may go over several lines."""
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    taken = list[str]()

    def feed() -> Iterator[str]:
        for line in lines:
            # The csv module refuses a lone CR outside quotes. NUL, which _lines lets through nowhere,
            # stands for it in the meantime.
            if "\r" in line:
                bare = line.rstrip("\r\n")
                line = bare.replace("\r", "\0") + line[len(bare) :]
            taken.append(line)
            yield line

    reader = csv.reader(feed(), delimiter=delimiter, strict=True)
    while True:
        start = reader.line_num + 1
        taken.clear()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _quote_error(taken, delimiter, start) from error
        if fields:
            if any("\0" in line for line in taken):
                fields = [field.replace("\0", "\r") for field in fields]
            yield start, fields


def _quote_error(taken: list[str], delimiter: str, start: int) -> _QuoteError:
    """What is wrong with the quotes of the record that `taken` holds, found by walking through it again."""
    opened: int | None = None
    for number, line in enumerate(taken, start):
        place = 0
        while place < len(line):
            if opened is None:
                if line[place] == '"':
                    opened, place = number, place + 1
                    continue
                place = line.find(delimiter, place) + 1 or len(line)
                continue
            place = line.find('"', place)
            if place < 0:
                break
            if line.startswith('""', place):
                place += 2
            elif line[place + 1 : place + 2] in ("", "\r", "\n", delimiter):
                opened, place = None, place + 2
            else:
                return _QuoteError(
                    f"text after the closing quote of the field that opens in line {opened}; a quote inside "
                    'a quoted field is written ""; if quotes are plain text say `quoting: none`',
                    start,
                )
    if opened is None:
        return _QuoteError(f"a field is longer than {_LONGEST_FIELD:,} characters", start)
    return _QuoteError(
        f"the quote that opens in line {opened} is never closed, or not within {_LONGEST_FIELD:,} "
        "characters; if quotes are plain text say `quoting: none`",
        start,
    )


# ---- JSON ----


def _read_json_lines(given: _Input) -> tuple[None, Iterator[Row]]:
    return None, _json_line_rows(given)


def _json_line_rows(given: _Input) -> Iterator[Row]:
    number = 0
    try:
        for line, text in enumerate(_lines(given.stream, given.dialect.encoding), 1):
            if not text.strip():
                continue
            number += 1
            try:
                value = json.loads(text.rstrip("\r\n"))  # so that no fault is placed beyond the line
            except (ValueError, RecursionError) as error:
                expected = "an array of objects, or " if given.named == "json" else ""
                hint = ""
                if text.lstrip().startswith("["):
                    hint = "; an array over several lines is read with `format: json`"
                elif _breaks_off(error):
                    hint = "; the line ends within its object"
                raise InputError(
                    f"{_json_fault(error)}; expected {expected}one object a line{hint}",
                    file=given.file,
                    row=number,
                    line=line,
                ) from error
            yield _json_row(given, number, line, value, text)
    except _DamageError as damage:
        raise damage.at(given.file, number + 1) from damage


def _read_json_array(given: _Input) -> tuple[None, Iterator[Row]]:
    return None, _json_array_rows(given)


def _json_array_rows(given: _Input) -> Iterator[Row]:
    """The items, one parsed at a time; only the text is held whole."""
    try:
        text = "".join(_lines(given.stream, given.dialect.encoding))
    except _DamageError as damage:
        raise damage.at(given.file) from damage
    decode, skip = json.JSONDecoder().raw_decode, re.compile(r"[ \t\r\n]*").match

    def after_space(place: int) -> int:
        found = skip(text, place)
        return place if found is None else found.end()

    def fault(message: str, place: int) -> InputError:
        error = json.JSONDecodeError(message, text, place)
        return InputError(
            f"{_json_fault(error)}; expected an array of objects", file=given.file, line=error.lineno
        )

    def after_item(place: int) -> str:
        if place == len(text):
            return f"the text ends after item {number}, before the ']' of the array"
        return f"found no ',' or ']' after item {number}"

    place = after_space(0)
    if place == len(text):
        return
    if text[place] != "[":
        raise fault("found no array", place)
    line, counted, number = 1, 0, 0
    place = after_space(place + 1)
    more = text[place : place + 1] != "]"
    while more:
        number += 1
        line, counted = line + text.count("\n", counted, place), place
        try:
            value, end = decode(text, place)
        except (ValueError, RecursionError) as error:
            at = error.lineno if isinstance(error, json.JSONDecodeError) else line
            expected = "expected an object"
            if _breaks_off(error):
                expected = f"the text ends within the item, which begins in line {line}"
                if place == len(text):
                    expected = "the text ends before the item, and before the ']' of the array"
            raise InputError(
                f"{_json_fault(error)}; {expected}", file=given.file, row=number, line=at
            ) from error
        yield _json_row(given, number, line, value, text[place:end])
        place = after_space(end)
        more = text[place : place + 1] == ","
        if more:
            comma, place = place, after_space(place + 1)
            if text[place : place + 1] == "]":
                raise fault("a comma after the last item", comma)
    if text[place : place + 1] != "]":
        raise fault(after_item(place), place)
    if (place := after_space(place + 1)) != len(text):
        raise fault("text after the array", place)


def _json_fault(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} (character {error.colno})"
    return "not JSON: nested too deeply" if isinstance(error, RecursionError) else f"not JSON: {error}"


def _breaks_off(error: Exception) -> bool:
    """Whether what is wrong with a JSON text is that it ends too early."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    unclosed = error.msg.startswith("Unterminated string")
    return unclosed or not error.doc[error.pos :].strip()


def _json_row(given: _Input, number: int, line: int, value: Any, text: str) -> Row:
    if not isinstance(value, dict):
        raise InputError(
            f"found {shown(value)}, expected an object {{…}}", file=given.file, row=number, line=line
        )
    for column in given.need:
        if column not in value:
            hint = "; SQuAD's JSON is read with `format: squad`" if "data" in value else ""
            raise InputError(
                f"no key {column!r}; found {_listed(value)}{nearest(column, value)}{hint}",
                file=given.file,
                row=number,
                line=line,
            )
    if _HALF_PAIR.search(text):
        _refuse_half_pair(given.file, number, line, value)
    return Row(number, line, value)


# JSON can escape half of a pair of surrogates, which is no character and which no tokenizer takes.
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


def _refuse_half_pair(file: str, number: int, line: int | None, values: dict[str, Any]) -> None:
    for column, item in values.items():
        try:
            json.dumps([column, item], ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"found {error.object[error.start]!r}, half of a surrogate pair, expected text",
                file=file,
                row=number,
                line=line,
                column=column,
            ) from error


# ---- SQuAD's JSON ----


def _read_squad(given: _Input) -> tuple[list[str], Iterator[Row]]:
    try:
        text = "".join(_lines(given.stream, given.dialect.encoding))
    except _DamageError as damage:
        raise damage.at(given.file) from damage
    try:
        names, rows = squad.table(json.loads(text))
    except squad.QuestionError as error:
        raise InputError(str(error), file=given.file, row=error.number) from error
    except (ValueError, RecursionError) as error:
        at = error.lineno if isinstance(error, json.JSONDecodeError) else None
        expected = "SQuAD's object with the articles under 'data'"
        raise InputError(f"{_json_fault(error)}; expected {expected}", file=given.file, line=at) from error
    _check_columns(names, given.need, given.file)
    if _HALF_PAIR.search(text):
        for number, values in enumerate(rows, 1):
            _refuse_half_pair(given.file, number, None, values)
    return names, (Row(number, None, values) for number, values in enumerate(rows, 1))


# ---- CoNLL columns ----


def _read_conll(given: _Input) -> tuple[list[str], Iterator[Row]]:
    dialect = given.dialect
    lines = _lines(given.stream, dialect.encoding)
    try:
        names, sentences = read_conll(
            lines, file=given.file, columns=dialect.columns, delimiter=dialect.delimiter, need=given.need
        )
    except _DamageError as damage:
        raise damage.at(given.file) from damage
    _check_columns(names, given.need, given.file)
    return names, _conll_rows(given.file, sentences)


def _conll_rows(file: str, sentences: Iterator[Sentence]) -> Iterator[Row]:
    number = 0
    try:
        for number, line, values in sentences:
            yield Row(number, line, values, line_a_word=True)
    except _DamageError as damage:
        raise damage.at(file, number + 1) from damage


# ---- parquet ----


def _read_parquet(given: _Input) -> tuple[list[str], Iterator[Row]]:
    try:
        table = pq.ParquetFile(given.stream)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"not a parquet file, or one that was cut off: {_first_line(error)}", file=given.file
        ) from error
    names: list[str] = table.schema_arrow.names
    if again := _repeated(names):
        raise InputError(f"two columns have the name {again!r}", file=given.file)
    _check_columns(names, given.need, given.file)
    return names, _parquet_rows(given.file, table)


def _parquet_rows(file: str, table: pq.ParquetFile) -> Iterator[Row]:
    batches = table.iter_batches(batch_size=_PARQUET_BATCH)
    number = 0
    while True:
        try:
            batch = next(batches, None)
            rows = [] if batch is None else batch.to_pylist()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"damaged after row {number}: {_first_line(error)}", file=file) from error
        if batch is None:
            return
        for values in rows:
            number += 1
            yield Row(number, None, values)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0]


# ---- columns ----


def _check_columns(
    names: Sequence[str], need: Sequence[str], file: str, line: int | None = None, quoted: bool = True
) -> None:
    for column in need:
        if column in names and not (column == "" and names.count("") > 1):
            continue
        message = f"no column {column!r}; found {_listed(names)}{nearest(column, names)}"
        if not quoted and any(name.startswith('"') for name in names):
            message += "; if fields are quoted say `quoting: csv`"
        elif len(names) == 1 and re.search(r"[\t,;|]", names[0]):
            message += "; is the `delimiter` another one?"
        raise InputError(message, file=file, line=line)


def _listed(names: Iterable[str], most: int = 20) -> str:
    """The names for an error, quoted, the first `most` of them."""
    known = list(names)
    text = ", ".join(map(shown, known[:most])) or "none"
    return text if len(known) <= most else f"{text} and {len(known) - most} more"


_READERS: Final[dict[str, Callable[[_Input], tuple[list[str] | None, Iterator[Row]]]]] = {
    "csv": _read_delimited,
    "tsv": _read_delimited,
    "jsonl": _read_json_lines,
    "json": _read_json_array,
    "parquet": _read_parquet,
    "conll": _read_conll,
    "squad": _read_squad,
}
