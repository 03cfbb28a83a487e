"""Attention over tokens that lie end to end: one function, a backend for each kind of device.

Knows queries, keys, values and where sequences begin. Must not know the layers around it, tasks or text.

Every backend has the signature of a variable-length kernel: rows [T, 3, heads, width] of all sequences end to end,
the batch's `cu_seqlens` / `max_seqlen` (here inside `Ragged`), the dropout share, and whether attention is causal.
`torch` does everything; the others do what they can and hand the rest to it: `native` is the C++ kernel (bfloat16 and
float32 on the CPU), `varlen` is torch's flash attention (half precision on CUDA, nothing dropped). `auto` takes for
each call the fastest that can do it. Which that is, `described` says before anything runs.
"""

import functools
import inspect
import math
import os
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from manyheads.encoder.layers import draw_seed, keep_mask
from manyheads.encoder.ragged import Block, Grouping, Ragged
from manyheads.errors import InputError, nearest
from manyheads.native import attention as kernel
from manyheads.native.library import Library, describe, library

__all__ = ["BACKENDS", "attention_weights", "choose_backend", "described", "runs_native"]


class Backend(Protocol):
    """[T, 3, heads, d] queries, keys and values → [T, heads, d]."""

    def __call__(self, qkv: Tensor, ragged: Ragged, dropout: float = 0.0, causal: bool = False) -> Tensor: ...


_SHORT = 96  # up to this length training in float32 costs no more than bfloat16 and the conversions around it


def choose_backend(name: str | None = None) -> Backend:
    """The backend called `name`; without a name MANYHEADS_ATTENTION says, and without that `auto`.

    Nothing is compiled or loaded before the backend's first call. Raises InputError for a name that no backend has.
    """
    return BACKENDS[_chosen(name)]


def _chosen(name: str | None) -> str:
    wanted = name or os.environ.get("MANYHEADS_ATTENTION") or "auto"
    if wanted not in BACKENDS:
        raise InputError(
            f"attention backend {wanted!r}: expected one of {', '.join(BACKENDS)}{nearest(wanted, BACKENDS)}"
        )
    return wanted


def runs_native(backend: Backend) -> bool:
    """Whether a backend on the CPU is the C++ kernel's wherever that reads the tensors."""
    return backend is automatic or backend is native


def described(
    name: str | None, device: torch.device | str, dtype: torch.dtype, width: int, dropout: float
) -> str:
    """What runs, and why, under `name` (see `choose_backend`): `native (g++ 12.2, avx512_bf16)`, `torch (float64)`.

    For products in `dtype` on `device`, heads of `width`, with the share `dropout` of the weights dropped in
    training. Compiles the kernels where that is needed to know. Raises InputError as the backend's call would.
    """
    chosen, device = _chosen(name), torch.device(device)
    if chosen == "torch":
        return "torch (chosen)"
    if chosen == "native":
        _kernels(required=True)
    if device.type == "cpu" and chosen != "varlen":
        if not kernel.takes(device, dtype):
            return f"torch ({str(dtype).removeprefix('torch.')})"
        library()
        return describe()
    if chosen == "native":
        return f"torch (device {device.type})"
    if not _flash_reads(device, dtype, width):
        return f"torch (no flash attention for {str(dtype).removeprefix('torch.')} on {device.type})"
    return "varlen (flash attention" + ("; torch in training, for dropout)" if dropout else ")")


def automatic(qkv: Tensor, ragged: Ragged, dropout: float = 0.0, causal: bool = False) -> Tensor:
    """By flash attention on CUDA, by the kernel on the CPU, or by torch: the fastest that can do it."""
    chosen = varlen if qkv.device.type == "cuda" else _native_or_torch
    return chosen(qkv, ragged, dropout, causal)


def native(qkv: Tensor, ragged: Ragged, dropout: float = 0.0, causal: bool = False) -> Tensor:
    """By the C++ kernel, or by torch what it does not read (float64, other devices); InputError where there is none."""
    _kernels(required=True)
    return _native_or_torch(qkv, ragged, dropout, causal)


