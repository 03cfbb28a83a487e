"""The native attention kernel against softmax attention in float64, one sequence at a time; and who is chosen when.

Tolerances: float32 differs by rounding alone (1e-5). In bfloat16 what goes in and out and the weights are rounded to 8
bits (a step of 2^-8 to the next); weights sum to 1, so a value of size 1 to 4 moves by two steps of its size at most.
"""

import math
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from manyheads.encoder import attention
from manyheads.encoder.attention import attend, automatic, described, native, varlen
from manyheads.encoder.bert import Encoder, Shape
from manyheads.encoder.layers import Masks
from manyheads.encoder.ragged import Ragged
from manyheads.errors import InputError
from manyheads.native import attention as kernel
from manyheads.native import library as native_library
from manyheads.native.library import Library, find_compiler, library

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler on this machine")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


def batch(lengths: list[int]) -> Ragged:
    return Ragged.of([[1] * length for length in lengths])


def random(tokens: int, heads: int, width: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """[T, 3, heads, d] queries, keys and values."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, 3, heads, width, generator=generator, dtype=torch.float64).to(dtype)


def reference(
    qkv: Tensor, lengths: list[int], causal: bool = False, masks: list[Tensor] | None = None
) -> Tensor:
    """[T, heads, d] in float64; `masks`: what each sequence's weights [heads, l, l] are multiplied by."""
    parts = []
    for number, part in enumerate(torch.split(qkv, lengths)):
        q, k, v = part.permute(1, 2, 0, 3)
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
        if causal:
            scores = scores.masked_fill(torch.ones(scores.shape[1:], dtype=torch.bool).triu(1), -math.inf)
        weights = torch.softmax(scores, -1)
        parts.append(((weights if masks is None else weights * masks[number]) @ v).transpose(0, 1))
    return torch.cat(parts)


def agrees(
    lengths: list[int],
    heads: int,
    width: int,
    dtype: torch.dtype,
    causal: bool = False,
    found: Library | None = None,
) -> None:
    """Values and gradients, through the backend or, with `found`, through that library's functions."""
    qkv = random(sum(lengths), heads, width, dtype)
    exact = qkv.double().requires_grad_()
    expected = reference(exact, lengths, causal)
    above = random(sum(lengths), heads, width, dtype, seed=1)[:, 0].contiguous()
    torch.autograd.backward(expected, above.double())
    ragged = batch(lengths)
    if found is None:
        ours = qkv.requires_grad_()
        out = native(ours, ragged, 0.0, causal)
        torch.autograd.backward(out, above)
        grad = ours.grad
    else:
        rest = (ragged.cu_seqlens, ragged.longest_first, causal, 0.0, 0)
        out, logarithms = kernel.forward(found, qkv, *rest)
        grad = kernel.backward(found, qkv, above, logarithms, *rest)
    assert grad is not None
    assert exact.grad is not None
    assert out.dtype is grad.dtype is dtype
    atol = TOLERANCE[dtype]
    torch.testing.assert_close(out.double(), expected, atol=atol, rtol=atol / 4)
    torch.testing.assert_close(grad.double(), exact.grad, atol=atol, rtol=atol / 4)


LENGTHS = [[1], [2], [512], [25, 3, 40], [16, 17, 15], [64, 128, 1], [31, 32, 33, 130], [300, 7]]
DTYPES = [torch.float32, torch.bfloat16]


@needs_compiler
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_values_and_gradients(lengths: list[int], dtype: torch.dtype, causal: bool) -> None:
    agrees(lengths, 2, 32, dtype, causal)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("heads", "width"),
    [
        (1, 8),
        (32, 8),
        (12, 32),
        (4, 64),
        (2, 128),
        (1, 80),
        (3, 48),
        (2, 9),
        (3, 33),
        (1, 17),
        (2, 1),
        (1, 127),
    ],
)
def test_any_heads_and_widths(heads: int, width: int, dtype: torch.dtype) -> None:
    agrees([25, 1, 38, 70], heads, width, dtype)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_thousand_sequences(dtype: torch.dtype) -> None:
    agrees([1 + n * 7 % 19 for n in range(1000)], 2, 16, dtype)


