"""Which library multiplies matrices on the processor: torch's own choice, or oneDNN, which torch brings along.

Knows matrices, dtypes and processors. Must not know layers, and what is multiplied when.

torch multiplies float32 with MKL, and MKL does not use AVX-512 on AMD's processors: oneDNN takes less than half of
its time there (docs/decisions/0017). In bfloat16 torch asks oneDNN itself, but with weights that are not laid out for
it, and writes a bias into every row first.
"""

from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Then", "by_onednn", "laid_out", "linear", "times"]

Then = Literal["none", "gelu"]

# Part of torch's CPU builds, though not of its documented face.
_THERE: bool = torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]
    hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
)


def by_onednn(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether oneDNN is to multiply matrices of this dtype: where it can and is the faster one."""
    if not _THERE or device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return dtype is torch.bfloat16 or (dtype is torch.float32 and _beats_mkl())


@cache
def _beats_mkl() -> bool:
    """Whether this is a processor with vectors of 512 bits that MKL does not use."""
    if not torch.backends.mkl.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":  # type: ignore[no-untyped-call]
        return False
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return any(line.startswith("vendor_id") and "AuthenticAMD" in line for line in file)
    except OSError:
        return False


def laid_out(weight: Tensor) -> Tensor:
    """The weight [N, K] in the order in which the processor reads it, for `linear` alone; or itself."""
    if not by_onednn(weight.dtype, weight.device):
        return weight
    laid: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    return laid


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, then: Then = "none") -> Tensor:
    """x Wᵀ + b, or GELU of that. x [..., K], weight [N, K], laid out or not → [..., N]. No gradients."""
    if weight.is_mkldnn or (by_onednn(x.dtype, x.device) and x.numel()):
        # torch's compiler uses this call too: bias and GELU are put in before the products leave the cache.
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "none")
        return product
    y = F.linear(x, weight, bias)
    return F.gelu(y) if then == "gelu" else y


def times(a: Tensor, b: Tensor) -> Tensor:
    """a b. a [M, K], b [K, N], in any order of their elements → [M, N]. No gradients."""
    # In bfloat16 torch's own call is oneDNN's already.
    return linear(a, b.t(), None) if a.dtype is torch.float32 and by_onednn(a.dtype, a.device) else a @ b
