"""The bricks against torch's own, the statistics of dropout, and the converted weights that must never be stale."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyheads.encoder.layers import AddNorm, Linear, dropout, gelu, keep_mask

BF16 = torch.bfloat16


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("shape", [(1_000_003,), (1000, 33, 31)])
def test_share_of_kept_elements(share: float, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    mask = keep_mask(torch.Size(shape), share, torch.empty(0, dtype=torch.float64))
    assert mask.shape == shape
    assert set(torch.unique(mask).tolist()) == {0.0, 1 / (1 - share)}
    count = mask.numel()
    limit = 5 * math.sqrt(share * (1 - share) / count)
    assert float((mask > 0).double().mean()) == pytest.approx(1 - share, abs=limit)
    assert float(mask.mean()) == pytest.approx(1, abs=limit / (1 - share))


def test_neighbours_are_drawn_apart() -> None:
    # Four elements come from one 64-bit draw: each pair of their places must be uncorrelated.
    torch.manual_seed(0)
    kept = (keep_mask(torch.Size((1_000_000,)), 0.5, torch.empty(0)) > 0).double().view(-1, 4)
    correlation = torch.corrcoef(kept.T) - torch.eye(4, dtype=torch.float64)
    assert float(correlation.abs().max()) < 5 / math.sqrt(len(kept))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7])
def test_masks_of_any_size(count: int) -> None:
    assert keep_mask(torch.Size((count,)), 0.5, torch.empty(0)).shape == (count,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, BF16])
def test_the_mask_has_the_dtype_of_what_it_multiplies(dtype: torch.dtype) -> None:
    assert keep_mask(torch.Size((4, 5)), 0.1, torch.empty(0, dtype=dtype)).dtype is dtype


def test_dropout_scales_what_it_keeps_and_its_gradient() -> None:
    x = (torch.rand(50, 40, dtype=torch.float64) + 1).requires_grad_()
    y = dropout(x, 0.3, True)
    dropped = y == 0
    assert 0 < int(dropped.sum()) < x.numel()
    torch.testing.assert_close(y[~dropped], x[~dropped] / 0.7)
    torch.autograd.backward(y.sum())
    torch.testing.assert_close(x.grad, (~dropped).double() / 0.7)


def test_dropout_outside_training_is_nothing_at_all() -> None:
    x = torch.rand(3, 4)
    assert dropout(x, 0.5, False) is x
    assert dropout(x, 0.0, True) is x


def test_equal_seeds_drop_the_same() -> None:
    x = torch.ones(1000)
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        drawn.append(dropout(x, 0.5, True))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_gelu_is_the_exact_one() -> None:
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    torch.testing.assert_close(gelu(x), x * 0.5 * (1 + torch.erf(x / math.sqrt(2))), atol=1e-15, rtol=0)
    assert not torch.allclose(gelu(x), F.gelu(x, approximate="tanh"), atol=1e-5)


def test_add_and_norm() -> None:
    norm = AddNorm(6, 1e-5, 0.5).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x, residual = torch.randn(2, 7, 6, dtype=torch.float64).unbind()
    theirs = nn.LayerNorm(6, eps=1e-5, dtype=torch.float64)
    theirs.load_state_dict(norm.state_dict())
    torch.testing.assert_close(norm.eval()(x, residual), theirs(x + residual))
    torch.manual_seed(0)
    drawn = norm.train()(x, residual)
    torch.manual_seed(0)
    torch.testing.assert_close(drawn, theirs(residual + dropout(x, 0.5, True)))


def test_add_and_norm_of_a_low_precision_branch_is_float32() -> None:
    norm = AddNorm(6, 1e-5, 0.0)
    x, residual = torch.randn(7, 6).to(BF16), torch.randn(7, 6)
    assert norm(x, residual).dtype is torch.float32
    torch.testing.assert_close(norm(x, residual), F.layer_norm(x.float() + residual, (6,), eps=1e-5))


def twin(ours: Linear) -> nn.Linear:
    theirs = nn.Linear(ours.weight.shape[1], ours.weight.shape[0], dtype=ours.weight.dtype)
    theirs.load_state_dict(ours.state_dict())
    return theirs


@pytest.mark.parametrize("compute", [None, BF16])
def test_linear_in_float64_is_exact_whatever_is_chosen(compute: torch.dtype | None) -> None:
    ours = Linear(5, 3).double()
    ours.compute = compute
    x = torch.randn(7, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(x), twin(ours)(x))
    assert torch.autograd.gradcheck(ours, (x.requires_grad_(),))


@pytest.mark.parametrize("compute", [None, BF16])
def test_linear_then_gelu(compute: torch.dtype | None) -> None:
    ours = Linear(48, 32).eval()
    nn.init.normal_(ours.weight, std=0.2)
    ours.compute = compute
    x = torch.randn(64, 48)
    atol = 1e-5 if compute is None else 0.05
    exact = F.gelu(twin(ours)(x))
    torch.testing.assert_close(ours.then_gelu(x).float(), exact, atol=atol, rtol=atol)
    with torch.no_grad():
        torch.testing.assert_close(ours.then_gelu(x).float(), exact, atol=atol, rtol=atol)


def gradients(module: nn.Module, x: Tensor, above: Tensor) -> dict[str, Tensor]:
    x = x.detach().clone().requires_grad_()
    module(x).backward(above)
    assert x.grad is not None
    return {"x": x.grad, **{name: p.grad for name, p in module.named_parameters() if p.grad is not None}}


@pytest.mark.parametrize("rows", [(64,), (4, 16)], ids=["rows", "rows of rows"])
def test_mixed_precision_gradients_are_near_float32(rows: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    ours = Linear(48, 32)
    nn.init.normal_(ours.weight, std=0.2)
    nn.init.normal_(ours.bias)
    theirs = twin(ours)
    ours.compute = BF16
    x, above = torch.randn(*rows, 48), torch.randn(*rows, 32)
    left, right = ours(x), theirs(x)
    assert left.dtype is BF16
    torch.testing.assert_close(left.float(), right, atol=0.05, rtol=0.02)
    low, exact = gradients(ours, x, above.to(BF16)), gradients(theirs, x, above)
    assert low.keys() == exact.keys() == {"x", "weight", "bias"}
    for name in exact:
        assert low[name].dtype is torch.float32
        # bfloat16 has 8 bits: a sum of roundings each up to 2⁻⁹ of its term.
        error = (low[name] - exact[name]).norm() / exact[name].norm()
        assert error < 2**-7, name


@pytest.mark.parametrize("frozen", [["weight", "bias"], ["weight"], ["bias"], []])
def test_frozen_weights_get_no_gradient_and_pass_it_on(frozen: list[str]) -> None:
    ours = Linear(8, 4)
    ours.compute = BF16
    for name in frozen:
        ours.get_parameter(name).requires_grad_(False)
    found = gradients(ours, torch.randn(3, 8), torch.ones(3, 4, dtype=BF16))
    assert found["x"].any()
    assert found.keys() == {"x", "weight", "bias"} - set(frozen)


def test_biases_learn_alone() -> None:
    ours = Linear(8, 4)
    ours.compute = BF16
    ours.weight.requires_grad_(False)
    ours(torch.randn(3, 8)).sum().backward()
    assert ours.bias.grad is not None
    assert ours.bias.grad.tolist() == [3.0] * 4


def test_a_second_derivative_is_refused_not_wrong() -> None:
    ours = Linear(8, 4)
    ours.compute = BF16
    x = torch.randn(3, 8, requires_grad=True)
    (first,) = torch.autograd.grad(ours(x).float().square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.backward(first.sum())


def by_fused_adamw(ours: Linear) -> None:
    optimizer = torch.optim.AdamW(ours.parameters(), lr=0.5, fused=True)
    ours(torch.ones(2, 4)).float().square().sum().backward()
    optimizer.step()


def by_fused_adamw_after_a_pass_without_gradients(ours: Linear) -> None:
    """As a step that also asks for the clean outputs, or for its own old ones, may do."""
    optimizer = torch.optim.AdamW(ours.parameters(), lr=0.5, fused=True)
    loss = ours.train()(torch.ones(2, 4)).float().square().sum()
    with torch.no_grad():
        ours(torch.ones(2, 4))
    loss.backward()
    optimizer.step()
    ours.eval()


def by_load_state_dict(ours: Linear) -> None:
    ours.load_state_dict({name: tensor * -2 for name, tensor in ours.state_dict().items()})


def by_in_place_edit(ours: Linear) -> None:
    with torch.no_grad():
        ours.weight.mul_(-3)


def by_in_place_edit_of_the_bias(ours: Linear) -> None:
    with torch.no_grad():
        ours.bias.add_(1)


def by_new_storage(ours: Linear) -> None:
    ours.weight.data = ours.weight.data * -1


@pytest.mark.parametrize(
    "change",
    [
        by_fused_adamw,
        by_fused_adamw_after_a_pass_without_gradients,
        by_load_state_dict,
        by_in_place_edit,
        by_in_place_edit_of_the_bias,
        by_new_storage,
    ],
)
def test_converted_weights_are_never_stale(change: Callable[[Linear], None]) -> None:
    ours = Linear(4, 3).eval()
    ours.compute = BF16
    x = torch.tensor([[1.0, 2.0, -1.0, 0.5]])

    def fresh() -> Tensor:
        return F.linear(x.to(BF16), ours.weight.to(BF16), ours.bias.to(BF16))

    for _ in range(3):
        with torch.no_grad():
            before = ours(x)
            assert torch.equal(before, fresh())
        change(ours)
        with torch.no_grad():
            assert torch.equal(ours(x), fresh())
            assert not torch.equal(ours(x), before)


def test_weights_are_converted_once_while_they_stand() -> None:
    ours = Linear(4, 3).eval()
    ours.compute = BF16
    with torch.no_grad():
        ours(torch.ones(1, 4))
        first = ours._converted
        ours(torch.ones(1, 4))
    assert first is not None
    assert ours._converted is first


@pytest.mark.parametrize("again", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_leave_the_converted_weights_behind(again: Callable[[Linear], Any]) -> None:
    ours = Linear(4, 3).eval()
    ours.compute = BF16
    with torch.no_grad():
        ours(torch.ones(1, 4))
        assert ours._converted is not None
        other = again(ours)
        assert other._converted is None
        other.weight.add_(1)
        assert not torch.equal(other(torch.ones(1, 4)), ours(torch.ones(1, 4)))


def test_inference_mode_reads_the_same_numbers() -> None:
    ours = Linear(4, 3).eval()
    ours.compute = BF16
    with torch.no_grad():
        calm = ours(torch.ones(1, 4))
    with torch.inference_mode():
        assert torch.equal(ours(torch.ones(1, 4)), calm)
    ours(torch.ones(1, 4)).sum().backward()  # nothing made in inference mode is left in the way
    assert ours.weight.grad is not None
