"""Measures of labels against scikit-learn and against counts by hand."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from manyheads.formulas.metrics import accuracy, f1, macro_f1, matthews

MEASURES = [accuracy, f1, macro_f1, matthews]

pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)
binary = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


@given(pairs)
def test_accuracy_and_macro_f1_equal_scikit_learn(rows: list[tuple[int, int]]) -> None:
    gold, predicted = map(list, zip(*rows, strict=True))
    assert accuracy(gold, predicted) == sk.accuracy_score(gold, predicted)
    assert macro_f1(gold, predicted) == pytest.approx(
        sk.f1_score(gold, predicted, average="macro", zero_division=0)
    )
    assert macro_f1(gold, predicted, labels=range(5)) == pytest.approx(
        sk.f1_score(gold, predicted, average="macro", labels=list(range(5)), zero_division=0)
    )


@given(pairs)
def test_matthews_is_the_correlation_of_one_hot_labels(rows: list[tuple[int, int]]) -> None:
    """Gorodkin (2004), equation 8: covariances summed over the classes."""
    gold, predicted = (np.eye(4)[list(column)] for column in zip(*rows, strict=True))
    x, y = gold - gold.mean(0), predicted - predicted.mean(0)
    spread = np.sqrt((x * x).sum() * (y * y).sum())
    expected = (x * y).sum() / spread if spread > 1e-12 else 0.0
    assert matthews(gold.argmax(1), predicted.argmax(1)) == pytest.approx(expected, abs=1e-12)


@given(binary)
def test_f1_by_counts(rows: list[tuple[bool, bool]]) -> None:
    hits = sum(gold and said for gold, said in rows)
    errors = sum(gold != said for gold, said in rows)
    expected = 2 * hits / (2 * hits + errors) if hits else 0.0
    gold, predicted = zip(*rows, strict=True)
    assert f1(gold, predicted) == pytest.approx(expected)


def test_f1_sets_one_label_against_all_others() -> None:
    gold, predicted = ["a", "a", "b", "c", "c"], ["a", "b", "b", "a", "c"]
    assert f1(gold, predicted, positive="a") == pytest.approx(0.5)
    assert f1(gold, predicted, positive="b") == pytest.approx(2 / 3)


def test_f1_of_a_label_that_is_nowhere() -> None:
    assert f1([0, 0], [0, 0]) == 0.0
    with pytest.raises(ValueError, match="no example has the positive label 1, found '0', '1'"):
        f1(["0", "1"], ["1", "1"])


def test_matthews_is_0_where_undefined() -> None:
    assert matthews([1, 1, 1], [1, 1, 1]) == 0.0
    assert matthews([1, 1, 1], [1, 0, 1]) == 0.0
    assert matthews([1, 0, 1], [1, 1, 1]) == 0.0


def test_macro_f1_counts_the_labels_that_occur_or_those_named() -> None:
    gold, predicted = [0, 0, 1, 1], [0, 0, 1, 2]
    assert macro_f1(gold, predicted) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert macro_f1(gold, predicted, labels=[0, 1]) == pytest.approx((1 + 2 / 3) / 2)
    assert macro_f1(gold, predicted, labels=[0, 1, 2, 3]) == pytest.approx((1 + 2 / 3) / 4)
    with pytest.raises(ValueError, match="at least one label"):
        macro_f1(gold, predicted, labels=[])


@pytest.mark.parametrize(
    "same",
    [
        tuple,
        np.array,
        torch.tensor,
        lambda values: np.array(values, dtype=object),
        lambda values: list(np.array(values)),
        lambda values: list(torch.tensor(values)),
        lambda values: [bool(value) for value in values],
    ],
)
@pytest.mark.parametrize("measure", MEASURES)
def test_every_sequence_is_understood(
    measure: Callable[..., float], same: Callable[[list[int]], Any]
) -> None:
    gold, predicted = [1, 0, 1, 1, 0, 1], [1, 1, 0, 1, 0, 1]
    expected = measure(gold, predicted)
    assert 0 < expected < 1
    assert measure(same(gold), predicted) == measure(gold, same(predicted)) == expected
    assert type(measure(same(gold), same(predicted))) is float


@pytest.mark.parametrize("measure", [accuracy, macro_f1, matthews])
@given(rows=pairs)
def test_any_hashable_is_a_label(measure: Callable[..., float], rows: list[tuple[int, int]]) -> None:
    names = ["happy", None, ("a", 1), frozenset({2})]
    gold, predicted = map(list, zip(*rows, strict=True))
    named = measure([names[i] for i in gold], [names[i] for i in predicted])
    assert named == pytest.approx(measure(gold, predicted), abs=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("gold", "predicted", "message"),
    [
        ([1, 0, 1], [1, 0], "found 3 gold and 2 predicted"),
        ([], [1], "found 0 gold and 1 predicted"),
        ([], [], "found 0 gold and 0 predicted"),
        (np.ones((2, 1)), [1, 1], r"found the shape \(2, 1\)"),
        ([1, 1], torch.tensor(1), r"found the shape \(\)"),
        ([1.0, float("nan")], [1.0, 1.0], "NaN is not a label"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    measure: Callable[..., float], gold: Any, predicted: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measure(gold, predicted)


def test_import_leaves_the_slow_libraries_alone() -> None:
    code = (
        "import sys, manyheads.formulas.metrics, manyheads.formulas.optim\n"
        "print(sorted({'sklearn', 'scipy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
