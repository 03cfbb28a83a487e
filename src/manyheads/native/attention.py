"""Ragged self-attention by the C++ kernel `attention.cpp`: addresses in, tensors out.

Knows tensors' dtypes, shapes and addresses. Must not know the encoder, autograd or which other ways there are.
Letters: B sequences, T tokens of all of them end to end.
"""

import torch
from torch import Tensor

from manyheads.native.library import INTEGER, POINTER, REAL, WORD, Library, threads

__all__ = ["backward", "check_sequences", "forward", "takes"]

_FORWARD = (*(POINTER,) * 5, *(INTEGER,) * 5, REAL, WORD, INTEGER)
_BACKWARD = (*(POINTER,) * 6, *(INTEGER,) * 5, REAL, WORD, INTEGER)


def takes(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel reads such tensors: bfloat16 or float32 in the processor's memory."""
    return device.type == "cpu" and dtype in (torch.bfloat16, torch.float32)


def forward(
    library: Library, qkv: Tensor, starts: Tensor, order: Tensor, causal: bool, share: float, seed: int
) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ / √d) v within each sequence and head, a `share` of the weights dropped.

    qkv: [T, 3, heads, d]; starts: [B + 1] int32, each sequence's first row and T; order: [B] int32, the sequences
    in the order in which threads take them. `seed`: 64 bits; which weights are dropped depends on it alone.
    Returns [T, heads, d] and, for `backward`, log₂ of the sum that each row's softmax divides by, [T, heads] float32.
    """
    _check(qkv, starts, order)
    tokens, _, heads, width = qkv.shape
    out = qkv.new_empty(tokens, heads, width)
    logarithms = qkv.new_empty(tokens, heads, dtype=torch.float32)
    library.function("mh_attention_forward", *_FORWARD)(
        qkv.data_ptr(),
        out.data_ptr(),
        logarithms.data_ptr(),
        starts.data_ptr(),
        order.data_ptr(),
        len(order),
        heads,
        width,
        qkv.dtype is torch.bfloat16,
        causal,
        share,
        seed % 2**64,
        threads(),
    )
    return out, logarithms


def backward(
    library: Library,
    qkv: Tensor,
    above: Tensor,
    logarithms: Tensor,
    starts: Tensor,
    order: Tensor,
    causal: bool,
    share: float,
    seed: int,
) -> Tensor:
    """The gradient of `forward` for qkv, [T, 3, heads, d], from `above` [T, heads, d], that of its result.

    The rest is what `forward` was called with, and the logarithms that it returned.
    """
    _check(qkv, starts, order)
    tokens, _, heads, width = qkv.shape
    if above.shape != (tokens, heads, width) or above.dtype is not qkv.dtype or not above.is_contiguous():
        raise ValueError(f"a gradient of {list(above.shape)}, {above.dtype} for qkv of {list(qkv.shape)}")
    below = torch.empty_like(qkv)
    library.function("mh_attention_backward", *_BACKWARD)(
        qkv.data_ptr(),
        above.data_ptr(),
        logarithms.data_ptr(),
        below.data_ptr(),
        starts.data_ptr(),
        order.data_ptr(),
        len(order),
        heads,
        width,
        qkv.dtype is torch.bfloat16,
        causal,
        share,
        seed % 2**64,
        threads(),
    )
    return below


def _check(qkv: Tensor, starts: Tensor, order: Tensor) -> None:
    """The kernel reads memory by these; a wrong one would read somebody else's."""
    if not takes(qkv.device, qkv.dtype) or qkv.dim() != 4 or qkv.shape[1] != 3 or not qkv.is_contiguous():
        raise ValueError(
            f"expected contiguous [T, 3, heads, d] on the CPU, found {list(qkv.shape)}, {qkv.dtype}"
        )
    check_sequences(starts, order, qkv.shape[0])


def check_sequences(starts: Tensor, order: Tensor, tokens: int) -> None:
    """ValueError where sequences do not end at row `tokens`, or are not told as the kernels read them."""
    for each in (starts, order):
        if each.dtype is not torch.int32 or each.device.type != "cpu" or not each.is_contiguous():
            raise ValueError("starts and order: expected contiguous int32 tensors on the CPU")
    if len(starts) != len(order) + 1 or int(starts[-1]) != tokens:
        raise ValueError(f"sequences that end at row {int(starts[-1])} of {tokens}")
