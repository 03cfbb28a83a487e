"""The body of a request: bytes become one JSON object, or a problem says where they are none.

Knows bytes and JSON. Must not know tasks, models or what the object should hold.
"""

import json
import re
from typing import Any, NoReturn

from starlette.requests import Request

from manyheads.serve.problems import Problem

__all__ = ["read_body", "read_object"]

_DEPTH = 8  # of lists and objects in each other; the deepest request has 4
_SURROGATE = re.compile("[\ud800-\udfff]")


async def read_body(request: Request, most: int) -> bytes:
    """The whole body, of at most `most` bytes; a longer one is not read to its end."""
    check_headers(request, most)
    parts: list[bytes] = []
    total = 0
    async for part in request.stream():
        total += len(part)
        if total > most:
            raise _too_large(most)
        parts.append(part)
    return b"".join(parts)


def check_headers(request: Request, most: int) -> None:
    """Refuse by its headers what would not be read."""
    said = request.headers.get("content-type", "")
    kind, _, parameters = said.partition(";")
    if kind.strip().lower() != "application/json":
        found = f"found {said[:60]!r}" if said else "found none"
        raise Problem("media-type", f"Content-Type: expected application/json, {found}", close=True)
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
