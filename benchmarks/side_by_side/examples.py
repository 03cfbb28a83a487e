"""Examples of every kind of task, read from the data sets' own files and written back: nobody's reader is trusted.

Knows file formats. Must not know models, measures or manyheads.

A format makes examples of a file's text and text of examples again, so that a part of a data set can be handed
to both sides as a file of the same format.
"""

import gzip
import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

__all__ = [
    "CONLL",
    "SQUAD",
    "WIKIQA",
    "Choices",
    "Example",
    "Format",
    "Query",
    "Question",
    "Sentence",
    "Texts",
    "choices",
    "drawn",
    "entities",
    "json_lines",
    "read",
    "texts",
    "write",
]


@dataclass(frozen=True)
class Example:
    """What every kind of example has: how it stands in its file, without the line end."""

    raw: str


@dataclass(frozen=True)
class Texts(Example):
    """One text or two, and a label."""

    texts: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class Sentence(Example):
    """Words with their tags, whatever the file's scheme in IOB2."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Choices(Example):
    """A text, how it may go on, and the number of the right ending."""

    text: str
    endings: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class Query(Example):
    """A question, its candidates, and whether each answers it."""

    query: str
    candidates: tuple[str, ...]
    relevant: tuple[bool, ...]


@dataclass(frozen=True)
class Question(Example):
    """A question on a paragraph. `answers` are (text, its first character), none where there is no answer; the raw
    text is its own JSON."""

    id: str
    title: str
    context: str
    question: str
    answers: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Format:
    """How a data set's files are written."""

    parse: Callable[[str], Sequence[Example]]
    """A file's text → its examples."""
    write: Callable[[Sequence[Example]], str]
    """Examples → the text of a file."""
    encoding: str = "utf-8"


def read(path: Path, format: Format) -> list[Example]:
    """The examples of a file; a byte order mark is dropped, `.gz` unpacked."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode(format.encoding)
    return list(format.parse(text.removeprefix("\ufeff").replace("\r\n", "\n")))


def write(path: Path, examples: Sequence[Example], format: Format) -> Path:
    """Write examples, packed where the name ends in `.gz`; returns the path."""
    data = format.write(examples).encode(format.encoding)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Contenders that run at the same time write the same files: none may read half of one.
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    beside.replace(path)
    return path


def drawn(examples: Sequence[Example], count: int | None) -> list[Example]:
    """At most `count` examples in their order, a fixed random draw; None: all of them."""
    if count is None or count >= len(examples):
        return list(examples)
    chosen = random.Random(0).sample(range(len(examples)), count)
    return [examples[i] for i in sorted(chosen)]


# ---- a line an example ----


def by_line(make: Callable[[str], Example], header: str = "", encoding: str = "utf-8") -> Format:
    """A format with an example in each line, after the `header` if there is one."""

    def parse(text: str) -> list[Example]:
        first, *rest = text.split("\n")
        if header and first != header:
            raise SystemExit(f"error: expected a file with the header {header!r}, found {first!r}")
        return [make(line) for line in (rest if header else [first, *rest]) if line.strip()]

    def write(examples: Sequence[Example]) -> str:
        return "".join(
            f"{line}\n" for line in [*([header] if header else []), *(one.raw for one in examples)]
        )

    return Format(parse, write, encoding)


def texts(
    columns: Sequence[int],
    label: int,
    header: str = "",
    split: tuple[str, int] = ("\t", -1),
    encoding: str = "utf-8",
) -> Format:
    """Fields without quoting, by number; `split` is the delimiter and at most how often it divides a line."""

    def make(line: str) -> Texts:
        fields = line.split(*split)
        return Texts(line, tuple(fields[column] for column in columns), fields[label])

    return by_line(make, header, encoding)


def json_lines(columns: Sequence[str], label: str) -> Format:
    """A JSON object in each line."""

    def make(line: str) -> Texts:
        values = json.loads(line)
        return Texts(line, tuple(values[column] for column in columns), str(values[label]))

    return by_line(make)


def choices(text: int, endings: Sequence[int], label: int) -> Format:
    """A text, its endings and the number of the right one, in fields by number."""

    def make(line: str) -> Choices:
        fields = line.split("\t")
        return Choices(line, fields[text], tuple(fields[one] for one in endings), int(fields[label]))

    return by_line(make)


# ---- WikiQA: the lines of a question stand together ----


def _queries(text: str) -> list[Query]:
    lines = [line for line in text.split("\n") if line]
    found = []
    for query, group in groupby(lines, key=lambda line: line.split("\t")[0]):
        held = list(group)
        fields = [line.split("\t") for line in held]
        relevant = tuple(label == "1" for _, _, label in fields)
        found.append(Query("\n".join(held), query, tuple(candidate for _, candidate, _ in fields), relevant))
    return found


WIKIQA = Format(_queries, lambda examples: "".join(f"{one.raw}\n" for one in examples))
"""question, candidate, label; tabs, no header."""


# ---- CoNLL columns ----


def entities(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """(first word, one beyond the last, type) of each entity, in IOB1 and IOB2 alike.

    As conlleval has it: one begins with B-, or with I- after O or after another type.
    """
    found: list[tuple[int, int, str]] = []
    begin, inside = 0, ""
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        if inside and (prefix != "I" or name != inside):
            found.append((begin, place, inside))
            inside = ""
        if prefix != "O" and not inside:
            begin, inside = place, name
    return found


def _sentences(text: str) -> list[Sentence]:
    found = []
    for filled, group in groupby(text.split("\n"), key=lambda line: bool(line.strip(" \t\ufeff"))):
        lines = list(group)
        if not filled or lines[0].startswith("-DOCSTART-"):
            continue
        fields = [line.split() for line in lines]
        tags = ["O"] * len(fields)
        for begin, end, name in entities([one[-1] for one in fields]):
            tags[begin:end] = [f"B-{name}", *[f"I-{name}"] * (end - begin - 1)]
        found.append(Sentence("\n".join(lines), tuple(one[0] for one in fields), tuple(tags)))
    return found


CONLL = Format(_sentences, lambda examples: "".join(f"{one.raw}\n\n" for one in examples))
"""Columns between blanks, the word first and its tag last; a blank line ends a sentence, -DOCSTART- is none.
WNUT-17 has a line with nothing but a byte order mark, which is blank."""


# ---- SQuAD's JSON ----


def _questions(text: str) -> list[Question]:
    return [
        Question(
            json.dumps(one, ensure_ascii=False),
            one["id"],
            article.get("title", ""),
            paragraph["context"],
            one["question"],
            tuple((answer["text"], answer["answer_start"]) for answer in one["answers"]),
        )
        for article in json.loads(text)["data"]
        for paragraph in article["paragraphs"]
        for one in paragraph["qas"]
    ]


def _squad(examples: Sequence[Any]) -> str:
    data = []
    for title, article in groupby(examples, key=lambda one: one.title):
        paragraphs = [
            {"context": context, "qas": [json.loads(one.raw) for one in questions]}
            for context, questions in groupby(article, key=lambda one: one.context)
        ]
        data.append({"title": title, "paragraphs": paragraphs})
    return json.dumps({"version": "part", "data": data}, ensure_ascii=False)


SQUAD = Format(_questions, _squad)
"""Articles, their paragraphs, their questions: v1.1 and v2.0."""
