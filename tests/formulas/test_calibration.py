"""Calibration: the temperature is scipy's minimiser, bins are scikit-learn's, errors are worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve

from manyheads.formulas.calibration import (
    COLDEST,
    HOTTEST,
    classwise_calibration_error,
    expected_calibration_error,
    reliability,
    temperature,
    temperature_of_groups,
)


def drawn(seed: int, count: int, labels: int, sharpness: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are `sharpness` times too large, and labels drawn from what they would say without that."""
    generator = np.random.default_rng(seed)
    true = generator.normal(size=(count, labels)) * 1.5
    noise = -np.log(-np.log(generator.random(true.shape)))
    return torch.from_numpy(true * sharpness), torch.from_numpy((true + noise).argmax(1))


def loss(logits: torch.Tensor, targets: torch.Tensor, at: float) -> float:
    return float(torch.nn.functional.cross_entropy(logits.double() / at, targets))


def by_scipy(logits: torch.Tensor, targets: torch.Tensor) -> float:
    found = minimize_scalar(
        lambda power: loss(logits, targets, math.exp(power)),
        bounds=(math.log(COLDEST), math.log(HOTTEST)),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return math.exp(found.x)


@pytest.mark.parametrize(("sharpness", "labels"), [(0.2, 3), (1.0, 2), (3.0, 5), (8.0, 12)])
def test_the_temperature_minimises_the_loss(sharpness: float, labels: int) -> None:
    logits, targets = drawn(3, 400, labels, sharpness)
    found = temperature(logits, targets)
    assert found == pytest.approx(by_scipy(logits, targets), rel=1e-5)
    assert sharpness / 1.4 < found < sharpness * 1.4  # what the logits are too large by
    assert loss(logits, targets, found) <= min(
        loss(logits, targets, found * 0.999), loss(logits, targets, found * 1.001)
    )


def test_two_labels_by_hand() -> None:
    # 3 of 4 right at the same log-odds z: sigmoid(z / T) = 3/4 where z / T = log 3.
    logits = torch.tensor([[4.0]] * 4)
    targets = torch.tensor([1, 1, 1, 0])
    expected = 4 / math.log(3)
    assert temperature(logits, targets) == pytest.approx(expected, rel=1e-12)
    pairs = torch.cat([-logits / 2, logits / 2], 1)
    assert temperature(pairs, targets) == pytest.approx(expected, rel=1e-12)
    assert temperature(pairs, torch.nn.functional.one_hot(targets, 2)) == pytest.approx(expected, rel=1e-12)
    shares = torch.tensor([[0.25, 0.75]] * 4)
    assert temperature(pairs, shares) == pytest.approx(expected, rel=1e-12)
    nothing_known = torch.cat([shares, torch.zeros(1, 2)])
    more = torch.cat([pairs, torch.tensor([[9.0, -9.0]])])
    assert temperature(more, nothing_known) == pytest.approx(expected, rel=1e-12)


def test_what_has_no_minimum_ends_at_a_bound_or_at_one() -> None:
    right = torch.tensor([[2.0, -1.0], [-3.0, 1.0]])
    assert temperature(right, torch.tensor([0, 1])) == COLDEST
    assert temperature(right * 1e4, torch.tensor([0, 1])) == COLDEST
    assert temperature(right, torch.tensor([1, 0])) == HOTTEST
    assert temperature(right, torch.tensor([0, 0])) == pytest.approx(
        by_scipy(right, torch.tensor([0, 0])), rel=1e-4
    )  # a single label
    assert temperature(torch.zeros(0, 3), torch.zeros(0)) == 1.0
    assert temperature(torch.zeros(4, 3), torch.zeros(4)) == 1.0
    assert temperature(torch.ones(4, 3) * 1e6, torch.zeros(4)) == 1.0
    assert temperature(right, torch.zeros(2, 2)) == 1.0  # nothing is known
    empty = torch.zeros(0, 1)
    assert temperature_of_groups(empty, empty, torch.zeros(0)) == 1.0
    one_each = torch.randn(5, 1)
    assert temperature_of_groups(one_each, torch.ones(5, 1), torch.arange(5)) == 1.0


def test_groups_are_rows_of_any_length() -> None:
    logits, targets = drawn(5, 60, 6, 2.5)
    generator = np.random.default_rng(0)
    # Some candidates are taken away: a group has 2 to 6, the right one among them.
    keep = torch.from_numpy(generator.random((60, 6)) < 0.6)
    keep[torch.arange(60), targets] = True
    keep[torch.arange(60), (targets + 1) % 6] = True
    masked = logits.masked_fill(~keep, -torch.inf)
    owners, columns = keep.nonzero(as_tuple=True)
    shares = (targets[owners] == columns).double()[:, None]
    scores = logits[keep][:, None]
    found = temperature_of_groups(scores, shares, owners)
    assert found == pytest.approx(by_scipy(masked, targets), rel=1e-5)
    # Two columns have a softmax each and one temperature together.
    both = temperature_of_groups(scores.expand(-1, 2), shares.expand(-1, 2), owners)
    assert both == pytest.approx(found, rel=1e-9)
    whole = torch.arange(60).repeat_interleave(6)
    hot = torch.nn.functional.one_hot(targets, 6).reshape(-1, 1)
    assert temperature_of_groups(logits.reshape(-1, 1), hot, whole) == pytest.approx(
        temperature(logits, targets), rel=1e-9
    )


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    scale=st.floats(0.3, 3),
    shift=st.floats(-50, 50),
    labels=st.integers(2, 5),
)
def test_scaled_logits_scale_the_temperature(seed: int, scale: float, shift: float, labels: int) -> None:
    logits, targets = drawn(seed, 30, labels, 1.0)
    found = temperature(logits, targets)
    assert COLDEST <= found <= HOTTEST
    assert loss(logits, targets, found) <= loss(logits, targets, 1.0) + 1e-12
    again = temperature(logits * scale + shift, targets)
    if COLDEST < found < HOTTEST:
        assert again == pytest.approx(min(max(found * scale, COLDEST), HOTTEST), rel=1e-6)
        # Already scaled logits need nothing more.
        assert temperature(logits / found, targets) == pytest.approx(1.0, rel=1e-8)


