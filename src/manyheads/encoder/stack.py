"""All layers of the encoder in one call, where nobody asks for gradients and the processor has the kernel for it.

Knows the modules of a layer and the kernel that reads their weights. Must not know embeddings, heads or tasks.

Between the products of a short batch Python and torch take as long as the products themselves; here they are passed
once a batch instead of some twenty times a layer. Rows are rounded where the layers' own way rounds them, biases are
not.
"""

from typing import Any

import torch
from torch import Tensor, nn

from manyheads.encoder.attention import runs_native
from manyheads.encoder.layers import AddNorm, Linear, Residual, native, version
from manyheads.encoder.ragged import Ragged
from manyheads.native import forward as kernel
from manyheads.native.library import Library

__all__ = ["Stack"]


class Stack:
    """The layers' weights as the kernel reads them: packed when they are first asked for, and when one has changed.

    Training moves weights without raising their version counters; who trains says `forget`.
    """

    def __init__(self) -> None:
        self._kept: tuple[_Watched, kernel.Layers | None] | None = None
        self._able: bool | None = None

    def forget(self) -> None:
        """Pack again when asked."""
        self._kept = None

    def run(self, modules: nn.ModuleList, x: Residual, ragged: Ragged, rows: Tensor | None) -> Tensor | None:
        """The last states [T, H], those of tokens that are not among `rows` zero; None where it cannot be done so.

        What `x` holds is overwritten.
        """
        library = native(x.exact, x.low)
        if library is None or x.low.dtype is not torch.bfloat16 or x.exact.dtype is not torch.float32:
            return None
        if self._able is None:
            self._able = kernel.able(library)
        layers = self._packed(modules, library) if self._able else None
        if layers is None:
            return None
        attention: Any = modules[0].attention
        states = kernel.forward(
            library,
            layers,
            x.exact,
            x.low,
            ragged.cu_seqlens,
            ragged.longest_first,
            attention.heads,
            attention.causal,
            attention.norm.eps,
            rows,
        )
        return states if rows is None else states.new_zeros(x.exact.shape).index_copy(0, rows, states)

    def _packed(self, modules: nn.ModuleList, library: Library) -> kernel.Layers | None:
        """The layers for the kernel; None where one is not as it expects them."""
        kept = self._kept  # another thread may forget it meanwhile
        if kept is None or not kept[0].unchanged():
            kept = self._kept = _Watched(modules), _laid(modules, library)
        return kept[1]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Stack":
        return Stack()

    def __reduce__(self) -> tuple[Any, ...]:
        return Stack, ()


class _Watched:
    """All that the packed layers depend on: which modules there are, their settings and hooks, the parameters' values.

    Straight from the tables of the modules' attributes: it is asked for every batch.
    """

    def __init__(self, modules: nn.ModuleList) -> None:
        self._table, self._count = modules._modules, len(modules)
        tables: list[dict[str, Any]] = [self._table]
        settings: list[dict[str, Any]] = []
        for layer in modules:
            tables += (each._modules for each in layer.modules())
            tables += (each._parameters for each in layer.modules())
            settings += (each.__dict__ for each in layer.modules())
        self._places = [(table, name) for table in tables for name in table]
        self._places += [(each, name) for each in settings for name in ("compute", "backend") if name in each]
        self._found = [table[name] for table, name in self._places]
        self._hooks = [each[name] for each in settings for name in ("_forward_hooks", "_forward_pre_hooks")]
        self._parameters = [each for each in self._found if isinstance(each, Tensor)]
        self._values = self._of_parameters()

    def unchanged(self) -> bool:
        """Whether all is as it was when this was made."""
        return (
            len(self._table) == self._count
            and not any(self._hooks)
            and not any(
                table.get(name) is not found
                for (table, name), found in zip(self._places, self._found, strict=True)
            )
            and self._of_parameters() == self._values
        )

    def _of_parameters(self) -> list[tuple[int, int]]:
        return [(version(each), each.data_ptr()) for each in self._parameters]


def _parts(layer: nn.Module) -> list[Tensor] | None:
    """A layer's parameters in the kernel's order; None where a module is another than ours, or is watched."""
    attention: Any = layer.attention
    feedforward: Any = layer.feedforward
    if any(each._forward_hooks or each._forward_pre_hooks for each in layer.modules()):
        return None
    if not runs_native(attention.backend):
        return None
    found: list[Tensor] = []
    for holder, name, kind in (
        (attention, "qkv", Linear),
        (attention, "output", Linear),
        (feedforward, "up", Linear),
        (feedforward, "down", Linear),
        (attention, "norm", AddNorm),
        (feedforward, "norm", AddNorm),
    ):
        module = getattr(holder, name)
        if type(module) is not kind or (isinstance(module, Linear) and module.compute is not torch.bfloat16):
            return None
        found += (module.weight, module.bias)
    return found


def _laid(modules: nn.ModuleList, library: Library) -> kernel.Layers | None:
    """The layers' parameters, packed; None for modules, sizes or dtypes that the kernel does not read."""
    layers = [_parts(module) for module in modules]
    packed = []
    for parts in layers:
        if parts is None:
            return None
        hidden, intermediate = parts[1].numel() // 3, parts[5].numel()
        if hidden % kernel.PANEL or intermediate % kernel.PANEL:
            return None
        if any(
            each.dtype is not torch.float32 or each.device.type != "cpu" or not each.is_contiguous()
            for each in parts
        ):
            return None
        own = [each.detach() for each in parts]
        for place in range(0, 8, 2):
            own[place] = kernel.pack(library, own[place].to(torch.bfloat16))
        packed.append(own)
    return kernel.Layers(packed)
