"""`--set key.path=value`: settings replaced before a recipe is checked.

Knows nested mappings and lists; must not know what any key means.
"""

import copy
from collections.abc import Iterable
from typing import Any

from manyheads.errors import InputError
from manyheads.recipe.document import Document, Origin, Place, found, read_value

__all__ = ["overridden", "replaced"]


def overridden(document: Document, overrides: Iterable[str]) -> Document:
    """`document` with every `key.path=value` put in its place, the later one winning.

    The value is YAML: `[1, 2]`, `true`, `2e-5`, `{a: 1}`; nothing behind the `=` is null.
    """
    for text in overrides:
        origin = f"--set {text}"
        path, equals, value = text.partition("=")
        parts = [part.strip() for part in path.split(".")]
        if not equals or not all(parts):
            raise InputError(f"{origin}: expected key.path=value")
        document = replaced(document, parts, read_value(value, origin), origin)
    return document


def replaced(document: Document, parts: Iterable[str], value: Any, origin: Origin | None) -> Document:
    """`document` with `value` at the keys `parts` (a number is a position where there is a list).

    Mappings on the way are made where there are none. The given document stays as it is.
    """
    values: dict[str, Any] = copy.deepcopy(document.values)
    origins = dict(document.origins)
    parts = list(parts)
    holder: Any = values
    place: Place = ()
    for number, part in enumerate(parts):
        key = position(holder, part, place, origin)
        place = (*place, key)
        if number == len(parts) - 1:
            holder[key] = value
            origins = {at: line for at, line in origins.items() if at[: len(place)] != place}
            note(origins, place, origin)
        elif isinstance(holder, dict) and holder.get(key) is None:
            holder[key] = {}
            note(origins, place, origin)
        holder = holder[key]
    return Document(values, origins, document.file)


def note(origins: dict[Place, Origin], place: Place, origin: Origin | None) -> None:
    if origin is not None:
        origins[place] = origin


def position(holder: Any, part: str, place: Place, origin: Origin | None) -> str | int:
    """`part` as a key of `holder`, or as a position where that is a list."""
    name = ".".join(map(str, place))
    if isinstance(holder, dict):
        return part
    if not isinstance(holder, list):
        raise InputError(f"{origin}: {name}: expected a mapping or a list, found {found(holder)}")
    if not (part.isascii() and part.isdecimal() and int(part) < len(holder)):
        expected = f"a position from 0 to {len(holder) - 1}" if holder else "no position, the list is empty"
        raise InputError(f"{origin}: {name}: expected {expected}, found {part!r}")
    return int(part)
