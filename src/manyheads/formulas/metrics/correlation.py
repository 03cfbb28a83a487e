"""Measures of numbers: the correlations of Pearson and Spearman.

Knows pairs of numbers. Must not know tasks, scales or files. scipy counts; it is imported at the first call.
"""

import math
import warnings

import numpy as np
from numpy.typing import NDArray

from manyheads.formulas.metrics.paired import Values, paired

__all__ = ["pearson", "spearman"]


def pearson(gold: Values, predicted: Values) -> float:
    """The linear correlation, -1 to 1; NaN where it is undefined: one example, or one number throughout.

    ValueError if there is nothing to compare, the lengths differ, or a value is no finite number: a model
    that answers NaN is broken, which must not look like an answer that never varies.
    """
    return _correlation(*_numbers(gold, predicted))


def spearman(gold: Values, predicted: Values) -> float:
    """The correlation of the ranks, equal values sharing the mean of theirs; otherwise as `pearson`."""
    from scipy.stats import rankdata  # type: ignore[import-untyped, unused-ignore]

    x, y = _numbers(gold, predicted)
    return _correlation(rankdata(x), rankdata(y))


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    from scipy.stats import NearConstantInputWarning, pearsonr

    if np.all(x == x[0]) or np.all(y == y[0]):
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NearConstantInputWarning)
        return float(pearsonr(x, y).statistic)


def _numbers(gold: Values, predicted: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    arrays = []
    for name, values in zip(("gold", "predicted"), paired(gold, predicted), strict=True):
        array = np.array(values, dtype=np.float64)
        wrong = np.flatnonzero(~np.isfinite(array))
        if wrong.size:
            found = f"{array[wrong[0]]} at position {wrong[0]}"
            raise ValueError(f"{name} expects finite numbers, found {found} (counted from 0)")
        arrays.append(array)
    return arrays[0], arrays[1]
