"""A smaller encoder that begins with a part of a larger one's weights: fewer layers, or narrower ones.

Knows encoders and shapes. Must not know teachers, tasks or recipes.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from manyheads.encoder.bert import Encoder
from manyheads.errors import InputError

__all__ = ["reduced"]


def reduced(
    encoder: Encoder,
    *,
    layers: Sequence[int] | None = None,
    hidden: int | None = None,
    intermediate: int | None = None,
    dropout: float = 0.1,
    attention_dropout: float | None = None,
) -> Encoder:
    """A student of `encoder`, in eval mode.

    `layers` are the layers it keeps, counted from 1, lowest first (every other layer, as in Sanh et al. 2019, or
    any choice); `hidden` the width, of whole attention heads; `intermediate` the width inside the feed-forward
    parts. It keeps the first units of each: what is cut away is not made up for, so a narrower student needs
    training before it is worth anything. InputError for a layer or a width that the encoder does not have.
    """
    shape = encoder.shape
    kept = list(layers) if layers is not None else list(range(1, shape.layers + 1))
    for layer in kept:
        if not 1 <= layer <= shape.layers:
            raise InputError(f"encoder.layers: there is no layer {layer}, expected 1 to {shape.layers}")
    width = shape.hidden // shape.heads
    wide = shape.hidden if hidden is None else hidden
    if not width <= wide <= shape.hidden or wide % width:
        raise InputError(
            f"encoder.hidden: found {wide}, expected a multiple of an attention head's width {width}, "
            f"up to {shape.hidden}"
        )
    inner = shape.intermediate if intermediate is None else intermediate
    if inner > shape.intermediate:
        raise InputError(f"encoder.intermediate: found {inner}, expected up to {shape.intermediate}")
    small = Encoder(
        replace(shape, layers=len(kept), hidden=wide, heads=wide // width, intermediate=inner),
        dropout,
        attention_dropout,
    )
    theirs = encoder.state_dict()
    with torch.no_grad():
        for name, mine in small.state_dict().items():
            source = name
            if name.startswith("layers."):
                _, number, rest = name.split(".", 2)
                source = f"layers.{kept[int(number)] - 1}.{rest}"
            thirds = (
                3 if ".qkv." in name else 1
            )  # queries, keys and values lie under each other in one matrix
            for own, whole in zip(_parts(mine, thirds), _parts(theirs[source], thirds), strict=True):
                own.copy_(whole[tuple(slice(0, size) for size in own.shape)])
    return small.eval()


def _parts(tensor: Tensor, count: int) -> list[Tensor]:
    return list(tensor.view(count, -1, *tensor.shape[1:]).unbind(0)) if count > 1 else [tensor]
