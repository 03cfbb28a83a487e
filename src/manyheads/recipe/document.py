"""Recipe text ↔ values: a small, strict part of YAML, every value with the line that it stands on.

Knows YAML and where a value came from; must not know what any key means.

What is read is YAML 1.2's core, minus what only causes accidents: no tags, no merge keys, one document, no
key twice, names as keys. Only `true` and `false` are booleans (`no` and `on` are texts, as labels often are),
`2e-5` is a number, `007`, `1:30` and dates are texts.
"""

import copy
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from manyheads.errors import InputError, shown

__all__ = ["Document", "Origin", "Place", "found", "read_document", "read_text", "read_value", "written"]

Place = tuple[str | int, ...]
"""The keys and list positions that lead to a value: ('tasks', 'sst', 'files', 'train', 0)."""
Origin = int | str
"""Where a value was given: a line of the file (counted from 1), or in words (`--set seed=1`)."""

MAX_BYTES = 1_000_000
# Values after aliases are written out. A recipe has hundreds; a file that says "lol" nine times of nine
# times of nine times … has billions, and they would all be built.
MAX_VALUES = 10_000
MAX_DEPTH = 40

WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
NUMBER = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?")
CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(frozen=True, slots=True)
class Document:
    """A recipe's values before any check, and where each was given."""

    values: dict[str, Any]
    origins: dict[Place, Origin] = field(default_factory=dict)
    file: str | None = None

    def origin(self, place: Place) -> Origin | None:
        """Where the value at `place` was given, or the nearest one above it of which that is known."""
        above = (place[:length] for length in range(len(place), -1, -1))
        return next((self.origins[part] for part in above if part in self.origins), None)

    def error(self, message: str, place: Place = (), *, title: bool = True) -> InputError:
        """`message` about the value at `place`, with its line.

        `title=False` leaves the dotted name of the place out.
        """
        origin = self.origin(place)
        text = f"{'.'.join(map(str, place))}: {message}" if place and title else message
        if isinstance(origin, str):
            return InputError(f"{origin}: {text}")
        return InputError(text, file=self.file, line=origin)


