"""The bricks of the encoder: linear map, dropout, GELU, LayerNorm, and the mixed precision they share.

Knows tensors and plain numbers. Must not know BERT, ragged batches, checkpoints or tasks.

Mixed precision here: parameters and the residual stream stay in float32; a `Linear` whose `compute` is
bfloat16 multiplies in bfloat16 and returns bfloat16; LayerNorm adds and normalises in float32. Where there are
native kernels they do all that stands between two products in one pass; elsewhere torch does, to the same result
but for rounding and the numbers that dropout draws.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from manyheads.encoder import products
from manyheads.encoder.products import Then
from manyheads.native import elementwise
from manyheads.native.library import Library, library

__all__ = [
    "AddNorm",
    "Linear",
    "Masks",
    "Residual",
    "at_first",
    "draw_seed",
    "dropout",
    "gelu",
    "keep_mask",
    "native",
    "product",
    "version",
]


class Residual(NamedTuple):
    """The residual stream, rows [T, H], as the parts of a layer pass it on."""

    exact: Tensor
    """In the parameters' dtype: what is added to and normalised."""
    low: Tensor
    """The same for the next product, rounded to its dtype where a kernel has done that on its way."""


def version(x: Tensor) -> int:
    """How often a tensor has been written to, as far as torch counts it; of one made in inference mode it does not."""
    return 0 if x.is_inference() else x._version


def native(*tensors: Tensor) -> Library | None:
    """The kernels, where they are and take such tensors: bfloat16 or float32 in the processor's memory."""
    if all(x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) for x in tensors):
        return library()
    return None


class Masks:
    """The dropout masks of one pass, for others that must be the same function of their input.

    Inside `recorded()` every mask that is drawn is kept, and of a kernel that makes its masks itself the seed;
    inside `replayed()` a pass over a batch of the same layout gets them again in the same order, and none is drawn.
    """

    def __init__(self) -> None:
        self._kept: list[Tensor | int] = []
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
            drawn = _drawn_mask(shape, share, like)
            self._kept.append(drawn)
            return drawn
        mask = self._again()
        if not isinstance(mask, Tensor):
            raise ValueError(f"a seed was kept, a mask of {list(shape)} is asked for")
        if mask.shape != shape:
            raise ValueError(f"a mask of {list(mask.shape)} was kept, one of {list(shape)} is asked for")
        return mask.to(like.dtype)

    def take_seed(self) -> int:
        """The next seed: drawn and kept, or the one kept before."""
        if self._next is None:
            drawn = _drawn_seed()
            self._kept.append(drawn)
            return drawn
        seed = self._again()
        if isinstance(seed, Tensor):
            raise ValueError(f"a mask of {list(seed.shape)} was kept, a seed is asked for")
        return seed

    def _again(self) -> Tensor | int:
        assert self._next is not None
        if self._next == len(self._kept):
            raise ValueError(f"{self._next} masks were kept, one more is asked for")
        self._next += 1
        return self._kept[self._next - 1]


_masks: ContextVar[Masks | None] = ContextVar("masks", default=None)


def keep_mask(shape: torch.Size, share: float, like: Tensor) -> Tensor:
    """A tensor of 0 and 1/(1 − share), drawn from torch's generator: what dropout multiplies by."""
    masks = _masks.get()
    return _drawn_mask(shape, share, like) if masks is None else masks.take(shape, share, like)


def draw_seed() -> int:
    """A number of 63 bits from torch's generator, for a kernel that makes its dropout mask from it, in the forward
    pass and again in the backward; where masks are recorded or replayed, the seed is too."""
    masks = _masks.get()
    return _drawn_seed() if masks is None else masks.take_seed()


def _drawn_seed() -> int:
    return int(torch.randint(2**63 - 1, ()))


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


class _Product(torch.autograd.Function):
    """x Wᵀ + b, or GELU of that, with the products in `dtype`, and the gradients in the dtypes of what they are of."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype, then: Then) -> Tensor:
        low, low_weight = x.to(dtype), weight.to(dtype)
        ctx.dtypes = x.dtype, weight.dtype
        y = products.linear(low, low_weight, bias.to(dtype))
        if then == "none":
            ctx.save_for_backward(low, low_weight)
            return y
        ctx.save_for_backward(low, low_weight, y)
        return gelu(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        low, low_weight, *before = ctx.saved_tensors
        of_input, of_weight = ctx.dtypes
        flat = grad.to(low.dtype).reshape(-1, grad.shape[-1]).contiguous()
        sums = None
        for y in before:
            flat, sums = _gelu_backward(y.view_as(flat), flat)
        grad_input = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_input = products.times(flat, low_weight).view(low.shape).to(of_input)
        if ctx.needs_input_grad[1]:
            grad_weight = products.times(flat.t(), low.reshape(-1, low.shape[-1])).to(of_weight)
        if ctx.needs_input_grad[2]:
            grad_bias = (_columns(flat) if sums is None else sums).to(of_weight)
        return grad_input, grad_weight, grad_bias, None, None


def product(
    x: Tensor, weight: Tensor, bias: Tensor, compute: torch.dtype | None, then: Then = "none"
) -> Tensor:
    """x Wᵀ + b, or GELU of that: multiplied in `compute` where the weight is float32, otherwise in its own dtype."""
    dtype = _of_products(weight, compute)
    if dtype is weight.dtype and not products.by_onednn(dtype, weight.device):
        y = F.linear(x.to(dtype), weight, bias)
        return gelu(y) if then == "gelu" else y
    result: Tensor = _Product.apply(x, weight, bias, dtype, then)  # type: ignore[no-untyped-call]
    return result


def _of_products(weight: Tensor, compute: torch.dtype | None) -> torch.dtype:
    return weight.dtype if compute is None or weight.dtype is not torch.float32 else compute


def _gelu_backward(x: Tensor, above: Tensor) -> tuple[Tensor, Tensor | None]:
    """GELU's gradient for its input [T, N], and the sum of its columns where it falls off on the way."""
    kernels = native(x, above)
    if kernels is None:
        return torch.ops.aten.gelu_backward(above, x), None
    return elementwise.gelu_backward(kernels, x, above)


