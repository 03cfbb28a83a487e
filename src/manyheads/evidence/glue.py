"""GLUE's submission files: what runs say of its test rows, as the benchmark's server takes them (row B3).

Knows GLUE's tasks by their names, recipes and the models of runs. Must not know how a run is trained.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from manyheads.data.read import Row
from manyheads.errors import InputError, shown
from manyheads.evidence.ensemble import Ensemble
from manyheads.files import replacing, reporting
from manyheads.recipe import Recipe
from manyheads.tasks import Kind, Prediction
from manyheads.training.splits import sources_of

__all__ = ["GLUE", "GlueTask", "Submission", "write_submission"]

_AT_ONCE = 4096  # rows that are read, sorted by length and labelled together
_LEAST, _GREATEST = 0.0, 5.0  # of STS-B

Reader = Callable[..., Iterator[Row]]


@dataclass(frozen=True)
class GlueTask:
    """What GLUE expects of one of its tasks (Wang et al. 2019, and the FAQ of its server)."""

    files: Mapping[str, str]
    """Split of the recipe → the file with the answers to it."""
    labels: Mapping[str, str] | None
    """A label in GLUE's files → its name in the hub's copy of the data; None: the answer is a number from 0 to 5."""
    also: Mapping[str, str] = field(default_factory=dict)
    """As `files`, of splits that a recipe need not have."""
    ranked: tuple[str, str] | None = None
    """The label of a query's best candidate and that of the others, where a run has learnt the task as a ranking."""

    @property
    def names(self) -> dict[str, str]:
        """A label as a run may call it → as GLUE does."""
        told = self.labels or {}
        return {name: label for label, hub in told.items() for name in (hub, label)}


def _pair(file: str, zero: str, one: str) -> GlueTask:
    """A task whose files hold 0 and 1."""
    return GlueTask({"test": file}, {"0": zero, "1": one})


_ENTAILMENT: Final = {"entailment": "entailment", "not_entailment": "not_entailment"}

