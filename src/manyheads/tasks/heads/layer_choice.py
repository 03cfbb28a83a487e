"""Which of the encoder's states a head reads.

Knows states, layer by layer. Must not know tasks, or what a head makes of what it reads.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from manyheads.encoder.bert import States
from manyheads.errors import InputError

__all__ = ["LAYERS", "LayerChoice", "Layers", "chosen"]

Layers = Literal["last", "embeddings", "second_to_last", "sum_last_four", "concat_last_four", "sum_all"]


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """One way to make a token's vector of its states."""

    read: Callable[[States], Tensor]
    """States → [T, H · width]."""
    width: int
    """How many times as wide as a state the vector is."""
    least: int
    """How many layers the encoder must have at least."""

    @property
    def only_last(self) -> bool:
        """Whether the last layer's states are enough, so that the encoder need not keep those below."""
        return self.least == 0


LAYERS: dict[Layers, LayerChoice] = {
    "last": LayerChoice(lambda states: states.tokens, 1, 0),
    "embeddings": LayerChoice(lambda states: states.layers[0], 1, 1),
    "second_to_last": LayerChoice(lambda states: states.layers[-2], 1, 2),
    "sum_last_four": LayerChoice(lambda states: _total(states.layers[-4:]), 1, 4),
    "concat_last_four": LayerChoice(lambda states: torch.cat(states.layers[-4:], 1), 4, 4),
    "sum_all": LayerChoice(lambda states: _total(states.layers[1:]), 1, 1),
}
"""The rows of table 7 of Devlin et al. 2019, as they are without learnt weights. `embeddings` is what goes into
the first layer, after its LayerNorm; `concat_last_four` has the lowest of the four first; `sum_all` is the sum of
the outputs of all layers, the embeddings not among them ("all 12 layers")."""


def chosen(states: States, layers: Layers) -> States:
    """The same states with the choice in the place of the last layer's: `tokens` [T, H · width].

    Pooling and marks apply to it as to any states; `pooled` does not, as the pooler expects the last layer's.
    InputError where the encoder has too few layers.
    """
    choice = LAYERS[layers]
    if choice.only_last:
        return states
    if not states.layers:
        raise ValueError(f"'layers: {layers}' needs the states of all layers, found those of the last alone")
    found = len(states.layers) - 1
    if found < choice.least:
        raise InputError(
            f"layers: {layers}: expected an encoder of {choice.least} or more layers, found {found}"
        )
    return replace(states, tokens=choice.read(states))


def _total(layers: tuple[Tensor, ...]) -> Tensor:
    total = layers[0]
    for layer in layers[1:]:
        total = total + layer
    return total
