"""`manyheads compare RUN_A RUN_B`"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manyheads.cli.options import Json
from manyheads.cli.study import show_sentences, show_table

if TYPE_CHECKING:
    from manyheads.evidence.judgement import Judgement


def compare(
    run_a: Annotated[Path, typer.Argument(help="A run folder, or a folder of runs.", show_default=False)],
    run_b: Annotated[Path, typer.Argument(help="What it is compared with.", show_default=False)],
    split: Annotated[str, typer.Option("--split", help="The split whose predictions are compared.")] = "dev",
    as_json: Json = False,
) -> None:
    """Say for each common task whether A is better than B, and with which confidence."""
    from manyheads.evidence.compare import compare as compare_runs
    from manyheads.files import finite

    found = compare_runs(run_a, run_b, split=split)
    if as_json:
        typer.echo(json.dumps(finite(found.as_json()), ensure_ascii=False))
        return
    header = [
        "task",
        "measure",
        "A",
        "B",
        "A − B",
        "95% interval",
        "bootstrap p",
        "McNemar p",
        "Mann–Whitney p",
    ]
    show_table(header, [_line(one) for one in found.judgements])
    show_sentences([one.sentence for one in found.judgements])


def _line(one: "Judgement") -> list[str]:
    """A task's numbers in words; p after Holm over the tasks."""
    from manyheads.evidence.judgement import digits_of, number

    digits = digits_of(one.means)
    interval = ""
    if one.bootstrap is not None:
        interval = " to ".join(number(end, digits, sign=True) for end in one.bootstrap.interval)
    several = max(one.seeds) > 1
    tests = [one.bootstrap, one.mcnemar, one.mann_whitney if several else None]
    return [
        one.task,
        one.measure,
        *(number(mean, digits) for mean in one.means),
        number(one.means[0] - one.means[1], digits, sign=True),
        interval,
        *("" if test is None else f"{test.corrected:.3g}" for test in tests),
    ]
