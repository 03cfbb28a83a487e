"""BERT, top to bottom as in Figure 1 of Devlin et al. 2019: embeddings, layers of attention and feed-forward, pooler.

Knows tensors, ragged batches and shapes. Must not know foreign parameter names (checkpoint.py), text, tasks.
Letters: B sequences, L length of the longest, T tokens of the batch end to end, H hidden size.
"""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from manyheads.encoder import checkpoint
from manyheads.encoder.attention import attention_weights, choose_backend
from manyheads.encoder.embeddings import Embeddings
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layers import AddNorm, Linear, Residual
from manyheads.encoder.layout import spread
from manyheads.encoder.products import by_onednn
from manyheads.encoder.ragged import Ragged, kept, pad, pad_square
from manyheads.encoder.sources import resolve
from manyheads.encoder.stack import Stack
from manyheads.errors import InputError

__all__ = ["Encoder", "EncoderOutput", "Shape", "States"]


@dataclass(frozen=True)
class Shape:
    """The sizes that fix an encoder's parameters, and what else its config.json says of its arithmetic."""

    layers: int = 12
    hidden: int = 768
    heads: int = 12
    intermediate: int = 3072
    vocabulary: int = 30522
    positions: int = 512
    segments: int = 2
    eps: float = 1e-12
    causal: bool = False
    """A token sees itself and what stands before it in its sequence; otherwise all of its sequence."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.name != "causal" and not getattr(self, each.name) > 0:
                raise InputError(
                    f"encoder size: {each.name} must be above 0, found {getattr(self, each.name)}"
                )
        if self.hidden % self.heads:
            raise InputError(
                f"encoder size: hidden ({self.hidden}) must be a multiple of heads ({self.heads})"
            )


@dataclass(eq=False)
class States:
    """What the encoder makes of a ragged batch: one state a token, and the vectors drawn from them.

    `tokens` is [T, H], the last layer's states end to end; `layers` holds the L + 1 states [T, H] from the
    embeddings up when they were asked for.
    """

    tokens: Tensor
    ragged: Ragged
    pooler: "Pooler"
    layers: tuple[Tensor, ...] = ()
    causal: bool = False
    """Whether a token's state is made of what stands before it alone."""

    def first(self) -> Tensor:
        """[B, H]: the state of each sequence's first token, [CLS]; InputError where it is the same in every text."""
        if self.causal:
            raise InputError(
                "attention is causal, so [CLS] has seen nothing but itself; expected another vector of the text, such "
                "as 'pooling: mean'"
            )
        return self.tokens.index_select(0, self.ragged.starts)

    def last(self) -> Tensor:
        """[B, H]: the state of each sequence's last token, [SEP]; with causal attention, too, it has seen all of it."""
        lengths = torch.from_numpy(self.ragged.lengths).to(self.tokens.device)
        return self.tokens.index_select(0, self.ragged.starts + lengths - 1)

    def mean(self) -> Tensor:
        """[B, H]: the mean over all tokens of each sequence, [CLS] and [SEP] included."""
        owners = self.ragged.sequence_of_token
        total = self.tokens.new_zeros(len(self.ragged), self.tokens.shape[1]).index_add(
            0, owners, self.tokens
        )
        lengths = torch.from_numpy(self.ragged.lengths).to(total.device, total.dtype)
        return total / lengths[:, None]

    def pooled(self) -> Tensor:
        """[B, H]: tanh of a linear map of the first token's state."""
        vectors: Tensor = self.pooler(self.first())
        return vectors

    def marked(self) -> Grouped:
        """[M, H]: the states of the marked tokens, a group a sequence."""
        assert self.ragged.marks is not None
        return Grouped(self.tokens[self.ragged.marks], self.ragged.marked, self.ragged.counts)

    def of_sequences(self, begin: int, end: int) -> "States":
        """The states of sequences `begin` up to `end` alone, which are whole examples."""
        if begin == 0 and end == len(self.ragged):
            return self
        whole = self.ragged
        first, last = int(whole.lengths[:begin].sum()), int(whole.lengths[:end].sum())
        counts = whole.counts
        if counts is not None:
            ends = np.cumsum(counts)
            counts = counts[np.searchsorted(ends, begin, side="right") : np.searchsorted(ends, end) + 1]
        part = Ragged(
            whole.token_ids[first:last],
            whole.segment_ids[first:last],
            whole.positions[first:last],
            whole.lengths[begin:end],
            None if whole.marks is None else whole.marks[first:last],
            counts,
        )
        layers = tuple(layer[first:last] for layer in self.layers)
        return States(self.tokens[first:last], part, self.pooler, layers, self.causal)

    def select(
        self, which: NDArray[np.int64], marks: Tensor | None, counts: NDArray[np.int64] | None
    ) -> "States":
        """The states of some sequences, in that order, with the marks and examples of whoever asks."""
        whole = self.ragged
        if len(which) == len(whole) and bool((which == np.arange(len(whole))).all()):
            return replace(self, ragged=replace(whole, marks=marks, counts=counts))
        tokens = torch.from_numpy(spread(whole.lengths, which)).to(self.tokens.device)
        part = replace(whole.select(which), marks=marks, counts=counts)
        layers = tuple(layer.index_select(0, tokens) for layer in self.layers)
        return States(self.tokens.index_select(0, tokens), part, self.pooler, layers, self.causal)