GLUE: Final[dict[str, GlueTask]] = {
    "cola": _pair("CoLA.tsv", "unacceptable", "acceptable"),
    "sst2": _pair("SST-2.tsv", "negative", "positive"),
    "mrpc": _pair("MRPC.tsv", "not_equivalent", "equivalent"),
    "stsb": GlueTask({"test": "STS-B.tsv"}, None),
    "qqp": _pair("QQP.tsv", "not_duplicate", "duplicate"),
    "mnli": GlueTask(
        {"test": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"},
        {name: name for name in ("entailment", "neutral", "contradiction")},
        also={"ax": "AX.tsv"},
    ),
    "qnli": GlueTask({"test": "QNLI.tsv"}, _ENTAILMENT, ranked=("entailment", "not_entailment")),
    "rte": GlueTask({"test": "RTE.tsv"}, _ENTAILMENT),
    "wnli": _pair("WNLI.tsv", "not_entailment", "entailment"),
}
"""A task's name in a recipe → what GLUE expects of it."""


@dataclass(frozen=True)
class Submission:
    """What was written, and what was not."""

    rows: Mapping[Path, int]
    """File → its rows, without the header."""
    missing: tuple[str, ...]
    """A sentence for each task or file that was passed over."""


@dataclass(frozen=True)
class _File:
    """One file to write, and where its rows come from."""

    task: str
    path: Path
    sources: Sequence[tuple[str, Reader]]


def write_submission(
    recipe: Recipe,
    models: Ensemble,
    folder: Path,
    *,
    progress: Callable[[str, int], None] = lambda file, rows: None,
) -> Submission:
    """Answer the test rows of every task of a recipe that is one of GLUE's, each in its own file of `folder`.

    A file is `index<TAB>prediction`, rows counted from 0 in the order of the test file. Tasks are known by their names
    (`cola`, `sst2` …), their splits are those of `GLUE`; a task that is none of them, or lacks its test split, is
    passed over. `progress` is told (file, more rows). Raises InputError where nothing is left to write, a test file
    cannot be read or a task's answers are not GLUE's.
    """
    planned, missing = _planned(recipe, models, folder)
    if not planned:
        raise InputError(f"nothing to submit to GLUE: {'; '.join(missing)}")
    with reporting(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise InputError("is a file, expected a folder", file=folder) from None
    written: dict[Path, int] = {}
    for file in planned:
        rows = 0
        with replacing(file.path) as beside, beside.open("w", encoding="utf-8", newline="") as stream:
            stream.write("index\tprediction\n")
            for answer in _answers(models, file):
                stream.write(f"{rows}\t{answer}\n")
                rows += 1
                progress(file.path.name, 1)
        written[file.path] = rows
    return Submission(written, tuple(missing))


def _planned(recipe: Recipe, models: Ensemble, folder: Path) -> tuple[list[_File], list[str]]:
    """The files to write, their sources opened once so that none is missing; sentences for the rest."""
    planned, missing = [], []
    for name, section in recipe.tasks.items():
        if name not in GLUE:
            missing.append(f"the task {name!r} is none of GLUE's")
            continue
        kind = models.task(name).kind
        if not kind.reads and GLUE[name].ranked is None:
            raise InputError(
                f"the task {name!r} is of a kind that gives no label or number for a row of GLUE's files"
            )
        for split, file in {**GLUE[name].files, **GLUE[name].also}.items():
            if split not in section.split_names:
                if split in GLUE[name].files:
                    key = f"files.{split}=FILE" if section.hub is None else f"hub.splits.{split}=NAME"
                    missing.append(
                        f"the task {name!r} has no split {split!r} for {file}; --set tasks.{name}.{key} adds it"
                    )
                continue
            shares = section.hold_out.shares if section.hold_out is not None else {}
            for key, held in (("sample", section.sample), ("hold_out", shares)):
                if split in held:
                    raise InputError(
                        f"tasks.{name}.{key}.{split}: {file} expects an answer to every row of GLUE's file"
                    )
            root = Path(recipe.data or ".")
            sources, _, _ = sources_of(section, split, root, kind.columns)
            planned.append(_File(name, folder / file, sources))
    return planned, missing


def _answers(models: Ensemble, file: _File) -> Iterator[str]:
    """What stands in the column `prediction`, row by row."""
    kind = models.task(file.task).kind
    for source, read in file.sources:
        rows = read(need=kind.columns)
        if kind.reads:  # a row is an example
            for prediction in _predictions(models, file.task, source, rows):
                yield _answer(file, prediction)
            continue
        # Rows that belong together need not stand together in the file.
        ordered = _together(rows, kind.columns[0])
        found: dict[int, str] = {}
        waiting = iter(ordered)
        for prediction in _predictions(models, file.task, source, iter(ordered)):
            answers = _answers_of_candidates(file, kind, prediction)
            found |= {
                row.number: answer for row, answer in zip(islice(waiting, len(answers)), answers, strict=True)
            }
        yield from (found[number] for number in sorted(found))


def _predictions(models: Ensemble, task: str, source: str, rows: Iterator[Row]) -> Iterator[Prediction]:
    inputs = _inputs(models.task(task).kind, source, rows)
    while chunk := list(islice(inputs, _AT_ONCE)):
        yield from models.answer(task, chunk)


def _inputs(kind: Kind, source: str, rows: Iterator[Row]) -> Iterator[Any]:
    """The rows of one file as the kind reads them; InputError names the row that it cannot read."""
    place: Row | None = None

    def each() -> Iterator[tuple[Row, dict[str, Any]]]:
        nonlocal place
        for row in rows:
            place = row
            yield row, row.values

    try:
        for row, values in kind.gather(each()):
            place = row
            yield kind.input(values)
    except InputError:
        raise
    except ValueError as error:
        assert place is not None
        column = getattr(error, "column", None)
        raise InputError(str(error), file=source, row=place.number, line=place.line, column=column) from None


def _together(rows: Iterator[Row], column: str) -> list[Row]:
    """The rows with equal values of a column one after another, in the order in which each value first comes."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row.values[column]), []).append(row)
    return [row for group in groups.values() for row in group]


def _answer(file: _File, prediction: Prediction) -> str:
    """One row's answer as GLUE writes it."""
    task = GLUE[file.task]
    if task.labels is None:
        if prediction.value is None:
            raise InputError(f"the task {file.task!r} answers with labels; {file.path.name} expects numbers")
        return f"{min(_GREATEST, max(_LEAST, prediction.value)):.3f}"
    names = task.names
    for label in (prediction.label, *(prediction.probabilities or ())):
        if label not in names:
            found = "no label" if label is None else f"the label {shown(label)}"
            raise InputError(
                f"the task {file.task!r} answers with {found}; {file.path.name} expects {', '.join(task.labels)}"
            )
    assert prediction.label is not None
    return names[prediction.label]


def _answers_of_candidates(file: _File, kind: Kind, prediction: Prediction) -> list[str]:
    """The answers to the rows of one query: its best candidate, and the others."""
    ranked = GLUE[file.task].ranked
    assert ranked is not None
    candidates = len(prediction.shares)
    if not candidates or len(kind.cells(prediction)) != candidates:
        raise InputError(f"the task {file.task!r} gives no answer for each row of {file.path.name}")
    best, other = ranked
    return [best if one == prediction.ranking[0] else other for one in range(candidates)]
