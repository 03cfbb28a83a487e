"""Where the things that a recipe names lie: relative paths become absolute once, when a file is loaded.

Knows the current folder, the recipe file's folder and MANYHEADS_DATA; opens nothing.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manyheads.recipe.document import Document
from manyheads.recipe.overrides import replaced

__all__ = ["DATA_VARIABLE", "settled"]

DATA_VARIABLE = "MANYHEADS_DATA"


def settled(document: Document, folder: Path) -> Document:
    """`document` with absolute paths for `data`, the vocabulary, the teachers and an encoder that is a local folder.

    A relative path is taken from the current folder and, where that has nothing of the name, from `folder`.
    What is found in neither stays as it would be in the current folder (`data`, `encoder.vocab`, teachers) or as it is
    (`encoder.from`, which may be a hub name). Values of the wrong type are left for the schema to refuse.
    """
    values = document.values
    data = values.get("data")
    if data is None:
        root = Path.cwd()
        first = first_file(values)
        if first is not None and not (root / first).exists() and (folder / first).exists():
            root = folder.absolute()
        document = moved(document, ("data",), root)
    elif isinstance(data, str) and data:
        document = moved(document, ("data",), nearby(data, folder) or Path.cwd() / Path(data).expanduser())
    encoder = values.get("encoder")
    if isinstance(encoder, Mapping):
        vocab, source = encoder.get("vocab"), encoder.get("from")
        if isinstance(vocab, str) and vocab:
            document = moved(document, ("encoder", "vocab"), nearby(vocab, folder) or Path.cwd() / vocab)
        # `minilm` is always the packaged encoder, whatever folder bears its name.
        if isinstance(source, str) and source not in ("", "minilm"):
            local = nearby(source, folder)
            if local is not None and local.is_dir():
                document = moved(document, ("encoder", "from"), local)
    distill = values.get("distill")
    teachers = distill.get("teachers") if isinstance(distill, Mapping) else None
    for task, run in teachers.items() if isinstance(teachers, Mapping) else ():
        if isinstance(run, str) and run:
            place = ("distill", "teachers", task)
            document = moved(document, place, nearby(run, folder) or Path.cwd() / Path(run).expanduser())
    return document


def nearby(text: str, folder: Path) -> Path | None:
    """The absolute path of `text` in the current folder, else in `folder`, else None."""
    path = Path(text).expanduser()
    try:
        return next((base / path for base in (Path.cwd(), folder.absolute()) if (base / path).exists()), None)
    except (OSError, ValueError):  # too long a name, a NUL
        return None


def moved(document: Document, place: tuple[str, ...], path: Path) -> Document:
    """`document` with `path` at `place`; errors still name the line where it was given."""
    return replaced(document, place, os.path.normpath(path), document.origin(place))


def first_file(values: Mapping[str, Any]) -> str | None:
    """The first file that any task names."""
    tasks = values.get("tasks")
    for section in tasks.values() if isinstance(tasks, Mapping) else ():
        files = section.get("files") if isinstance(section, Mapping) else None
        for named in files.values() if isinstance(files, Mapping) else ():
            first = named[0] if isinstance(named, list) and named else named
            if isinstance(first, str) and first:
                return first
    return None
