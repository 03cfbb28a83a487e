"""`manyheads evaluate RUN`"""

import json
from typing import Annotated

import typer

from manyheads.cli.options import Also, Attention, Device, Json, Overrides, PrecisionOption, RunFolder


def evaluate(
    run: RunFolder,
    split: Annotated[
        list[str] | None,
        typer.Option("--split", help="dev, test, train …; default: all labelled ones but train."),
    ] = None,
    also: Also = None,
    overrides: Overrides = None,
    device: Device = "cpu",
    precision: PrecisionOption = None,
    attention: Attention = None,
    as_json: Json = False,
) -> None:
    """Score every task of a run, or of several that answer together, on the recipe's files."""
    from manyheads.cli.show import scores_table
    from manyheads.evidence.ensemble import evaluate_runs
    from manyheads.run import Run

    runs = [Run.open(one) for one in (run, *(also or ()))]
    models = [one.model(precision).to(device).use(attention=attention) for one in runs]
    scores = evaluate_runs(runs, split, models=models, overrides=overrides or ())
    if as_json:
        plain = {
            name: {
                task: {measure: value if value == value else None for measure, value in found.items()}
                for task, found in tasks.items()
            }
            for name, tasks in scores.items()
        }
        typer.echo(json.dumps(plain))
    else:
        scores_table(scores)
