"""Attention over ragged batches against torch's scaled_dot_product_attention, one sequence at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from manyheads.encoder.attention import BACKENDS, attend, attention_weights, choose_backend
from manyheads.encoder.ragged import Ragged
from manyheads.errors import InputError


def batch(lengths: list[int]) -> Ragged:
    return Ragged.of([[1] * length for length in lengths])


def random(tokens: int, heads: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """[T, 3, heads, d] queries, keys and values."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, 3, heads, width, generator=generator, dtype=torch.float64).to(dtype)


def reference(qkv: Tensor, lengths: list[int]) -> Tensor:
    """[T, heads, d] by torch's own function, sequence by sequence."""
    parts = []
    for part in torch.split(qkv, lengths):
        q, k, v = part.permute(1, 2, 0, 3)  # each [heads, l, d]
        parts.append(F.scaled_dot_product_attention(q, k, v).transpose(0, 1))
    return torch.cat(parts)


def equals_reference(name: str, lengths: list[int], heads: int, width: int, atol: float = 1e-12) -> None:
    """The backend's values and its gradients for an uneven weighting of them."""
    ours = random(sum(lengths), heads, width).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    left, right = BACKENDS[name](ours, batch(lengths), 0.0), reference(theirs, lengths)
    torch.testing.assert_close(left, right, atol=atol, rtol=0)
    above = torch.linspace(-1, 1, left.numel(), dtype=left.dtype).view_as(left)
    torch.autograd.backward([left, right], [above, above])
    torch.testing.assert_close(ours.grad, theirs.grad, atol=atol, rtol=0)


@settings(deadline=None)  # the first call of a backend may compile it
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=9),
    heads=st.integers(1, 4),
    width=st.sampled_from([1, 2, 7, 16]),
)
def test_any_batch_equals_torch(backend: str, lengths: list[int], heads: int, width: int) -> None:
    equals_reference(backend, lengths, heads, width)


@pytest.mark.parametrize("lengths", [[1], [512], [97, 96, 95, 1], [300, 5, 5, 5, 290], [8] * 16])
def test_lengths_of_real_texts_equal_torch(backend: str, lengths: list[int]) -> None:
    equals_reference(backend, lengths, 3, 32)


@pytest.mark.parametrize("lengths", [[3], [2, 5, 4, 1]])
def test_gradient_by_finite_differences(lengths: list[int]) -> None:
    qkv = random(sum(lengths), 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: attend(x, batch(lengths)), (qkv,))


def test_gradient_under_dropout_by_finite_differences() -> None:
    def seeded(qkv: Tensor) -> Tensor:
        torch.manual_seed(3)
        return attend(qkv, batch([2, 5, 4, 1]), 0.4)

    assert torch.autograd.gradcheck(seeded, (random(12, 2, 3).requires_grad_(),))


@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)], ids=["float32", "bfloat16"]
)
@pytest.mark.parametrize("lengths", [[9, 30, 1, 28], [130, 97, 128]], ids=["short", "long"])
def test_lower_precision_stays_close(dtype: torch.dtype, atol: float, lengths: list[int]) -> None:
    qkv = random(sum(lengths), 4, 16, dtype=dtype)
    exact = qkv.double().requires_grad_()
    low = qkv.requires_grad_()
    left, right = attend(low, batch(lengths)), reference(exact, lengths)
    assert left.dtype is dtype
    torch.testing.assert_close(left.double(), right, atol=atol, rtol=0)
    torch.autograd.backward([left.sum(), right.sum()])
    assert low.grad is not None
    assert low.grad.dtype is dtype
    torch.testing.assert_close(low.grad.double(), exact.grad, atol=2 * atol, rtol=2 * atol)


def test_a_second_derivative_is_refused_not_wrong() -> None:
    qkv = random(3, 1, 2).requires_grad_()
    (first,) = torch.autograd.grad(attend(qkv, batch([3])).square().sum(), qkv, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.backward(first.sum())


def test_large_scores_do_not_overflow() -> None:
    qkv = random(9, 2, 8) * 200
    assert torch.isfinite(attend(qkv.float(), batch([4, 5]))).all()
    torch.testing.assert_close(attend(qkv, batch([4, 5])), reference(qkv, [4, 5]), atol=1e-9, rtol=0)


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_the_weights_themselves(lengths: list[int]) -> None:
    qkv = random(sum(lengths), 3, 5)
    weights = attention_weights(qkv, batch(lengths))
    longest = max(lengths)
    assert weights.shape == (len(lengths), 3, longest, longest)
    for row, part in zip(weights, torch.split(qkv, lengths), strict=True):
        q, k, _ = part.permute(1, 2, 0, 3)
        n = len(part)
        expected = torch.zeros(3, longest, longest, dtype=torch.float64)
        expected[:, :n, :n] = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(5), -1)
        torch.testing.assert_close(row, expected, atol=1e-12, rtol=0)


def test_dropout_drops_weights_and_keeps_the_mean() -> None:
    # All scores are equal and all values are 1, so an output is the sum of the kept weights of one query.
    lengths = [100] * 20
    qkv = torch.zeros(2000, 3, 8, 1, dtype=torch.float64)
    qkv[:, 2] = 1
    torch.manual_seed(0)
    out = attend(qkv, batch(lengths), 0.25)
    # 1.6 million draws of 0 or 1/0.75 with mean 1: their standard deviation is √(1/3).
    assert float(out.mean()) == pytest.approx(1, abs=5 * math.sqrt(1 / 3 / 1_600_000))
    assert float(out.var()) == pytest.approx(1 / 3 / 100, rel=0.05)  # each draw is on its own


def test_dropout_by_the_seed() -> None:
    qkv = random(11, 2, 4)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(attend(qkv, batch([4, 7]), 0.3))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2])


def test_no_gradient_asked_none_kept() -> None:
    assert not attend(random(5, 1, 2), batch([5])).requires_grad


def test_backend_by_name_or_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MANYHEADS_ATTENTION", raising=False)
    assert choose_backend() is choose_backend("auto") is BACKENDS["auto"]
    monkeypatch.setenv("MANYHEADS_ATTENTION", "torch")
    assert choose_backend() is choose_backend("torch") is BACKENDS["torch"]
    monkeypatch.setenv("MANYHEADS_ATTENTION", "torhc")
    assert choose_backend("torch") is BACKENDS["torch"]
    with pytest.raises(
        InputError,
        match=r"^attention backend 'torhc': expected one of auto, native, torch, varlen; did you mean 'torch'\?$",
    ):
        choose_backend()
