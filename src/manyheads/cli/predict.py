"""`manyheads predict RUN --task NAME INPUT`"""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from manyheads.cli.options import Attention, Device, PrecisionOption, Quiet, RunFolder

_AT_ONCE = 4096  # rows that are read, sorted by length and labelled together

# What a prediction adds to a row. An input column with one of these names is written as `input.NAME`.
ADDED = ("label", "score", "value", "truncated", "tokens_dropped")


def predict(
    run: RunFolder,
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="csv, tsv, jsonl, json or parquet; - is standard input.", show_default=False
        ),
    ],
    task: Annotated[str, typer.Option("--task", help="Which task's head answers.", show_default=False)],
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
            "--format", help="The input's format: csv, tsv, jsonl, json, parquet; default: by name."
        ),
    ] = None,
    write_as: Annotated[
        str | None,
        typer.Option("--out-format", help="The output's format; default: by name, csv for standard output."),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Add a column p:LABEL for each label.")
    ] = False,
    device: Device = "cpu",
    precision: PrecisionOption = None,
    attention: Attention = None,
    quiet: Quiet = False,
) -> None:
    """Label a file: its rows in their order, with the prediction's columns added, in constant memory."""
    from pydantic import ValidationError
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    from manyheads.data.encode import Place, text_of
    from manyheads.data.read import Dialect, Row, read_rows
    from manyheads.data.write import open_writer
    from manyheads.errors import InputError
    from manyheads.run import load
    from manyheads.tasks import Prediction

    model = load(run, precision).to(device).use(attention=attention)
    chosen = model.task(task)
    columns = (text,) if text is not None else pair if pair is not None else chosen.kind.columns
    if len(columns) != len(chosen.kind.columns):
        wanted = "one text: use --text" if len(chosen.kind.columns) == 1 else "a pair: use --pair"
        raise InputError(f"the task {task!r} reads {wanted}")
    try:
        dialect = Dialect.model_validate({"format": read_as} if read_as else {})
    except ValidationError:
        raise InputError(f"--format {read_as!r}: expected csv, tsv, jsonl, json or parquet") from None
    name = "standard input" if source == "-" else source
    given = sys.stdin.buffer if source == "-" else Path(source)
    rows = read_rows(given, dialect, need=columns, name=name)

    def filled(row: Row, prediction: Prediction) -> dict[str, Any]:
        values = {f"input.{key}" if key in ADDED else key: value for key, value in row.values.items()}
        if prediction.label is not None:
            values |= {"label": prediction.label, "score": prediction.score}
            if probabilities and prediction.probabilities is not None:
                values |= {f"p:{label}": share for label, share in prediction.probabilities.items()}
        else:
            values["value"] = prediction.value
        return values | {"truncated": prediction.truncated, "tokens_dropped": prediction.tokens_dropped}

    def predicted() -> Iterator[dict[str, Any]]:
        while chunk := list(islice(rows, _AT_ONCE)):
            texts = [
                [text_of(row.values[column], Place(name, row.number, row.line), column) for column in columns]
                for row in chunk
            ]
            answers = model.predict(task, [one[0] if len(one) == 1 else one for one in texts])
            yield from map(filled, chunk, answers)

    stream = predicted()
    first = next(stream, None)
    if first is None:
        raise InputError("no rows", file=name)
    console = Console(stderr=True, quiet=quiet)
    with (
        open_writer(sys.stdout.buffer if out == "-" else Path(out), list(first), format=write_as) as writer,
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