@needs_compiler
@pytest.mark.parametrize("machine", ["haswell", "x86-64"])
def test_with_fewer_instructions(machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = find_compiler()
    assert compiler is not None
    if "__x86_64__" not in compiler.macros or (machine == "haswell" and "__AVX2__" not in compiler.macros):
        pytest.skip("not this processor")
    for name in ("kernel.h", "attention.cpp"):
        shutil.copy(native_library.SOURCES / name, tmp_path)
    monkeypatch.setattr(native_library, "SOURCES", tmp_path)
    found = native_library._load(compiler._replace(native=(f"-march={machine}",)), tmp_path, tmp_path)
    for dtype in DTYPES:
        for lengths, heads, width, causal in [
            ([25, 3, 40], 2, 32, False),
            ([130, 33], 3, 9, True),
            ([7], 1, 64, True),
        ]:
            agrees(lengths, heads, width, dtype, causal, found)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_scores_and_what_is_no_number(dtype: torch.dtype) -> None:
    qkv = random(9, 2, 8, dtype) * 200
    exact = reference(qkv.double(), [4, 5])
    torch.testing.assert_close(native(qkv, batch([4, 5])).double(), exact, atol=1e-3, rtol=1e-2)
    qkv[1, 0, 0, 3] = math.nan
    out = native(qkv, batch([4, 5]))
    assert out[1, 0].isnan().all()
    assert not out[4:].isnan().any()


def weights_read_out(
    lengths: list[int], heads: int, share: float, dtype: torch.dtype = torch.float32
) -> Tensor:
    """[T, heads, L] the dropped weights, for equal scores: the values are rows of the identity."""
    longest = max(lengths)
    qkv = torch.zeros(sum(lengths), 3, heads, longest, dtype=dtype)
    row = 0
    for length in lengths:
        qkv[row : row + length, 2, :, :length] = torch.eye(length, dtype=dtype)[:, None]
        row += length
    return native(qkv, batch(lengths), share)


@needs_compiler
def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    share, length, heads = 0.1, 100, 8
    kept = weights_read_out([length] * 20, heads, share) * length
    assert bool(((kept == 0) | ((kept - 1 / (1 - share)).abs() < 1e-4)).all())
    drawn = (kept > 0.5).double()  # 1.6 million draws
    assert float(drawn.mean()) == pytest.approx(
        1 - share, abs=5 * math.sqrt(share * (1 - share) / drawn.numel()) + 1e-5
    )
    assert float(kept.mean()) == pytest.approx(1, abs=2e-3)
    # Each draw is on its own: along queries, heads and columns, next to each other and 16 apart, nothing is shared.
    centred = drawn - drawn.mean()
    for dim, far in ((0, 1), (0, 100), (1, 1), (2, 1), (2, 16), (2, 32)):
        size = centred.shape[dim] - far
        product = (centred.narrow(dim, 0, size) * centred.narrow(dim, far, size)).double()
        correlation = float(product.mean() / (share * (1 - share)))
        assert abs(correlation) < 5 / math.sqrt(product.numel())
    for each in ((0, 1), (0, 2), (1, 2)):  # shares of rows, columns and heads vary as independent draws do
        means = drawn.mean(each)
        expected = share * (1 - share) / (drawn.numel() / means.numel())
        assert float(((means - (1 - share)) ** 2).mean()) == pytest.approx(expected, rel=1.0)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True])
def test_the_backward_drops_what_the_forward_dropped(dtype: torch.dtype, causal: bool) -> None:
    lengths, heads, width, share = [40, 1, 17, 64], 3, 64, 0.3
    torch.manual_seed(5)
    read = weights_read_out(lengths, heads, share)
    masks = [
        (part[:, :, : len(part)].transpose(0, 1) > 0.5 / len(part)).double() / (1 - share)
        for part in torch.split(read, lengths)
    ]
    ours = random(sum(lengths), heads, width, dtype).requires_grad_()
    exact = ours.detach().double().requires_grad_()
    torch.manual_seed(5)
    out, expected = native(ours, batch(lengths), share, causal), reference(exact, lengths, causal, masks)
    torch.testing.assert_close(out.double(), expected, atol=TOLERANCE[dtype], rtol=1e-2)
    above = random(sum(lengths), heads, width, dtype, seed=1)[:, 0].contiguous()
    torch.autograd.backward(out, above)
    torch.autograd.backward(expected, above.double())
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad.double(), exact.grad, atol=2 * TOLERANCE[dtype], rtol=1e-2)


