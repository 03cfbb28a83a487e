"""`manyheads study STUDY`"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from manyheads.cli.options import Attention, Device, Json, Overrides, Quiet


def study(
    study: Annotated[Path, typer.Argument(help="The study, a YAML file.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The study's folder; default runs/NAME, with a preset runs/NAME-PRESET."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="One of the study's presets, put under every variant.")
    ] = None,
    overrides: Overrides = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="Instead of the study's seeds: 1,2,3.", show_default=False)
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="How many runs are trained side by side.")
    ] = 1,
    device: Device = "cpu",
    attention: Attention = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train recipes × seeds, tell median and spread, and judge each variant against the first; goes on where it was."""
    from manyheads.evidence.study import study as run_study

    done = run_study(
        study,
        out,
        preset=preset,
        overrides=overrides or (),
        seeds=None if seeds is None else _whole_numbers(seeds),
        workers=workers,
        quiet=quiet,
        device=device,
        attention=attention,
    )
    if as_json:
        typer.echo((done.folder / "study.json").read_text(encoding="utf-8"), nl=False)
    elif not quiet:
        show_table(done.table.header, done.table.lines)
        show_sentences([one.sentence for one in done.judgements])


def show_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """A table on standard output, numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left", no_wrap=not number)
    for line in lines:
        table.add_row(*line)
    # A file or a pipe has no width, so nothing is broken there.
    screen = Console(highlight=False, markup=False)
    (screen if screen.is_terminal else Console(highlight=False, markup=False, width=240)).print(table)


def show_sentences(sentences: Sequence[str]) -> None:
    """A line for each sentence, after an empty one."""
    for sentence in ["", *sentences] if sentences else ():
        typer.echo(sentence)


def _whole_numbers(text: str) -> list[int]:
    from manyheads.errors import InputError, shown

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise InputError(f"--seeds: expected whole numbers such as 1,2,3, found {shown(text)}")
    return [int(part) for part in parts]
