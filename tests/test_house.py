"""The house rules that a machine can check: who imports whom, what a file is called, what the README says."""

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path, PurePosixPath

import pytest

import manyheads

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "manyheads"

# A room stands on a floor and imports only from floors beneath it: never from above, never from a neighbour.
# A module or folder that is not named here has no place yet, and the test says so. `face` is the package's
# own `__init__`: it offers what lies under the doors, and the doors may come through it.
FLOORS: dict[str, float] = {
    "ground": 0,
    "native": 0.5,
    "encoder": 1,
    "formulas": 1,
    "tasks": 2,
    "data": 3,
    "recipe": 3.5,
    "holding": 4,
    "training": 5,
    "evidence": 6,
    "export": 6,
    "face": 6.5,
    "cli": 7,
    "serve": 6.8,
    "street": 8,
}
# Rooms made of files that lie in the package itself; every other room is the folder of that name.
ROOM_OF_FILE = {
    "__init__": "face",
    "__main__": "street",
    "errors": "ground",
    "files": "ground",
    "model": "holding",
    "passes": "holding",
    "run": "holding",
}
# Beyond the floors: what a room must not know although it lies beneath. Data knows rows, ids and order.
FORBIDDEN = {"data": ("formulas", "tasks"), "formulas": ("files",)}
# Libraries to compare with in tests and benchmarks; the package stands without them.
REFERENCES = {"accelerate", "sentence_transformers", "seqeval", "torchjd", "transformers"}
NAMELESS = {"common", "helper", "helpers", "misc", "util", "utils"}


def modules() -> list[str]:
    """Every Python file of the package, relative to it."""
    return sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    """The room of a file (`data/read.py`) or of a dotted name within the package (`data.read`, `errors`)."""
    first = PurePosixPath(module.replace(".py", "").replace(".", "/")).parts
    name = first[0] if first else "__init__"
    return ROOM_OF_FILE.get(name, name)


def imported(file: str, source: str) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything that a module imports, within functions too.

    `from a import b` gives `a.b`, as b may be a module.
    """
    dotted = ["manyheads", *PurePosixPath(file).with_suffix("").parts]
    package = ".".join(dotted[:-1])
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = resolve_name("." * node.level + base, package)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def complaints(file: str, source: str) -> list[str]:
    """What in a module's imports is against the rules of the house."""
    own = room(file)
    if own not in FLOORS:
        return [f"{file}: the room {own!r} has no floor; give it one in FLOORS"]
    found = []
    for line, name in imported(file, source):
        top, *rest = name.split(".")
        where = f"{file}:{line}"
        if top in REFERENCES:
            found.append(f"{where}: {top} is a reference for tests, not for the package")
        if top != "manyheads":
            continue
        # `from manyheads import x`: the module x if there is one, else something that the face offers.
        inner = rest if rest and has_module(rest[0]) else []
        other = room(".".join(inner)) if inner else "face"
        if other == own:
            continue
        if other not in FLOORS or FLOORS[other] >= FLOORS[own]:
            found.append(f"{where}: {own} must not import {other} ({name}): it does not lie beneath")
        elif other in FORBIDDEN.get(own, ()) or (inner and inner[0] in FORBIDDEN.get(own, ())):
            found.append(f"{where}: {own} must not know {other} ({name})")
    return found


def has_module(name: str) -> bool:
    """Whether the package has, or has a floor for, a module or folder of that name."""
    return name in FLOORS or name in ROOM_OF_FILE or (PACKAGE / name).is_dir()


@pytest.mark.parametrize("file", modules())
def test_imports_go_down(file: str) -> None:
    assert complaints(file, (PACKAGE / file).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source", "allowed"),
    [
        ("data/read.py", "from manyheads.errors import InputError", True),
        ("data/read.py", "from manyheads.encoder.tokenizer import Tokenizer", True),
        ("data/read.py", "from manyheads.data.hub import rows", True),
        ("data/read.py", "from .hub import rows", True),
        ("data/read.py", "import manyheads.training.loop", False),
        ("data/read.py", "from manyheads.tasks import KINDS", False),
        ("data/read.py", "from ..training import loop", False),
        ("data/read.py", "from manyheads import training", False),
        ("data/read.py", "from manyheads import train", False),
        ("data/read.py", "import manyheads", False),
        ("data/read.py", "def f():\n    from manyheads.recipe import Recipe", False),
        ("data/read.py", "def f():\n    import transformers.models", False),
        ("encoder/bert.py", "from manyheads.formulas import optim", False),
        ("encoder/bert.py", "from manyheads.encoder.layers import gelu", True),
        ("formulas/metrics/labels.py", "from manyheads.formulas.metrics.paired import paired", True),
        ("formulas/metrics/labels.py", "from ...tasks import KINDS", False),
        ("formulas/optim.py", "from manyheads.errors import nearest", True),
        ("formulas/optim.py", "from manyheads.files import write_json", False),
        ("errors.py", "from manyheads.encoder import bert", False),
        ("files.py", "from manyheads.errors import InputError", True),
        ("run.py", "from manyheads.model import Model", True),
        ("run.py", "from manyheads.training.loop import train", False),
        ("model.py", "from manyheads.recipe import Recipe", True),
        ("export/onnx.py", "from manyheads.evidence.plan import plan", False),
        ("__init__.py", "from manyheads.training.loop import train", True),
        ("__init__.py", "from manyheads.cli import main", False),
        ("cli/train.py", "from manyheads import __version__", True),
        ("cli/train.py", "from manyheads.serve import app", True),
        ("__main__.py", "from manyheads.cli import main", True),
        ("attic/old.py", "import os", False),
    ],
)
def test_the_floors_are_what_they_say(file: str, source: str, allowed: bool) -> None:
    assert (complaints(file, source) == []) is allowed


