"""What pydantic finds wrong, as one line for the person who must mend the recipe.

Knows pydantic's errors and the annotations of any model; must not know any setting by name.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as bounds
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from manyheads.errors import InputError, nearest
from manyheads.recipe.document import Document, Place, found

__all__ = ["Misfit", "Shape", "complaint", "expected", "keys"]


class Misfit(ValueError):
    """Settings that do not fit each other; `place` leads from the model that says so to the one to mend."""

    def __init__(self, message: str, *place: str | int) -> None:
        super().__init__(message)
        self.place: Place = place


class Shape:
    """An annotation without its wrapping: no `Annotated`, no `| None`, its bounds collected."""

    def __init__(self, annotation: Any, metadata: Sequence[Any] = (), tag: Any = None) -> None:
        self.metadata, self.tag = list(metadata), tag
        self.members: tuple[Shape, ...] = ()
        while True:
            if get_origin(annotation) is Annotated:
                annotation, *more = get_args(annotation)
                for item in more:
                    self.metadata += item.metadata if isinstance(item, FieldInfo) else [item]
                    self.tag = item.discriminator if isinstance(item, FieldInfo) else self.tag
                continue
            if get_origin(annotation) not in (Union, UnionType):
                break
            members = [member for member in get_args(annotation) if member is not NoneType]
            if len(members) > 1:
                self.members = tuple(Shape(member) for member in members)
                break
            annotation = members[0]
        self.annotation = annotation
        self.origin, self.arguments = get_origin(annotation), get_args(annotation)

    @classmethod
    def of(cls, field: FieldInfo) -> "Shape":
        return cls(field.annotation, field.metadata, field.discriminator)

    @property
    def model(self) -> type[BaseModel] | None:
        """The model, where the annotation is one."""
        is_model = isinstance(self.annotation, type) and issubclass(self.annotation, BaseModel)
        return self.annotation if is_model else None

    @property
    def models(self) -> dict[str, type[BaseModel]]:
        """Value of the telling key → model, where the annotation is a union of models; else empty."""
        if self.tag is None:
            return {}
        models = [member.model for member in self.members]
        return {
            value: model
            for model in models
            if model is not None
            for value in get_args(model.model_fields[self.tag].annotation)
        }

    def inner(self, key: str | int) -> "Shape | None":
        """What stands under `key`; None where nothing can."""
        if self.model is not None:
            field = keys(self.model).get(str(key))
            return None if field is None else Shape.of(field)
        if self.origin is dict:
            return Shape(self.arguments[1])
        if self.origin in (list, tuple) and isinstance(key, int):
            items = [item for item in self.arguments if item is not Ellipsis]
            return Shape(items[min(key, len(items) - 1)])
        return None


def keys(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The model's fields by the names that a recipe uses."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def expected(shape: Shape) -> str:
    """What a value of this shape must be, in words: `a number greater than 0`."""
    if shape.members:
        if shape.models:
            return "a mapping"
        return " or ".join(dict.fromkeys(expected(member) for member in shape.members))
    if shape.origin is Literal:
        return ("one of " if len(shape.arguments) > 1 else "") + ", ".join(map(str, shape.arguments))
    limit = "".join(limits(shape.metadata))
    if shape.model is not None or shape.origin is dict:
        return f"a mapping{limit}"
    if shape.origin is tuple and Ellipsis not in shape.arguments:
        items = ", ".join(expected(Shape(item)) for item in shape.arguments)
        return f"a list of {len(shape.arguments)}: {items}"
    if shape.origin in (list, tuple):
        return f"a list{limit}, each item {expected(Shape(shape.arguments[0]))}"
    return WORDS.get(shape.annotation, "another kind of value") + limit


WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    Path: "a path",
}


def limits(metadata: Sequence[Any]) -> Iterator[str]:
    said = []
    for item in metadata:
        match item:
            case bounds.Gt(gt=limit):
                said.append(f"greater than {limit}")
            case bounds.Ge(ge=limit):
                said.append(f"of at least {limit}")
            case bounds.Lt(lt=limit):
                said.append(f"below {limit}")
            case bounds.Le(le=limit):
                said.append(f"of at most {limit}")
            case bounds.MinLen(min_length=1):
                said.append("that is not empty")
    if said:
        yield " " + " and ".join(said)


def complaint(error: ValidationError, model: type[BaseModel], document: Document) -> InputError:
    """The first thing wrong (by line), and how many more there are."""
    # The members of a union each complain of the same value, in the same words: a dict keeps one of them.
    findings: dict[tuple[Place, str], Place] = {}
    for item in error.errors(include_url=False):
        if item["type"] == "default_factory_not_called":  # only follows from another error
            continue
        place, message, cause = finding(dict(item), model)
        findings[place, message] = cause

    def line(cause: Place) -> int:
        origin = document.origin(cause)
        return origin if isinstance(origin, int) else 0

    ((place, message), cause), *more = sorted(findings.items(), key=lambda entry: line(entry[1]))
    rest = f" (and {len(more)} more)" if more else ""
    dotted = ".".join(map(str, place))
    return document.error(f"{dotted}: {message}{rest}" if place else f"{message}{rest}", cause, title=False)


def finding(item: dict[str, Any], root: type[BaseModel]) -> tuple[Place, str, Place]:
    """Of one of pydantic's errors: the place, what is wrong there, and the place whose line is shown."""
    kind, value, context = item["type"], item.get("input"), item.get("ctx", {})
    place, shape, _ = walk(item["loc"], root)
    if kind == "extra_forbidden":
        return place, f"unknown key{hint(str(place[-1]), *walk(item['loc'][:-1], root)[1:])}", place
    if kind == "missing" and isinstance(place[-1], int):  # a list of fixed length that is too short
        place, shape, _ = walk(item["loc"][:-1], root)
    elif kind == "missing":
        return place[:-1], f"missing key {place[-1]!r}", place[:-1]
    if kind == "union_tag_not_found":
        key = context["discriminator"].strip("'")
        choices = "" if shape is None else f", one of {', '.join(shape.models)}"
        if isinstance(value, dict):
            return place, f"missing key {key!r}{choices}", place
        return place, f"expected a mapping, found {found(value)}", place
    if kind == "union_tag_invalid":
        key = context["discriminator"].strip("'")
        known = [] if shape is None else list(shape.models)
        tag = value.get(key) if isinstance(value, dict) else value
        message = f"expected one of {', '.join(known)}, found {found(tag)}{nearest(str(tag), known)}"
        return (*place, key), message, (*place, key)
    if kind in ("value_error", "assertion_error"):
        cause = context["error"]
        if isinstance(cause, Misfit):
            place = (*place, *cause.place)
            return place, str(cause), place
        # Model validators say which setting they mean by opening with its name in quotes.
        named = re.match(r"['`](\w+)", str(cause))
        inner = named and shape is not None and shape.model is not None and named[1] in keys(shape.model)
        return place, str(cause), (*place, named[1]) if named and inner else place
    if shape is None:
        return place, f"{item['msg'][0].lower()}{item['msg'][1:]}, found {found(value)}", place
    words = [str(word) for word in shape.arguments] if shape.origin is Literal else []
    close = nearest(value, words) if isinstance(value, str) else ""
    return place, f"expected {expected(shape)}, found {found(value)}{close}", place


def hint(key: str, holder: Shape | None, siblings: Mapping[str, type[BaseModel]]) -> str:
    """What is said after `unknown key`: whose key it is, or which key it resembles."""
    owners = [tag for tag, model in siblings.items() if key in keys(model)]
    if owners:
        return f"; it belongs to {' and '.join(owners)}"
    return nearest(key, keys(holder.model)) if holder is not None and holder.model is not None else ""


def walk(
    loc: Sequence[str | int], root: type[BaseModel]
) -> tuple[Place, Shape | None, dict[str, type[BaseModel]]]:
    """pydantic's `loc` without the names of union members that it mixes in.

    Returns the place, the shape there (None under an unknown key) and, where the shape is a member of a
    tagged union, all the members.
    """
    place: list[str | int] = []
    shape: Shape | None = Shape(root)
    siblings: dict[str, type[BaseModel]] = {}
    for element in loc:
        if shape is None:
            place.append(element)
            continue
        models = shape.models
        if models:
            if element in models:
                shape, siblings = Shape(models[str(element)]), models
            continue
        inside = shape.inner(element)
        if inside is not None or shape.model is not None:
            place.append(element)
            shape, siblings = inside, {}
    return tuple(place), shape, siblings
