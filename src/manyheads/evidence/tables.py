"""A study's table: a row a variant, a column a task; as Markdown, as csv, as plain values.

Knows finished runs and numbers. Must not know how runs are planned, trained or compared.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manyheads.evidence.judgement import digits_of, number
from manyheads.evidence.outcome import Outcome

__all__ = ["Cell", "Row", "Table", "as_csv", "as_markdown", "table_of"]

Column = tuple[str, str]
"""(task, its first measure)."""


@dataclass(frozen=True)
class Cell:
    """A task's first measure over a variant's runs."""

    scores: Mapping[str, float]
    """Seed → score; NaN where it is undefined."""

    @property
    def defined(self) -> list[float]:
        """The scores that are numbers."""
        return [score for score in self.scores.values() if score == score]

    @property
    def median(self) -> float:
        """Of the defined scores; NaN without any."""
        return _median(self.defined)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third, between two scores by the line through them; NaN without any."""
        if not self.defined:
            return math.nan, math.nan
        first, third = np.quantile(self.defined, (0.25, 0.75))
        return float(first), float(third)

    def __str__(self) -> str:
        if not self.defined:
            return "undefined"
        digits = digits_of(self.defined)
        text = number(self.median, digits)
        if len(self.defined) > 1:
            text += " [{}–{}]".format(*(number(end, digits) for end in self.quartiles))
        undefined = len(self.scores) - len(self.defined)
        return text + (f" ({undefined} undefined)" if undefined else "")


@dataclass(frozen=True)
class Row:
    """A variant's line."""

    variant: str
    finished: int
    planned: int
    cells: Mapping[Column, Cell]
    """Without the tasks that the variant has no score of."""
    seconds_per_epoch: float
    """Median over the runs; NaN while there is none."""
    examples_per_second: float


@dataclass(frozen=True)
class Table:
    """A study's scores so far."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def header(self) -> list[str]:
        """What stands above the columns."""
        tasks = [f"{task} {measure}" for task, measure in self.columns]
        return ["variant", *tasks, "seeds", "s/epoch", "examples/s"]

    @property
    def lines(self) -> list[list[str]]:
        """The rows in words."""
        return [
            [
                row.variant,
                *(str(row.cells.get(column, "")) for column in self.columns),
                f"{row.finished}/{row.planned}",
                _speed(row.seconds_per_epoch),
                _speed(row.examples_per_second),
            ]
            for row in self.rows
        ]

    def as_json(self) -> list[dict[str, Any]]:
        """As plain values, a mapping a variant."""
        return [
            {
                "variant": row.variant,
                "finished": row.finished,
                "planned": row.planned,
                "tasks": {
                    task: {
                        "measure": measure,
                        "median": cell.median,
                        "quartiles": cell.quartiles,
                        "scores": dict(cell.scores),
                    }
                    for (task, measure), cell in row.cells.items()
                },
                "seconds_per_epoch": row.seconds_per_epoch,
                "examples_per_second": row.examples_per_second,
            }
            for row in self.rows
        ]


def table_of(variants: Mapping[str, Mapping[str, Outcome]], planned: Mapping[str, int], split: str) -> Table:
    """The table of variants, each with its finished runs by seed and the number of those that are planned."""
    rows = []
    columns: dict[Column, None] = {}
    for variant, runs in variants.items():
        scores: dict[Column, dict[str, float]] = {}
        for seed, outcome in runs.items():
            for task in outcome.scores(split):
                measure, value = outcome.first(task, split) or ("", math.nan)
                scores.setdefault((task, measure), {})[seed] = value
        columns.update(dict.fromkeys(scores))
        speeds = [outcome.speed for outcome in runs.values()]
        rows.append(
            Row(
                variant,
                len(runs),
                planned[variant],
                {column: Cell(found) for column, found in scores.items()},
                _median([speed.seconds_per_epoch for speed in speeds]),
                _median([speed.examples_per_second for speed in speeds]),
            )
        )
    return Table(tuple(columns), tuple(rows))


def as_markdown(table: Table) -> str:
    """The table in Markdown, numbers to the right."""
    lines = [table.header, ["---", *("---:" for _ in table.header[1:])], *table.lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_csv(table: Table) -> str:
    """The table as csv, a number a cell; what is not known is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [
        f"{task} {measure} {what}"
        for task, measure in table.columns
        for what in ("median", "first quartile", "third quartile")
    ]
    last = ["seeds finished", "seeds planned", "seconds an epoch", "examples a second"]
    writer.writerow(["variant", *names, *last])
    for row in table.rows:
        numbers: list[float] = []
        for column in table.columns:
            cell = row.cells.get(column, Cell({}))
            numbers += [cell.median, *cell.quartiles]
        speed = [row.seconds_per_epoch, row.examples_per_second]
        plain = [["" if value != value else value for value in values] for values in (numbers, speed)]
        writer.writerow([row.variant, *plain[0], row.finished, row.planned, *plain[1]])
    return text.getvalue()


def _speed(value: float) -> str:
    if value != value:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return float(np.median(known)) if known else math.nan
