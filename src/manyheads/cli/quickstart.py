"""`manyheads quickstart`"""

from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from manyheads.cli.options import Overrides, Quiet

QUESTIONS: tuple[tuple[str, ...], ...] = (
    ("The soup was cold, the waiter was rude and we left hungry.",),
    ("An unforgettable evening, I laughed until I cried and would go again tomorrow!",),
    ("How can I get red wine out of a carpet?", "What removes a red wine stain from a rug?"),
    ("A woman is slicing onions in the kitchen.", "A man is repairing his bicycle outside."),
)


def quickstart(
    out: Annotated[Path, typer.Option("--out", help="The run's folder.")] = Path("runs/quickstart"),
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Train one small model on three tasks that come with the install, score it on held-out rows, ask it.

    A finished run in the folder is asked again; an unfinished one is resumed.
    """
    from manyheads.cli.show import predictions_table, scores_table
    from manyheads.evidence.trained import train
    from manyheads.recipe import Recipe
    from manyheads.run import Run

    run = Run(out)
    if (run.model_folder / "heads.json").is_file():
        typer.echo(f"{out} holds a finished run; --out names another folder to train afresh", err=True)
    else:
        with as_file(files("manyheads.data") / "samples") as samples:
            recipe = Recipe.load(samples / "quickstart.yaml", [f"data={samples}", *(overrides or [])])
            run = train(recipe, out, resume=(out / "recipe.yaml").is_file(), quiet=quiet)
    scores_table(run.all_scores)
    model = run.model()
    for texts in QUESTIONS:
        typer.echo("\n" + "  |  ".join(texts))
        found = model.analyze([texts[0]]) if len(texts) == 1 else model.analyze_pairs([texts])
        predictions_table(found[0])
    typer.echo(f'\nask it yourself:  manyheads ask {out} "your text" ["a second text"]')
