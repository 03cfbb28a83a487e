"""Tallies of examples, whose sums over any of them give the measure that `measures` counts."""

import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from manyheads.tasks.classification import Classification, ClassificationSettings
from manyheads.tasks.kind import Kind
from manyheads.tasks.regression import Regression, RegressionSettings

Measure = Literal["accuracy", "macro_f1", "f1", "matthews"]


def classes(measure: Measure, labels: int, binary: bool = False) -> Classification:
    names = tuple(f"l{i}" for i in range(labels))
    loss: Any = "binary_cross_entropy" if binary else "cross_entropy"
    return Classification(ClassificationSettings(text="t", labels=names, measure=measure, loss=loss))


def regression(**more: Any) -> Regression:
    return Regression(RegressionSettings(text="t", **more))


def logits(guess: list[int], labels: int) -> Tensor:
    """Outputs whose most probable labels are these."""
    return torch.nn.functional.one_hot(torch.tensor(guess), labels).float() * 3 - 1


def first(kind: Kind, outputs: Tensor, targets: Tensor) -> float:
    return next(iter(kind.measures(outputs, targets).values()))


def of_sums(kind: Kind, outputs: Tensor, targets: Tensor, counts: NDArray[np.float64] | None = None) -> float:
    tallies = kind.tallies(outputs, targets)
    assert tallies.dtype == np.float64
    assert len(tallies) == len(targets)
    sums = tallies.sum(0) if counts is None else counts @ tallies
    found = kind.measure_of(sums)
    assert np.shape(found) == ()
    return float(found)


@st.composite
def answers(draw: st.DrawFn, least_labels: int, most_labels: int) -> tuple[int, list[int], list[int]]:
    labels = draw(st.integers(least_labels, most_labels))
    pairs = draw(
        st.lists(st.tuples(st.integers(0, labels - 1), st.integers(0, labels - 1)), min_size=1, max_size=12)
    )
    return labels, [gold for gold, _ in pairs], [guess for _, guess in pairs]


@pytest.mark.parametrize("measure", ["accuracy", "macro_f1", "matthews"])
@settings(max_examples=40, deadline=None)
@given(case=answers(2, 4))
@example(case=(3, [1, 1], [1, 1]))
@example(case=(3, [0, 0], [1, 1]))
@example(case=(2, [0], [0]))
def test_of_labels(measure: Measure, case: tuple[int, list[int], list[int]]) -> None:
    labels, gold, guess = case
    kind, targets = classes(measure, labels), torch.tensor(gold).float()
    outputs = logits(guess, labels)
    assert of_sums(kind, outputs, targets) == pytest.approx(first(kind, outputs, targets), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(case=answers(2, 2))
@example(case=(2, [0, 0], [0, 0]))
@example(case=(2, [0, 0], [1, 1]))
@example(case=(2, [1, 1], [0, 0]))
def test_of_the_second_of_two_labels(case: tuple[int, list[int], list[int]]) -> None:
    _, gold, guess = case
    targets = torch.tensor(gold).float()
    kind, outputs = classes("f1", 2), logits(guess, 2)
    assert of_sums(kind, outputs, targets) == pytest.approx(first(kind, outputs, targets), abs=1e-12)
    binary, one = classes("f1", 2, binary=True), outputs[:, 1:]
    assert of_sums(binary, one, targets) == pytest.approx(first(kind, outputs, targets), abs=1e-12)


def test_a_tie_is_decided_as_the_predictions_decide_it() -> None:
    kind, outputs = classes("accuracy", 3), torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0]])
    targets = torch.tensor([0.0, 1.0])
    said = [one.label for one in kind.predictions(outputs)]
    assert kind.tallies(outputs, targets)[:, 1].tolist() == [
        float(one) for one in (said[0] == "l0", said[1] == "l1")
    ]
    binary = classes("accuracy", 2, binary=True)
    assert binary.tallies(torch.zeros(1, 1), torch.tensor([0.0]))[0, 1] == (
        binary.predictions(torch.zeros(1, 1))[0].label == "l0"
    )


