"""The interface of a head: what turns the encoder's states into a task's outputs.

Knows states and tensors. Must not know labels, losses, files or recipes.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from manyheads.encoder.bert import States

__all__ = ["Head"]


class Head(nn.Module, ABC):
    """A small module over the encoder's states, one for each task.

    What it reads from the encoder and what it makes of it are apart: where the encoder is frozen, the first is
    computed once.
    """

    @abstractmethod
    def read(self, states: States) -> Tensor:
        """What the head needs of the states, a row for each sequence: [B · k, H], k sequences for each example side
        by side (k = 2 for a pair encoded apart). It has no parameters of the head's."""

    @abstractmethod
    def forward(self, vectors: Tensor) -> Tensor:
        """What `read` gave → outputs for the examples, a row each: [B, outputs]."""