def varlen(qkv: Tensor, ragged: Ragged, dropout: float = 0.0, causal: bool = False) -> Tensor:
    """By torch's flash attention for sequences end to end, or by torch what that cannot do.

    It drops no weights: `torch.nn.attention.varlen` has no argument for it.
    """
    if dropout or not _flash_reads(qkv.device, qkv.dtype, qkv.shape[3]):
        return attend(qkv, ragged, dropout, causal)
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = qkv.unbind(1)
    starts, longest = ragged.cu_seqlens, ragged.max_seqlen
    extra: dict[str, Any] = {}
    if causal:  # torch 2.10 calls it so, later ones say how far a token sees to the left and to the right
        windowed = "window_size" in inspect.signature(varlen_attn).parameters
        extra = {"window_size": (-1, 0)} if windowed else {"is_causal": True}
    result = varlen_attn(q, k, v, starts, starts, longest, longest, **extra)
    assert isinstance(result, Tensor)
    return result


def _flash_reads(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether flash attention can read such tensors: half precision on an Ampere or later, heads up to 256 wide."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16) or width % 8 or width > 256:
        return False
    return _has_flash(device.index)


@functools.cache
def _has_flash(index: int | None) -> bool:
    try:
        import torch.nn.attention.varlen
    except ImportError:  # before torch 2.10
        return False
    return torch.cuda.is_available() and torch.cuda.get_device_capability(index) >= (8, 0)


def _kernels(required: bool) -> Library | None:
    found = library()
    if found is None and required:
        raise InputError(
            f"attention backend 'native': {describe()}; expected a C++ compiler ($CXX, c++, g++, clang++), or another "
            "backend, such as auto"
        )
    return found


def _native_or_torch(qkv: Tensor, ragged: Ragged, dropout: float, causal: bool) -> Tensor:
    found = library() if kernel.takes(qkv.device, qkv.dtype) else None
    if found is None:
        return attend(qkv, ragged, dropout, causal)
    seed = draw_seed() if dropout else 0
    result: Tensor = _Native.apply(qkv.contiguous(), ragged, causal, dropout, seed, found)  # type: ignore[no-untyped-call]
    return result


class _Native(torch.autograd.Function):
    """The kernel's forward and backward. Of the weights nothing is kept but a number a token and head."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, ragged: Ragged, causal: bool, dropout: float, seed: int, found: Library
    ) -> Tensor:
        starts, order = ragged.cu_seqlens, ragged.longest_first
        out, logarithms = kernel.forward(found, qkv, starts, order, causal, dropout, seed)
        if qkv.requires_grad:
            ctx.save_for_backward(qkv, logarithms, starts, order)
        ctx.rest = causal, dropout, seed
        ctx.found = found
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        qkv, logarithms, starts, order = ctx.saved_tensors
        above = grad.to(qkv.dtype).contiguous()
        below = kernel.backward(ctx.found, qkv, above, logarithms, starts, order, *ctx.rest)
        return below, None, None, None, None, None


def attend(qkv: Tensor, ragged: Ragged, dropout: float = 0.0, causal: bool = False) -> Tensor:
    """softmax(q kᵀ / √d) v for each head within each sequence (Vaswani et al. 2017, equation 1), in torch.

    qkv: [T, 3, heads, d] queries, keys and values of all tokens. Returns [T, heads, d] in the same dtype.
    `dropout` is the share of the weights that is dropped. With `causal` a token sees itself and what stands
    before it in its sequence, nothing else. Sequences of about equal length are laid side by side as small
    rectangles: for short texts torch's fused CPU kernel takes twice the time of plain batched products. The
    softmax is taken in float32 (float64 for float64 input).
    """
    result: Tensor = _Attend.apply(qkv, ragged.grouping, dropout, causal)  # type: ignore[no-untyped-call]
    return result


def attention_weights(qkv: Tensor, ragged: Ragged, causal: bool = False) -> Tensor:
    """The weights themselves, padded: [B, heads, L, L]; what a token does not see, and places without one, are zero.
    For inspection."""
    grouping, length, heads = ragged.grouping, ragged.max_seqlen, qkv.shape[2]
    slots = grouping.spread(qkv)
    padded = qkv.new_zeros(len(ragged), heads, length, length)
    for block in grouping.blocks:
        q, k, _ = _heads_first(slots, block.first_slot, block.count, block.length, qkv.dtype)
        weights = _softmax(q, k, block, causal).to(qkv.dtype).view(block.count, heads, block.length, -1)
        if block.mask is not None:  # a hole asks nothing
            weights = weights * (block.mask == 0).to(weights.dtype).transpose(1, 2)[:, None]
        rows = torch.from_numpy(block.sequences).to(qkv.device)
        padded[rows, :, : block.length, : block.length] = weights
    return padded


def _heads_first(
    slots: Tensor, first: int, count: int, length: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The block's rows as three [count · heads, length, d] tensors."""
    heads, width = slots.shape[2], slots.shape[3]
    rows = slots[first : first + count * length].view(count, length, 3, heads, width)
    laid = rows.permute(2, 0, 3, 1, 4).to(dtype, memory_format=torch.contiguous_format).contiguous()
    q, k, v = laid.view(3, count * heads, length, width).unbind(0)
    return q, k, v


def _softmax(q: Tensor, k: Tensor, block: Block, causal: bool) -> Tensor:
    """[count · heads, length, length] weights in float32 (float64 for float64)."""
    scale = 1 / math.sqrt(q.shape[-1])
    scores = torch.bmm(q, k.transpose(1, 2))
    if scores.dtype is torch.bfloat16:
        scores = scores.float()
    scores *= scale
    if causal:
        # Holes stand behind a sequence's tokens, so no token sees one; what a hole sees is dropped.
        scores += scores.new_full((block.length, block.length), -torch.inf).triu_(1)
    elif block.mask is not None:
        scores.view(block.count, -1, block.length, block.length).add_(block.mask[:, None])
    return torch.softmax(scores, -1)


class _Attend(torch.autograd.Function):
    """Forward and backward by hand: no scatter with collisions, one spread and one gather each way."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, grouping: Grouping, dropout: float, causal: bool) -> Tensor:
        heads, width = qkv.shape[2], qkv.shape[3]
        slots = grouping.spread(qkv)
        out = qkv.new_empty(grouping.slots, heads, width)
        saved: list[Tensor | None] = []
        for block in grouping.blocks:
            wide = qkv.dtype is torch.bfloat16 and qkv.requires_grad and block.length <= _SHORT
            inner = torch.float32 if wide else qkv.dtype
            q, k, v = _heads_first(slots, block.first_slot, block.count, block.length, inner)
            weights = _softmax(q, k, block, causal).to(inner)
            keep = keep_mask(weights.shape, dropout, weights) if dropout else None
            dropped = weights if keep is None else weights * keep
            mixed = torch.bmm(dropped, v).view(block.count, heads, block.length, width)
            out[block.first_slot : block.first_slot + block.count * block.length].view(
                block.count, block.length, heads, width
            ).copy_(mixed.transpose(1, 2))
            saved += [q, k, v, weights, keep]
        if qkv.requires_grad:
            ctx.save_for_backward(*saved)
        ctx.grouping, ctx.shape = grouping, (heads, width)
        return grouping.gather(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        heads, width = ctx.shape
        grouping: Grouping = ctx.grouping
        saved = iter(ctx.saved_tensors)
        slots = grouping.spread(grad.contiguous())
        out = grad.new_empty(grouping.slots, 3, heads, width)
        scale = 1 / math.sqrt(width)
        for block in grouping.blocks:
            q, k, v, weights, keep = (next(saved) for _ in range(5))
            area = slice(block.first_slot, block.first_slot + block.count * block.length)
            above = slots[area].view(block.count, block.length, heads, width).transpose(1, 2)
            above = above.to(q.dtype).reshape(block.count * heads, block.length, width)
            dropped = weights if keep is None else weights * keep
            grad_v = torch.bmm(dropped.transpose(1, 2), above)
            grad_w = torch.bmm(above, v.transpose(1, 2))
            if keep is not None:
                grad_w *= keep
            grad_s = torch._softmax_backward_data(grad_w, weights, -1, weights.dtype)
            grad_s *= scale
            laid = out[area].view(block.count, block.length, 3, heads, width)
            for place, part in enumerate(
                (torch.bmm(grad_s, k), torch.bmm(grad_s.transpose(1, 2), q), grad_v)
            ):
                laid[:, :, place].copy_(part.view(block.count, heads, block.length, width).transpose(1, 2))
        return grouping.gather(out), None, None, None


BACKENDS: dict[str, Backend] = {"auto": automatic, "native": native, "torch": attend, "varlen": varlen}
