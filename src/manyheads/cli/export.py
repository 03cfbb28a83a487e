"""`manyheads export RUN --to FORMAT FOLDER`"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manyheads.cli.options import Json, RunFolder

if TYPE_CHECKING:
    from manyheads.export.folder import Line

_FORMATS = ("hf", "sentence-transformers", "onnx", "openvino")


def export(
    run: RunFolder,
    folder: Annotated[Path, typer.Argument(help="The folder to write; it must be new.", show_default=False)],
    to: Annotated[str, typer.Option("--to", help=", ".join(_FORMATS) + ".", show_default=False)],
    task: Annotated[list[str] | None, typer.Option("--task", help="Only these tasks.")] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            "--pooling", help="For sentence-transformers: mean (the default) or cls.", show_default=False
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length",
            help="For sentence-transformers: tokens of a text; default: the longest of the tasks.",
            show_default=False,
        ),
    ] = None,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="For openvino: products in int8 for the heads that lose little by it on dev."
        ),
    ] = False,
    gate: Annotated[
        float | None,
        typer.Option(
            "--gate",
            help="For --int8: points that a head may lose on dev, beyond them it stays float32; default: 0.5.",
            show_default=False,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="For --int8: a field of the run's recipe as key.path=value, such as data=FOLDER."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a trained model as other programs read it; what cannot be said there is told."""
    from manyheads.errors import InputError, nearest
    from manyheads.run import Run, load

    if to not in _FORMATS:
        raise InputError(f"--to: found {to!r}, expected {', '.join(_FORMATS)}{nearest(to, _FORMATS)}")
    sentences = to == "sentence-transformers"
    for name, value in (("--pooling", pooling), ("--max-length", max_length)):
        if value is not None and not sentences:
            raise InputError(f"{name} is for --to sentence-transformers")
    if task and sentences:
        raise InputError("--task: sentence-transformers takes the encoder alone")
    if pooling not in (None, "mean", "cls"):
        raise InputError(f"--pooling: found {pooling!r}, expected mean, cls")
    if int8 and to != "openvino":
        raise InputError("--int8 is for --to openvino")
    for name, said in (("--gate", gate is not None), ("--set", bool(overrides))):
        if said and not int8:
            raise InputError(f"{name} is for --int8")
    model = load(run, "float32")
    match to:
        case "hf":
            from manyheads.export import hf

            lines = hf.write(model, folder, task or None)
        case "onnx":
            from manyheads.export import onnx

            lines = onnx.write(model, folder, task or None)
        case "openvino":
            from manyheads.export import openvino
            from manyheads.export.gate import Int8

            small = None
            if int8:
                recipe = Run.open(run).recipe.with_overrides(overrides or ())
                small = Int8(recipe, 0.5 if gate is None else gate)
            lines = openvino.write(model, folder, task or None, int8=small)
        case _:
            from manyheads.export import sentence_transformers

            lines = sentence_transformers.write(
                model, folder, "cls" if pooling == "cls" else "mean", max_length
            )
    if as_json:
        told = {"folder": str(folder), "lines": [asdict(line) for line in lines]}
        typer.echo(json.dumps(told, ensure_ascii=False))
    else:
        _print(folder, lines)


def _print(folder: Path, lines: Sequence["Line"]) -> None:
    """One line for the encoder and each task; what is left out says why."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("task", "in the export", "", box=None, pad_edge=False)
    for line in lines:
        table.add_row(line.name, escape(line.became or "left out"), escape(line.note))
    screen = Console(highlight=False)
    if not screen.is_terminal:  # a file or a pipe has no width
        screen = Console(highlight=False, width=200)
    screen.print(table)
    screen.print(f"written to {escape(str(folder))}")
