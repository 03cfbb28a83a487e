"""Files and folders → the documents of a corpus, one after the other, in constant memory.

Knows bytes, lines and one column. Must not know sentences, tokens or what the text is for.

What is broken is passed over, counted and listed with its file and line, and reading goes on: a corpus of millions of
pages always has some bad ones, and a training must not die of them after hours. `strict: true` makes each an error.
"""

import codecs
import gzip
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Final, Literal, NamedTuple, cast, final

from pydantic import AfterValidator, BaseModel, ConfigDict

from manyheads.data.read import Dialect, Row, read_rows
from manyheads.errors import InputError, nearest, shown
from manyheads.files import line_encoding

__all__ = ["Document", "DocumentSettings", "Documents", "Problem", "kind_of", "shards"]

# In bytes. What a document, or a line of JSON, may hold; bounds the memory that a file without line ends can take.
LONGEST = 1 << 24
# In bytes. Longer lines of UTF-8 are not looked at for white space beyond ASCII.
_BLANK = 1 << 8
# Problems that are kept with their place; beyond them they are only counted.
LISTED = 1000

_KINDS: Final[dict[str, str]] = {
    ".txt": "text",
    ".text": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "rows",
    ".csv": "rows",
    ".tsv": "rows",
    ".parquet": "rows",
}
_GZIP = b"\x1f\x8b"


class DocumentSettings(BaseModel):
    """How the files of a corpus hold its documents."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    format: Literal["auto", "text", "jsonl", "json", "csv", "tsv", "parquet"] = "auto"
    """The format of the files; auto: by each one's name."""

    text: str = "text"
    """The column with the document, in JSON lines, parquet and tables; files of plain text have none."""

    boundary: Literal["blank", "line", "file"] = "blank"
    """Where a document of a text file ends: at a blank line, at every line end, or at the end of the file."""

    encoding: Annotated[str, AfterValidator(line_encoding)] = "utf-8"
    """How the text is encoded: utf-8, latin-1, gb18030 or another whose line ends are one byte."""

    quoting: Literal["auto", "csv", "none"] = "auto"
    """In tables: `csv`: fields may stand in double quotes; `none`: a quote is text. auto: none for tsv, csv for csv."""

    strict: bool = False
    """A broken document is an error; otherwise it is left out, counted and listed."""


class Document(NamedTuple):
    """A document and where it begins; `line` is None in parquet, whose rows have none."""

    text: str
    file: Path
    row: int
    line: int | None


@dataclass(frozen=True)
class Problem:
    """A document, or the rest of a file, that was left out. `str()` is one line with its place."""

    file: str
    row: int | None
    line: int | None
    message: str

    def error(self) -> InputError:
        """The same as an error."""
        return InputError(self.message, file=self.file, row=self.row, line=self.line)

    def __str__(self) -> str:
        return str(self.error())


def shards(sources: Sequence[Path], *, any_name: bool = False) -> list[Path]:
    """The files of a corpus: each source is a file or a folder, whose files are found at any depth and sorted by name.

    In folders hidden files and those whose names end otherwise than the known ones are left out; a file that is named
    itself may have `any_name` where the format is known otherwise.
    """
    found = list[Path]()
    for source in sources:
        if source.is_dir():
            names = (path.relative_to(source) for path in _inside(source))
            inside = sorted(
                (name.as_posix(), source / name)
                for name in names
                if _kind(name) and not any(part.startswith(".") for part in name.parts)
            )
            # A link to nowhere is taken along, to be told of.
            files = [path for _, path in inside if path.is_file() or path.is_symlink()]
            if not files:
                raise InputError(f"no documents: expected files that end in {_known()}", file=source)
            found += files
        elif not source.exists():
            known = (path.name for path in source.parent.iterdir()) if source.parent.is_dir() else ()
            raise InputError(f"no such file or folder{nearest(source.name, known)}", file=source)
        elif _kind(source) is None and not any_name:
            raise InputError(
                f"unknown kind of file; expected a folder, or a name that ends in {_known()}", file=source
            )
        else:
            found.append(source)
    if not found:
        raise InputError("no files: expected at least one file or folder of documents")
    return found


def _inside(folder: Path) -> Iterator[Path]:
    """All files below a folder; folders that are links are gone into, each real one once."""
    seen = set[str]()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(root) / name for name in names)


def kind_of(file: Path, settings: DocumentSettings) -> str:
    """How a file is read: by the format that is said, else by its name."""
    return settings.format if settings.format != "auto" else _kind(file) or "rows"


def _kind(path: Path) -> str | None:
    packed = path.suffix.lower() == ".gz"
    suffix = (path.with_suffix("") if packed else path).suffix.lower()
    return None if packed and suffix == ".parquet" else _KINDS.get(suffix)


