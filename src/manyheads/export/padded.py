"""The network once more over padded tensors, every shape free, as an exporter can trace it.

Knows the encoder's and the heads' parameters and rectangles of tokens. Must not know text, labels, files or formats.
Letters: B sequences, L length of the longest, H hidden size, C outputs of a head.

The network itself reads ragged batches, whose blocks depend on the lengths; here each step is the plain formula.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyheads.encoder.bert import Encoder, States
from manyheads.encoder.layers import Linear, gelu
from manyheads.tasks.head import Head
from manyheads.tasks.heads.answer_network import AnswerNetworkHead
from manyheads.tasks.heads.bilstm import BiLSTMHead
from manyheads.tasks.heads.candidates import CandidatesHead
from manyheads.tasks.heads.cosine import CosineHead
from manyheads.tasks.heads.layer_choice import LAYERS, Layers
from manyheads.tasks.heads.linear import LinearHead
from manyheads.tasks.heads.next_sentence import NextSentenceHead
from manyheads.tasks.heads.pooling import Pooling
from manyheads.tasks.heads.relation import RelationHead
from manyheads.tasks.heads.span import SpanHead
from manyheads.tasks.heads.tokens import TokenHead

__all__ = ["PaddedEncoder", "PaddedNetwork", "Read", "needs_marks", "needs_partner", "outputs_of"]


@dataclass(eq=False)
class Read:
    """What the encoder makes of a padded batch, and the batch itself."""

    layers: tuple[Tensor, ...]
    """L + 1 tensors [B, L, H], the embeddings first."""
    mask: Tensor
    """[B, L] bool: whether there is a token; those of a row come first."""
    segments: Tensor
    """[B, L] segment ids."""
    pooler: nn.Module
    partner: Tensor | None = None
    """[B] which row of the batch is each row's second text, for heads that read pairs apart."""
    marks: Tensor | None = None
    """[B, L] bool: the tokens that answers are about, for heads that read these alone."""

    def chosen(self, layers: Layers) -> Tensor:
        """[B, L, H · width]: the states that a head reads."""
        last = self.layers[-1]
        # The table speaks of rows of tokens; end to end the padded states are such rows too.
        flat = tuple(layer.flatten(0, 1) for layer in self.layers)
        rows = LAYERS[layers].read(States(flat[-1], cast(Any, None), cast(Any, self.pooler), flat))
        return rows.view(last.shape[0], last.shape[1], -1)

    def pooled(self, pooling: Pooling, layers: Layers = "last") -> Tensor:
        """[B, H · width]: the vector of each sequence."""
        x = self.chosen(layers)
        match pooling:
            case "pooled":
                vectors: Tensor = self.pooler(x[:, 0])
                return vectors
            case "cls":
                return x[:, 0]
            case "mean":
                weights = self.mask.to(x.dtype)[:, :, None]
                return (x * weights).sum(1) / weights.sum(1)
            case "last":
                place = self.mask.to(torch.int64).sum(1) - 1
                return x.gather(1, place[:, None, None].expand(-1, 1, x.shape[2]))[:, 0]


