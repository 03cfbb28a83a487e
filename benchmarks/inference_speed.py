"""Claim: embedding is at least 6.5 × as fast as sentence-transformers' torch default and 2.2 × the best graph runner.

From strings to vectors: tokenising, sorting, encoding and mean pooling are counted; loading the model and one warm-up
call on the first 64 texts are not. minilm on all SST-5 training sentences, or with `--size base` a BERT of bert-base's
size with random weights on a part of them, where the claim is 10 × transformers' default.

Every peer is given its best batch size, found before the rounds on some of the texts; the defaults stand beside them.
Vectors are compared by their cosine with the reference's (float32, torch), whose texts are cut at the same length.
`operations` is what share of the processor's bfloat16 products with prepared weights, measured in the same process, the
whole way from strings to vectors reaches.

    python benchmarks/inference_speed.py
    python benchmarks/inference_speed.py --size base
    python benchmarks/inference_speed.py --rows 200 --rounds 1        # does it run at all?
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from side_by_side import command, record
from side_by_side.embedders import EMBEDDERS, Vectors, embedder, prepared
from side_by_side.machine import describe, machine
from side_by_side.models import SIZES, model_folder
from side_by_side.rounds import ENVIRONMENT, interleaved, median, ratio
from side_by_side.rows import data_folder, drawn, read_table

MAX_LENGTH = 256  # the default of minilm in sentence-transformers
WARM_UP = 64
BATCHES = (8, 16, 32, 64, 128)
TUNE, TUNED_ON = "tune", 600  # the name of a try of all batch sizes, and on how many texts
TOLD = {
    "sentence_transformers": "sentence-transformers, torch, float32",
    "sentence_transformers_bf16": "sentence-transformers, torch, bfloat16",
    "transformers": "transformers, float32, in the order of the texts",
    "transformers_bf16": "transformers, bfloat16, sorted by length",
    "onnxruntime": "onnxruntime, float32, sorted by length",
    "onnxruntime_int8": "onnxruntime, int8 (dynamic), sorted by length",
    "openvino": "openvino (bf16 where the processor has it), sorted by length",
    "openvino_float32": "openvino, float32, sorted by length",
    "manyheads": "manyheads, default (bf16 where the processor has it)",
    "manyheads_torch": "manyheads without its native kernels",
    "manyheads_float32": "manyheads, float32",
}
OURS = ("manyheads", "manyheads_torch", "manyheads_float32")
GRAPHS = ("onnxruntime", "onnxruntime_int8", "openvino", "openvino_float32")
PEERS = ("sentence_transformers", "sentence_transformers_bf16", "transformers", "transformers_bf16", *GRAPHS)
# What a user gets who sets nothing; it is also whose vectors are the reference.
DEFAULTS = {"minilm": "sentence_transformers@32", "base": "transformers@32", "tiny": "transformers@32"}
ROWS = {"base": 1500}  # of a size that would take too long on all
CLAIMS = {"minilm": (6.5, 2.2), "base": (10.0, 1.0), "tiny": (1.0, 1.0)}
"""What is claimed over the default, and over the best of the graph runners."""


def contend(options: argparse.Namespace) -> None:
    """What the process of one contender, `name@batch`, does."""
    import torch

    name, _, batch = options.contender.partition("@")
    texts = texts_of(options)
    if batch == TUNE:
        some = drawn_texts(texts, TUNED_ON)
        each = {}
        for size in BATCHES:
            embed = embedder(name, options.model, options.graphs, size, MAX_LENGTH)
            embed(texts[:WARM_UP])
            each[size] = timed(embed, some)[1]
        best = max(each, key=each.__getitem__)
        told = {"texts/s": each[best], "batch": best, "each": each}
        options.answer.write_text(json.dumps(told), encoding="utf-8")
        return
    embed = embedder(name, options.model, options.graphs, int(batch or 1), MAX_LENGTH)
    embed(texts[:WARM_UP])
    answer: dict[str, Any] = {"texts": len(texts), "threads": torch.get_num_threads()}
    vectors, answer["texts/s"] = timed(embed, texts)
    reference = options.answer.with_name("reference.npy")
    if options.contender == DEFAULTS[options.size]:
        np.save(reference, vectors)
    cosines = cosine(vectors, np.load(reference))
    answer |= {"cosine_mean": float(cosines.mean()), "cosine_least": float(cosines.min())}
    if name == "manyheads":
        seconds = len(texts) / answer["texts/s"]
        answer |= share_of_products(options, texts, seconds)
    options.answer.write_text(json.dumps(answer), encoding="utf-8")


def timed(embed: Any, texts: list[str]) -> tuple[Vectors, float]:
    """The vectors, and texts a second."""
    began = time.perf_counter()
    found = embed(texts)
    return found, len(texts) / (time.perf_counter() - began)


def drawn_texts(texts: list[str], count: int) -> list[str]:
    """Some texts, the same for all."""
    return [row["text"] for row in drawn([{"text": text} for text in texts], count)]


def share_of_products(options: argparse.Namespace, texts: list[str], seconds: float) -> dict[str, float]:
    """Operations a second that were reached, and those of the layers' products alone with prepared weights."""
    import torch

    from manyheads import Tokenizer

    layers, hidden = SIZES[options.size]
    flat = Tokenizer.from_pretrained(options.model).encode_batch(texts, max_length=MAX_LENGTH)
    lengths = np.asarray(flat.lengths, np.float64)
    weights = layers * 12 * hidden**2
    reached = 2.0 * weights * lengths.sum() + 4.0 * layers * hidden * (lengths**2).sum()
    prepare = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
    if prepare is None:
        return {"operations/s": reached / seconds}
    best = np.inf
    with torch.inference_mode():
        up = prepare(torch.randn(4 * hidden, hidden, dtype=torch.bfloat16))
        down = prepare(torch.randn(hidden, 4 * hidden, dtype=torch.bfloat16))
        x = torch.randn(4096, hidden, dtype=torch.bfloat16)
        for _ in range(20):
            began = time.perf_counter()
            wide = torch.ops.mkldnn._linear_pointwise(x, up, None, "none", [], "none")
            torch.ops.mkldnn._linear_pointwise(wide, down, None, "none", [], "none")
            best = min(best, time.perf_counter() - began)
    possible = 2.0 * 4096 * 8 * hidden**2 / best
    return {
        "operations/s": reached / seconds,
        "products/s": possible,
        "share": reached / seconds / possible,
    }


