"""A training with what is told of it afterwards: the run folder gets its model card.

Knows the loop and the card. Must not know the command line.
"""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path

from manyheads.data.encode import TokenCache
from manyheads.evidence.card import write_card
from manyheads.recipe import Recipe
from manyheads.run import Run
from manyheads.training import loop

__all__ = ["train"]


def train(
    recipe: Recipe,
    out: Path | None = None,
    *,
    resume: bool = False,
    quiet: bool = False,
    device: str = "cpu",
    attention: str | None = None,
    cache: TokenCache | None = None,
) -> Run:
    """Train what the recipe says and leave a run folder, with a model card in its README.md.

    `out` is the run's folder (default `runs/NAME`). With `resume` a run that was stopped or killed goes on
    from its last checkpoint, or from the start where it has none yet, and ends with the same weights bit for bit
    as if it had not been stopped. Raises InputError for bad input (nothing is trained then), WorkError for a loss
    that is not finite, and Stopped after Ctrl-C.
    """
    run = loop.train(recipe, out, resume=resume, quiet=quiet, device=device, attention=attention, cache=cache)
    try:
        version = version_of("manyheads")
    except PackageNotFoundError:  # from a folder of sources that was never installed
        version = None
    write_card(run, version)
    return run
