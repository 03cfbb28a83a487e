"""The network over padded tensors: each head says what it says of the ragged batch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from manyheads.encoder.bert import Encoder, Shape
from manyheads.encoder.ragged import Ragged
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.export.padded import RESTATED, PaddedNetwork, needs_partner, outputs_of
from manyheads.model import Model
from manyheads.tasks.head import plain
from manyheads.tasks.heads import HEADS

LENGTHS = (7, 3, 12, 5)
PARTNER = (1, 0, 3, 2)


def batch(vocabulary: int, width: int) -> tuple[dict[str, torch.Tensor], Ragged]:
    """The same four pairs padded to `width`, what stands behind them random, and ragged; some tokens marked."""
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(5, vocabulary, (4, width), generator=chance)
    mask = torch.arange(width)[None] < torch.tensor(LENGTHS)[:, None]
    segments = (torch.arange(width)[None] >= torch.tensor([4, 2, 6, 1])[:, None]).long()
    marks = torch.rand(4, width, generator=chance) < 0.5
    marks[:, 0] = True
    marks[1] = False  # a sequence of which nothing is asked
    given = {
        "input_ids": ids,
        "attention_mask": mask.long(),
        "token_type_ids": segments,
        "partner": torch.tensor(PARTNER),
        "marks": (marks & mask).long(),
    }
    flat = Ragged.of_flat(ids[mask].numpy(), segments[mask].numpy(), np.array(LENGTHS, dtype=np.int64))
    ragged = Ragged(
        flat.token_ids,
        flat.segment_ids,
        flat.positions,
        flat.lengths,
        marks[mask],
        np.ones(4, dtype=np.int64),
    )
    return given, ragged


def compared(model: Model, width: int) -> dict[str, float]:
    """{output: how far the two lie apart, of the greatest value}."""
    encoder = model.network.encoder
    heads = {name: model.network.head(name) for name in model.tasks}
    padded = PaddedNetwork(encoder, heads).eval()
    given, ragged = batch(encoder.shape.vocabulary, width)
    apart: dict[str, float] = {}
    with torch.inference_mode():
        states = encoder.encode(ragged, all_layers=True)
        said = iter(padded(*(given[name] for name in padded.inputs)))
        apart["embedding"] = float((next(said) - states.mean()).abs().max())
        for name, head in heads.items():
            read = head.read(states)
            if needs_partner(head):
                read = torch.stack([read, read[list(PARTNER)]], 1).flatten(0, 1)
            rows = plain(head(read))
            outputs = outputs_of(name, head)
            for number, output in enumerate(outputs):
                found = next(said)
                if found.shape[:2] == (4, width):
                    found = found[given["marks"] != 0]
                wanted = rows if len(outputs) == 1 else rows[:, number]
                assert found.shape == wanted.shape, output
                assert wanted.std() > 1e-3, output  # something to compare
                apart[output] = float((found - wanted).abs().max() / wanted.abs().max())
    return apart


def test_every_head_is_restated_or_as_wide_as_the_vocabulary() -> None:
    assert set(HEADS.values()) - set(RESTATED) == {HEADS["masked_lm"]}


@pytest.mark.parametrize("width", [12, 17])
def test_padded_and_ragged_say_the_same(every: Model, width: int) -> None:
    apart = compared(every, width)
    assert set(apart) == {"embedding", "where.start", "where.end", *every.tasks} - {"where"}
    assert max(apart.values()) < 1e-4, apart


@pytest.mark.parametrize("layers", ["embeddings", "second_to_last", "sum_last_four", "concat_last_four"])
@pytest.mark.parametrize("causal", [False, True])
def test_other_layers_and_causal_attention(
    build: Callable[..., Model], tiny: Any, layers: str, causal: bool
) -> None:
    torch.manual_seed(0)
    encoder = Encoder(
        Shape(layers=4, hidden=32, heads=2, intermediate=48, vocabulary=90, positions=40, causal=causal)
    ).eval()
    with torch.no_grad():
        for parameter in encoder.layers.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    text = {"kind": "classification", "text": "text", "labels": ("a", "b")}
    facts = {"labels": ("O", "B-X", "I-X"), "scheme": "iob2"}
    sections = {
        "mean": {**text, "pooling": "mean", "layers": layers},
        "last": {**text, "pooling": "last"},
        "tags": {"kind": "tagging", "facts": facts, "layers": layers},
        "recur": {**text, "head": "bilstm", "width": 5, "layers": layers},
    }
    tokenizer = Tokenizer.from_pretrained(tiny.folder / "bert")
    apart = compared(build(encoder, tokenizer, sections), 14)
    assert max(apart.values()) < 1e-4, apart