class PaddedEncoder(nn.Module):
    """The encoder over padded ids: the same parameters, plain softmax attention with a mask."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor, segments: Tensor) -> tuple[Tensor, ...]:
        """ids, segments [B, L] int64, mask [B, L] bool → L + 1 tensors [B, L, H]; behind a row's tokens anything."""
        own = self.encoder.embeddings
        places = torch.arange(ids.shape[1], device=ids.device)
        x = own.norm(own.word(ids) + own.position(places)[None] + own.segment(segments))
        seen = mask[:, None, None, :]
        if self.encoder.shape.causal:
            seen = seen & (places[None, :] <= places[:, None])[None, None]
        found = [x]
        for layer in self.encoder.layers:
            x = self._layer(cast(Any, layer), x, seen)
            found.append(x)
        return tuple(found)

    def _layer(self, layer: Any, x: Tensor, seen: Tensor) -> Tensor:
        half = layer.attention
        rows, length, hidden = x.shape
        qkv = _linear(half.qkv, x).view(rows, length, 3, half.heads, hidden // half.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(2, 3)) / math.sqrt(q.shape[-1])
        weights = scores.masked_fill(~seen, torch.finfo(x.dtype).min).softmax(-1)
        mixed = (weights @ v).transpose(1, 2).reshape(rows, length, hidden)
        x = half.norm(_linear(half.output, mixed), x)
        wide = gelu(_linear(layer.feedforward.up, x))
        ended: Tensor = layer.feedforward.norm(_linear(layer.feedforward.down, wide), x)
        return ended


def _linear(linear: Linear, x: Tensor) -> Tensor:
    return F.linear(x, linear.weight, linear.bias)


# ---- the heads ----


def _linear_head(head: LinearHead, read: Read) -> Tensor:
    return _of_pairs(head, read) if head.features is not None else _said(head(_vectors(head, read)))


def _of_pairs(head: Any, read: Read) -> Tensor:
    """[B, C]: row i for the pair of row i and its partner."""
    assert read.partner is not None
    u = _vectors(head, read)
    both = torch.stack([u, u.index_select(0, read.partner)], 1).flatten(0, 1)
    return _said(head(both))


def _vectors(head: Any, read: Read) -> Tensor:
    return read.pooled(head.pooling, getattr(head, "layers", "last"))


def _said(rows: Any) -> Tensor:
    assert isinstance(rows, Tensor)
    return rows


def _token_head(head: TokenHead, read: Read) -> Tensor:
    return _linear(head.output, read.chosen(head.layers))


def _span_head(head: SpanHead, read: Read) -> tuple[Tensor, Tensor]:
    scores = F.linear(read.layers[-1], head.vectors)
    return scores[:, :, 0], scores[:, :, 1]


def _candidates_head(head: CandidatesHead, read: Read) -> Tensor:
    return F.linear(read.pooled(head.pooling), head.vector)


def _next_sentence_head(head: NextSentenceHead, read: Read) -> Tensor:
    return _linear(head.output, read.pooled("pooled"))


def _answer_network_head(head: AnswerNetworkHead, read: Read) -> Tensor:
    """The equations of the head's docstring; a row without a second segment says nothing of any worth."""
    x = read.chosen(head.layers)
    first, second = read.mask & (read.segments == 0), read.mask & (read.segments == 1)
    s = _weighed(x, x @ head.begin, second)
    answers = []
    seen = x[:, 0]
    for step in range(head.steps):
        if step != 1:  # x₁ is x₀
            seen = _weighed(x, (x * (s @ head.attend)[:, None]).sum(2), first)
        if step:
            s = head.recur(seen, s)
        features = torch.cat([s, seen, (s - seen).abs(), s * seen], 1)
        answers.append(_linear(head.output, features))
    each = torch.stack(answers, 1)
    if head.numbers:
        return each.mean(1)
    return each.log_softmax(2).logsumexp(1) - math.log(head.steps)


def _weighed(x: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """[B, H]: the sum of the states where the mask is, weighed by the softmax of their scores [B, L]."""
    weights = scores.masked_fill(~mask, torch.finfo(x.dtype).min).softmax(1)
    return (weights[:, :, None] * x).sum(1)


class _PaddedBiLSTM(nn.Module):
    """The two recurrent layers; what reads backwards is a layer of its own over the rows turned round."""

    def __init__(self, head: BiLSTMHead) -> None:
        super().__init__()
        self.layers, self.pool, self.output = head.layers, head.pool, head.output
        self.forwards, self.backwards = nn.ModuleList(), nn.ModuleList()
        for lstm in head.lstms:
            assert isinstance(lstm, nn.LSTM)
            for suffix, into in (("", self.forwards), ("_reverse", self.backwards)):
                one = nn.LSTM(lstm.input_size, lstm.hidden_size, batch_first=True)
                own = {name: lstm.get_parameter(f"{name}{suffix}") for name, _ in one.named_parameters()}
                one.load_state_dict(own)
                into.append(one)

    def forward(self, read: Read) -> Tensor:
        asked = read.mask if self.pool else read.marks
        assert asked is not None
        x = read.chosen(self.layers)
        places = torch.arange(x.shape[1], device=x.device)[None]
        count = asked.to(torch.int64).sum(1, keepdim=True)
        # What is asked comes first in each row, in its order; the rest behind it has no part in the layers.
        order = torch.where(asked, places, places + x.shape[1]).argsort(1)
        turned = torch.where(places < count, count - 1 - places, places)
        x = _taken(x, order)
        for ahead, back in zip(self.forwards, self.backwards, strict=True):
            x = torch.cat([ahead(x)[0], _taken(back(_taken(x, turned))[0], turned)], 2)
        if self.pool:
            x = x.masked_fill((places >= count)[:, :, None], -torch.inf).amax(1)
            return _linear(self.output, x)
        return _taken(_linear(self.output, x), order.argsort(1))


def _taken(x: Tensor, places: Tensor) -> Tensor:
    """[B, L, C]: the rows of each sequence in another order [B, L]."""
    return x.gather(1, places[:, :, None].expand(-1, -1, x.shape[2]))


Restated = Callable[[Any, Read], Tensor | tuple[Tensor, ...]]

RESTATED: dict[type[Head], Restated] = {
    LinearHead: _linear_head,
    CosineHead: _of_pairs,
    RelationHead: _of_pairs,
    TokenHead: _token_head,
    SpanHead: _span_head,
    CandidatesHead: _candidates_head,
    NextSentenceHead: _next_sentence_head,
    AnswerNetworkHead: _answer_network_head,
    BiLSTMHead: lambda head, read: head(read),
}
"""Each head over a padded batch: [B, C] a row, or [B, L, C] (and [B, L]) a token."""


def needs_partner(head: Head) -> bool:
    """Whether the head reads the two texts of a pair in rows of their own."""
    return isinstance(head, CosineHead | RelationHead) or (
        isinstance(head, LinearHead) and head.features is not None
    )


def needs_marks(head: Head) -> bool:
    """Whether the head must know which tokens are asked before it answers."""
    return isinstance(head, BiLSTMHead) and not head.pool


def outputs_of(task: str, head: Head) -> tuple[str, ...]:
    """The names of what the head says for a task."""
    return (f"{task}.start", f"{task}.end") if isinstance(head, SpanHead) else (task,)


class PaddedNetwork(nn.Module):
    """An encoder with heads, in the order of `heads`; the first output is the mean of each sequence's states."""

    def __init__(self, encoder: Encoder, heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.encoder = PaddedEncoder(encoder)
        self.heads = nn.ModuleList(
            _PaddedBiLSTM(head) if isinstance(head, BiLSTMHead) else head for head in heads.values()
        )
        self.restated = [RESTATED[type(head)] for head in heads.values()]
        self.partner = any(map(needs_partner, heads.values()))
        self.marks = any(map(needs_marks, heads.values()))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of what `forward` takes."""
        extra = (("partner",) if self.partner else ()) + (("marks",) if self.marks else ())
        return ("input_ids", "attention_mask", "token_type_ids", *extra)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, *extra: Tensor
    ) -> tuple[Tensor, ...]:
        """[B, L] int64 each; then as `inputs` says `partner` [B] and `marks` [B, L]."""
        mask = attention_mask != 0
        layers = self.encoder(input_ids, mask, token_type_ids)
        more = dict(zip(self.inputs[3:], extra, strict=True))
        marks = more.get("marks")
        read = Read(
            layers,
            mask,
            token_type_ids,
            self.encoder.encoder.pooler,
            more.get("partner"),
            None if marks is None else marks != 0,
        )
        found = [read.pooled("mean")]
        for head, restated in zip(self.heads, self.restated, strict=True):
            said = restated(head, read)
            found += said if isinstance(said, tuple) else (said,)
        return tuple(found)
