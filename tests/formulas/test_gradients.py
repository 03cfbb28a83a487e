"""Gradients of several tasks against scipy, torchjd and the published algorithm, step by step."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch import Tensor
from torchjd.aggregation import PCGrad

from manyheads.formulas import gradients


def rows(tasks: int, weights: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tasks, weights, generator=generator, dtype=torch.float64).to(dtype)


# --- cosines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tasks", "weights"), [(1, 3), (2, 5), (4, 100), (6, 2)])
def test_cosines_are_scipys(tasks: int, weights: int) -> None:
    matrix = rows(tasks, weights, seed=1) * torch.logspace(-6, 6, tasks, dtype=torch.float64)[:, None]
    expected = 1 - cdist(matrix.numpy(), matrix.numpy(), "cosine")
    found = gradients.cosines(matrix)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-14)
    assert torch.equal(found, found.T)


def test_cosines_by_hand() -> None:
    found = gradients.cosines(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [1.0, 1.0]]))
    half = 1 / math.sqrt(2)
    expected = [[1, 0, -1, half], [0, 1, 0, half], [-1, 0, 1, -half], [half, half, -half, 1]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_a_gradient_of_zero_has_no_direction() -> None:
    found = gradients.cosines(torch.tensor([[1.0, 2.0], [0.0, 0.0], [2.0, 4.0]]))
    assert found.isnan().tolist() == [[False, True, False], [True, True, True], [False, True, False]]
    assert found[0, 2].item() == pytest.approx(1.0)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 40))
def test_no_cosine_is_beyond_one(seed: int, tasks: int, weights: int) -> None:
    matrix = rows(tasks, weights, seed, torch.float32)
    found = gradients.cosines(torch.cat([matrix, -3 * matrix]))
    assert found.dtype == torch.float32
    assert found.abs().max() <= 1
    torch.testing.assert_close(found.diagonal(), torch.ones(2 * tasks))
    torch.testing.assert_close(found[:tasks, tasks:].diagonal(), -torch.ones(tasks))


def test_one_gradient_a_row() -> None:
    for measure in (gradients.cosines, gradients.pcgrad):
        with pytest.raises(ValueError, match=r"\[m, n\], found the shape \(3,\)"):
            measure(torch.ones(3))


# --- PCGrad ----------------------------------------------------------------------------------------------


def algorithm_1(matrix: NDArray[np.float64], order: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Yu et al. (2020), algorithm 1, line by line, on the vectors themselves."""
    changed = matrix.copy()
    for i, others in enumerate(order):
        for j in others:
            if j == i:
                continue
            conflict = float(changed[i] @ matrix[j])
            if conflict < 0:
                changed[i] -= conflict / float(matrix[j] @ matrix[j]) * matrix[j]
    return np.asarray(changed.sum(0))


def permutations(tasks: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.permutation(tasks).tolist() for _ in range(tasks)]


@pytest.mark.parametrize(("tasks", "weights"), [(1, 4), (2, 3), (3, 3), (5, 4), (8, 50)])
@pytest.mark.parametrize("seed", range(5))
def test_surgery_is_the_published_algorithm(tasks: int, weights: int, seed: int) -> None:
    matrix, order = rows(tasks, weights, seed), permutations(tasks, seed)
    found = gradients.pcgrad(matrix, order=order)
    np.testing.assert_allclose(found.numpy(), algorithm_1(matrix.numpy(), order), rtol=1e-9, atol=1e-11)
    without_itself = [[other for other in others if other != task] for task, others in enumerate(order)]
    assert torch.equal(gradients.pcgrad(matrix, order=without_itself), found)


@pytest.mark.parametrize("tasks", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("seed", range(5))
def test_surgery_is_torchjds_with_the_same_draws(tasks: int, seed: int) -> None:
    # Both draw one permutation of all tasks for each task in turn; torchjd from torch's global generator.
    matrix = rows(tasks, 2 * tasks, seed)
    state = torch.get_rng_state()
    try:
        torch.manual_seed(seed)
        expected = PCGrad()(matrix)
        torch.manual_seed(seed)
        from_global = gradients.pcgrad(matrix)
    finally:
        torch.set_rng_state(state)
    torch.testing.assert_close(from_global, expected, rtol=1e-9, atol=1e-11)
    drawn = gradients.pcgrad(matrix, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(drawn, from_global)


@given(st.integers(0, 10**6))
def test_of_two_tasks_the_order_says_nothing(seed: int) -> None:
    matrix = rows(2, 3, seed)
    found = gradients.pcgrad(matrix)
    first, second = matrix
    dot = torch.minimum(first @ second, torch.tensor(0.0, dtype=torch.float64))
    expected = first - dot / (second @ second) * second + second - dot / (first @ first) * first
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found, PCGrad()(matrix))
    for order in ([[0, 1], [0, 1]], [[1], [0]], [[1, 0], [1, 0]]):
        assert torch.equal(gradients.pcgrad(matrix, order=order), found)
    # What is left harms neither of the two.
    assert min((found @ first).item(), (found @ second).item()) >= -1e-12


def test_the_order_matters_for_three_and_a_generator_draws_every_one() -> None:
    matrix = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [-1.0, -2.0]], dtype=torch.float64)
    all_orders = [list(p) for p in itertools.permutations(range(3))]
    by_order = {
        tuple(round(x, 9) for x in gradients.pcgrad(matrix, order=order).tolist())
        for order in itertools.product(all_orders, repeat=3)
    }
    assert len(by_order) > 1
    generator = torch.Generator().manual_seed(1)
    drawn = {
        tuple(round(x, 9) for x in gradients.pcgrad(matrix, generator=generator).tolist()) for _ in range(200)
    }
    assert drawn == by_order


