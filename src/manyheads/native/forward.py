"""A stack of layers without gradients by the C++ kernel `forward.cpp`: addresses in, tensors out.

Knows tensors' dtypes, shapes and addresses. Must not know the encoder, its modules or which other ways there are.
Letters: T rows of all sequences end to end, B sequences, H hidden size, N outputs, K inputs of a product.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from manyheads.native.attention import check_sequences
from manyheads.native.library import INTEGER, POINTER, REAL, Library, threads

__all__ = ["PANEL", "PARTS", "Layers", "able", "forward", "pack", "product"]

PANEL = 64
"""Outputs of a product come in whole panels of so many."""
PARTS = 12
"""Tensors of a layer: packed weight and bias of qkv, output, up and down; scale and shift of both norms."""

_PACK = (*(POINTER,) * 2, *(INTEGER,) * 3)
_PRODUCT = (*(POINTER,) * 4, *(INTEGER,) * 5)
_FORWARD = (
    *(POINTER, INTEGER),
    *(POINTER,) * 6,
    *(INTEGER,) * 6,
    REAL,
    *(POINTER, INTEGER, POINTER, INTEGER),
)


def able(library: Library) -> bool:
    """Whether the processor has the instructions: products of pairs of bfloat16 in vectors of 512 bits.

    One that has tiles (AMX) as well multiplies faster through oneDNN, which uses them.
    """
    found = ctypes.c_int64(0)
    library.function("mh_forward_able", POINTER)(ctypes.addressof(found))
    return bool(found.value) and not torch.cpu._is_amx_tile_supported()


def pack(library: Library, weight: Tensor) -> Tensor:
    """A weight [N, K] bfloat16 as `forward` and `product` read it: N in whole panels, K even."""
    outputs, inputs = weight.shape
    if outputs % PANEL or inputs % 2 or weight.dtype is not torch.bfloat16 or not weight.is_contiguous():
        raise ValueError(
            f"expected contiguous bfloat16 [64 n, 2 k], found {list(weight.shape)}, {weight.dtype}"
        )
    packed = torch.empty(outputs // PANEL, inputs // 2, PANEL, dtype=torch.int32)
    library.function("mh_pack", *_PACK)(weight.data_ptr(), packed.data_ptr(), outputs, inputs, threads())
    return packed


def product(library: Library, x: Tensor, packed: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    """x W + b, or its GELU, for x [T, K] bfloat16, W as `pack` gives it and b [N] float32: [T, N] bfloat16."""
    outputs, inputs = packed.shape[0] * PANEL, packed.shape[1] * 2
    if x.shape[1:] != (inputs,) or x.dtype is not torch.bfloat16 or not x.is_contiguous():
        raise ValueError(f"expected contiguous bfloat16 [T, {inputs}], found {list(x.shape)}, {x.dtype}")
    _check_vector(bias, outputs)
    out = x.new_empty(len(x), outputs)
    library.function("mh_product", *_PRODUCT)(
        x.data_ptr(),
        packed.data_ptr(),
        bias.data_ptr(),
        out.data_ptr(),
        len(x),
        inputs,
        outputs,
        gelu,
        threads(),
    )
    return out


class Layers:
    """The tensors of a stack of layers, looked at once: `PARTS` for each, which are kept from being freed."""

    def __init__(self, layers: Sequence[Sequence[Tensor]]) -> None:
        self.hidden, self.intermediate = len(layers[0][8]), len(layers[0][5])
        for parts in layers:
            _check_layer(parts, self.hidden, self.intermediate)
        self.tensors = [part for parts in layers for part in parts]
        self.addresses = (ctypes.c_void_p * len(self.tensors))(*(part.data_ptr() for part in self.tensors))

    def __len__(self) -> int:
        return len(self.tensors) // PARTS


def forward(
    library: Library,
    layers: Layers,
    exact: Tensor,
    low: Tensor,
    starts: Tensor,
    order: Tensor,
    heads: int,
    causal: bool,
    eps: float,
    rows: Tensor | None = None,
) -> Tensor:
    """The last states of rows [T, H]: `exact` float32 and `low`, the same in bfloat16, which are both overwritten.

    starts [B + 1] and order [B] int32 as `attention.forward` reads them. With `rows` [R] int64, places of rows each
    once, the states of these alone: [R, H].
    """
    tokens, hidden = exact.shape
    if low.shape != exact.shape or exact.dtype is not torch.float32 or low.dtype is not torch.bfloat16:
        raise ValueError(
            f"rows {list(exact.shape)}, {exact.dtype} and {list(low.shape)}, {low.dtype}: expected "
            "the same rows in float32 and bfloat16"
        )
    if not (exact.is_contiguous() and low.is_contiguous()) or exact.device.type != "cpu":
        raise ValueError("expected contiguous rows on the CPU")
    if hidden != layers.hidden or hidden % heads:
        raise ValueError(f"rows of {hidden} for layers of {layers.hidden} and {heads} heads")
    check_sequences(starts, order, tokens)
    few = None
    if rows is not None:
        if rows.dtype is not torch.int64 or rows.dim() != 1 or not rows.is_contiguous() or len(rows) > tokens:
            raise ValueError(f"expected contiguous int64 [R], found {list(rows.shape)}, {rows.dtype}")
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < tokens:
            raise IndexError(f"rows {int(rows.min())} to {int(rows.max())} of {tokens}")
        few = exact.new_empty(len(rows), hidden)
    room = low.new_empty(tokens, max(4 * hidden, layers.intermediate))
    numbers = exact.new_empty(tokens, heads + 2)
    library.function("mh_forward", *_FORWARD)(
        layers.addresses,
        len(layers),
        exact.data_ptr(),
        low.data_ptr(),
        room.data_ptr(),
        numbers.data_ptr(),
        starts.data_ptr(),
        order.data_ptr(),
        len(order),
        tokens,
        hidden,
        heads,
        layers.intermediate,
        causal,
        eps,
        None if rows is None else rows.data_ptr(),
        0 if rows is None else len(rows),
        None if few is None else few.data_ptr(),
        threads(),
    )
    return exact if few is None else few


def _check_layer(parts: Sequence[Tensor], hidden: int, intermediate: int) -> None:
    """The kernel reads memory by these; a wrong one would read somebody else's."""
    if len(parts) != PARTS or hidden % PANEL or intermediate % PANEL:
        raise ValueError(f"{len(parts)} tensors of a layer {hidden}, {intermediate} wide")
    sizes = (3 * hidden, hidden), (hidden, hidden), (intermediate, hidden), (hidden, intermediate)
    for number, (outputs, inputs) in enumerate(sizes):
        packed = parts[2 * number]
        if packed.shape != (outputs // PANEL, inputs // 2, PANEL) or packed.dtype is not torch.int32:
            raise ValueError(f"expected a packed weight [{outputs}, {inputs}], found {list(packed.shape)}")
        _check_vector(parts[2 * number + 1], outputs)
    for vector in parts[8:]:
        _check_vector(vector, hidden)


def _check_vector(x: Tensor, width: int) -> None:
    if x.shape != (width,) or x.dtype is not torch.float32 or not x.is_contiguous():
        raise ValueError(f"expected {width} float32 numbers, found {list(x.shape)}, {x.dtype}")