@dataclass(frozen=True, eq=False)
class EncoderOutput:
    """The answer of the padded call, named as in transformers."""

    last_hidden_state: Tensor
    """[B, L, H]; places that the mask leaves out are zero."""
    pooler_output: Tensor
    """[B, H]"""
    hidden_states: tuple[Tensor, ...] | None = None
    """Number of layers + 1 tensors [B, L, H], the embeddings first."""
    attentions: tuple[Tensor, ...] | None = None
    """One tensor [B, heads, L, L] a layer."""


class Attention(nn.Module):
    """Multi-head self-attention and the end of its half layer. [T, H] → [T, H]."""

    def __init__(
        self, hidden: int, heads: int, eps: float, dropout: float, attention_dropout: float, causal: bool
    ) -> None:
        super().__init__()
        self.qkv = Linear(hidden, 3 * hidden)
        self.output = Linear(hidden, hidden)
        self.norm = AddNorm(hidden, eps, dropout)
        self.heads = heads
        self.dropout = attention_dropout
        self.causal = causal
        self.backend = choose_backend()

    def forward(
        self, x: Residual, ragged: Ragged, weights: list[Tensor] | None = None, rows: Tensor | None = None
    ) -> Residual:
        """Where `weights` is a list, the padded attention weights are appended to it. With `rows` [R] the states of
        these tokens alone, [R, H]."""
        qkv = self.qkv(x.low).view(len(x.low), 3, self.heads, -1)
        if weights is not None:
            weights.append(attention_weights(qkv, ragged, self.causal))
        mixed = self.backend(qkv, ragged, self.dropout if self.training else 0.0, self.causal)
        mixed, exact = mixed.flatten(1), x.exact
        if rows is not None:
            mixed, exact = mixed.index_select(0, rows), exact.index_select(0, rows)
        return self.norm.stream(self.output(mixed), exact)