NUMBER = st.floats(-100, 100, width=32)


@settings(max_examples=150, deadline=None)
@given(pairs=st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=12))
@example(pairs=[(1.0, 2.0)])
@example(pairs=[(0.1, 3.0), (0.1, 5.0), (0.1, 4.0)])  # one number throughout: undefined
@example(pairs=[(1.0, 0.1), (2.0, 0.1), (5.0, 0.1)])
@example(pairs=[(1.0, 70.0), (2.0, 70.00001), (5.0, 70.00002), (4.0, 70.00002)])  # hardly more than one
@example(pairs=[(50.0, 1.0), (50.00001, 2.0), (50.00002, 3.0)])
def test_of_numbers(pairs: list[tuple[float, float]]) -> None:
    kind = regression()
    gold, values = (torch.tensor(column, dtype=torch.float32) for column in zip(*pairs, strict=True))
    wanted = first(kind, values[:, None], gold)
    found = of_sums(kind, values[:, None], gold)
    if math.isnan(wanted):
        assert math.isnan(found)
    else:
        assert found == pytest.approx(wanted, abs=1e-6)


def test_numbers_are_clipped_as_the_measures_clip_them() -> None:
    kind = regression(range=(0, 5))
    outputs = torch.tensor([[-3.0], [2.0], [9.0], [4.0]])
    gold = torch.tensor([0.0, 1.0, 2.0, 5.0])
    assert of_sums(kind, outputs, gold) == pytest.approx(first(kind, outputs, gold), abs=1e-12)
    scores = kind.tallies(outputs, gold)[:, 1]
    np.testing.assert_allclose(scores, [0, 1, 9, 1])
    assert scores.mean() == pytest.approx(kind.measures(outputs, gold)["mse"])


KINDS: list[tuple[Kind, int]] = [
    (classes("accuracy", 3), 3),
    (classes("macro_f1", 3), 3),
    (classes("matthews", 3), 3),
    (classes("f1", 2), 2),
    (classes("matthews", 2, binary=True), 1),
    (regression(), 1),
]


@pytest.mark.parametrize(("kind", "outputs"), KINDS, ids=lambda one: type(one).__name__)
def test_of_examples_drawn_again_and_again(kind: Kind, outputs: int) -> None:
    """What a bootstrap does: sums of rows that come 0, 1 or several times, many at once."""
    chance = np.random.default_rng(0)
    torch.manual_seed(0)
    said = torch.randn(30, outputs)
    gold = torch.from_numpy(chance.integers(0, 2 if outputs < 3 else 3, 30)).float()
    counts = chance.multinomial(30, np.full(30, 1 / 30), size=(2, 3))
    found = kind.measure_of(counts @ kind.tallies(said, gold))
    assert found.shape == (2, 3)
    for index in np.ndindex(2, 3):
        rows = np.repeat(np.arange(30), counts[index])
        assert found[index] == pytest.approx(first(kind, said[rows], gold[rows]), abs=1e-12)


@pytest.mark.parametrize(("kind", "outputs"), KINDS, ids=lambda one: type(one).__name__)
def test_the_first_column_counts_and_the_second_scores(kind: Kind, outputs: int) -> None:
    torch.manual_seed(1)
    said, gold = torch.randn(9, outputs), torch.tensor([0.0, 1, 1, 0, 1, 0, 0, 1, 1])
    tallies = kind.tallies(said, gold)
    assert (tallies[:, 0] == 1).all()
    measures = kind.measures(said, gold)
    assert tallies[:, 1].mean() == pytest.approx(measures["mse" if kind.squared else "accuracy"])


def test_a_resample_of_one_example_over_and_over_has_no_correlation() -> None:
    kind = regression()
    torch.manual_seed(2)
    said, gold = torch.randn(40, 1) * 10 + 3, torch.rand(40) * 5
    tallies = kind.tallies(said, gold)
    found = kind.measure_of(40 * tallies)
    assert np.isnan(found).all()
