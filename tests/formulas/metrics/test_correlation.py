"""Correlations against their definitions, scipy and exact cases."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import r2_score

from manyheads.formulas.metrics import pearson, spearman

MEASURES = [pearson, spearman]

grades = st.lists(st.tuples(st.integers(0, 10), st.integers(-5, 5)), min_size=2, max_size=40)
numbers = st.floats(-1e6, 1e6)


@given(grades)
def test_correlations_by_definition(rows: list[tuple[int, int]]) -> None:
    x, y = np.array(rows, dtype=np.float64).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert math.isnan(pearson(x, y))
        assert math.isnan(spearman(x, y))
    else:
        assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)
        assert spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)


def test_pearson_squared_is_the_fit_of_a_line() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=200)
    y = 2 * x + generator.normal(size=200)
    line = np.polynomial.Polynomial.fit(x, y, 1)(x)
    assert pearson(x, y) ** 2 == pytest.approx(r2_score(y, line))


def test_spearman_sees_order_only() -> None:
    x = [0.1, 0.5, 2.0, 3.0, 7.0]
    assert spearman(x, np.exp(x)) == pytest.approx(1.0)
    assert spearman(x, [-value for value in x]) == pytest.approx(-1.0)
    assert pearson(x, np.exp(x)) < 0.95
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


@pytest.mark.parametrize("measure", MEASURES)
@given(rows=st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20))
def test_every_finite_input_has_an_answer_without_warning(
    measure: Callable[..., float], rows: list[tuple[float, float]]
) -> None:
    x, y = zip(*rows, strict=True)
    answer = measure(x, y)
    defined = len(set(x)) > 1 and len(set(y)) > 1
    assert -1 <= answer <= 1 if defined else math.isnan(answer)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("gold", "predicted"), [([1.0], [2.0]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [0.1, 0.1, 0.1])]
)
def test_undefined_is_nan(measure: Callable[..., float], gold: Any, predicted: Any) -> None:
    assert math.isnan(measure(gold, predicted))


@pytest.mark.filterwarnings("error")
def test_nearly_equal_numbers_do_not_warn() -> None:
    nearly = [1.0, 1.0 + 2**-52, 1.0, 1.0]
    assert -1 <= pearson(nearly, [1, 2, 3, 4]) <= 1


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    "same", [tuple, np.array, torch.tensor, lambda values: torch.tensor(values, dtype=torch.bfloat16)]
)
def test_every_sequence_is_understood(measure: Callable[..., float], same: Callable[..., Any]) -> None:
    gold, predicted = [1.0, 2.0, 4.0, 3.0], [0.5, 2.5, 2.0, 4.0]
    expected = measure(gold, predicted)
    assert measure(same(gold), same(predicted)) == expected
    assert type(measure(same(gold), predicted)) is float
    assert measure(torch.tensor(gold, requires_grad=True), predicted) == expected


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("gold", "predicted", "message"),
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0], "found 3 gold and 2 predicted"),
        ([], [], "found 0 gold and 0 predicted"),
        ([1.0, 2.0], [1.0, math.nan], "predicted expects finite numbers, found nan at position 1"),
        ([math.inf, 2.0], [1.0, 2.0], "gold expects finite numbers, found inf at position 0"),
        (torch.ones(2, 1), [1.0, 2.0], r"found the shape \(2, 1\)"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    measure: Callable[..., float], gold: Any, predicted: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measure(gold, predicted)