def _known() -> str:
    return f"{', '.join(_KINDS)}, or .gz of all but parquet"


@final
class Documents:
    """The documents of some files, in order; each iteration reads them anew.

    One reader among `world` × `workers` gets every document whose number and file's number add up to its own place
    modulo their product: no two readers get the same one and together they get all, also where a file is broken or
    vanishes for only some of them.

    Raises (while iterating, with `strict`):
        InputError: the first problem.
    """

    def __init__(
        self,
        files: Sequence[Path],
        settings: DocumentSettings | None = None,
        *,
        rank: int = 0,
        world: int = 1,
        worker: int = 0,
        workers: int = 1,
    ) -> None:
        if not (0 <= rank < world and 0 <= worker < workers):
            raise ValueError(f"found rank {rank} of {world} and worker {worker} of {workers}")
        self.files = list(files)
        self.settings = settings or DocumentSettings()
        self.bytes_read = 0
        """Of the files as they lie on disk, so far: with `bytes_in_all` how far reading has come."""
        self.bytes_in_all = sum(_size(file) for file in self.files)
        self.skipped = 0
        """Problems so far."""
        self.problems: list[Problem] = []
        """The first 1000 of them."""
        self.disturbed = False
        """Whether the system failed to give what a file holds, so that reading again may give more."""
        self._part, self._parts = rank * workers + worker, world * workers
        self._met = 0  # problems so far, this reader's and others'

    def __iter__(self) -> Iterator[Document]:
        self.bytes_read, self.skipped, self.problems, self.disturbed = 0, 0, [], False
        done = 0
        for number, file in enumerate(self.files):
            kind = kind_of(file, self.settings)
            read = {"text": self._text, "jsonl": self._json_lines}.get(kind, self._rows)
            try:
                yield from read(file, number, done)
            except OSError as error:  # a folder that is unmounted, a file that is deleted
                self.disturbed = True
                what = (
                    "it has vanished"
                    if isinstance(error, FileNotFoundError)
                    else error.strerror or str(error)
                )
                self._skip(number, Problem(str(file), None, None, f"cannot be read: {what}"))
            done += _size(file)
            self.bytes_read = done

    def _mine(self, number: int, row: int) -> bool:
        return (number + row) % self._parts == self._part

    def _skip(self, number: int, problem: Problem) -> None:
        """Count what is wrong with a row, or with a whole file, where it is this reader's."""
        self._met += 1
        if not self._mine(number, problem.row or 0):
            return
        if self.settings.strict:
            raise problem.error()
        self.skipped += 1
        if len(self.problems) < LISTED:
            self.problems.append(problem)

    # ---- lines ----

    def _lines(self, file: Path, number: int, done: int) -> Iterator[tuple[int, bytes]]:
        """(line, its bytes without the end) of a file, packed or not.

        A line longer than `LONGEST` is one problem; gzip data that is damaged ends the file with another.
        """
        line = 0
        with ExitStack() as stack:
            raw = stack.enter_context(file.open("rb"))
            head = raw.read(4)
            raw.seek(0)
            if not head:
                self._skip(number, Problem(str(file), None, None, "the file is empty"))
                return
            if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                message = f"found UTF-16 text, expected {self.settings.encoding}"
                self._skip(number, Problem(str(file), None, None, message))
                return
            packed = head.startswith(_GZIP)
            stream = stack.enter_context(cast(BinaryIO, gzip.GzipFile(fileobj=raw))) if packed else raw
            try:
                while bytes_ := stream.readline(LONGEST + 1):
                    line += 1
                    self.bytes_read = done + raw.tell()
                    if len(bytes_) > LONGEST and not bytes_.endswith(b"\n"):
                        while bytes_ and not bytes_.endswith(b"\n"):
                            bytes_ = stream.readline(LONGEST)
                        message = f"a line of more than {LONGEST >> 20} MB"
                        self._skip(number, Problem(str(file), None, line, message))
                        yield line, b""  # so that what lies before and after it is not one document
                        continue
                    if line == 1:
                        bytes_ = bytes_.removeprefix(codecs.BOM_UTF8)
                    yield line, bytes_.rstrip(b"\r\n")
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                cut = isinstance(error, EOFError)
                message = (
                    "the gzip data ends too early: the file was cut off"
                    if cut
                    else "the gzip data is damaged"
                )
                self._skip(number, Problem(str(file), None, line + 1, message))

    def _text(self, file: Path, number: int, done: int) -> Iterator[Document]:
        """Documents of plain text. One longer than `LONGEST` comes in pieces that end at a line's end."""
        row, held, size, first = 0, list[bytes](), 0, 0
        boundary, met = self.settings.boundary, self._met

        def whole() -> Iterator[Document]:
            nonlocal row, held, size
            if held:
                row += 1
                given, held, size = held, [], 0
                if self._mine(number, row) and (text := self._decoded(file, number, row, first, given)):
                    yield Document(text, file, row, first)

        for line, content in self._lines(file, number, done):
            blank = self._blank(content)
            if boundary == "line" or size + len(content) > LONGEST or (blank and boundary == "blank"):
                yield from whole()
            if blank and (not held or boundary != "file"):
                continue
            if not held:
                first = line
            held.append(content)
            size += len(content) + 1
        yield from whole()
        self._check_any(file, number, row, met)

    def _blank(self, line: bytes) -> bool:
        """Whether a line is white space; that of Chinese and of web pages is more than ASCII's."""
        if len(line) > _BLANK or line.isascii():
            return not line.strip()
        return not line.decode(self.settings.encoding, "replace").strip()

    def _check_any(self, file: Path, number: int, row: int, met: int) -> None:
        """A file without a document is a problem, if nothing else was wrong with it."""
        if not row and met == self._met:
            self._skip(number, Problem(str(file), None, None, "no documents"))

    def _decoded(self, file: Path, number: int, row: int, first: int, lines: list[bytes]) -> str:
        """The text of some lines; '' where a byte is no UTF-8, which is a problem."""
        content = b"\n".join(lines)
        try:
            return content.decode(self.settings.encoding)
        except UnicodeDecodeError as error:
            line = first + content[: error.start].count(b"\n")
            self._skip(number, Problem(str(file), row, line, self._not_encoded(error)))
            return ""

    def _not_encoded(self, error: UnicodeDecodeError) -> str:
        name = self.settings.encoding
        return f"byte {error.object[error.start]:#04x} is not {'UTF-8' if name == 'utf-8' else name}"

    def _json_lines(self, file: Path, number: int, done: int) -> Iterator[Document]:
        row, met = 0, self._met
        for line, content in self._lines(file, number, done):
            if not content.strip():
                continue
            row += 1
            if not self._mine(number, row):
                continue
            try:
                text = self._column(json.loads(content.decode(self.settings.encoding)))
            except UnicodeDecodeError as error:
                message = self._not_encoded(error)
            except json.JSONDecodeError as error:
                message = f"not JSON: {error.msg} (character {error.colno}); expected one object a line"
            except RecursionError:
                message = "not JSON: nested too deeply"
            except ValueError as error:
                message = str(error)
            else:
                yield Document(text, file, row, line)
                continue
            self._skip(number, Problem(str(file), row, line, message))
        self._check_any(file, number, row, met)

    # ---- rows ----

    def _rows(self, file: Path, number: int, done: int) -> Iterator[Document]:
        """Parquet, tables and JSON arrays, by the reader of rows: what is damaged there ends the file."""
        if not file.stat().st_size:
            self._skip(number, Problem(str(file), None, None, "the file is empty"))
            return
        row, damaged = 0, False
        named = self.settings.format
        assert named != "text"  # read line by line
        dialect = Dialect(format=named, quoting=self.settings.quoting, encoding=self.settings.encoding)
        rows: Iterator[Row] | None = None
        while True:
            try:
                rows = rows or iter(read_rows(file, dialect, need=[self.settings.text], allow_empty=True))
                row, line, values, *_ = next(rows)
            except StopIteration:
                break
            except InputError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    raise error.__cause__ from None
                damaged = True
                where = "" if error.column is None else f"column {error.column!r}: "
                rest = "" if self.settings.strict else "; the rest of the file is left out"
                self._skip(number, Problem(str(file), error.row, error.line, f"{where}{error.message}{rest}"))
                break
            if not self._mine(number, row):
                continue
            try:
                text = self._column(values)
            except ValueError as error:
                self._skip(number, Problem(str(file), row, line, str(error)))
            else:
                yield Document(text, file, row, line)
        if not row and not damaged:
            self._skip(number, Problem(str(file), None, None, "no rows"))

    def _column(self, values: object) -> str:
        """The text of a row; a ValueError says what is wrong with it."""
        column = self.settings.text
        if not isinstance(values, dict):
            raise ValueError(f"found {shown(values)}, expected an object with the key {column!r}")
        if column not in values:
            raise ValueError(f"no key {column!r}{nearest(column, map(str, values))}")
        text = values[column]
        if not isinstance(text, str):
            raise ValueError(f"column {column!r}: found {shown(text)}, expected a text")
        if not text.strip():
            raise ValueError(f"column {column!r}: the text is empty")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = text[error.start]
            raise ValueError(
                f"column {column!r}: found {half!r}, half of a surrogate pair, expected text"
            ) from None
        return text


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