def test_tasks_that_agree_are_summed() -> None:
    matrix = rows(4, 6, seed=1).abs()
    torch.testing.assert_close(gradients.pcgrad(matrix), matrix.sum(0), rtol=1e-14, atol=0)


def test_opposite_tasks_leave_nothing_and_a_zero_gradient_changes_nothing() -> None:
    matrix = torch.tensor([[1.0, 2.0], [-2.0, -4.0], [0.0, 0.0]])
    assert gradients.pcgrad(matrix).tolist() == [0.0, 0.0]
    assert gradients.pcgrad(torch.tensor([[1.0, 2.0], [0.0, 0.0]])).tolist() == [1.0, 2.0]
    assert gradients.pcgrad(torch.tensor([[1.0, 0.0], [-1e-30, 0.0]])).isfinite().all()


def test_surgery_by_hand() -> None:
    # g₁ = (1, 0) and g₂ = (-1, 1): g₁ - (-1/2)(-1, 1) = (½, ½); g₂ - (-1/1)(1, 0) = (0, 1).
    found = gradients.pcgrad(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    assert found.tolist() == [0.5, 1.5]
    assert found.dtype == torch.float32


@pytest.mark.parametrize(
    "order", [[[1], [0]], [[1, 2], [0, 2], [0]], [[1, 1, 2], [0, 2], [0, 1]], [[1, 3], [0, 2], [0, 1]], []]
)
def test_an_order_that_leaves_a_task_out_is_refused(order: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="for each of 3 tasks, each other task once"):
        gradients.pcgrad(rows(3, 2, seed=1), order=order)


# --- uncertainty weighting -------------------------------------------------------------------------------


def test_of_a_regression_it_is_the_likelihood_of_a_normal_distribution() -> None:
    predicted, gold = rows(1, 6, seed=1)[0], rows(1, 6, seed=2)[0]
    log_variance = torch.tensor([0.7], dtype=torch.float64)
    loss = torch.nn.functional.mse_loss(predicted, gold)
    found = gradients.uncertainty_loss([loss], log_variance, [True])
    variance = log_variance.exp().expand(6)
    expected = torch.nn.functional.gaussian_nll_loss(predicted, gold, variance)
    torch.testing.assert_close(found, expected[None])


def test_each_task_by_hand() -> None:
    log_variances = torch.tensor([0.0, math.log(4.0), math.log(4.0)], dtype=torch.float64)
    losses = torch.tensor([3.0, 8.0, 8.0], dtype=torch.float64)
    expected = [3.0, 2.0 + math.log(2.0), 1.0 + math.log(2.0)]
    for given_losses in (losses, list(losses)):
        found = gradients.uncertainty_loss(given_losses, log_variances, [False, False, True])
        assert found.tolist() == pytest.approx(expected)


@given(st.floats(1e-3, 1e3), st.booleans())
def test_the_best_variance_is_that_of_the_loss(loss: float, half: bool) -> None:
    # Where the derivative is zero: σ² = L for a regression, σ² = 2L for a classification.
    best = torch.tensor([math.log(loss if half else 2 * loss)], dtype=torch.float64, requires_grad=True)
    objective = gradients.uncertainty_loss([torch.tensor(loss, dtype=torch.float64)], best, [half]).sum()
    (slope,) = torch.autograd.grad(objective, best)
    assert slope.item() == pytest.approx(0.0, abs=1e-12)


def test_losses_and_variances_both_learn() -> None:
    losses = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    log_variances = torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)

    def weighted(a: Tensor, b: Tensor) -> Tensor:
        return gradients.uncertainty_loss(a, b, [True, False])

    assert torch.autograd.gradcheck(weighted, (losses, log_variances))


@pytest.mark.parametrize(
    ("losses", "log_variances", "halves"),
    [
        (torch.ones(2), torch.zeros(3), [True] * 3),
        (torch.ones(3), torch.zeros(3), [True] * 2),
        (torch.ones(3, 1), torch.zeros(3), [True] * 3),
        (torch.ones(()), torch.zeros(()), [True]),
    ],
)
def test_tasks_must_match(losses: Tensor, log_variances: Tensor, halves: list[bool]) -> None:
    with pytest.raises(ValueError, match="for each task"):
        gradients.uncertainty_loss(losses, log_variances, halves)
