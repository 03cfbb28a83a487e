"""`manyheads report RUN`"""

from pathlib import Path
from typing import Annotated

import typer

from manyheads.cli.options import Attention, Device, Overrides, PrecisionOption, Quiet, RunFolder


def report(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option("--out", help="The page's file; default: report.html in the run folder.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option("--split", help="dev, test …; default: all that were scored.")
    ] = None,
    overrides: Overrides = None,
    device: Device = "cpu",
    precision: PrecisionOption = None,
    attention: Attention = None,
    quiet: Quiet = False,
) -> None:
    """Write one HTML page about a run: scores, curves, calibration, errors, how to reproduce it."""
    from manyheads import __version__
    from manyheads.evidence.outcome import Outcome
    from manyheads.evidence.report.page import write_report

    outcome = Outcome.open(run)
    model = None
    if outcome.has_model:
        model = outcome.run.model(precision).to(device).use(attention=attention)
    path = write_report(run, out, split, overrides=overrides or (), model=model, version=__version__)
    if not quiet:
        typer.echo(path)
