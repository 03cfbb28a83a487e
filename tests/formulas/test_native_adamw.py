"""Native AdamW against torch's, and rows that stay behind against gradients of zeros: bit for bit the same."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manyheads.formulas import optim
from manyheads.native import adamw as kernels
from manyheads.native.library import library

if library() is None:
    pytest.skip("there are no native kernels here", allow_module_level=True)

VOCABULARY, WIDTH = 60, 71  # four vectors at a time, one at a time, and a rest


def table() -> nn.Parameter:
    generator = torch.Generator().manual_seed(5)
    return nn.Parameter(torch.randn(VOCABULARY, WIDTH, generator=generator))


def rows_of(step: int) -> Tensor:
    """Which rows step `step` touches; the last ten never, some rarely."""
    generator = torch.Generator().manual_seed(step)
    often = torch.randint(0, 20, (5,), generator=generator)
    rarely = torch.tensor([20 + step // 7 % 30])
    return torch.tensor(sorted({*often.tolist(), *rarely.tolist()}))


def gradients_of(weight: Tensor, rows: Tensor, step: int) -> Tensor:
    """Depends on the weight, so that an error grows as it does in training."""
    wave = torch.cos(torch.arange(WIDTH) + step * 0.37)
    return torch.sin(3 * weight.detach()[rows]) + wave


def sparse(rows: Tensor, values: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(rows[None], values, (VOCABULARY, WIDTH), check_invariants=True).coalesce()


def dense(rows: Tensor, values: Tensor) -> Tensor:
    return torch.zeros(VOCABULARY, WIDTH).index_copy(0, rows, values)


def set_rate(optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = 0.01 * optim.warmup_linear(step, steps, 20)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_rows_that_stay_behind_end_where_zeros_would_have_led(decay: float) -> None:
    lazy, whole = table(), table()
    one, other = (optim.NativeAdamW([weight], lr=0.01, weight_decay=decay) for weight in (lazy, whole))
    for step in range(1, 301):
        for optimizer in (one, other):
            set_rate(optimizer, step, 300)
        rows = rows_of(step)
        one.refresh(lazy, rows)
        assert torch.equal(lazy[rows], whole[rows])
        values = gradients_of(whole, rows, step)
        lazy.grad, whole.grad = sparse(rows, values), dense(rows, values)
        for optimizer in (one, other):
            assert float(optim.clip_(optimizer, 3.0)) == pytest.approx(float(values.norm()), rel=1e-5)
        other.scale = one.scale  # the sum of squares is rounded in another order
        one.step()
        other.step()
    assert not torch.equal(lazy, whole)  # or this would be no test
    one.settle()
    assert torch.equal(lazy, whole)
    for name in ("step", "exp_avg", "exp_avg_sq"):
        assert torch.equal(one.state[lazy][name], other.state[whole][name])


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("lazily", [True, False])
def test_300_steps_end_where_torch_s_do(decay: float, lazily: bool) -> None:
    ours, theirs = table(), nn.Parameter(table().detach().double())
    one = optim.NativeAdamW([ours], lr=0.01, weight_decay=decay)
    other = torch.optim.AdamW([theirs], lr=0.01, weight_decay=decay)
    for step in range(1, 301):
        for optimizer in (one, other):
            set_rate(optimizer, step, 300)
        rows = rows_of(step)
        values = gradients_of(table(), rows, step)
        ours.grad = sparse(rows, values) if lazily else dense(rows, values)
        theirs.grad = dense(rows, values).double()
        one.step()
        other.step()
    one.settle()
    torch.testing.assert_close(ours.detach().double(), theirs.detach(), atol=2e-6, rtol=2e-6)


def test_rows_and_whole_gradients_in_turn() -> None:
    lazy, whole = table(), table()
    one, other = (optim.NativeAdamW([weight], lr=0.01) for weight in (lazy, whole))
    for step in range(1, 60):
        rows = rows_of(step)
        values = gradients_of(table(), rows, step)
        whole.grad = dense(rows, values)
        lazy.grad = whole.grad.clone() if step % 11 == 0 else sparse(rows, values)
        if step % 13 == 0:  # no gradient, no step
            lazy.grad = whole.grad = None
        one.step()
        other.step()
    one.settle()
    assert torch.equal(lazy, whole)


def test_more_steps_than_are_kept() -> None:
    lazy, whole = table(), table()
    one, other = (optim.NativeAdamW([weight], lr=0.001) for weight in (lazy, whole))
    for step in range(1, 1101):
        rows = rows_of(step)
        values = gradients_of(table(), rows, step)
        lazy.grad, whole.grad = sparse(rows, values), dense(rows, values)
        one.step()
        other.step()
    one.settle()
    assert torch.equal(lazy, whole)


def test_the_state_is_settled_and_torch_s_goes_on_from_it() -> None:
    lazy = table()
    one = optim.NativeAdamW([lazy], lr=0.01)
    for step in range(1, 8):
        rows = rows_of(step)
        lazy.grad = sparse(rows, gradients_of(table(), rows, step))
        one.step()
    state = copy.deepcopy(one.state_dict())
    behind = lazy.detach().clone()
    theirs, again = nn.Parameter(behind.clone()), nn.Parameter(behind.clone())
    other, third = torch.optim.AdamW([theirs]), optim.NativeAdamW([again])
    for optimizer in (other, third):
        optimizer.load_state_dict(copy.deepcopy(state))
    rows = rows_of(9)
    values = gradients_of(table(), rows, 9)
    lazy.grad, again.grad, theirs.grad = sparse(rows, values), sparse(rows, values), dense(rows, values)
    for optimizer in (one, other, third):
        optimizer.step()
    one.settle()
    third.settle()
    assert torch.equal(lazy, again)  # as if never interrupted
    torch.testing.assert_close(lazy, theirs)


def test_a_copy_is_settled() -> None:
    lazy = table()
    one = optim.NativeAdamW([lazy], lr=0.01)
    for step in range(1, 5):
        rows = rows_of(step)
        lazy.grad = sparse(rows, gradients_of(table(), rows, step))
        one.step()
    copied = copy.deepcopy(one)
    copied.settle()
    (weight,) = copied.param_groups[0]["params"]
    assert torch.equal(weight, lazy)
    copied.zero_grad()
    copied.step()


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(threads: int) -> None:
    ended = []
    before = torch.get_num_threads()
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            weights = [table(), nn.Parameter(torch.linspace(-1, 1, 70_001)), nn.Parameter(torch.ones(()))]
            optimizer = optim.NativeAdamW(weights, lr=0.01)
            for step in range(1, 20):
                rows = rows_of(step)
                weights[0].grad = sparse(rows, gradients_of(table(), rows, step))
                for weight in weights[1:]:
                    weight.grad = torch.sin(weight.detach() * 7 + step)
                optim.clip_(optimizer, 1.0)
                optimizer.step()
            optimizer.settle()
            ended.append([weight.detach().clone() for weight in weights])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*ended, strict=True))


def test_the_length_of_the_gradient_is_torch_s() -> None:
    weights = [table(), nn.Parameter(torch.ones(3))]
    optimizer = optim.NativeAdamW(weights, lr=0.01)
    rows = torch.tensor([4, 1, 4])
    values = torch.randn(3, WIDTH)
    # row 4 in two parts
    weights[0].grad = torch.sparse_coo_tensor(rows[None], values, (VOCABULARY, WIDTH), check_invariants=True)
    weights[1].grad = torch.full((3,), 2.0)
    exact = torch.cat(
        [torch.zeros(VOCABULARY, WIDTH).index_add(0, rows, values).flatten(), torch.full((3,), 2.0)]
    )
    assert float(optim.clip_(optimizer, 1.0)) == pytest.approx(float(exact.norm()))
    assert optimizer.scale == pytest.approx(1 / float(exact.norm()), rel=1e-5)
    optimizer.step()
    assert optimizer.scale == 1.0
    other = torch.optim.AdamW([weights[1]])
    assert float(optim.clip_(other, 1.0)) == pytest.approx(12**0.5)
    assert weights[1].grad is not None
    assert float(weights[1].grad.norm()) == pytest.approx(1)


@pytest.mark.parametrize(
    "weight", [torch.ones(3).double(), torch.ones(4, 4).t()[:2], torch.ones(3, device="meta")]
)
def test_other_weights_are_refused(weight: Tensor) -> None:
    with pytest.raises(ValueError, match="contiguous float32 on the CPU"):
        optim.NativeAdamW([nn.Parameter(weight)])


@pytest.mark.parametrize("rows", [[-1], [VOCABULARY]])
def test_rows_outside_the_table_are_refused(rows: list[int]) -> None:
    lazy = table()
    one = optim.NativeAdamW([lazy])
    lazy.grad = sparse(torch.tensor([3]), torch.ones(1, WIDTH))
    one.step()
    with pytest.raises(IndexError, match=f"of a table of {VOCABULARY}"):
        one.refresh(lazy, torch.tensor(rows))


def test_wrong_shapes_never_reach_the_kernel() -> None:
    found = library()
    assert found is not None
    good: dict[str, Any] = {
        "weight": torch.ones(5, 3),
        "means": torch.zeros(5, 3),
        "squares": torch.zeros(5, 3),
        "seen": torch.zeros(5, dtype=torch.int64),
        "rows": torch.tensor([1]),
        "gradients": torch.ones(1, 3),
        "numbers": torch.ones(1, kernels.NUMBERS, dtype=torch.float64),
        "first": 0,
    }
    for name, wrong in (
        ("means", torch.zeros(4, 3)),
        ("squares", torch.zeros(5, 3).double()),
        ("seen", torch.zeros(4, dtype=torch.int64)),
        ("rows", torch.tensor([1], dtype=torch.int32)),
        ("gradients", torch.ones(2, 3)),
        ("numbers", torch.ones(1, 3, dtype=torch.float64)),
    ):
        with pytest.raises(ValueError, match=r"expected|gradients"):
            kernels.adamw_rows(found, **{**good, name: wrong})
    kernels.adamw_rows(found, **good)


def test_build_takes_it_where_it_can() -> None:
    weights = [nn.Parameter(torch.ones(3))]
    assert type(optim.build([{"params": weights}])) is optim.NativeAdamW
    assert type(optim.build([{"params": [nn.Parameter(torch.ones(3).double())]}])) is torch.optim.AdamW
    assert type(optim.build([{"params": weights}], name="adam")) is torch.optim.Adam
