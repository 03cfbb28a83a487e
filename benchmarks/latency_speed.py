"""Claim: the vector of a single sentence takes at most 0.28 of transformers' time and 0.8 of the best peer's.

One text at a time, string to vector, tokenising included: SST-5 sentences, a fixed draw, the same for every
contender, each in a process of its own and in turn. p50 and p95 are over the sentences of a round; loading and
the first 50 sentences are not counted. The first contender is transformers in float32, whose vectors the
others' are held against.

    python benchmarks/latency_speed.py
    python benchmarks/latency_speed.py --size base
    python benchmarks/latency_speed.py --rows 20 --rounds 1        # does it run at all?
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import command, record
from side_by_side.embedders import EMBEDDERS, embedder, prepared
from side_by_side.machine import describe, machine
from side_by_side.models import SIZES, model_folder
from side_by_side.rounds import ENVIRONMENT, interleaved, median, ratio
from side_by_side.rows import data_folder, drawn, read_table

MAX_LENGTH = 128
WARM_UP, ROWS = 50, 400
CONTENDERS = {
    "transformers": "transformers, float32",
    "transformers_bf16": "transformers, bfloat16",
    "onnxruntime": "onnxruntime, float32",
    "onnxruntime_int8": "onnxruntime, int8 (dynamic)",
    "openvino": "openvino (bf16 where the processor has it)",
    "manyheads": "manyheads, default (bf16 where the processor has it)",
    "manyheads_torch": "manyheads without its native kernels",
}
OURS = ("manyheads", "manyheads_torch")


def contend(options: argparse.Namespace) -> None:
    """What the process of one contender does."""
    import torch

    texts = [row["sentence"] for row in rows_of(options)]
    embed = embedder(options.contender, options.model, options.graphs, 1, MAX_LENGTH)
    for text in texts[:WARM_UP]:
        embed([text])
    seconds, vectors = [], []
    for text in texts:
        began = time.perf_counter()
        found = embed([text])
        seconds.append(time.perf_counter() - began)
        vectors.append(found[0].astype(np.float64))
    mine = np.stack(vectors)
    reference = options.answer.with_name("reference.npy")
    if options.contender == "transformers":
        np.save(reference, mine)
    others = np.load(reference)
    cosines = (mine * others).sum(1) / np.linalg.norm(mine, axis=1) / np.linalg.norm(others, axis=1)
    p50, p95 = (float(np.quantile(seconds, share)) for share in (0.5, 0.95))
    answer: dict[str, Any] = {
        "p50_ms": 1000 * p50,
        "p95_ms": 1000 * p95,
        "a second at p50": 1 / p50,
        "texts": len(texts),
        "threads": torch.get_num_threads(),
        "cosine_least": float(cosines.min()),
    }
    options.answer.write_text(json.dumps(answer), encoding="utf-8")


def rows_of(options: argparse.Namespace) -> list[dict[str, str]]:
    """The sentences, the same for all."""
    rows = read_table(data_folder(options.data) / "sst5/sst5-train.tsv", ["sentence"])
    return drawn(rows, options.rows or ROWS)


def compare(options: argparse.Namespace) -> None:
    """All rounds, the record and the table."""
    data, about = data_folder(options.data), machine()
    with tempfile.TemporaryDirectory(prefix="models-") as folder:
        model = model_folder(options.size, Path(folder) / options.size)
        graphs = prepared(model, Path(folder) / "graphs")
        arguments = ["--data", str(data), "--model", str(model), "--graphs", str(graphs)]
        arguments += ["--rows", str(options.rows)]
        rounds = interleaved(Path(__file__), list(CONTENDERS), options.rounds, arguments, "p50_ms")

    medians = {one: median(rounds, one, "p50_ms") for one in CONTENDERS}
    best = min((one for one in CONTENDERS if one not in OURS), key=medians.__getitem__)
    against = list(dict.fromkeys(["transformers", best]))
    ratios = [ratio(rounds, ours, theirs, "p50_ms") for ours in OURS for theirs in against]
    found = {(one.of, one.to): one for one in ratios}
    # A claim holds when what was measured is at least what is wanted: times a second, not times.
    claims = [
        record.claim(
            f"times as many single sentences a second as {CONTENDERS[theirs]} (p50)",
            ratio(rounds, "manyheads", theirs, "a second at p50").median,
            1 / least,
        )
        for theirs, least in (("transformers", 0.28), (best, 0.8))
    ]
    name = "latency_speed" + ("" if options.size == "minilm" else f"_{options.size}")
    name += "-partial" if command.partial(options) else ""
    texts, threads = rounds[0]["manyheads"]["texts"], rounds[0]["manyheads"]["threads"]
    record.write_json(
        options.results / f"{name}.json",
        {
            "benchmark": "latency_speed",
            "size": options.size,
            "texts": texts,
            "max_length": MAX_LENGTH,
            "threads": threads,
            "environment": ENVIRONMENT,
            "machine": about,
            "contenders": CONTENDERS,
            "median": medians,
            "ratios": [one._asdict() for one in ratios],
            "claims": claims,
            "rounds": rounds,
        },
    )
    rows = [
        [
            told,
            f"{medians[one]:.2f}",
            f"{median(rounds, one, 'p95_ms'):.2f}",
            *(str(found[one, theirs]) if (one, theirs) in found else "" for theirs in against),
            f"{min(answers[one]['cosine_least'] for answers in rounds):.6f}",
        ]
        for one, told in CONTENDERS.items()
    ]
    head = ["contender", "p50, ms", "p95, ms", *(f"p50, of {CONTENDERS[one]}" for one in against)]
    layers, hidden = SIZES[options.size]
    what = "minilm" if options.size == "minilm" else f"a BERT of {layers} × {hidden}, random weights"
    record.write_text(
        options.results / f"{name}.md",
        f"# One sentence at a time with {what}, from string to vector\n\n"
        f"{'A partial run: not a result. ' if command.partial(options) else ''}"
        f"{texts} SST-5 sentences, medians of {options.rounds} rounds in turn; ratios: median (least–greatest) of the "
        f"ratio within a round, below 1 is faster.\n\n{record.table([*head, 'least cosine'], rows)}\n"
        f"{record.told(claims)}\n{threads} threads, at most {MAX_LENGTH} tokens, "
        f"{' '.join(f'{key}={value}' for key, value in ENVIRONMENT.items())} for all. {describe(about)}.\n",
    )


def options() -> argparse.Namespace:
    """The command line; `--contender` is how the script calls itself."""
    parser = command.arguments(__doc__, rounds=5, hidden=("--model", "--graphs"))
    parser.add_argument("--size", choices=SIZES, default="minilm")
    parser.add_argument("--rows", type=int, default=0, help="only so many texts: to try the script")
    parser.add_argument("--contender", choices=EMBEDDERS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    command.run(options(), contend, compare)