@needs_compiler
def test_dropout_by_torchs_generator_and_by_recorded_masks() -> None:
    qkv = random(11, 2, 4, torch.float32)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(native(qkv, batch([4, 7]), 0.3))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2])
    masks = Masks()
    with masks.recorded():
        first = native(qkv, batch([4, 7]), 0.3)
    state = torch.get_rng_state()
    with masks.replayed():
        assert torch.equal(native(qkv, batch([4, 7]), 0.3), first)
    assert torch.equal(torch.get_rng_state(), state)
    native(qkv, batch([4, 7]))  # without dropout nothing is drawn
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def own_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@needs_compiler
@pytest.mark.usefixtures("own_threads")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bytes_on_any_number_of_threads(dtype: torch.dtype) -> None:
    lengths = [200, 3, 77, 40, 512, 1]
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        qkv = random(sum(lengths), 4, 32, dtype).requires_grad_()
        out = native(qkv, batch(lengths), 0.1)
        torch.autograd.backward(out.sum())
        assert qkv.grad is not None
        found.append((out.detach(), qkv.grad))
    for out, grad in found[1:]:
        assert torch.equal(out, found[0][0])
        assert torch.equal(grad, found[0][1])


@needs_compiler
def test_nothing_as_large_as_the_weights_is_kept() -> None:
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    qkv = random(512, 4, 8, torch.float32).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        torch.autograd.backward(native(qkv, batch([512]), 0.1).sum())
    others = [x for x in kept if x.data_ptr() != qkv.data_ptr()]
    assert sum(x.numel() for x in others) <= 512 * 4 + 10


@needs_compiler
def test_gradients_that_are_not_in_order() -> None:
    # The gradient of a transposed result is no contiguous tensor, and neither is a slice of a wider product.
    wide = random(30, 5, 8, torch.float32)
    ours = wide[:, :, 1:4].detach().requires_grad_()
    exact = ours.detach().double().requires_grad_()
    torch.autograd.backward(native(ours, batch([30])).transpose(0, 2).square().sum())
    torch.autograd.backward(reference(exact, [30]).transpose(0, 2).square().sum())
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad.double(), exact.grad, atol=1e-5, rtol=1e-5)


