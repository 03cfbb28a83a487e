"""Operations of a step against torch's own count of them, and what is told of the machine."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import manyheads as mh
from manyheads.encoder import products
from manyheads.encoder.bert import Encoder, Shape
from manyheads.encoder.layout import Layout
from manyheads.encoder.ragged import Ragged
from manyheads.model import Network
from manyheads.tasks.heads.masked_lm import MaskedLMHead
from manyheads.tasks.masked import MaskedLM, MaskedLMSettings
from manyheads.training.objective import Part
from manyheads.training.throughput import operations, possible

if TYPE_CHECKING:
    from tests.conftest import Tiny


def test_operations_are_those_that_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences of equal lengths, where no padding is computed: torch's count of all products, forward and backward.
    The counter does not see what kernels and oneDNN multiply, so all products are torch's here."""
    monkeypatch.setenv("MANYHEADS_ATTENTION", "torch")
    monkeypatch.setattr(products, "_beats_mkl", lambda: False)
    shape = Shape(layers=2, hidden=32, heads=2, intermediate=48, vocabulary=50, positions=40)
    encoder = Encoder(shape, dropout=0.0)
    network = Network(encoder, {"mlm": MaskedLMHead(encoder.embeddings.word, eps=1e-12)})
    lengths = np.full(6, 20, dtype=np.int32)
    marks = np.zeros(120, np.bool_)
    marks[5::9] = True
    layout = Layout(
        np.full(120, 7, np.int32), np.zeros(120, np.uint8), lengths, 0 * lengths, np.ones(6, np.int32), marks
    )
    ragged = Ragged.of_layout(layout)
    targets = torch.full((int(marks.sum()),), 7.0, dtype=torch.float64)
    part = Part("mlm", MaskedLM(MaskedLMSettings()), 0, 6, targets)
    with FlopCounterMode(display=False) as counter:
        (said,) = network(ragged, [("mlm", 0, 6)])
        torch.autograd.backward(part.kind.loss(said, targets))
    assert counter.get_total_flops() == pytest.approx(operations(network, ragged, [part]), rel=0.01)


def test_what_is_possible_is_measured_once() -> None:
    found = possible("cpu", torch.float32)
    assert found == possible("cpu", torch.float32)
    assert found[1] == "measured"
    assert found[0] > 1e8  # a tenth of a billion operations a second: any machine since 2000


def test_the_log_tells_how_fast_and_how_much_of_what_is_possible(tiny: "Tiny", tmp_path: Path) -> None:
    text = "\n\n".join(f"the film was {word}\na {word} film and a dull one" for word in ("good", "bad") * 8)
    (tmp_path / "corpus.txt").write_text(text, encoding="utf-8")
    section = {"kind": "mlm", "files": {"train": str(tmp_path / "corpus.txt")}, "max_length": 16}
    schedule = {"steps": 4, "batch_size": 8, "evaluate_every": 2}
    recipe = tiny.recipe(tasks={"mlm": section}, mixing={"schedule": "proportional"}, schedule=schedule)
    run = mh.train(mh.Recipe.parse(recipe), tmp_path / "run", quiet=True)
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    start = lines[0]["possible"]
    assert start["from"] == "measured"
    steps = [line for line in lines if line["event"] == "step"]
    told = [line for line in lines if line["event"] == "evaluation"]
    assert len(told) == 2
    for number, one in enumerate(told):
        two = steps[2 * number : 2 * number + 2]
        speed = sum(step["tokens"] for step in two) / sum(step["seconds"] for step in two)
        assert one["tokens_per_second"] == pytest.approx(speed, rel=1e-3)
        assert 0 < one["mfu"] < 1
