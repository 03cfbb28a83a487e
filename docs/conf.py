"""How the documentation is built: prose in Markdown beside this file, the reference from the docstrings."""

import re
from itertools import groupby
from pathlib import Path

from sphinx.application import Sphinx

from manyheads import __version__
from manyheads.recipe.describe import describe_settings

project = "manyheads"
author = "the manyheads developers"
copyright = "the manyheads developers"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.apidoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"manyheads {__version__}"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# One page a module, written anew at each build: a module cannot be forgotten.
apidoc_modules = [
    {
        "path": "../src/manyheads",
        "destination": "reference",
        # The service needs libraries that only the extra `serve` brings, and its interface describes itself.
        "exclude_patterns": ["**/__main__.py", "**/serve"],
        "separate_modules": True,
        "module_first": True,
        "automodule_options": {"members", "show-inheritance"},
    }
]
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
default_role = "code"

_CODE = re.compile(r"(`[^`\n]+`)")
_MARKUP = re.compile(r"(?<!\\)([*|_\\])")
_LIST = re.compile(r"\s*([-*]|\d+\.)\s")


def plain(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain words and `code`: what reStructuredText would read into |u - v| or h_i is escaped,
    and a change of indentation begins a paragraph of its own."""
    told: list[str] = []
    for line in lines:
        before = told[-1] if told else ""
        if line.strip() and before.strip() and _indent(line) != _indent(before) and not _LIST.match(before):
            told.append("")
        bullet = _LIST.match(line)
        start = bullet.end() if bullet else 0
        parts = _CODE.split(line[start:])
        parts[::2] = [_MARKUP.sub(r"\\\1", part) for part in parts[::2]]
        told.append(line[:start] + "".join(parts))
    lines[:] = told


def at_home(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """What a package only hands on is described where it is written: each name has one place."""
    home = getattr(obj, "__module__", None)
    here = app.env.current_document.autodoc_module
    return True if what == "module" and home and here and home != here else None


def settings(app: Sphinx) -> None:
    """Write the page with every setting of a recipe, a table for each of its sections."""
    page = ["# All settings of a recipe\n"]
    page.append(
        "Written from the schema itself when these pages are built. `NAME` stands for a name of your own,"
    )
    page.append("`0` for a position in a list; {doc}`../concepts/recipes` tells how a recipe is read.\n")
    for part, told in groupby(describe_settings(), key=lambda one: one.path.split(".")[0]):
        page.append(f"## {part}\n\n| setting | expects | default | meaning |\n| --- | --- | --- | --- |")
        for one in told:
            cells = [f"`{one.path}`", one.type, f"`{one.default}`", one.meaning]
            page.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        page.append("")
    folder = Path(app.srcdir) / "reference"
    folder.mkdir(exist_ok=True)
    (folder / "settings.md").write_text("\n".join(page), encoding="utf-8")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", settings)
    app.connect("autodoc-process-docstring", plain)
    app.connect("autodoc-skip-member", at_home)
