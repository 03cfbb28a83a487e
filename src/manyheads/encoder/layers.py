"""The bricks of the encoder: linear map, dropout, GELU, LayerNorm, and the mixed precision they share.

Knows tensors and plain numbers. Must not know BERT, ragged batches, checkpoints or tasks.

Mixed precision here: parameters and the residual stream stay in float32; a `Linear` whose `compute` is
bfloat16 multiplies in bfloat16 and returns bfloat16; LayerNorm adds and normalises in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# oneDNN's products with prepared weights: part of torch's CPU builds, though not of its documented face.
_CAN_LAY_OUT: bool = torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]
    hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
)

__all__ = ["AddNorm", "Linear", "Masks", "dropout", "gelu", "keep_mask"]


class Masks:
    """The dropout masks of one pass, for others that must be the same function of their input.

    Inside `recorded()` every mask that is drawn is kept; inside `replayed()` a pass over a batch of the same
    layout gets them again in the same order, and none is drawn.
    """

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self._next: int | None = None

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep the masks of the pass inside, and forget those of an earlier one."""
        self._kept, self._next = [], None
        yield from self._in_use()

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Give the pass inside the masks that were kept."""
        self._next = 0
        yield from self._in_use()

    def _in_use(self) -> Iterator[None]:
        token = _masks.set(self)
        try:
            yield
        finally:
            _masks.reset(token)

    def take(self, shape: torch.Size, share: float, like: Tensor) -> Tensor:
        """The next mask: drawn and kept, or the one kept before."""
        if self._next is None:
            self._kept.append(_drawn_mask(shape, share, like))
            return self._kept[-1]
        mask = self._kept[self._next]
        self._next += 1
        if mask.shape != shape:
            raise ValueError(f"a mask of {list(mask.shape)} was kept, one of {list(shape)} is asked for")
        return mask.to(like.dtype)


_masks: ContextVar[Masks | None] = ContextVar("masks", default=None)


def keep_mask(shape: torch.Size, share: float, like: Tensor) -> Tensor:
    """A tensor of 0 and 1/(1 − share), drawn from torch's generator: what dropout multiplies by."""
    masks = _masks.get()
    return _drawn_mask(shape, share, like) if masks is None else masks.take(shape, share, like)


def _drawn_mask(shape: torch.Size, share: float, like: Tensor) -> Tensor:
    """A fresh mask.

    On the CPU 16 random bits decide over one element (share is met to 1/65536): torch's own Bernoulli
    draws cost about six times as much there and would be the largest single item of a training step.
    """
    if like.device.type != "cpu":
        return torch.empty(shape, dtype=like.dtype, device=like.device).bernoulli_(1 - share).div_(1 - share)
    count = shape.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    threshold = round(share * 65536) - 32768
    keep = words.view(torch.int16)[:count] >= threshold
    return keep.to(like.dtype).mul_(1 / (1 - share)).view(shape)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float) -> Tensor:
        keep = keep_mask(x.shape, share, x)
        ctx.save_for_backward(keep)
        return x * keep

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return grad * keep, None


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """`x` with a `share` (0 up to 1) of its elements set to 0 and the rest scaled up, while training."""
    if not training or share == 0:
        return x
    result: Tensor = _Dropout.apply(x, share)  # type: ignore[no-untyped-call]
    return result


class _MixedLinear(torch.autograd.Function):
    """x Wᵀ + b with the products in bfloat16 and the parameters, and their gradients, in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
        low, low_weight = x.to(dtype), weight.to(dtype)
        ctx.save_for_backward(low, low_weight)
        ctx.dtypes = x.dtype, weight.dtype
        return F.linear(low, low_weight, bias.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        low, low_weight = ctx.saved_tensors
        of_input, of_weight = ctx.dtypes
        grad = grad.to(low.dtype).contiguous()
        flat = grad.view(-1, grad.shape[-1])
        grad_weight = grad_bias = None
        if ctx.needs_input_grad[1]:
            grad_weight = (flat.t() @ low.view(-1, low.shape[-1])).to(of_weight)
        if ctx.needs_input_grad[2]:
            # A row of ones times the gradient: the product sums columns faster than sum(0) does.
            grad_bias = (flat.new_ones(1, flat.shape[0]) @ flat)[0].to(of_weight)
        return (grad @ low_weight).to(of_input), grad_weight, grad_bias, None


class Linear(nn.Module):
    """y = x Wᵀ + b. x: [rows, inputs] → [rows, outputs]; weight [outputs, inputs], bias [outputs].

    `compute` is None (multiply in the parameters' dtype) or a lower dtype for the product. Without gradients
    the weights are converted once and kept until they change. Torch's fused optimisers move weights without
    raising their version counters: a forward pass with gradients forgets the converted ones, and in training
    mode, where a pass without gradients may stand before the step, none are kept.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.normal_(self.weight, std=0.02)
        self.compute: torch.dtype | None = None
        self._converted: tuple[tuple[object, ...], Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self._product(x, "none")

    def then_gelu(self, x: Tensor) -> Tensor:
        """gelu(x Wᵀ + b): in one pass over memory where the processor's library offers it."""
        return self._product(x, "gelu")

    def _product(self, x: Tensor, then: str) -> Tensor:
        if self.compute is None or self.weight.dtype is not torch.float32:
            y = F.linear(x.to(self.weight.dtype), self.weight, self.bias)
        elif torch.is_grad_enabled() and any(each.requires_grad for each in (x, self.weight, self.bias)):
            self._converted = None
            y = _MixedLinear.apply(x, self.weight, self.bias, self.compute)  # type: ignore[no-untyped-call]
        else:
            weight, bias = self._low(self.compute)
            low = x.to(self.compute)
            if weight.is_mkldnn:
                # oneDNN's own call, which torch's compiler uses too: weights laid out once for the processor,
                # bias and GELU put in before the products leave the cache.
                fused: Tensor = torch.ops.mkldnn._linear_pointwise(low, weight, bias, then, [], "none")
                return fused
            y = F.linear(low, weight, bias)
        return gelu(y) if then == "gelu" else y

    def _low(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The converted parameters; the version counters tell whether they still hold."""
        if self.training:
            return self.weight.detach().to(dtype), self.bias.detach().to(dtype)
        key = (self.weight._version, self.bias._version, self.weight.data_ptr(), self.weight.device, dtype)
        if self._converted is None or self._converted[0] != key:
            weight = self.weight.detach().to(dtype)
            if dtype is torch.bfloat16 and weight.device.type == "cpu" and _CAN_LAY_OUT:
                weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
            self._converted = key, weight, self.bias.detach().to(dtype)
        return self._converted[1:]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_converted": None}


def gelu(x: Tensor) -> Tensor:
    """The exact Gaussian error linear unit x · Φ(x) (Hendrycks & Gimpel 2016), not its tanh approximation."""
    return F.gelu(x)


class AddNorm(nn.Module):
    """LayerNorm(residual + dropout(x)): the end of both halves of a post-LN layer. Rows [T, H] in and out."""

    def __init__(self, hidden: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.eps = eps
        self.dropout = dropout

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        summed = residual + dropout(x, self.dropout, self.training)
        return F.layer_norm(summed, self.weight.shape, self.weight, self.bias, self.eps)
