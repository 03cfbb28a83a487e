"""Each head answers the same where the encoder computes only the last states that the head says it reads."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from manyheads.encoder.bert import Encoder, Shape
from manyheads.encoder.ragged import Ragged
from manyheads.encoder.reading import Reading, rows_read
from manyheads.tasks.head import Head, plain
from manyheads.tasks.heads import HEADS
from manyheads.tasks.heads.answer_network import AnswerNetworkHead
from manyheads.tasks.heads.bilstm import BiLSTMHead
from manyheads.tasks.heads.candidates import CandidatesHead
from manyheads.tasks.heads.cosine import CosineHead
from manyheads.tasks.heads.linear import LinearHead
from manyheads.tasks.heads.masked_lm import MaskedLMHead
from manyheads.tasks.heads.next_sentence import NextSentenceHead
from manyheads.tasks.heads.relation import Relation, RelationHead
from manyheads.tasks.heads.span import SpanHead
from manyheads.tasks.heads.tokens import TokenHead

H = 8
MAKE: dict[str, Callable[[Encoder], Head]] = {
    "answer_network": lambda _: AnswerNetworkHead(H, 2, dropout=0.0),
    "bilstm, marked": lambda _: BiLSTMHead(H, 3, pool=False, width=4, dropout=0.0),
    "bilstm, pooled": lambda _: BiLSTMHead(H, 3, pool=True, width=4, dropout=0.0),
    "candidates": lambda _: CandidatesHead(H, pooling="pooled", dropout=0.0),
    "cosine": lambda _: CosineHead(pooling="cls"),
    "cosine, mean": lambda _: CosineHead(pooling="mean"),
    "linear, pooled": lambda _: LinearHead(H, 3, pooling="pooled", dropout=0.0),
    "linear, last": lambda _: LinearHead(H, 3, pooling="last", dropout=0.0),
    "masked_lm": lambda encoder: MaskedLMHead(encoder.embeddings.word, eps=1e-12),
    "next_sentence": lambda _: NextSentenceHead(H),
    "relation": lambda _: RelationHead(Relation(H, 0.01), 1, pooling="cls", dropout=0.0),
    "relation, mean": lambda _: RelationHead(Relation(H, 0.01), 1, pooling="mean", dropout=0.0),
    "span": lambda _: SpanHead(H, dropout=0.0),
    "tokens": lambda _: TokenHead(H, 3, dropout=0.0),
}


def test_every_head_is_tried() -> None:
    assert {name.split(",")[0] for name in MAKE} == set(HEADS)


@pytest.mark.parametrize("name", MAKE)
def test_a_head_reads_what_it_says(name: str) -> None:
    torch.manual_seed(1)
    encoder = Encoder(Shape(layers=2, hidden=H, heads=2, intermediate=16, vocabulary=20, positions=8)).eval()
    head = MAKE[name](encoder).eval()
    ragged = Ragged.of(
        [[1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11, 12], [13, 14]],
        [[0, 0, 1, 1, 1], [0, 0, 1], [0, 1, 1, 1], [0, 1]],
    )
    marks = torch.zeros(14, dtype=torch.bool)
    marks[[1, 3, 6, 9, 13]] = True
    ragged = replace(ragged, marks=marks, counts=np.array([2, 2]))
    rows = rows_read(ragged.lengths, [Reading(head.reads, np.arange(4), marks.numpy())])
    assert (rows is None) == (head.reads == "tokens")
    some = None if rows is None else torch.from_numpy(rows)
    with torch.no_grad():
        wanted = plain(head(head.read(encoder.encode(ragged))))
        found = plain(head(head.read(encoder.encode(ragged, rows=some))))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
