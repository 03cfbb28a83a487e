"""`manyheads evaluate RUN`"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manyheads.cli.options import Also, Attention, Device, Json, Overrides, PrecisionOption, RunFolder

if TYPE_CHECKING:
    from manyheads.evidence.answered import Confusion
    from manyheads.model import Model
    from manyheads.run import Run

Confusions = dict[str, dict[str, "Confusion"]]
"""{split: {task: its matrix}} of the tasks that have one."""


def evaluate(
    run: RunFolder,
    split: Annotated[
        list[str] | None,
        typer.Option("--split", help="dev, test, train …; default: all labelled ones but train."),
    ] = None,
    confusion: Annotated[
        bool, typer.Option("--confusion", help="Print which label was taken for which, too.")
    ] = False,
    pictures: Annotated[
        Path | None,
        typer.Option(
            "--pictures",
            help="A folder for pictures: which label was taken for which, labels and lengths of every split.",
        ),
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
    from manyheads.errors import InputError
    from manyheads.evidence.answered import answered
    from manyheads.run import Run

    if pictures is not None and pictures.exists() and not pictures.is_dir():
        raise InputError("is a file, expected a folder for the pictures", file=pictures)
    runs = [Run.open(one) for one in (run, *(also or ()))]
    models = [one.model(precision).to(device).use(attention=attention) for one in runs]
    scores: dict[str, dict[str, dict[str, float]]] = {}
    matrices: Confusions = {}
    for one in answered(runs, split, models=models, overrides=overrides or ()):
        scores.setdefault(one.split, {})[one.task] = one.scores
        if (confusion or pictures is not None) and (matrix := one.confusion) is not None:
            matrices.setdefault(one.split, {})[one.task] = matrix
    if pictures is not None:
        _draw(pictures, runs[0], models[0], overrides or (), matrices)
    if as_json:
        plain: dict[str, dict[str, dict[str, Any]]] = {
            name: {
                task: {measure: value if value == value else None for measure, value in found.items()}
                for task, found in tasks.items()
            }
            for name, tasks in scores.items()
        }
        for name, tasks in matrices.items() if confusion else ():
            for task, matrix in tasks.items():
                plain[name][task]["confusion"] = matrix.as_json()
        typer.echo(json.dumps(plain))
        return
    scores_table(scores)
    for name, tasks in matrices.items() if confusion else ():
        for task, matrix in tasks.items():
            _print(f"{task} {name}: gold down, said across", matrix)


def _print(title: str, matrix: "Confusion") -> None:
    """The matrix with each label's recall; too wide for the screen, it is told as what each label was taken for."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    screen = Console(highlight=False)
    if not screen.is_terminal:  # a file or a pipe has no width
        screen = Console(highlight=False, width=160)
    names = [escape(label) for label in matrix.labels]
    ends = [
        [f"{rows:,}", "–" if share != share else f"{share:.3f}"]
        for rows, share in zip(matrix.counts.sum(1), matrix.recall, strict=True)
    ]
    table = Table("", box=None, pad_edge=False)
    for name in (*names, "rows", "recall"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, counts, end in zip(names, matrix.counts.tolist(), ends, strict=True):
        table.add_row(name, *(f"{count:,}" if count else "·" for count in counts), *end)
    if table.__rich_measure__(screen, screen.options.update(width=10_000)).maximum > screen.width:
        table = Table("", "rows", "recall", "said instead", box=None, pad_edge=False)
        for gold, (name, end) in enumerate(zip(names, ends, strict=True)):
            table.add_row(name, *end, _instead(names, matrix.counts[gold].tolist(), gold))
    screen.print(f"\n{escape(title)}")
    screen.print(table)


def _instead(names: Sequence[str], counts: Sequence[int], gold: int) -> str:
    """What a label was taken for, most often first."""
    others = sorted(
        (at for at, count in enumerate(counts) if count and at != gold), key=lambda at: -counts[at]
    )
    return "  ".join(f"{names[at]} {counts[at]:,}" for at in others)


def _draw(
    folder: Path,
    run: "Run",
    model: "Model",
    overrides: Sequence[str],
    matrices: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write `confusion-TASK-SPLIT.svg` of what was scored, `classes-TASK.svg` and `lengths-TASK.svg` of all splits."""
    import numpy as np

    from manyheads.evidence.answered import splits_of
    from manyheads.evidence.pictures import draw_classes, draw_confusion, draw_lengths

    labels: dict[str, tuple[str, ...]] = {}
    for split, tasks in matrices.items():
        for task, matrix in tasks.items():
            labels[task] = matrix.labels
            path = folder / f"confusion-{task}-{split}.svg"
            draw_confusion(path, matrix.labels, matrix.counts, f"{task} · {split}")
    for data in splits_of(run, model, overrides=overrides):
        task = data.name
        if task in labels:
            numbers = {
                split: np.bincount(rows.targets.astype(np.int64), minlength=len(labels[task])).tolist()
                for split, rows in data.splits.items()
                if rows.targets is not None
            }
            counts = {split: dict(zip(labels[task], found, strict=True)) for split, found in numbers.items()}
            draw_classes(folder / f"classes-{task}.svg", counts, f"{task} · labels")
        lengths = {
            split: rows.rows.layout.lengths + rows.rows.layout.dropped for split, rows in data.splits.items()
        }
        draw_lengths(folder / f"lengths-{task}.svg", lengths, data.section.max_length, f"{task} · lengths")
