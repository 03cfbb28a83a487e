"""A small encoder's states without an encoder: heads and kinds see no more than this."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from manyheads.encoder.bert import Pooler, States
from manyheads.encoder.ragged import Ragged

WIDTH = 6


@pytest.fixture
def make_states() -> Callable[..., States]:
    """States of sequences of the given lengths, float64 and at random (or as given), of width 6."""

    def make(*lengths: int, tokens: Tensor | None = None) -> States:
        generator = torch.Generator().manual_seed(sum(lengths))
        ragged = Ragged.of([[1] * length for length in lengths])
        if tokens is None:
            tokens = torch.randn(sum(lengths), WIDTH, generator=generator, dtype=torch.float64)
        pooler = Pooler(WIDTH)
        torch.nn.init.normal_(pooler.dense.weight, generator=generator)
        return States(tokens, ragged, pooler.double().requires_grad_(False))

    return make
