"""How cost grows: with the tokens of a batch, the length of a text, the layers, the width and the heads.

No claim, a picture: for each point the microseconds a token of a forward pass and of a training step (forward,
backward; no optimiser), manyheads beside transformers in bfloat16 on the same padded rectangle, whose rows are
all of one length, so that nobody computes on padding. Points take turns within one process, medians over turns;
weights are random.

    python benchmarks/scaling_speed.py
    python benchmarks/scaling_speed.py --turns 1 --most 1024        # does it run at all?
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import record
from side_by_side.machine import describe, machine

VOCABULARY, LABELS = 30522, 5


@dataclass(frozen=True)
class Point:
    """A batch and a model."""

    axis: str
    tokens: int = 4096
    length: int = 32
    layers: int = 6
    hidden: int = 384
    heads: int = 1
    """Task heads."""


def points(most: int) -> Iterator[Point]:
    """Every axis by itself, the others at their middle."""
    for power in range(9, 16):
        yield Point("tokens of a batch", tokens=2**power)
    for power in range(4, 10):
        yield Point("length of a text", length=2**power)
    for layers in (2, 4, 6, 12):
        yield Point("layers", layers=layers)
    for hidden in (128, 256, 384, 768):
        yield Point("width", hidden=hidden)
    for power in range(6):
        yield Point("heads", heads=2**power)


def ours(point: Point, precision: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A forward pass without gradients, and one with its backward, through all heads."""
    import torch

    from manyheads.encoder import precision as numbers
    from manyheads.encoder.bert import Encoder, Shape
    from manyheads.encoder.ragged import Ragged
    from manyheads.model import Network
    from manyheads.tasks.heads.linear import LinearHead

    chosen = numbers.choose(precision)
    torch.manual_seed(0)
    shape = Shape(
        layers=point.layers,
        hidden=point.hidden,
        heads=max(1, point.hidden // 64),
        intermediate=4 * point.hidden,
        vocabulary=VOCABULARY,
    )
    heads = {
        f"head{number}": LinearHead(point.hidden, LABELS, pooling="mean", dropout=0.1)
        for number in range(point.heads)
    }
    network = Network(Encoder(shape), heads).to(chosen.parameters).use(compute=chosen.compute)
    count = point.tokens // point.length
    ids = np.random.default_rng(0).integers(1000, VOCABULARY, (count, point.length))
    # Two of them: what a batch works out about itself in inference mode cannot be used in training.
    read, trained = Ragged.of(ids.tolist()), Ragged.of(ids.tolist())
    parts = [(name, 0, count) for name in heads]

    def forward() -> Any:
        network.eval()
        with torch.inference_mode():
            return network(read, parts)

    def step() -> Any:
        network.train()
        network.zero_grad(set_to_none=True)
        loss = torch.stack([one.float().square().mean() for one in network(trained, parts)]).sum()
        torch.autograd.backward(loss)

    return forward, step


def theirs(point: Point) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The same of transformers: bfloat16 weights in a forward pass, autocast in training."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        num_hidden_layers=point.layers,
        hidden_size=point.hidden,
        num_attention_heads=max(1, point.hidden // 64),
        intermediate_size=4 * point.hidden,
    )
    trained = BertModel(config)
    low: Any = BertModel(config).bfloat16()
    low.eval()
    heads = torch.nn.ModuleList(torch.nn.Linear(point.hidden, LABELS) for _ in range(point.heads))
    low_heads = torch.nn.ModuleList(
        torch.nn.Linear(point.hidden, LABELS) for _ in range(point.heads)
    ).bfloat16()
    count = point.tokens // point.length
    ids = torch.from_numpy(np.random.default_rng(0).integers(1000, VOCABULARY, (count, point.length)))

    def forward() -> Any:
        with torch.inference_mode():
            states = low(input_ids=ids).last_hidden_state.mean(1)
            return [head(states) for head in low_heads]

    def step() -> Any:
        trained.train().zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = trained(input_ids=ids).last_hidden_state.mean(1)
            said = [head(states) for head in heads]
        torch.autograd.backward(torch.stack([one.float().square().mean() for one in said]).sum())

    return forward, step


def measured(point: Point, turns: int) -> dict[str, float]:
    """Median microseconds a token of each contender at a point."""
    contenders = dict(zip(("ours_forward", "ours_step"), ours(point, "auto"), strict=True))
    contenders |= dict(zip(("theirs_forward", "theirs_step"), theirs(point), strict=True))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(turns + 1):  # the first one warms up
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: 1e6 * statistics.median(each) / point.tokens for name, each in seconds.items()}


def main() -> None:
    """All points, the record and the table."""
    said = options()
    about = machine()
    found = []
    for point in points(said.most):
        smaller = replace(point, tokens=max(point.length, min(point.tokens, said.most)))
        found.append({**smaller.__dict__, **measured(smaller, said.turns)})
        print(f"{point.axis}: {found[-1]}", flush=True)
    partial = said.most < 2**15 or said.turns < 5
    name = "scaling_speed" + ("-partial" if partial else "")
    record.write_json(
        said.results / f"{name}.json",
        {"benchmark": "scaling_speed", "turns": said.turns, "machine": about, "points": found},
    )
    fields = {
        "tokens of a batch": "tokens",
        "length of a text": "length",
        "layers": "layers",
        "width": "hidden",
        "heads": "heads",
    }
    names = ("ours_forward", "theirs_forward", "ours_step", "theirs_step")
    rows = [
        [
            one["axis"],
            one[fields[one["axis"]]],
            *(f"{one[name]:.1f}" for name in names),
            *(f"{one[f'theirs_{what}'] / one[f'ours_{what}']:.2f}" for what in ("forward", "step")),
        ]
        for one in found
    ]
    head = ["axis", "", "forward: ours, µs a token", "transformers"]
    head += ["step: ours, µs a token", "transformers", "forward, ×", "step, ×"]
    middle = Point("")
    record.write_text(
        said.results / f"{name}.md",
        f"# How cost grows\n\n{'A partial run: not a result. ' if partial else ''}"
        f"Medians of {said.turns} turns in one process. Where an axis does not say otherwise: {middle.tokens} tokens, "
        f"texts of {middle.length}, {middle.layers} layers of width {middle.hidden}, one head.\n\n"
        f"{record.table(head, rows)}\n{describe(about)}.\n",
    )


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--most", type=int, default=2**15, help="tokens of a batch: to try the script")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the records")
    return parser.parse_args()


if __name__ == "__main__":
    main()
