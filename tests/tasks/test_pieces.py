"""An example of many sequences goes through the encoder in pieces, and says what it says whole."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from manyheads.data.encode import encode_rows
from manyheads.data.read import Row
from manyheads.encoder.bert import Encoder, States
from manyheads.encoder.ragged import Ragged
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.model import Model, Network, Task
from manyheads.tasks import KINDS
from manyheads.tasks.head import Rows, plain
from manyheads.training.evaluate import outputs_of
from manyheads.training.splits import Split

if TYPE_CHECKING:
    from tests.conftest import Tiny

LONG = " ".join(["the good film was a fine and bad story"] * 300)
KIND: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "where": (
        {"kind": "span", "max_length": 48, "question_length": 8, "stride": 24},
        {"no_answer": True, "threshold": 0.0},
    ),
    "names": ({"kind": "tagging"}, {"labels": ["O", "B-X", "I-X"], "scheme": "iob2"}),
    "read": (
        {"kind": "tagging", "head": "bilstm", "width": 8},
        {"labels": ["O", "B-X", "I-X"], "scheme": "iob2"},
    ),
    "best": ({"kind": "ranking", "query": "q", "candidates": "c"}, {}),
}
INPUTS: dict[str, list[dict[str, Any]]] = {
    "where": [{"question": "the film", "context": text} for text in ("a film", LONG, "bad", LONG[:5000])],
    "names": [{"words": text.split() * 3} for text in ("a film", LONG, "bad")],
    "best": [{"q": "the", "c": ["a film", *LONG.split()] * many} for many in (1, 3, 1)],
}
INPUTS["read"] = INPUTS["names"]


@pytest.mark.parametrize("name", KIND)
def test_in_pieces_as_whole(tiny: "Tiny", monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    settings, facts = KIND[name]
    made = KINDS[settings["kind"]]
    task = Task(name, made(made.Settings(**settings), facts), 48)
    encoder = Encoder.from_pretrained(tiny.folder / "bert")
    tokenizer = Tokenizer.from_pretrained(tiny.folder / "bert")
    network = Network(encoder, {name: task.kind.build_head(32, 0.0)}).double()
    model = Model(network, tokenizer, [task], "float64")
    inputs = [task.kind.input(values) for values in INPUTS[name]]
    with torch.no_grad():
        ragged = Ragged.of_layout(task.kind.lay(inputs, tokenizer, 48))
        at_once: Rows = network(ragged, [(name, 0, len(ragged))])[0]
    passes: list[int] = []
    encode = Encoder.encode

    def watched(self: Encoder, ragged: Ragged, **more: Any) -> States:
        passes.append(ragged.tokens)
        return encode(self, ragged, **more)

    monkeypatch.setattr(Encoder, "encode", watched)
    predicted, _ = model.outputs(name, inputs)
    rows = encode_rows(
        [("x", lambda: iter([Row(n, None, one) for n, one in enumerate(INPUTS[name], 1)]))],
        kind=task.kind,
        target=None,
        tokenizer=tokenizer,
        max_length=48,
    )
    done: list[int] = []
    scored = outputs_of(network, name, Split(rows, None), progress=done.append)
    assert sum(done) == len(inputs)
    assert max(passes) <= 4096 < ragged.tokens
    for found in (predicted, scored):
        torch.testing.assert_close(plain(found), plain(at_once), rtol=1e-9, atol=1e-9)
        assert np.array_equal(found.sizes, at_once.sizes)  # type: ignore[union-attr]
        for counts in (found.counts, at_once.counts):  # type: ignore[union-attr]
            assert (counts is None) == (name == "best")
        if name != "best":
            assert np.array_equal(found.counts, at_once.counts)  # type: ignore[union-attr, arg-type]