def read_document(path: str | os.PathLike[str]) -> Document:
    """The recipe file at `path`; `InputError` with file and line when it cannot be read."""
    path = Path(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except IsADirectoryError:
        inner = path / "recipe.yaml"
        hint = f"; did you mean {str(inner)!r}?" if inner.is_file() else ""
        raise InputError(f"is a folder, expected a recipe file{hint}", file=path) from None
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"cannot be read ({getattr(error, 'strerror', None) or error})", file=path) from None
    if len(data) > MAX_BYTES:
        raise InputError(f"is larger than {MAX_BYTES:,} bytes, which is no recipe", file=path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"0x{data[error.start]:02x}"
        raise InputError(f"expected UTF-8, found the byte {found}", file=path, line=line) from None
    return read_text(text, file=str(path))


def read_text(text: str, file: str | None = None) -> Document:
    """A recipe's text; `file` is only what errors call it."""
    reader = Reader(text, file)
    values = reader.document()
    if values is None:
        raise InputError("is empty, expected a mapping of settings", file=file or "the recipe")
    if not isinstance(values, dict):
        raise reader.error(f"expected a mapping of settings, found {found(values)}", reader.origins[()])
    return Document(values, reader.origins, file)


def read_value(text: str, origin: str) -> Any:
    """A single value, as it stands behind `--set key=`; `origin` is what errors call it."""
    return Reader(text, None, origin).document()


def line_of(event: yaml.Event) -> int:
    return 1 if event.start_mark is None else event.start_mark.line + 1


def found(value: object) -> str:
    """A YAML value as an error names it: `true`, `nothing`, `a list of 2`, `'fast'`, `3`."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    return f"a list of {len(value)}" if isinstance(value, list | tuple) else shown(value)


class Reader:
    """Builds values from the parser's events, so that what is too deep or too much is never built."""

    def __init__(self, text: str, file: str | None, origin: str | None = None) -> None:
        self.text, self.file, self.origin = text, file, origin
        self.origins: dict[Place, Origin] = {}
        self.count = 0
        # Name → value and how many values it holds; None while it is being read.
        self.anchors: dict[str, tuple[Any, int] | None] = {}

    def error(self, message: str, line: Origin | None) -> InputError:
        if self.origin is not None:
            return InputError(f"{self.origin}: {message}")
        return InputError(message, file=self.file, line=line if isinstance(line, int) else None)

    def document(self) -> Any:
        indented = re.search(r"^ *\t[ \t]*[^\s]", self.text, re.MULTILINE)
        if indented and self.origin is None:
            line = self.text.count("\n", 0, indented.end()) + 1
            raise self.error("a tab in the indentation, expected spaces", line)
        events = self.events()
        value = None
        for number, event in enumerate(e for e in events if isinstance(e, yaml.DocumentStartEvent)):
            if number:
                raise self.error("a second document ('---'), expected one", line_of(event))
            value = self.value(events, next(events), (), 0)
        return value

    def events(self) -> Iterator[yaml.Event]:
        """The parser's events; what it raises becomes an error with a line."""
        try:
            yield from yaml.parse(self.text, Loader=yaml.SafeLoader)
        except yaml.reader.ReaderError as error:  # of text, `character` is a code point
            line = self.text.count("\n", 0, error.position) + 1
            raise self.error(f"the character U+{error.character:04X} is not allowed", line) from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            words = " ".join(word for word in (error.context, error.problem) if word)
            raise self.error(f"not valid YAML: {words}", None if mark is None else mark.line + 1) from None
        except (ValueError, OverflowError) as error:  # an escape such as "\UFFFFFFFF"
            raise self.error(f"not valid YAML: {error}", None) from None

    def value(self, events: Iterator[yaml.Event], event: yaml.Event, place: Place, depth: int) -> Any:
        """The value that `event` opens, with all that is in it."""
        line = line_of(event)
        self.origins.setdefault(place, line)  # for an entry of a mapping its key's line is already there
        if depth > MAX_DEPTH:
            raise self.error(f"nested more than {MAX_DEPTH} levels deep", line)
        before = self.count
        self.add(1, line)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(str(event.anchor), line)
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if event.tag is not None:
            raise self.error(f"tags are not read, found {shown(event.tag)}", line)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = self.scalar(event, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = []
            while not isinstance(item := next(events), yaml.SequenceEndEvent):
                value.append(self.value(events, item, (*place, len(value)), depth + 1))
        else:
            value = self.mapping(events, place, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = (value, self.count - before)
        return value

    def mapping(self, events: Iterator[yaml.Event], place: Place, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            line = line_of(event)
            if not isinstance(event, yaml.ScalarEvent) or event.tag is not None or event.anchor is not None:
                raise self.error("expected a plain name as key", line)
            if event.value == "<<" and event.style is None:
                raise self.error("merge keys ('<<') are not read; write the settings out", line)
            key = self.scalar(event, line)
            if not isinstance(key, str):
                raise self.error(
                    f"expected a name as key, found {event.value or 'nothing'}; put it in quotes", line
                )
            name: Place = (*place, key)
            if key in values:
                dotted = ".".join(map(str, name))
                raise self.error(f"{dotted}: stands twice, the first time on line {self.origins[name]}", line)
            self.add(1, line)
            self.origins[name] = line
            values[key] = self.value(events, next(events), name, depth + 1)
        return values

    def alias(self, name: str, line: int) -> Any:
        if name not in self.anchors:
            raise self.error(f"'*{name}' has no anchor '&{name}' before it", line)
        anchored = self.anchors[name]
        if anchored is None:
            raise self.error(f"'*{name}' stands inside the value that it repeats", line)
        value, size = anchored
        self.add(size - 1, line)  # before the copy is made
        return copy.deepcopy(value)

    def scalar(self, event: yaml.ScalarEvent, line: int) -> Any:
        text = event.value
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise self.error("half of a surrogate pair is not a character", line)
        if event.style is not None:  # quoted, or a block of text
            return text
        if text in CONSTANTS:
            return CONSTANTS[text]
        if WHOLE.fullmatch(text):
            if len(text) > 1000:
                raise self.error(f"the number {text[:10]}… has too many digits", line)
            return int(text)
        if NUMBER.fullmatch(text):
            number = float(text)
            if not math.isfinite(number):
                raise self.error(f"the number {shown(text)} is too large", line)
            return number
        return text

    def add(self, count: int, line: int) -> None:
        self.count += count
        if self.count > MAX_VALUES:
            raise self.error(
                f"more than {MAX_VALUES:,} values (aliases written out), which is no recipe", line
            )


class Writer(yaml.SafeDumper):
    """Quotes every text that this reader, or one of YAML 1.1, would not read back as that text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, text: str) -> yaml.ScalarNode:
        # Line breaks stand as escapes; the other styles fold some of them into spaces.
        style = '"' if re.search("[\n\r\x85\u2028\u2029\ufeff]", text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Writer.add_representer(str, Writer.text)
Writer.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(f"(?:{NUMBER.pattern})$"), list("-+.0123456789")
)
Writer.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(f"(?:{WHOLE.pattern})$"), list("-+0123456789")
)


def written(value: Any, *, inline: bool = False) -> str:
    """`value` (mappings, lists, texts, finite numbers, booleans, None) as YAML text that reads back equal.

    `inline` writes one line in flow style, for `--set`; otherwise a mapping is one line a key, with the
    innermost mappings and lists in flow style.
    """
    if inline:
        text = yaml.dump(
            value, Dumper=Writer, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False
        )
        return text.removesuffix("\n").removesuffix("\n...")
    return yaml.dump(
        value, Dumper=Writer, default_flow_style=None, width=100, allow_unicode=True, sort_keys=False
    )
