"""How far a score would lie from itself on other examples of the same kind: the bootstrap's interval.

Knows finished runs and statistics. Must not know reports.
"""

import numpy as np
from numpy.typing import NDArray

from manyheads.evidence.outcome import Outcome
from manyheads.formulas import statistics

__all__ = ["RESAMPLES", "interval"]

RESAMPLES = 5_000
"""Samples that the bootstrap draws."""


def interval(outcome: Outcome, task: str, split: str) -> tuple[float, float] | None:
    """The middle 95% of the first measure of a split over samples of its examples, drawn with replacement.

    None where the run has no tallies of the split, or the measure is undefined on it.
    """
    if not outcome.has_tallies(task, split):
        return None
    kind, each = outcome.kind(task), outcome.tallies(task, split)
    # The paired bootstrap against a run whose measure is always 0: its rows are told by the last column.
    ours = np.column_stack([each, np.zeros(len(each))])
    nothing = np.column_stack([np.zeros_like(each), np.ones(len(each))])

    def measure(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(sums[..., -1] > 0, 0.0, kind.measure_of(sums[..., :-1]))

    low, high = statistics.paired_bootstrap(ours, nothing, measure=measure, resamples=RESAMPLES).interval
    return (low, high) if low == low else None
