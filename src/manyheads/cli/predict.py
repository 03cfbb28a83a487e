"""`manyheads predict RUN --task NAME INPUT` and `manyheads predict RUN --glue DIR`"""

import json
import sys
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manyheads.cli.options import Also, Attention, Device, Overrides, PrecisionOption, Quiet, Raw, RunFolder

if TYPE_CHECKING:
    from rich.progress import TaskID

    from manyheads.evidence.ensemble import Ensemble
    from manyheads.tasks import Kind

# What a prediction may add to a row. An input column with one of these names is written as `input.NAME`.

_AT_ONCE = 4096  # rows that are read, sorted by length and labelled together


def predict(
    run: RunFolder,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="INPUT",
            help="csv, tsv, jsonl, json, parquet, CoNLL or SQuAD file; - is standard input.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="Which task's head answers.", show_default=False)
    ] = None,
    out: Annotated[
        str, typer.Option("--out", help="csv, tsv, jsonl or parquet; - is standard output.")
    ] = "-",
    text: Annotated[
        str | None, typer.Option("--text", help="The column with the text; default: the recipe's.")
    ] = None,
    pair: Annotated[
        tuple[str, str] | None,
        typer.Option("--pair", help="The two columns of a pair; default: the recipe's."),
    ] = None,
    read_as: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="The input's format: csv, tsv, jsonl, json, parquet, conll, squad; default: by name.",
        ),
    ] = None,
    write_as: Annotated[
        str | None,
        typer.Option("--out-format", help="The output's format; default: by name, csv for standard output."),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Add a column p:LABEL for each label.")
    ] = False,
    raw: Raw = False,
    glue: Annotated[
        Path | None,
        typer.Option(
            "--glue",
            metavar="DIR",
            help="Instead of INPUT: answer the test files of the run's GLUE tasks, into the files that GLUE takes.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    also: Also = None,
    device: Device = "cpu",
    precision: PrecisionOption = None,
    attention: Attention = None,
    quiet: Quiet = False,
) -> None:
    """Label a file: its rows in their order, with the prediction's columns added, in constant memory."""
    import numpy as np
    from pydantic import ValidationError
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    from manyheads.data.read import Dialect, Row, read_rows
    from manyheads.data.write import labelled, open_writer
    from manyheads.errors import InputError
    from manyheads.evidence.ensemble import Ensemble
    from manyheads.files import write_json
    from manyheads.run import load
    from manyheads.tasks import Prediction
    from manyheads.tasks.kind import Example

    if glue is not None:
        files = {"INPUT": source, "--task": task, "--text": text, "--pair": pair, "--format": read_as}
        files |= {"--out": None if out == "-" else out, "--out-format": write_as}
        for named, said in files.items():
            if said is not None:
                raise InputError(f"{named} does not go with --glue, which reads the test files of the recipe")
    elif overrides:
        raise InputError("--set goes with --glue alone: no recipe is read to label a file")
    elif source is None or task is None:
        raise InputError("expected --task NAME and INPUT, the file to label, or --glue DIR")

    folders = [run, *(also or ())]
    models = [load(one, precision).to(device).use(attention=attention) for one in folders]
    model = Ensemble(models, [str(one) for one in folders], raw=raw)
    if glue is not None:
        _submit(run, model, glue, overrides or [], quiet=quiet)
        return
    assert source is not None
    assert task is not None
    kind = model.task(task).kind
    columns = (text,) if text is not None else pair if pair is not None else kind.columns
    if len(columns) != len(kind.columns):
        wanted = {1: "one text: use --text", 2: "a pair: use --pair"}.get(len(kind.columns))
        raise InputError(f"the task {task!r} reads {wanted or 'the columns ' + ', '.join(kind.columns)}")
    try:
        dialect = Dialect.model_validate({"format": read_as} if read_as else {})
    except ValidationError:
        raise InputError(
            f"--format {read_as!r}: expected one of csv, tsv, jsonl, json, parquet, conll, squad"
        ) from None
    name = "standard input" if source == "-" else source
    given = sys.stdin.buffer if source == "-" else Path(source)
    rows = read_rows(given, dialect, need=columns, name=name)
    waiting: deque[Row] = deque()

    def examples() -> Iterator[tuple[Row, dict[str, Any]]]:
        for row in rows:
            waiting.append(row)
            yield (
                row,
                row.values | {ours: row.values[its] for ours, its in zip(kind.columns, columns, strict=True)},
            )

    def inputs() -> Iterator[Any]:
        place: Row | None = None
        try:
            for row, values in kind.gather(examples()):
                place = row
                yield kind.input(values)
                place = None
        except InputError:  # of the file itself
            raise
        except ValueError as error:
            at = place or waiting[-1]
            column = getattr(error, "column", None)
            raise InputError(str(error), file=name, row=at.number, line=at.line, column=column) from None

    def answered() -> Iterator[tuple[Any, Prediction]]:
        stream = inputs()
        while chunk := list(islice(stream, _AT_ONCE)):
            yield from zip(chunk, model.answer(task, chunk), strict=True)

    if Path(out).suffix == ".json" and write_as is None:
        none = np.zeros(0, np.int64), np.zeros((0, 2), np.int32)
        pairs = [(Example(one, None, *none), prediction) for one, prediction in answered()]
        files = kind.official([one for _, one in pairs], [one for one, _ in pairs])
        if not files:
            raise InputError(f"--out {out}: the task {task!r} has no predictions file of its own; use jsonl")
        for ending, content in files.items():
            write_json(Path(out.removesuffix(".json") + ending), content)
        return

    def predicted() -> Iterator[dict[str, Any]]:
        for _, prediction in answered():
            rows_of = kind.cells(prediction)
            several = len(prediction.dropped) == len(rows_of) > 1
            lost = prediction.dropped if several else [prediction.tokens_dropped] * len(rows_of)
            for cells, dropped in zip(rows_of, lost, strict=True):
                yield labelled(waiting.popleft().values, cells, dropped, probabilities=probabilities)

    stream = predicted()
    first = next(stream, None)
    if first is None:
        raise InputError("no rows", file=name)
    console = Console(stderr=True, quiet=quiet)
    with (
        open_writer(
            sys.stdout.buffer if out == "-" else Path(out), list(first), format=write_as, like=_like(kind)
        ) as writer,
        Progress(
            "labelled",
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
        ) as progress,
    ):
        bar = progress.add_task("rows", total=None)
        writer.write(first)
        progress.advance(bar)
        for values in stream:
            writer.write(values)
            progress.advance(bar)


def _like(kind: "Kind") -> dict[str, Any]:
    """A value of each column that a kind adds to a row: the first rows may have none (no answer, no entity). Lists,
    which a kind gives as JSON, as such."""
    from manyheads.tasks import Prediction
    from manyheads.tasks.kind import Span, Tagged

    # One with everything in it; where a text of it stands in a cell it begins with no bracket.
    whole = Prediction(
        label="label",
        score=0.5,
        value=0.5,
        spans=(Span(0, 4, "text", "label", 0.5),),
        tokens=(Tagged("text", 0, 4, "label", 0.5),),
        ranking=(0,),
        shares=(1.0,),
    )
    return {
        name: json.loads(cell) if isinstance(cell, str) and cell.startswith("[") else cell
        for name, cell in kind.cells(whole)[0].items()
    }


def _submit(run: Path, models: "Ensemble", folder: Path, overrides: list[str], *, quiet: bool) -> None:
    """Write GLUE's files, and say which and which not."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from manyheads.evidence.glue import write_submission
    from manyheads.run import Run

    recipe = Run.open(run).recipe.with_overrides(overrides)
    console = Console(stderr=True, quiet=quiet)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
    ) as progress:
        bars: dict[str, TaskID] = {}

        def advance(file: str, rows: int) -> None:
            if file not in bars:
                bars[file] = progress.add_task(file, total=None)
            progress.advance(bars[file], rows)

        written = write_submission(recipe, models, folder, progress=advance)
    if not quiet:
        for path, rows in written.rows.items():
            typer.echo(f"{path}: {rows:,} rows")
        for sentence in written.missing:
            typer.echo(f"passed over: {sentence}")
