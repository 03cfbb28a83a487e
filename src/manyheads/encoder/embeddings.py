"""The ground floor of the encoder: the tables of words, positions and segments, summed and normalised.

Knows token ids, tables and the kernels for them. Must not know layers of attention, checkpoints or tasks.
Letters: T tokens of the batch end to end, H hidden size.
"""

import copy
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from manyheads.encoder.layers import Residual, at_first, draw_seed, dropout, native
from manyheads.encoder.ragged import Ragged
from manyheads.native import elementwise
from manyheads.native.library import Library

__all__ = ["Embeddings", "Keeper"]


class Keeper(Protocol):
    """Who moves a table and may leave rows of it behind until they are read (`formulas.optim.NativeAdamW`)."""

    def refresh(self, weight: Tensor, rows: Tensor) -> None:
        """Bring these rows ([R] int64, each once) up to date."""

    def settle(self, weight: Tensor | None = None) -> None:
        """Bring all rows up to date."""


class _Kept(dict[str, Any]):
    """A module's parameters, brought up to date before anybody takes them out: whatever goes through the module
    (its attributes, `parameters()`, `state_dict()`, copies) sees all rows as they should be."""

    def __init__(self, parameters: dict[str, Any], keeper: Keeper) -> None:
        super().__init__(parameters)
        self._keeper = keeper

    def _settled(self) -> None:
        for one in super().values():
            self._keeper.settle(one)

    def __getitem__(self, name: str) -> Any:
        self._settled()
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._settled()
        return super().get(name, default)

    def items(self) -> Any:
        self._settled()
        return super().items()

    def values(self) -> Any:
        self._settled()
        return super().values()

    def as_it_is(self, name: str) -> Tensor:
        """The parameter with rows that may be behind."""
        found: Tensor = super().__getitem__(name)
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return copy.deepcopy(dict(self.items()), memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self.items()),)


class Embeddings(nn.Module):
    """LayerNorm(token + position + segment), then dropout. Ids [T] → [T, H].

    With a keeper the words' gradient comes by rows, those of the batch alone, and before they are read the keeper is
    told; all who come to the table on another way find it settled.
    """

    def __init__(
        self, vocabulary: int, positions: int, segments: int, hidden: int, eps: float, dropout: float
    ) -> None:
        super().__init__()
        self.word, self.position, self.segment = (
            nn.Embedding(rows, hidden, _weight=at_first(rows, hidden))
            for rows in (vocabulary, positions, segments)
        )
        self.norm = nn.LayerNorm(hidden, eps=eps)
        self.dropout = dropout
        self.compute: torch.dtype | None = None
        """The dtype of the products that read the result; None: the parameters' own."""
        self._keeper: Keeper | None = None

    def keep(self, keeper: Keeper | None) -> None:
        """Leave the table of words to `keeper`, or to nobody any more."""
        self._keeper = keeper
        parameters = dict(self.word._parameters.items())  # from a former keeper settled
        self.word._parameters = parameters if keeper is None else _Kept(parameters, keeper)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_keeper": None}

    def _words(self) -> Tensor:
        """The table, some of whose rows may be behind."""
        parameters = self.word._parameters
        return parameters.as_it_is("weight") if isinstance(parameters, _Kept) else self.word.weight

    def forward(self, ragged: Ragged, words: Tensor | None = None) -> Residual:
        """`words` [T, H], where given, stands in for the word vectors of the token ids."""
        table = self._words() if words is None else words
        kernels = native(table, self.norm.weight)
        if kernels is None or not table.dtype is self.norm.weight.dtype is torch.float32:
            words = self.word(ragged.token_ids) if words is None else words
            summed = words + self.position(ragged.positions) + self.segment(ragged.segment_ids)
            exact = dropout(self.norm(summed), self.dropout, self.training)
            return Residual(exact, exact)
        share = self.dropout if self.training else 0.0
        distinct = None
        if words is None and self._keeper is not None:
            distinct = torch.unique(ragged.token_ids, return_inverse=True)
            self._keeper.refresh(table, distinct[0])
        exact, low = _Embed.apply(  # type: ignore[no-untyped-call]
            table,
            self.position.weight,
            self.segment.weight,
            self.norm.weight,
            self.norm.bias,
            ragged.token_ids.long() if words is None else None,
            ragged.positions.long(),
            ragged.segment_ids.long(),
            (self.norm.eps, share, draw_seed() if share else 0, self.compute is torch.bfloat16),
            distinct,
            kernels,
        )
        return Residual(exact, exact if low is None else low)


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        words: Tensor,
        positions: Tensor,
        segments: Tensor,
        weight: Tensor,
        bias: Tensor,
        ids: Tensor | None,
        places: Tensor,
        kinds: Tensor,
        settings: tuple[float, float, int, bool],
        distinct: tuple[Tensor, Tensor] | None,
        kernels: Library,
    ) -> tuple[Tensor, Tensor | None]:
        eps, share, seed, low = settings
        tables = words.contiguous(), positions, segments
        exact, rounded, stats = elementwise.embed(
            kernels, *tables, ids, places, kinds, weight, bias, eps, share, seed, low
        )
        ctx.save_for_backward(*tables, ids, places, kinds, weight, stats)
        ctx.set_materialize_grads(False)
        ctx.drawn, ctx.kernels, ctx.distinct = (share, seed), kernels, distinct
        return exact, rounded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor | None, above_low: Tensor | None) -> tuple[Tensor | None, ...]:
        *tables, ids, places, kinds, weight, stats = ctx.saved_tensors
        above, above_low = (None if one is None else one.contiguous() for one in (above, above_low))
        rows, sums = elementwise.embed_backward(
            ctx.kernels,
            tables[0],
            tables[1],
            tables[2],
            ids,
            places,
            kinds,
            weight,
            stats,
            above,
            above_low,
            *ctx.drawn,
        )
        of_tables: list[Tensor | None] = [None, None, None]
        for number, where in enumerate((ids, places, kinds)):
            if not ctx.needs_input_grad[number]:
                continue
            if where is None:
                of_tables[number] = rows
            elif number == 0 and ctx.distinct is not None:
                which, inverse = ctx.distinct
                values = elementwise.scatter(ctx.kernels, rows, inverse, len(which))
                of_tables[number] = torch.sparse_coo_tensor(
                    which[None], values, tables[0].shape, is_coalesced=True, check_invariants=False
                )
            else:
                of_tables[number] = elementwise.scatter(ctx.kernels, rows, where, len(tables[number]))
        return *of_tables, sums[0], sums[1], None, None, None, None, None, None
