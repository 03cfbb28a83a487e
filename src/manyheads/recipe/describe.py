"""The schema for people and editors: a JSON schema, and a table of every setting.

Knows the shapes of the settings; must not know any of them by name, so that neither can fall behind.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from manyheads.recipe.complaints import Shape, expected, keys
from manyheads.recipe.document import written
from manyheads.recipe.schema import Recipe

__all__ = ["Setting", "describe_settings", "json_schema"]


class Setting(NamedTuple):
    """One line of the table of settings, in words."""

    path: str
    """Where it stands: `optimizer.lr`, `tasks.NAME.range`, `mixing.stages.0.epochs`."""
    type: str
    """What it expects: `a number greater than 0`."""
    default: str
    """Its default as YAML, `required`, or `see its meaning` where it follows from another setting."""
    meaning: str
    """What it is for; of a setting that only some kinds or schedules have, it says which first."""


def json_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of a recipe, for editors: each setting's type, default, meaning."""
    schema = Recipe.model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    # The key that tells the kinds apart has a default in each class, but a recipe must say it; else several
    # of the alternatives would fit. Only the class whose key is not required stands for what says nothing.
    for holder in (schema["properties"]["tasks"]["additionalProperties"], schema["properties"]["mixing"]):
        tag, default = holder["discriminator"]["propertyName"], holder.get("default", {})
        for value, reference in holder["discriminator"]["mapping"].items():
            definition = definitions[reference.rpartition("/")[2]]
            if default.get(tag) != value:
                definition["required"] = list(dict.fromkeys([tag, *definition.get("required", [])]))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def describe_settings() -> list[Setting]:
    """Every setting that a recipe may say, in the schema's order; those of kinds and schedules included."""
    return list(settings_of(Recipe, ""))


def settings_of(model: type[BaseModel], prefix: str) -> Iterator[Setting]:
    for key, field in keys(model).items():
        yield from settings_at(prefix + key, field, Shape.of(field))


def settings_at(path: str, field: FieldInfo, shape: Shape, owners: str = "") -> Iterator[Setting]:
    """The line of one field, then those of the settings inside it."""
    yield Setting(
        path, expected(shape), default_of(field), owners + " ".join((field.description or "").split())
    )
    while shape.model is None and not shape.models:
        inside = shape.inner(0)
        if inside is None:
            return
        path += ".NAME" if shape.origin is dict else ".0"
        shape = inside
    if shape.model is not None:
        yield from settings_of(shape.model, f"{path}.")
    else:
        yield from settings_of_any(shape.models, shape.tag, f"{path}.", field.default)


def settings_of_any(
    models: dict[str, type[BaseModel]], tag: str, prefix: str, default: Any
) -> Iterator[Setting]:
    """The settings of all members of a tagged union, those that several share only once."""
    first = next(iter(models.values()))
    yield Setting(
        prefix + tag,
        f"one of {', '.join(models)}",
        getattr(default, tag) if isinstance(default, BaseModel) else "required",
        " ".join((keys(first)[tag].description or "").split()),
    )
    owners: dict[tuple[str, Setting], tuple[FieldInfo, list[str]]] = {}
    for name, model in models.items():
        for key, field in keys(model).items():
            if key != tag:
                line = next(settings_at(key, field, Shape.of(field)))
                owners.setdefault((key, line), (field, []))[1].append(name)
    for (key, _), (field, names) in owners.items():
        some = f"({tag}: {', '.join(names)}) " if len(names) < len(models) else ""
        yield from settings_at(prefix + key, field, Shape.of(field), some)


def default_of(field: FieldInfo) -> str:
    """The default as a recipe would write it; of a nested model `{}`: its settings follow with their own."""
    if field.default_factory is not None:
        return "see its meaning"
    if field.default is PydanticUndefined:
        return "required"
    default = field.default
    if isinstance(default, BaseModel):
        return written(to_jsonable_python(default.model_dump(exclude_unset=True, by_alias=True)), inline=True)
    return written(to_jsonable_python(default), inline=True)
