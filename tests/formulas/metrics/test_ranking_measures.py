"""Measures of rankings against scikit-learn, trec_eval's definitions written out, and numbers worked by hand."""

import math
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score

from manyheads.formulas.metrics.ranking import accuracy_at_1, average_precisions, mean_average_precision, mrr

Query = tuple[list[float], list[int]]


def trec_eval(ranked: list[int]) -> tuple[float, float, float]:
    """(average precision, reciprocal rank, precision at 1) of relevances in the order of their rank, as trec_eval's
    m_map, m_recip_rank and m_P (cut-off 1) count them for one topic."""
    found, total, first = 0, 0.0, 0
    for rank, relevant in enumerate(ranked, start=1):
        if relevant:
            found += 1
            total += found / rank
            first = first or rank
    return total / sum(map(bool, ranked)), 1 / first, float(ranked[0] > 0)


@st.composite
def queries(draw: st.DrawFn, ties: bool) -> list[Query]:
    one_score = st.integers(-2, 2).map(float) if ties else st.floats(-1e6, 1e6, width=32)
    found = []
    for _ in range(draw(st.integers(1, 3))):
        scores = draw(st.lists(one_score, min_size=1, max_size=5, unique=not ties))
        relevances = draw(st.lists(st.integers(0, 2), min_size=len(scores), max_size=len(scores)))
        found.append((scores, relevances))
    return found


def best_first(query: Query) -> list[int]:
    scores, relevances = query
    return [relevances[i] for i in sorted(range(len(scores)), key=lambda i: -scores[i])]


def scored(all_of_them: list[Query]) -> list[Query]:
    return [query for query in all_of_them if any(query[1])]


@settings(max_examples=60, deadline=None)
@given(case=queries(ties=False))
def test_without_ties_they_are_trec_evals_and_scikit_learns(case: list[Query]) -> None:
    found = mean_average_precision(case), mrr(case), accuracy_at_1(case)
    if not scored(case):
        assert all(map(math.isnan, found))
        return
    each = np.array([trec_eval(best_first(query)) for query in scored(case)])
    assert found == pytest.approx(each.mean(0), abs=1e-12)
    sklearn = [average_precision_score(np.array(rel) > 0, scores) for scores, rel in scored(case)]
    assert found[0] == pytest.approx(np.mean(sklearn), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(case=queries(ties=True))
@example(case=[([1.0, 1.0, 1.0], [1, 0, 1])])
@example(case=[([0.0, 0.0], [2, 1])])
def test_ties_are_broken_against_the_model(case: list[Query]) -> None:
    """Each measure is the worst that any order of the tied candidates could give."""
    worst = []
    for scores, relevances in scored(case):
        orders = [
            trec_eval([relevances[i] for i in order])
            for order in permutations(range(len(scores)))
            if all(scores[a] >= scores[b] for a, b in pairwise(order))
        ]
        worst.append(np.array(orders).min(0))
    found = [mean_average_precision(case), mrr(case), accuracy_at_1(case)]
    if worst:
        assert found == pytest.approx(np.mean(worst, axis=0), abs=1e-12)
    else:
        assert all(map(math.isnan, found))


def test_with_ties_scikit_learn_gives_all_of_them_the_last_rank() -> None:
    scores, relevances = [1.0, 1.0, 1.0, 0.0], [1, 0, 1, 0]
    sklearn = label_ranking_average_precision_score([relevances], [scores])
    assert sklearn == pytest.approx(2 / 3)  # both relevant ones at rank 3, where 2 of 3 are relevant
    assert mean_average_precision([(scores, relevances)]) == pytest.approx(
        (1 / 2 + 2 / 3) / 2
    )  # ranks 2 and 3


def test_by_hand() -> None:
    first = ([0.1, 0.9, 0.5], [0, 0, 1])  # the relevant one is second
    second = ([3.0, 2.0, 1.0, 0.0], [1, 0, 0, 1])  # ranks 1 and 4
    third = ([1.0, 2.0], [0, 0])  # nothing to find: no part
    case = [first, second, third]
    assert mean_average_precision(case) == pytest.approx((1 / 2 + (1 + 2 / 4) / 2) / 2)
    assert mrr(case) == pytest.approx((1 / 2 + 1) / 2)
    assert accuracy_at_1(case) == 0.5
    assert average_precisions(case).tolist() == pytest.approx([1 / 2, 3 / 4, math.nan], nan_ok=True)


def test_a_model_that_never_decides_gains_nothing_from_the_order() -> None:
    before, after = ([0.0, 0.0, 0.0], [1, 0, 0]), ([0.0, 0.0, 0.0], [0, 0, 1])
    for measure, value in ((mean_average_precision, 1 / 3), (mrr, 1 / 3), (accuracy_at_1, 0.0)):
        assert measure([before]) == pytest.approx(value)
        assert measure([after]) == pytest.approx(value)


def test_any_sequence_will_do() -> None:
    plain = [([0.5, 1.5], [1, 0])]
    arrays = [(np.array([0.5, 1.5], dtype=np.float32), np.array([True, False]))]
    tensors = [(torch.tensor([0.5, 1.5], requires_grad=True), torch.tensor([1, 0]))]
    assert mrr(plain) == mrr(arrays) == mrr(tensors) == 0.5
    assert mrr(one for one in plain) == 0.5


@pytest.mark.parametrize("measure", [mean_average_precision, mrr, accuracy_at_1])
@pytest.mark.parametrize(
    ("case", "said"),
    [
        ([], "expected at least one query, found none"),
        ([([], [])], "at least one; found 0 scores and 0 relevances"),
        ([([1.0, 2.0], [1])], "found 2 scores and 1 relevances"),
        ([([1.0, math.nan], [1, 0])], "expect finite numbers, found nan for candidate 2"),
        ([([1.0, 2.0], [1, math.inf])], "expect finite numbers, found inf for candidate 2"),
        ([([[1.0], [2.0]], [1, 0])], r"one number for each candidate, found the shape \(2, 1\)"),
    ],
)
def test_what_is_no_query(measure: object, case: object, said: str) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match=said):
        measure(case)


def test_no_query_with_a_relevant_candidate() -> None:
    case = [([1.0, 0.0], [0, 0])]
    assert math.isnan(mean_average_precision(case))
    assert math.isnan(mrr(case))
    assert math.isnan(accuracy_at_1(case))
