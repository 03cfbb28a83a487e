"""The body of a request: bytes become one JSON object or a file of text, or a problem says where they are none.

Knows bytes and JSON. Must not know tasks, models or what the object or the file should hold.
"""

import asyncio
import codecs
import json
import re
from contextlib import suppress
from tempfile import SpooledTemporaryFile
from typing import Any, NoReturn

from starlette.requests import Request

from manyheads.serve.problems import Problem

__all__ = ["pass_over", "read_body", "read_file", "read_object"]

_DEPTH = 8  # of lists and objects in each other; the deepest request has 4
_IN_MEMORY = 4_194_304  # bytes of a file that are held before they go to a file without a name
_SLOWEST = (
    50_000  # bytes a second of a file, beyond the first seconds: who sends less holds a place for nothing
)
_PACKED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"Rar!", b"7z\xbc\xaf")
_SURROGATE = re.compile("[\ud800-\udfff]")


async def read_body(request: Request, most: int) -> bytes:
    """The whole body, of at most `most` bytes; a longer one is not read to its end."""
    check_headers(request, most, "application/json")
    parts: list[bytes] = []
    total = 0
    async for part in request.stream():
        total += len(part)
        if total > most:
            raise _too_large(most)
        parts.append(part)
    return b"".join(parts)


async def read_file(request: Request, most: int, seconds: float) -> SpooledTemporaryFile[bytes]:
    """The whole body of csv, UTF-8 without NUL, of at most `most` bytes; to be closed.

    It must come within `seconds`, and one more for each 50 kB.
    """
    check_headers(request, most, "text/csv")
    clock = asyncio.get_running_loop().time
    begin, total = clock(), 0
    decoder = codecs.getincrementaldecoder("utf-8")()
    wrong: Problem | None = None  # told when all has come: a browser that still sends reads no answer
    file: SpooledTemporaryFile[bytes] = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 (the caller closes it)
    try:
        async with asyncio.timeout(seconds) as patience:
            async for part in request.stream():
                wrong = wrong or _wrong_bytes(part, total, decoder)
                total += len(part)
                if total > most:
                    raise _too_large(most)
                if wrong is None:
                    file.write(part)
                patience.reschedule(begin + seconds + total / _SLOWEST)
            wrong = wrong or _wrong_bytes(b"", total, decoder)
            if wrong is not None:
                raise wrong
    except TimeoutError:
        file.close()
        raise Problem("slow", f"{total:,} bytes had come when it had taken too long", close=True) from None
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file


async def pass_over(request: Request, most: int, seconds: float) -> None:
    """Take the body of a request that is refused, as a browser that still sends reads no answer: at most `most` bytes
    within `seconds` and one more for each 50 kB."""
    clock = asyncio.get_running_loop().time
    begin, total = clock(), 0
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds) as patience:
            async for part in request.stream():
                total += len(part)
                if total > most:
                    return
                patience.reschedule(begin + seconds + total / _SLOWEST)


def _wrong_bytes(part: bytes, before: int, decoder: codecs.IncrementalDecoder) -> Problem | None:
    """What is wrong with the next bytes of a file, of which `before` have come; no bytes: its end."""
    if not before and part.startswith(_PACKED):
        return Problem("media-type", "found packed data, expected csv as it is")
    held = len(decoder.getstate()[0])  # of a character that the part before began
    try:
        decoder.decode(part, final=not part)
    except UnicodeDecodeError as error:
        place = before - held + error.start
        return Problem("malformed", f"the file is not UTF-8: byte {place:,} fits nowhere")
    if (at := part.find(0)) >= 0:
        return Problem("malformed", f"the file has the byte NUL at place {before + at:,}")
    return None


def check_headers(request: Request, most: int, wanted: str) -> None:
    """Refuse by its headers what would not be read."""
    said = request.headers.get("content-type", "")
    kind, _, parameters = said.partition(";")
    if kind.strip().lower() != wanted:
        found = f"found {said[:60]!r}" if said else "found none"
        raise Problem("media-type", f"Content-Type: expected {wanted}, {found}", close=True)
    charset = re.search(r"charset\s*=\s*\"?([\w.:-]+)", parameters, re.IGNORECASE)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise Problem("media-type", f"charset: expected utf-8, found {charset[1][:60]!r}", close=True)
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise Problem("media-type", f"Content-Encoding: expected none, found {coding[:60]!r}", close=True)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > most):
        raise _too_large(most)


def _too_large(most: int) -> Problem:
    return Problem("too-large", f"the body has more than {most:,} bytes", close=True)


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object that the body is, each of its texts one that a tokenizer can read."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Problem("malformed", f"the body is not UTF-8: byte {error.start} fits nowhere") from None
    try:
        value = json.loads(text, parse_constant=_no_number, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Problem("malformed", f"the body is not JSON: {error.msg} at {where}") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # an integer of thousands of digits
        raise Problem("malformed", "the body is not JSON: a number has too many digits") from None
    _check(value)
    if not isinstance(value, dict):
        raise Problem("malformed", f"expected a JSON object, found {_name(value)}")
    return value


def _no_number(name: str) -> NoReturn:
    raise Problem("malformed", f"the body is not JSON: {name} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Problem("malformed", f"the key {twice[:60]!r} stands in an object twice")
    return found


def _too_deep() -> Problem:
    return Problem("malformed", f"lists and objects stand in each other more than {_DEPTH} deep")


def _check(value: Any) -> None:
    """Refuse what is too deep and texts that are none; without recursion."""
    level = [value]
    for _ in range(_DEPTH):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, str):
                _check_text(one)
            elif isinstance(one, list):
                inner += one
            elif isinstance(one, dict):
                inner += one.keys()
                inner += one.values()
        level = inner
    if level:
        raise _too_deep()


def _check_text(text: str) -> None:
    if "\x00" in text:
        raise Problem("malformed", f"a text has the character NUL at place {text.index(chr(0))}")
    if not text.isascii() and (found := _SURROGATE.search(text)):
        raise Problem("malformed", f"a text has half of a surrogate pair at place {found.start()}")


def _name(value: object) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")
