"""`manyheads train RECIPE`"""

import json
from pathlib import Path
from typing import Annotated

import typer

from manyheads.cli.options import Attention, Device, Json, Overrides, PrecisionOption, Quiet


def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", help="The run's folder; default runs/NAME.")] = None,
    overrides: Overrides = None,
    seed: Annotated[int | None, typer.Option("--seed", help="The recipe's seed.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was stopped or killed.")
    ] = False,
    device: Device = "cpu",
    precision: PrecisionOption = None,
    attention: Attention = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train what a recipe says: one task or many at once."""
    from manyheads.cli.show import scores_table
    from manyheads.evidence.trained import train as train_recipe
    from manyheads.recipe import Recipe

    said = [*(overrides or [])]
    if seed is not None:
        said.append(f"seed={seed}")
    if precision is not None:
        said.append(f"precision={precision}")
    loaded = Recipe.load(recipe, said)
    run = train_recipe(loaded, out, resume=resume, quiet=quiet, device=device, attention=attention)
    if as_json:
        typer.echo(json.dumps({"run": str(run.folder), "scores": run.all_scores}))
    elif not quiet:
        scores_table(run.all_scores)
