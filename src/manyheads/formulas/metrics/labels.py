"""Measures of labels: accuracy, F1 and the Matthews correlation, all fractions.

Knows pairs of labels; a label is anything hashable, and two labels are the same if they are equal. Must not
know tasks, probabilities or files. scikit-learn counts; it is imported at the first call, for it is slow.
"""

from collections.abc import Hashable, Iterable

import numpy as np
from numpy.typing import NDArray

from manyheads.formulas.metrics.paired import Values, paired

__all__ = ["accuracy", "f1", "macro_f1", "matthews"]


def accuracy(gold: Values, predicted: Values) -> float:
    """The share of examples whose label is right, 0 to 1.

    Here as in all of these, ValueError if there is nothing to compare or the lengths differ.
    """
    from sklearn.metrics import accuracy_score  # type: ignore[import-untyped, unused-ignore]

    truth, said, _ = _numbered(gold, predicted)
    return float(accuracy_score(truth, said))


def f1(gold: Values, predicted: Values, positive: Hashable = 1) -> float:
    """F1 of the label `positive` against all others, 0 to 1; 0 where nothing is or was said to be positive.

    ValueError if several labels occur and `positive` is none of them: most likely it is `"1"` and not `1`.
    """
    from sklearn.metrics import f1_score  # type: ignore[import-untyped, unused-ignore]

    truth, said, known = _numbered(gold, predicted)
    if positive not in known and len(known) > 1:
        names = ", ".join(map(repr, list(known)[:10]))
        raise ValueError(f"no example has the positive label {positive!r}, found {names}")
    number = known.get(positive, -1)
    return float(f1_score(truth == number, said == number, zero_division=0))


def macro_f1(gold: Values, predicted: Values, labels: Iterable[Hashable] | None = None) -> float:
    """The mean of the labels' F1, each label counting alike, 0 to 1.

    It is taken over `labels`, or over all labels that occur in either sequence (so a label of the task that
    does not occur counts only if named). A label that is neither true nor predicted anywhere has F1 0.
    """
    from sklearn.metrics import f1_score  # type: ignore[import-untyped, unused-ignore]

    truth, said, known = _numbered(gold, predicted)
    asked = list(known) if labels is None else list(dict.fromkeys(labels))
    if not asked:
        raise ValueError("'labels' expects at least one label, found none")
    numbers = [known.setdefault(label, len(known)) for label in asked]
    return float(f1_score(truth, said, labels=numbers, average="macro", zero_division=0))


def matthews(gold: Values, predicted: Values) -> float:
    """The Matthews correlation of two or more labels, -1 to 1 (Gorodkin's R_K for more than two).

    0 where it is undefined: either sequence holds one label only.
    """
    from sklearn.metrics import matthews_corrcoef  # type: ignore[import-untyped, unused-ignore]

    truth, said, known = _numbered(gold, predicted)
    if len(known) < 2:  # scikit-learn would warn
        return 0.0
    return float(matthews_corrcoef(truth, said))


def _numbered(
    gold: Values, predicted: Values
) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[Hashable, int]]:
    """The labels as numbers, for scikit-learn sorts labels and knows no mixture of types."""
    truth, said = paired(gold, predicted)
    known: dict[Hashable, int] = {}
    numbers = [known.setdefault(label, len(known)) for label in (*truth, *said)]
    if any(label != label for label in known):
        raise ValueError("NaN is not a label")
    both = np.array(numbers, dtype=np.int64)
    return both[: len(truth)], both[len(truth) :], known