def test_float32_and_bf16_are_taken_as_they_are() -> None:
    logits, targets = drawn(1, 100, 4, 2.0)
    for dtype in (torch.float32, torch.bfloat16):
        rounded = logits.to(dtype)
        assert temperature(rounded, targets) == temperature(rounded.double(), targets.double())


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (torch.zeros(3), torch.zeros(3), "a row for each example"),
        (torch.zeros(3, 2), torch.zeros(2), "expects 3 label numbers"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), "label numbers below 2"),
        (torch.tensor([[0.0, math.nan]]), torch.zeros(1), "finite"),
        (torch.tensor([[0.0, math.inf]]), torch.zeros(1), "finite"),
    ],
)
def test_what_does_not_fit_is_refused(logits: torch.Tensor, targets: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        temperature(logits, targets)


def test_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="'owners' one number a row"):
        temperature_of_groups(torch.zeros(3, 1), torch.zeros(3, 1), torch.zeros(2))
    with pytest.raises(ValueError, match="the same shape"):
        temperature_of_groups(torch.zeros(3, 1), torch.zeros(3), torch.zeros(3))


def test_the_error_by_hand() -> None:
    # Two bins, (0, ½] and (½, 1]: |½ − 0.45| · 2/5 + |2/3 − 0.8| · 3/5.
    confidence = [0.5, 0.4, 0.7, 0.8, 0.9]
    right = [1, 0, 1, 1, 0]
    found = reliability(confidence, right, 2)
    assert found.counts.tolist() == [2, 3]
    assert found.confidence == pytest.approx([0.45, 0.8])
    assert found.accuracy == pytest.approx([0.5, 2 / 3])
    assert found.edges.tolist() == [0.0, 0.5, 1.0]
    expected = 0.05 * 2 / 5 + (0.8 - 2 / 3) * 3 / 5
    assert found.error == pytest.approx(expected)
    assert expected_calibration_error(torch.tensor(confidence), np.array(right) > 0, 2) == pytest.approx(
        expected
    )


def test_empty_bins_and_nothing_at_all() -> None:
    found = reliability([0.0, 1.0, 1.0], [0, 1, 0], 4)
    assert found.counts.tolist() == [1, 0, 0, 2]
    assert found.confidence == pytest.approx([0, math.nan, math.nan, 1], nan_ok=True)
    assert found.error == pytest.approx(1 / 3)
    nothing = reliability([], [])
    assert nothing.counts.tolist() == [0] * 15
    assert math.isnan(nothing.error)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60),
    st.integers(1, 20),
)
def test_the_bins_are_those_of_scikit_learn(answers: list[tuple[float, bool]], bins: int) -> None:
    confidence = np.array([one for one, _ in answers])
    right = np.array([one for _, one in answers])
    found = reliability(confidence, right, bins)
    filled = found.counts > 0
    accuracy, mean = calibration_curve(
        np.append(right, [True, False]), np.append(confidence, [0, 0]), n_bins=bins
    )
    # It wants both outcomes, so two answers of confidence 0 were added to the first bin; the other bins are ours.
    rest = filled.copy()
    rest[0] = False
    assert accuracy[1:] == pytest.approx(found.accuracy[rest])
    assert mean[1:] == pytest.approx(found.confidence[rest])
    assert int(found.counts.sum()) == len(answers)
    assert 0 <= found.error <= 1
    # No finer than the one bin that holds all answers.
    assert found.error >= abs(confidence.mean() - right.mean()) - 1e-12


def test_scaling_mends_what_was_too_sure() -> None:
    logits, targets = drawn(11, 4000, 4, 3.0)

    def error(scaled: torch.Tensor) -> float:
        probabilities: NDArray[np.float64] = scaled.softmax(1).numpy()
        return expected_calibration_error(probabilities.max(1), probabilities.argmax(1) == targets.numpy())

    before, after = error(logits), error(logits / temperature(logits, targets))
    assert before > 0.1
    assert after < 0.03


def test_the_classwise_error_is_the_mean_over_labels() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    targets = [0, 1, 0]
    expected = [
        expected_calibration_error(probabilities[:, label], [one == label for one in targets])
        for label in range(3)
    ]
    assert classwise_calibration_error(probabilities, targets) == pytest.approx(np.mean(expected))
    with pytest.raises(ValueError, match="n label numbers"):
        classwise_calibration_error(probabilities, [0])


@pytest.mark.parametrize(
    ("confidence", "right", "bins", "message"),
    [
        ([0.5], [1, 0], 15, "same answers"),
        ([1.5], [1], 15, "from 0 to 1"),
        ([math.nan], [1], 15, "from 0 to 1"),
        ([0.5], [0.5], 15, "0 or 1"),
        ([0.5], [1], 0, "at least 1"),
    ],
)
def test_what_is_no_answer_is_refused(
    confidence: list[float], right: list[float], bins: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        reliability(confidence, right, bins)
