"""`manyheads ask RUN TEXT [TEXT_B]`"""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from manyheads.cli.options import Attention, Device, Json, PrecisionOption, RunFolder


def ask(
    run: RunFolder,
    text: Annotated[str, typer.Argument(help="A text.", show_default=False)],
    text_b: Annotated[
        str | None, typer.Argument(help="The second text of a pair.", show_default=False)
    ] = None,
    task: Annotated[list[str] | None, typer.Option("--task", help="Only these tasks.")] = None,
    device: Device = "cpu",
    precision: PrecisionOption = None,
    attention: Attention = None,
    as_json: Json = False,
) -> None:
    """Put one text, or a pair, through every head that can take it."""
    from manyheads.cli.show import predictions_table
    from manyheads.run import load

    model = load(run, precision).to(device).use(attention=attention)
    if text_b is None:
        (found,) = model.analyze([text], task)
    else:
        (found,) = model.analyze_pairs([(text, text_b)], task)
    if as_json:
        typer.echo(json.dumps({name: asdict(one) for name, one in found.items()}, ensure_ascii=False))
    else:
        predictions_table(found)