def cosine(a: Vectors, b: Vectors) -> NDArray[np.float64]:
    """The cosine of each row of a [N, H] with that of b, computed in float64: [N]."""
    if a.shape != b.shape:
        raise SystemExit(f"error: vectors of shape {a.shape}, the reference has {b.shape}")
    x, y = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    found: NDArray[np.float64] = (x * y).sum(1) / lengths
    return found


def texts_of(options: argparse.Namespace) -> list[str]:
    """The SST-5 training sentences, or some of them."""
    rows = read_table(data_folder(options.data) / "sst5/sst5-train.tsv", ["sentence"])
    count = options.rows or ROWS.get(options.size, 0)
    return [row["sentence"] for row in (drawn(rows, count) if count else rows)]


def tuned(arguments: list[str]) -> dict[str, str]:
    """Each peer → the contender with its best batch size, on some of the texts."""
    (tries,) = interleaved(Path(__file__), [f"{name}@{TUNE}" for name in PEERS], 1, arguments, "texts/s")
    return {name: f"{name}@{tries[f'{name}@{TUNE}']['batch']}" for name in PEERS}


def compare(options: argparse.Namespace) -> None:
    """The batch sizes, all rounds, the record and the table."""
    data, about = data_folder(options.data), machine()
    default = DEFAULTS[options.size]
    with tempfile.TemporaryDirectory(prefix="models-") as folder:
        model = model_folder(options.size, Path(folder) / options.size)
        graphs = prepared(model, Path(folder) / "graphs")
        arguments = ["--data", str(data), "--model", str(model), "--graphs", str(graphs)]
        arguments += ["--size", options.size, "--rows", str(options.rows)]
        best = tuned(arguments)
        # The default comes first in each round: the others are held against its vectors.
        contenders = list(dict.fromkeys([default, *best.values(), *OURS]))
        rounds = interleaved(Path(__file__), contenders, options.rounds, arguments, "texts/s")

    medians = {one: median(rounds, one, "texts/s") for one in contenders}
    graph = max((best[name] for name in GRAPHS), key=medians.__getitem__)
    fastest = max((one for one in contenders if one not in OURS), key=medians.__getitem__)
    against = list(dict.fromkeys([default, graph, fastest]))
    ratios = [ratio(rounds, ours, theirs, "texts/s") for ours in OURS for theirs in against]
    found = {(one.of, one.to): one for one in ratios}
    least = min(answers["manyheads"]["cosine_least"] for answers in rounds)
    mean = min(answers["manyheads"]["cosine_mean"] for answers in rounds)
    wanted = CLAIMS[options.size]
    claims = [
        record.claim(f"manyheads / {shown(default)}, texts/s", found["manyheads", default].median, wanted[0]),
        record.claim(f"manyheads / {shown(graph)}, texts/s", found["manyheads", graph].median, wanted[1]),
        record.claim("mean cosine with the reference's vectors", mean, 0.9999),
        record.claim("least cosine with the reference's vectors", least, 0.9995),
    ]
    if all("share" in answers["manyheads"] for answers in rounds):
        claims.append(
            record.claim(
                "share of the rate of bfloat16 products with prepared weights",
                median(rounds, "manyheads", "share"),
                0.5,
            )
        )
    name = "inference_speed" + ("" if options.size == "minilm" else f"_{options.size}")
    name += "-partial" if command.partial(options) else ""
    texts, threads = rounds[0]["manyheads"]["texts"], rounds[0]["manyheads"]["threads"]
    record.write_json(
        options.results / f"{name}.json",
        {
            "benchmark": "inference_speed",
            "size": options.size,
            "texts": texts,
            "max_length": MAX_LENGTH,
            "threads": threads,
            "environment": ENVIRONMENT,
            "machine": about,
            "contenders": {one: shown(one) for one in contenders},
            "median": medians,
            "best_batch": best,
            "ratios": [one._asdict() for one in ratios],
            "claims": claims,
            "rounds": rounds,
        },
    )
    rows = [
        [
            shown(one),
            f"{medians[one]:.1f}",
            f"{medians[one] / medians[default]:.2f}",
            *(str(found[one, theirs]) if (one, theirs) in found else "" for theirs in against),
            f"{min(answers[one]['cosine_mean'] for answers in rounds):.6f}",
            f"{min(answers[one]['cosine_least'] for answers in rounds):.6f}",
        ]
        for one in contenders
    ]
    head = ["contender", "texts/s", "× the default's median", *(f"× {shown(one)}" for one in against)]
    head += ["cosine, mean", "least"]
    layers, hidden = SIZES[options.size]
    what = "minilm" if options.size == "minilm" else f"a BERT of {layers} × {hidden}, random weights"
    record.write_text(
        options.results / f"{name}.md",
        f"# Embedding {texts:,} SST-5 sentences with {what}, from strings to vectors\n\n"
        f"{'A partial run: not a result. ' if command.partial(options) else ''}"
        f"Medians of {options.rounds} rounds in turn; ratios: median (least–greatest) of the ratio within a round; "
        f"every peer at the best of the batch sizes {', '.join(map(str, BATCHES))} (of "
        f"{TUNED_ON} texts, before the rounds), and the default as it is.\n\n{record.table(head, rows)}\n"
        f"{record.told(claims)}\n{threads} threads, at most {MAX_LENGTH} tokens a text, "
        f"{' '.join(f'{key}={value}' for key, value in ENVIRONMENT.items())} for all. {describe(about)}.\n",
    )


def shown(contender: str) -> str:
    """A contender's name for people."""
    name, _, batch = contender.partition("@")
    return TOLD[name] + (f", batch {batch}" if batch else "")


def options() -> argparse.Namespace:
    """The command line; `--contender` is how the script calls itself."""
    parser = command.arguments(__doc__, rounds=5, hidden=("--model", "--graphs"))
    parser.add_argument("--size", choices=SIZES, default="minilm")
    parser.add_argument("--rows", type=int, default=0, help="only so many texts: to try the script")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.contender and said.contender.partition("@")[0] not in EMBEDDERS:
        parser.error(f"no contender {said.contender!r}")
    return said


if __name__ == "__main__":
    command.run(options(), contend, compare)
