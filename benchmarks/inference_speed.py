"""Claim: embedding is at least 4 × as fast as sentence-transformers' torch default, with the same vectors.

minilm on the SST-5 training sentences, from strings to vectors: tokenising, sorting, encoding and mean
pooling are counted; loading the model and one warm-up call on the first 64 texts are not. The peer also
divides each vector by its norm, so vectors are compared by their cosine.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from side_by_side import record
from side_by_side.machine import describe, machine
from side_by_side.rounds import ENVIRONMENT, interleaved, median, ratio
from side_by_side.rows import data_folder, drawn, read_table

BATCHES = (32, 64, 128)
MAX_LENGTH = 256  # the default of this model in sentence-transformers
WARM_UP = 64
DEFAULT = "peer_float32_32"
CONTENDERS = {
    **{f"peer_float32_{size}": f"sentence-transformers, float32, batch {size}" for size in BATCHES},
    **{f"peer_bfloat16_{size}": f"sentence-transformers, bfloat16, batch {size}" for size in BATCHES},
    "manyheads": "manyheads Model.embed, default (bf16 where the processor has it)",
    "manyheads_float32": "manyheads Model.embed, float32",
}

Vectors = NDArray[np.float32]


def with_peer(options: argparse.Namespace, texts: list[str]) -> tuple[Vectors, float]:
    """Vectors from sentence-transformers, and the seconds they took."""
    import torch
    from sentence_transformers import SentenceTransformer

    _, dtype, size = options.contender.split("_")
    model = SentenceTransformer(options.model, device="cpu").to(getattr(torch, dtype))
    model.max_seq_length = MAX_LENGTH

    def embed(some: list[str]) -> Any:
        return model.encode(some, batch_size=int(size), show_progress_bar=False)

    embed(texts[:WARM_UP])
    began = time.perf_counter()
    found = embed(texts)
    return np.asarray(found, np.float32), time.perf_counter() - began


def with_manyheads(options: argparse.Namespace, texts: list[str]) -> tuple[Vectors, float]:
    """Vectors from `Model.embed`, and the seconds they took."""
    from manyheads import Encoder, Model, Tokenizer
    from manyheads.model import Network

    network = Network(Encoder.from_pretrained(options.model), {})
    precision = "float32" if options.contender == "manyheads_float32" else "auto"
    model = Model(network, Tokenizer.from_pretrained(options.model), [], precision)
    model.embed(texts[:WARM_UP], max_length=MAX_LENGTH)
    began = time.perf_counter()
    found = model.embed(texts, max_length=MAX_LENGTH)
    return found, time.perf_counter() - began


def contend(options: argparse.Namespace) -> None:
    """What the process of one contender does."""
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    texts = texts_of(options)
    embed = with_peer if options.contender.startswith("peer") else with_manyheads
    vectors, seconds = embed(options, texts)
    answer: dict[str, Any] = {
        "seconds": seconds,
        "texts/s": len(texts) / seconds,
        "texts": len(texts),
        "threads": torch.get_num_threads(),
    }
    # The first contender of a round is the reference: its vectors wait beside the answers for the others.
    reference = options.answer.with_name("reference.npy")
    if options.contender == DEFAULT:
        np.save(reference, vectors)
    cosines = cosine(vectors, np.load(reference))
    answer |= {"cosine_mean": float(cosines.mean()), "cosine_least": float(cosines.min())}
    options.answer.write_text(json.dumps(answer), encoding="utf-8")


def cosine(a: Vectors, b: Vectors) -> NDArray[np.float64]:
    """The cosine of each row of a [N, H] with that of b, computed in float64: [N]."""
    if a.shape != b.shape:
        raise SystemExit(f"error: vectors of shape {a.shape}, the reference has {b.shape}")
    x, y = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    found: NDArray[np.float64] = (x * y).sum(1) / lengths
    return found


def texts_of(options: argparse.Namespace) -> list[str]:
    """The SST-5 training sentences."""
    rows = read_table(data_folder(options.data) / "sst5/sst5-train.tsv", ["sentence"])
    return [row["sentence"] for row in (drawn(rows, options.rows) if options.rows else rows)]


def compare(options: argparse.Namespace) -> None:
    """All rounds, the record and the table."""
    from manyheads.encoder.sources import resolve

    data, about = data_folder(options.data), machine()
    arguments = ["--data", str(data), "--model", str(resolve(options.model))]
    arguments += ["--threads", str(options.threads), "--rows", str(options.rows)]
    rounds = interleaved(Path(__file__), list(CONTENDERS), options.rounds, arguments, "texts/s")

    medians = {one: median(rounds, one, "texts/s") for one in CONTENDERS}
    best = {
        dtype: max((f"peer_{dtype}_{size}" for size in BATCHES), key=medians.__getitem__)
        for dtype in ("float32", "bfloat16")
    }
    against = list(dict.fromkeys([DEFAULT, best["float32"], best["bfloat16"]]))
    ratios = [
        ratio(rounds, ours, theirs, "texts/s")
        for ours in ("manyheads", "manyheads_float32")
        for theirs in against
    ]
    least = min(answers["manyheads"]["cosine_least"] for answers in rounds)
    claims = [
        record.claim(
            "manyheads / sentence-transformers' default (float32, batch 32), texts/s", ratios[0].median, 4
        ),
        record.claim("least cosine of a text's vector with sentence-transformers' in float32", least, 0.999),
    ]
    name = "inference_speed" + ("-partial" if options.rows else "")
    texts, threads = rounds[0]["manyheads"]["texts"], rounds[0]["manyheads"]["threads"]
    record.write_json(
        options.results / f"{name}.json",
        {
            "benchmark": "inference_speed",
            "texts": texts,
            "max_length": MAX_LENGTH,
            "threads": threads,
            "environment": ENVIRONMENT,
            "machine": about,
            "contenders": CONTENDERS,
            "median": medians,
            "best_batch": best,
            "ratios": [one._asdict() for one in ratios],
            "claims": claims,
            "rounds": rounds,
        },
    )
    found = {(one.of, one.to): str(one) for one in ratios}
    rows = [
        [
            told + (" · best" if one in best.values() else ""),
            f"{medians[one]:.1f}",
            *(found.get((one, theirs), "") for theirs in (DEFAULT, best["float32"], best["bfloat16"])),
            f"{min(answers[one]['cosine_mean'] for answers in rounds):.6f}",
            f"{min(answers[one]['cosine_least'] for answers in rounds):.6f}",
        ]
        for one, told in CONTENDERS.items()
    ]
    head = ["contender", "texts/s", "× peer's default", "× its best float32", "× its best bfloat16"]
    head += ["cosine, mean", "least"]
    record.write_text(
        options.results / f"{name}.md",
        f"# Embedding {texts:,} SST-5 sentences with minilm, from strings to vectors\n\n"
        f"{'A partial run: not a result. ' if options.rows else ''}"
        f"Medians of {options.rounds} rounds in turn; ratios: median (least–greatest) of the ratio within a "
        f"round; cosines with sentence-transformers' float32 vectors.\n\n{record.table(head, rows)}\n"
        f"{record.told(claims)}\n{threads} threads, at most {MAX_LENGTH} tokens a text, "
        f"{' '.join(f'{key}={value}' for key, value in ENVIRONMENT.items())} for all. {describe(about)}.\n",
    )


def options() -> argparse.Namespace:
    """The command line; `--contender` is how the script calls itself."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the data sets (default MANYHEADS_DATA)")
    parser.add_argument("--model", default="minilm", help="the encoder's folder or name (default minilm)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    parser.add_argument("--rows", type=int, default=0, help="only so many texts: to try the script")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the records")
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    chosen = options()
    if chosen.contender:
        contend(chosen)
    else:
        compare(chosen)
