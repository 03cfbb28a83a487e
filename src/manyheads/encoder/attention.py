"""Attention over tokens that lie end to end: one function, a backend for each kind of device.

Knows queries, keys, values and where sequences begin. Must not know the layers around it, tasks or text.

Every backend has the signature of a variable-length kernel: rows [T, 3, heads, width] of all sequences end to end,
the batch's `cu_seqlens` / `max_seqlen` (here inside `Ragged`), the dropout share, and whether attention is causal, so
that a CUDA or a native kernel is one more line of `BACKENDS`.
"""

import math
import os
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from manyheads.encoder.layers import keep_mask
from manyheads.encoder.ragged import Block, Grouping, Ragged
from manyheads.errors import InputError, nearest

__all__ = ["BACKENDS", "attention_weights", "choose_backend"]


class Backend(Protocol):
    """[T, 3, heads, d] queries, keys and values → [T, heads, d]."""

    def __call__(self, qkv: Tensor, ragged: Ragged, dropout: float = 0.0, causal: bool = False) -> Tensor: ...


_SHORT = 96  # up to this length training in float32 costs no more than bfloat16 and the conversions around it


def choose_backend(name: str | None = None) -> Backend:
    """The backend called `name`; without a name MANYHEADS_ATTENTION says, and without that `torch`.

    Raises InputError for a name that no backend has.
    """
    wanted = name or os.environ.get("MANYHEADS_ATTENTION") or "torch"
    if wanted not in BACKENDS:
        raise InputError(
            f"attention backend {wanted!r}: expected one of {', '.join(BACKENDS)}{nearest(wanted, BACKENDS)}"
        )
    return BACKENDS[wanted]


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


BACKENDS: dict[str, Backend] = {"torch": attend}