class FeedForward(nn.Module):
    """Two linear maps with GELU between, and the end of the half layer. [T, H] → [T, H]."""

    def __init__(self, hidden: int, intermediate: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.up = Linear(hidden, intermediate)
        self.down = Linear(intermediate, hidden)
        self.norm = AddNorm(hidden, eps, dropout)

    def forward(self, x: Residual) -> Residual:
        return self.norm.stream(self.down(self.up.then_gelu(x.low)), x.exact)


class Layer(nn.Module):
    """One post-LN layer of the encoder. [T, H] → [T, H]."""

    def __init__(
        self,
        hidden: int,
        heads: int,
        intermediate: int,
        eps: float,
        dropout: float,
        attention_dropout: float,
        causal: bool,
    ) -> None:
        super().__init__()
        self.attention = Attention(hidden, heads, eps, dropout, attention_dropout, causal)
        self.feedforward = FeedForward(hidden, intermediate, eps, dropout)

    def forward(
        self, x: Residual, ragged: Ragged, weights: list[Tensor] | None = None, rows: Tensor | None = None
    ) -> Residual:
        """With `rows` [R] only these tokens' states are computed; the others' are zero."""
        states: Residual = self.feedforward(self.attention(x, ragged, weights, rows))
        if rows is None:
            return states
        exact = states.exact.new_zeros(x.exact.shape).index_copy(0, rows, states.exact)
        return Residual(exact, exact)


class Pooler(nn.Module):
    """tanh(W c + b) of the first token's state c. [B, H] → [B, H]."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.dense = Linear(hidden, hidden)

    def forward(self, first: Tensor) -> Tensor:
        return torch.tanh(self.dense(first))


class Encoder(nn.Module):
    """The BERT encoder.

    `encode` reads a ragged batch; calling the module reads padded tensors as transformers' BertModel does.
    """

    def __init__(self, shape: Shape, dropout: float = 0.1, attention_dropout: float | None = None) -> None:
        super().__init__()
        self.shape = shape
        share = dropout if attention_dropout is None else attention_dropout
        self.embeddings = Embeddings(
            shape.vocabulary, shape.positions, shape.segments, shape.hidden, shape.eps, dropout
        )
        self.layers = nn.ModuleList(
            Layer(shape.hidden, shape.heads, shape.intermediate, shape.eps, dropout, share, shape.causal)
            for _ in range(shape.layers)
        )
        self.pooler = Pooler(shape.hidden)
        self._stack = Stack()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        causal: bool | None = None,
    ) -> Self:
        """The encoder of a Hugging Face BERT folder, a hub name, a run folder, or "minilm", in float32, eval mode.

        With `causal` its weights are used with causal attention, or without it, whatever they were trained with.
        Raises InputError where the files are missing, damaged, or do not fit the config.
        """
        folder = resolve(name)
        shape = Shape(**checkpoint.read_shape(folder))
        if causal is not None:
            shape = replace(shape, causal=causal)
        with torch.device("meta"):
            encoder = cls(shape, dropout, attention_dropout)
        checkpoint.load(encoder, folder)
        return encoder.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, which transformers' AutoModel loads with equal outputs."""
        checkpoint.save(self, asdict(self.shape), Path(folder))

    @property
    def device(self) -> torch.device:
        """Where the parameters lie; to ask the first of them would bring the table of words up to date."""
        return self.pooler.dense.weight.device

    def use(self, *, compute: torch.dtype | None = None, attention: str | None = None) -> Self:
        """Choose the dtype of the layers' matrix products (None: the parameters' own) and the attention backend."""
        backend = choose_backend(attention)
        for module in self.layers.modules():
            if isinstance(module, Linear):
                module.compute = compute
            elif isinstance(module, Attention):
                module.backend = backend
        self.embeddings.compute = compute
        return self

    def encode(
        self,
        ragged: Ragged,
        *,
        all_layers: bool = False,
        words: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> States:
        """The states of a ragged batch; `words` [T, H] may stand in for the word vectors (SMART, explanations).

        `rows` [R] are the tokens whose last states are read, where that is known (`reading.rows_read`): what the last
        layer does to each token by itself is done for them alone, and the last states of the others are zero.
        """
        whole = self._filled(ragged)
        if words is not None and whole is not ragged:
            words = torch.cat([words, words.new_zeros(whole.tokens - ragged.tokens, words.shape[1])])
        x: Residual = self.embeddings(whole, words)
        if self.training or torch.is_grad_enabled():
            self._stack.forget()  # whoever trains moves the weights behind its back
        elif not all_layers and (last := self._stack.run(self.layers, x, whole, rows)) is not None:
            return States(last, ragged, self.pooler, (), self.shape.causal)
        kept = [x.exact] if all_layers else []
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x, whole, rows=rows if number == len(self.layers) else None)
            if all_layers:
                kept.append(x.exact)
        tokens, *layers = (one[: ragged.tokens] for one in (x.exact, *kept))
        return States(tokens, ragged, self.pooler, tuple(layers), self.shape.causal)

    def _filled(self, ragged: Ragged) -> Ragged:
        """The batch, in training where oneDNN multiplies with sequences behind it that nobody reads, up to one of 16
        numbers of rows an octave.

        oneDNN makes a new program for each product whose number of rows it has not met, which costs about as much as
        the product; of ragged batches hardly two have the same.
        """
        step = 1 << max(0, (ragged.tokens // 16).bit_length() - 1)
        rows = -ragged.tokens % step
        dtype = self.embeddings.compute or self.embeddings.norm.weight.dtype
        if not rows or not self.training or not by_onednn(dtype, ragged.device):
            return ragged
        lengths = np.full(-(-rows // ragged.max_seqlen), ragged.max_seqlen)
        lengths[-1] = rows - lengths[:-1].sum()
        zeros = ragged.token_ids.new_zeros(rows)
        return Ragged(
            torch.cat([ragged.token_ids, zeros]),
            torch.cat([ragged.segment_ids, zeros]),
            torch.cat([ragged.positions, zeros]),
            np.concatenate([ragged.lengths, lengths]),
        )

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> EncoderOutput:
        """The padded call of transformers' BertModel: [B, L] ids, or [B, L, H] word vectors, in."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("expected either input_ids or inputs_embeds")
        places = inputs_embeds[..., 0].detach().long() * 0 if input_ids is None else input_ids  # type: ignore[index]
        ragged = Ragged.of_padded(places, attention_mask, token_type_ids, position_ids)
        ragged.check(self.shape.vocabulary, self.shape.positions, self.shape.segments)
        if self.training or torch.is_grad_enabled():
            self._stack.forget()
        keep = kept(attention_mask, places.shape[0], places.shape[1], places.device)
        weights: list[Tensor] | None = [] if output_attentions else None
        x = self.embeddings(ragged, None if inputs_embeds is None else inputs_embeds[keep])
        states = [x.exact]
        for layer in self.layers:
            x = layer(x, ragged, weights)
            states.append(x.exact)
        return EncoderOutput(
            pad(x.exact, keep),
            self.pooler(x.exact.index_select(0, ragged.starts)),
            tuple(pad(each, keep) for each in states) if output_hidden_states else None,
            None if weights is None else tuple(pad_square(each, keep) for each in weights),
        )
