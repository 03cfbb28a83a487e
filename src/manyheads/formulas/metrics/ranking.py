"""Measures of rankings: mean average precision, mean reciprocal rank and accuracy at 1, all fractions.

Knows, for each query, the scores and the relevances of its candidates. Must not know tasks, texts or files.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from manyheads.formulas.metrics.paired import Values

__all__ = ["accuracy_at_1", "average_precisions", "mean_average_precision", "mrr"]

Query = tuple[Values, Values]


def mean_average_precision(queries: Iterable[Query]) -> float:
    """The mean over queries of the average precision (trec_eval's `map`), 0 to 1.

    Here as in all of these a query is (scores, relevances), a number for each candidate; a candidate is
    relevant if its relevance is above 0, and a higher score ranks it higher. The average precision of a query is
    the mean over its relevant candidates of the share of relevant ones down to that rank.

    Ties count against the model: of candidates with one score the irrelevant ones are taken to stand first. A
    model that scores all alike gains nothing from the order of the file, where the relevant one often is first.
    (trec_eval breaks ties by the documents' names; scikit-learn gives tied candidates one rank, the last.)

    Queries without a relevant candidate have no part; NaN if none has one. ValueError if there is no query, one
    has no candidate or not as many scores as relevances, or a number is not finite.
    """
    return _mean(_average_precision(ranked) for ranked in _ranked(queries))


def mrr(queries: Iterable[Query]) -> float:
    """The mean over queries of 1 / rank of the first relevant candidate, 0 to 1; see `mean_average_precision`."""
    return _mean(1 / (1 + int(ranked.argmax())) for ranked in _ranked(queries))


def accuracy_at_1(queries: Iterable[Query]) -> float:
    """The share of queries whose first candidate is relevant, 0 to 1; see `mean_average_precision`."""
    return _mean(float(ranked[0]) for ranked in _ranked(queries))


def average_precisions(queries: Iterable[Query]) -> NDArray[np.float64]:
    """[queries] the average precision of each, NaN for one without a relevant candidate."""
    each = [_average_precision(ranked) if ranked.any() else math.nan for ranked in map(_order, queries)]
    return np.array(each, dtype=np.float64)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found) if found else math.nan


def _average_precision(ranked: NDArray[np.bool_]) -> float:
    places = np.flatnonzero(ranked) + 1
    return float((np.arange(1, len(places) + 1) / places).mean())


def _ranked(queries: Iterable[Query]) -> Iterator[NDArray[np.bool_]]:
    """For each query with a relevant candidate: which of its candidates are relevant, best first."""
    empty = True
    for query in queries:
        empty = False
        if (ranked := _order(query)).any():
            yield ranked
    if empty:
        raise ValueError("expected at least one query, found none")


def _order(query: Query) -> NDArray[np.bool_]:
    """Which candidates are relevant, best score first and of equal scores the irrelevant first."""
    scores, relevances = (_numbers(values) for values in query)
    if len(scores) != len(relevances) or not len(scores):
        raise ValueError(
            "a query expects one score and one relevance for each candidate, at least one; "
            f"found {len(scores)} scores and {len(relevances)} relevances"
        )
    relevant = relevances > 0
    return np.asarray(relevant[np.lexsort((relevant, -scores))])


def _numbers(values: Values) -> NDArray[np.float64]:
    plain = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
    array = np.asarray(plain, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"expected one number for each candidate, found the shape {array.shape}")
    wrong = np.flatnonzero(~np.isfinite(array))
    if wrong.size:
        found = f"{array[wrong[0]]} for candidate {wrong[0] + 1}"
        raise ValueError(f"scores and relevances expect finite numbers, found {found}")
    return array