@needs_compiler
def test_a_second_derivative_is_refused_not_wrong() -> None:
    qkv = random(3, 1, 2, torch.float32).requires_grad_()
    (first,) = torch.autograd.grad(native(qkv, batch([3])).square().sum(), qkv, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.backward(first.sum())


@needs_compiler
def test_shapes_that_do_not_fit_are_refused() -> None:
    found = library()
    assert found is not None
    qkv, ragged = random(5, 1, 2, torch.float32), batch([3, 3])
    with pytest.raises(ValueError, match="sequences that end at row 6 of 5"):
        kernel.forward(found, qkv, ragged.cu_seqlens, ragged.longest_first, False, 0.0, 0)
    with pytest.raises(ValueError, match="expected contiguous"):
        kernel.forward(found, qkv.double(), ragged.cu_seqlens, ragged.longest_first, False, 0.0, 0)


def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANYHEADS_NATIVE", "off")
    monkeypatch.setattr(native_library, "_found", None)


def test_without_kernels_torch_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    without_library(monkeypatch)
    qkv = random(9, 2, 8, torch.float32)
    assert torch.equal(automatic(qkv, batch([4, 5])), attend(qkv, batch([4, 5])))
    with pytest.raises(
        InputError, match=r"^attention backend 'native': torch \(MANYHEADS_NATIVE=off\); expected a C\+\+"
    ):
        native(qkv, batch([4, 5]))
    assert described("auto", "cpu", torch.float32, 8, 0.1) == "torch (MANYHEADS_NATIVE=off)"
    for device, dtype in (("cpu", torch.float32), ("cpu", torch.float64), ("cuda", torch.bfloat16)):
        with pytest.raises(InputError, match=r"^attention backend 'native'"):
            described("native", device, dtype, 8, 0.1)


def test_nothing_is_compiled_before_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Library | None:
        raise AssertionError("compiled too early")

    monkeypatch.setattr(attention, "library", refuse)
    with torch.device("meta"):
        encoder = Encoder(Shape(layers=1, hidden=8, heads=2, intermediate=12, vocabulary=20, positions=9))
    encoder.use(attention="native").use(attention="auto")
    assert described("torch", "cpu", torch.float32, 4, 0.1) == "torch (chosen)"
    assert described("auto", "cpu", torch.float64, 4, 0.1) == "torch (float64)"


@needs_compiler
def test_what_runs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert described("native", "cpu", torch.bfloat16, 32, 0.1).startswith("native (")
    monkeypatch.delenv("MANYHEADS_ATTENTION", raising=False)
    assert described(None, "cpu", torch.float32, 32, 0.1) == described(
        "native", "cpu", torch.float32, 32, 0.0
    )
    monkeypatch.setenv("MANYHEADS_ATTENTION", "torch")
    assert described(None, "cpu", torch.float32, 32, 0.1) == "torch (chosen)"


@needs_compiler
def test_float64_goes_to_torch() -> None:
    qkv = random(9, 2, 8, torch.float64)
    assert torch.equal(native(qkv, batch([4, 5])), attend(qkv, batch([4, 5])))


def test_when_flash_attention_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, half = torch.device("cuda"), torch.bfloat16
    monkeypatch.setattr(attention, "_has_flash", lambda index: True)
    assert described("auto", cuda, half, 64, 0.0) == "varlen (flash attention)"
    assert (
        described("varlen", cuda, half, 64, 0.1) == "varlen (flash attention; torch in training, for dropout)"
    )
    assert described("auto", cuda, torch.float32, 64, 0.0) == "torch (no flash attention for float32 on cuda)"
    for width in (4, 65, 264):
        assert described("auto", cuda, half, width, 0.0).startswith("torch (no flash attention")
    assert described("varlen", "cpu", half, 64, 0.0) == "torch (no flash attention for bfloat16 on cpu)"
    assert described("native", cuda, half, 64, 0.0) == "torch (device cuda)"
    monkeypatch.setattr(attention, "_has_flash", lambda index: False)
    assert described("auto", cuda, half, 64, 0.0) == "torch (no flash attention for bfloat16 on cuda)"


@pytest.mark.parametrize("windowed", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_what_flash_attention_is_called_with(
    windowed: bool, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in with the face of torch's function (of 2.10, and of later ones) that computes by the reference."""

    def computed(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, masked: bool) -> Tensor:
        return reference(torch.stack([q, k, v], 1), starts.diff().tolist(), masked)

    def new(q, k, v, cu_q, cu_k, max_q, max_k, *, window_size=(-1, -1)):  # type: ignore[no-untyped-def]
        assert max_q == max_k == 7
        assert cu_q is cu_k
        assert cu_q.dtype is torch.int32
        return computed(q, k, v, cu_q, window_size == (-1, 0))

    def old(q, k, v, cu_q, cu_k, max_q, max_k, is_causal=False):  # type: ignore[no-untyped-def]
        return computed(q, k, v, cu_q, is_causal)

    stand_in = types.ModuleType("torch.nn.attention.varlen")
    stand_in.varlen_attn = new if windowed else old  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", stand_in)
    monkeypatch.setattr(attention, "_flash_reads", lambda device, dtype, width: True)
    qkv, ragged = random(12, 2, 8, torch.float64), batch([5, 7])
    torch.testing.assert_close(
        varlen(qkv, ragged, 0.0, causal), attend(qkv, ragged, 0.0, causal), atol=1e-12, rtol=0
    )
    torch.manual_seed(0)
    dropped = varlen(qkv, ragged, 0.2, causal)
    torch.manual_seed(0)
    assert torch.equal(dropped, attend(qkv, ragged, 0.2, causal))
