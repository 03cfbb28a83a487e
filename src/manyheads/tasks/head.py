"""The interface of a head: what turns the encoder's states into a task's outputs.

Knows states and tensors. Must not know labels, losses, files or recipes.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from manyheads.encoder.bert import States

__all__ = ["Head"]


class Head(nn.Module, ABC):
    """A small module over the encoder's states, one for each task."""

    @abstractmethod
    def forward(self, states: States) -> Tensor:
        """Outputs for the examples of a batch, a row each: [B, outputs].

        `states` hold k sequences for each example side by side (k = 2 for a pair encoded apart).
        """
