"""CoNLL columns → rows: a line is a word with its columns, a blank line ends a sentence.

Knows lines and columns. Must not know bytes, tags' schemes, labels or tasks.

A row is a sentence: each column as a list with one entry a word, and `document`, the number of its document. A
document begins at a line whose first field is -DOCSTART-, which is no word; sentences before the first have the
number 0, so that a file without such lines is one document. A line of nothing but spaces is blank.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from manyheads.errors import InputError, shown

__all__ = ["DOCUMENT", "Sentence", "read_conll"]

DOCUMENT = "document"
TAGS = "tags"
WORDS = "words"

_STARTS_DOCUMENT = "-DOCSTART-"
_SPACES = re.compile(
    "[ \t]+"
)  # not every kind of space: a word may be one that stands in no keyboard's reach


class Sentence(NamedTuple):
    """One sentence: its number, counted from 1, the line it begins in, and its columns.

    Its words stand in lines one after the other: word w, counted from 0, in line `line + w`.
    """

    number: int
    line: int
    values: dict[str, Any]


def read_conll(
    lines: Iterator[str],
    *,
    file: str,
    columns: Sequence[str] | None = None,
    delimiter: str | None = None,
    need: Sequence[str] = (),
) -> tuple[list[str], Iterator[Sentence]]:
    """The names of a row's columns, and the sentences as they are asked for.

    `columns` names all columns of a line from the left; a column named '' is left out. Without it the first is
    `words` and the last, where there are two or more, `tags`. `delimiter` stands between fields; without it that is
    the tab where the first line of words has one, else any number of spaces and tabs. `need` are columns that the
    caller will ask for.

    Raises InputError, which names the line, where a line has not as many fields as the first, and where the first
    has one and `need` more.
    """
    leading: list[str] = []
    delimiter_is_known = delimiter is not None
    width, first_line, first = 0, 0, ""
    for number, line in enumerate(lines, start=1):
        leading.append(line)
        if _is_word(line):
            if not delimiter_is_known and "\t" in line:
                delimiter = "\t"
            width, first_line, first = len(_fields(line, delimiter)), number, line.strip()
            break
    hint = _another_delimiter(first) if width == 1 else ""
    if columns is None:
        wanted = [name for name in dict.fromkeys(need) if name != DOCUMENT]
        if width == 1 and len(wanted) > 1:
            raise InputError(
                f"found 1 column in {shown(first)}, expected one for each of {', '.join(map(repr, wanted))}{hint}",
                file=file,
                line=first_line,
            )
        names = {WORDS: 0} | ({TAGS: width - 1} if width != 1 else {})
    else:
        names = {name: place for place, name in enumerate(columns) if name}
        if width and width != len(columns):
            named = ", ".join(map(repr, columns))
            raise InputError(
                f"found {_counted(width)}, expected {len(columns)} ({named}); `columns` names all from the left"
                f"{hint}",
                file=file,
                line=first_line,
            )
    if DOCUMENT in names:
        raise InputError(
            f"`columns` names {DOCUMENT!r}, which every row has already: the number of its document",
            file=file,
        )
    sentences = _sentences(chain(leading, lines), names, delimiter, width, first_line, file)
    return [*names, DOCUMENT], sentences


def _sentences(
    lines: Iterator[str], names: dict[str, int], delimiter: str | None, width: int, first_line: int, file: str
) -> Iterator[Sentence]:
    number, document = 0, 0
    begin, words = 0, list[list[str]]()

    def sentence() -> Sentence:
        values: dict[str, Any] = {name: [fields[at] for fields in words] for name, at in names.items()}
        return Sentence(number, begin, values | {DOCUMENT: document})

    for line_number, line in enumerate(lines, start=1):
        if _is_word(line):
            fields = _fields(line, delimiter)
            if not words:
                number, begin = number + 1, line_number
            if len(fields) != width:
                raise InputError(
                    f"found {_counted(len(fields))} in {shown(line.strip())}, expected {width} as in line "
                    f"{first_line}",
                    file=file,
                    row=number,
                    line=line_number,
                )
            words.append(fields)
            continue
        if words:
            yield sentence()
            words = []
        if not _is_blank(line):
            document += 1
    if words:
        yield sentence()


def _is_word(line: str) -> bool:
    """Whether a line is a word: it is neither blank nor the beginning of a document."""
    return not _is_blank(line) and not line.startswith(_STARTS_DOCUMENT)


def _is_blank(line: str) -> bool:
    # A byte order mark may stand alone in a line too: the files of WNUT-17 have one at an end.
    return not line.strip().strip("\ufeff")


def _fields(line: str, delimiter: str | None) -> list[str]:
    bare = line.rstrip("\r\n")
    return bare.split(delimiter) if delimiter is not None else _SPACES.split(bare.strip(" \t"))


def _another_delimiter(line: str) -> str:
    """A hint for a line that was taken for one field although it may hold several."""
    return "; is the `delimiter` another one, or the `format`?" if re.search(r".[ \t,;|].", line) else ""


def _counted(fields: int) -> str:
    return f"{fields} column{'s' * (fields != 1)}"