def test_every_room_of_the_package_has_a_floor() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    files = {path.stem for path in PACKAGE.glob("*.py")}
    assert folders <= set(FLOORS)
    assert files <= set(ROOM_OF_FILE)


def test_files_are_named_for_what_they_hold() -> None:
    named = [path for top in ("src", "tests", "benchmarks") for path in (ROOT / top).rglob("*.py")]
    assert [path.relative_to(ROOT).as_posix() for path in named if path.stem.strip("_") in NAMELESS] == []


@pytest.mark.parametrize("file", modules())
def test_a_module_says_what_it_is(file: str) -> None:
    source = (PACKAGE / file).read_text(encoding="utf-8")
    if source.strip() or not file.endswith("__init__.py"):  # an empty one only makes its folder a package
        assert ast.get_docstring(ast.parse(source)), f"{file} opens without a docstring"


def test_tests_lie_where_the_package_lies() -> None:
    tests = [path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("*.py")]
    assert [str(path) for path in tests if path.name == "__init__.py"] == []
    names = [path.name for path in tests if path.name != "conftest.py"]
    assert sorted(set(names)) == sorted(names)  # a report that names a test file names one
    rooms = [PACKAGE, ROOT]  # the documentation's snippets are tested too
    strays = {path.parent for path in tests if not any((base / path.parent).is_dir() for base in rooms)}
    assert strays == set()


def test_the_version_is_said_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert ROOT / project["tool"]["hatch"]["version"]["path"] == PACKAGE / "__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+", manyheads.__version__)


def told_tree(readme: str) -> dict[str, str]:
    """path → what it is, from the fenced block between the two `<!-- tree -->` marks of a README.

    A line is a name, ` – ` and what it is; deeper lines belong to the folder above them, a folder's name ends
    in `/`. Box-drawing lines before a name count as indentation. The package's own line gives no path.
    """
    marked = readme.split("<!-- tree -->")
    assert len(marked) == 3, "README.md: expected one block between two <!-- tree --> marks"
    fenced = re.search(r"```\w*\n(.*?)```", marked[1], re.DOTALL)
    assert fenced, "README.md: expected a fenced block between the <!-- tree --> marks"
    told: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in fenced[1].splitlines():
        if not line.strip(" │├└─"):
            continue
        indent = re.match(r"[\s│├└─]*", line)
        depth = indent.end() if indent else 0
        name, _, what = (part.strip() for part in line[depth:].partition(" – "))
        assert what, f"README.md: the tree's line {line.strip()!r} does not say what it is"
        above = [(other, folder) for other, folder in above if other < depth]
        path = "".join(folder for _, folder in above) + name
        if name.endswith("/"):
            above.append((depth, name))
        path = path.removeprefix("src/").removeprefix("manyheads/")
        assert path not in told, f"README.md: {path!r} stands in the tree twice"
        if path:
            told[path] = what
    return told


def test_the_readme_prints_the_tree_of_the_package() -> None:
    told = told_tree((ROOT / "README.md").read_text(encoding="utf-8"))
    files = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    folders = {f"{above}/" for file in files for above in PurePosixPath(file).parents if above.name}
    # A folder's line stands for its `__init__.py`, and for what in it is not Python unless that is named too.
    silent = {file for file in files if not file.endswith(".py") or file.endswith("/__init__.py")}
    assert sorted(set(told) - files - folders) == []  # told, but not there
    assert sorted((files | folders) - silent - set(told)) == []  # there, but not told


def test_a_tree_is_read_with_and_without_lines() -> None:
    plain = """
# x
<!-- tree -->
```text
src/manyheads/ – the package
  errors.py – two errors
  data/ – rows
    read.py – files in
  run.py – a folder
```
<!-- tree -->
"""
    expected = {
        "errors.py": "two errors",
        "data/": "rows",
        "data/read.py": "files in",
        "run.py": "a folder",
    }
    assert told_tree(plain) == expected
    drawn = (
        plain.replace("  errors", "├── errors")
        .replace("  data/", "├── data/")
        .replace("    read", "│   └── read")
        .replace("  run", "└── run")
    )
    assert told_tree(drawn) == expected
    with pytest.raises(AssertionError, match="does not say what it is"):
        told_tree(plain.replace(" – rows", ""))