def _columns(x: Tensor) -> Tensor:
    """[N] the sum of each column of [T, N]."""
    kernels = native(x)
    if kernels is not None:
        return elementwise.columns(kernels, x)
    # A row of ones times x: the product sums columns faster than sum(0) does.
    return (x.new_ones(1, x.shape[0]) @ x)[0]


def at_first(*shape: int) -> Tensor:
    """Random weights as BERT begins with: from a normal distribution around 0 with deviation 0.02."""
    weight = torch.empty(*shape)
    # Without memory there are no numbers; to ask torch for them all the same loads its compiler, two seconds.
    return weight if weight.is_meta else nn.init.normal_(weight, std=0.02)


class Linear(nn.Module):
    """y = x Wᵀ + b. x: [rows, inputs] → [rows, outputs]; weight [outputs, inputs], bias [outputs].

    `compute` is None (multiply in the parameters' dtype) or a lower dtype for the product. Without gradients
    the weights are converted, and laid out for the processor, once and kept until they change. Torch's fused
    optimisers move weights without raising their version counters: a forward pass with gradients forgets the
    converted ones, and in training mode, where a pass without gradients may stand before the step, none are kept.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(at_first(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.compute: torch.dtype | None = None
        self._converted: tuple[tuple[object, ...], Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self._product(x, "none")

    def then_gelu(self, x: Tensor) -> Tensor:
        """gelu(x Wᵀ + b): in one pass over memory where the processor's library offers it."""
        return self._product(x, "gelu")

    def _product(self, x: Tensor, then: Then) -> Tensor:
        dtype = _of_products(self.weight, self.compute)
        learns = torch.is_grad_enabled() and any(each.requires_grad for each in (x, self.weight, self.bias))
        if learns or (dtype is self.weight.dtype and not products.by_onednn(dtype, self.weight.device)):
            self._converted = None
            return product(x, self.weight, self.bias, self.compute, then)
        return products.linear(x.to(dtype), *self._low(dtype), then)

    def _low(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The converted parameters; the version counters tell whether they still hold."""
        if self.training:
            return self.weight.detach().to(dtype), self.bias.detach().to(dtype)
        key = (*map(version, (self.weight, self.bias)), self.weight.data_ptr(), self.weight.device, dtype)
        if self._converted is None or self._converted[0] != key:
            weight = products.laid_out(self.weight.detach().to(dtype))
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
        """In torch's operations, which others can follow and translate."""
        summed = residual + dropout(x, self.dropout, self.training)
        return F.layer_norm(summed, self.weight.shape, self.weight, self.bias, self.eps)

    def stream(self, x: Tensor, residual: Tensor) -> Residual:
        """The same, in one pass where there is a kernel for it; rounded for the next product where x is."""
        kernels = native(x, residual, self.weight)
        if kernels is None or residual.dtype is not torch.float32:
            exact = self(x, residual)
            return Residual(exact, exact)
        share = self.dropout if self.training else 0.0
        seed = draw_seed() if share else 0
        exact, low = _AddNorm.apply(x, residual, self.weight, self.bias, self.eps, share, seed, kernels)  # type: ignore[no-untyped-call]
        return Residual(exact, exact if low is None else low)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        share: float,
        seed: int,
        kernels: Library,
    ) -> tuple[Tensor, Tensor | None]:
        x, residual, low = x.contiguous(), residual.contiguous(), x.dtype is torch.bfloat16
        exact, rounded, stats = elementwise.add_norm(
            kernels, x, residual, weight, bias, eps, share, seed, low
        )
        ctx.save_for_backward(x, residual, weight, stats)
        ctx.set_materialize_grads(False)
        ctx.drawn, ctx.kernels = (share, seed), kernels
        return exact, rounded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor | None, above_low: Tensor | None) -> tuple[Tensor | None, ...]:
        x, residual, weight, stats = ctx.saved_tensors
        above, above_low = (None if one is None else one.contiguous() for one in (above, above_low))
        of_x, of_residual, sums = elementwise.add_norm_backward(
            ctx.kernels, x, residual, weight, stats, above, above_low, *ctx.drawn
        )
        return of_x, of_residual, sums[0], sums[1], None, None, None, None
