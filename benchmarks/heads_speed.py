"""Claim: eight heads over one encoder take at most 1.1 of the time of one.

minilm with 1, 3 and 8 classification heads (five labels each) on SST-5 sentences, from strings to every head's
probabilities. Beside it what is done without a shared encoder: as many separately fine-tuned models, ours and
transformers' (bfloat16, batches of 32 sorted by length, its better setting). Loading and one warm-up call are not
counted. The heads' weights are random: how long a head takes does not depend on them.

    python benchmarks/heads_speed.py
    python benchmarks/heads_speed.py --rows 64 --rounds 1        # does it run at all?
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from side_by_side import command, record
from side_by_side.machine import describe, machine
from side_by_side.models import model_folder
from side_by_side.rounds import ENVIRONMENT, interleaved, median, ratio
from side_by_side.rows import data_folder, drawn, read_table

COUNTS = (1, 3, 8)
LABELS = 5
ROWS, MAX_LENGTH, BATCH, WARM_UP = 4000, 128, 32, 64
CONTENDERS = {
    **{f"shared_{n}": f"manyheads, one encoder, {n} head{'s' * (n > 1)}" for n in COUNTS},
    **{f"apart_{n}": f"manyheads, {n} models" for n in COUNTS if n > 1},
    **{f"transformers_{n}": f"transformers, bfloat16, {n} model{'s' * (n > 1)}" for n in COUNTS},
}


def ours(model: Path, heads: int, models: int) -> Callable[[list[str]], Any]:
    """Every text through `models` models of `heads` heads."""
    import torch

    from manyheads import Encoder, Model, Tokenizer
    from manyheads.model import Network, Task
    from manyheads.tasks.classification import Classification, ClassificationSettings

    def one() -> Model:
        encoder = Encoder.from_pretrained(model)
        settings = ClassificationSettings(
            kind="classification", text="text", label="label", labels=tuple(map(str, range(LABELS)))
        )
        torch.manual_seed(0)
        tasks = [Task(f"head{number}", Classification(settings), MAX_LENGTH) for number in range(heads)]
        built = {task.name: task.kind.build_head(encoder.shape.hidden, 0.1) for task in tasks}
        return Model(Network(encoder, built), Tokenizer.from_pretrained(model), tasks)

    each = [one() for _ in range(models)]
    return lambda texts: [model.analyze(texts) for model in each]


def theirs(model: Path, models: int) -> Callable[[list[str]], Any]:
    """Every text through `models` of transformers' models for sequence classification."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    each = [
        AutoModelForSequenceClassification.from_pretrained(
            model, num_labels=LABELS, dtype=torch.bfloat16
        ).eval()
        for _ in range(models)
    ]

    def answer(texts: list[str]) -> Any:
        found: list[list[Any]] = []
        for one in each:
            order = sorted(range(len(texts)), key=lambda at: -len(texts[at]))
            said: list[Any] = [None] * len(texts)
            for begin in range(0, len(order), BATCH):
                some = order[begin : begin + BATCH]
                given = tokenizer(
                    [texts[at] for at in some],
                    padding=True,
                    truncation=True,
                    max_length=MAX_LENGTH,
                    return_tensors="pt",
                )
                with torch.inference_mode():
                    shares = one(**given).logits.float().softmax(-1).numpy()
                for at, share in zip(some, shares, strict=True):
                    said[at] = share
            found.append(said)
        return found

    return answer


def contend(options: argparse.Namespace) -> None:
    """What the process of one contender does."""
    import torch

    kind, _, count = options.contender.partition("_")
    number = int(count)
    if kind == "transformers":
        answer = theirs(options.model, number)
    else:
        answer = ours(options.model, number if kind == "shared" else 1, number if kind == "apart" else 1)
    rows = read_table(data_folder(options.data) / "sst5/sst5-train.tsv", ["sentence"])
    texts = [row["sentence"] for row in drawn(rows, options.rows or ROWS)]
    answer(texts[:WARM_UP])
    began = time.perf_counter()
    answer(texts)
    seconds = time.perf_counter() - began
    told = {
        "seconds": seconds,
        "texts/s": len(texts) / seconds,
        "texts": len(texts),
        "threads": torch.get_num_threads(),
    }
    options.answer.write_text(json.dumps(told), encoding="utf-8")


def compare(options: argparse.Namespace) -> None:
    """All rounds, the record and the table."""
    data, about = data_folder(options.data), machine()
    with tempfile.TemporaryDirectory(prefix="models-") as folder:
        model = model_folder("minilm", Path(folder) / "minilm")
        arguments = ["--data", str(data), "--model", str(model), "--rows", str(options.rows)]
        rounds = interleaved(Path(__file__), list(CONTENDERS), options.rounds, arguments, "texts/s")
    times = {one: ratio(rounds, one, "shared_1", "seconds") for one in CONTENDERS}
    against = {
        one: ratio(rounds, f"shared_{one.partition('_')[2]}", one, "texts/s")
        for one in CONTENDERS
        if not one.startswith("shared")
    }
    claims = [
        record.claim(
            "texts a second with 8 heads, of those with one",
            ratio(rounds, "shared_8", "shared_1", "texts/s").median,
            1 / 1.1,
        )
    ]
    name = "heads_speed" + ("-partial" if command.partial(options) else "")
    texts, threads = rounds[0]["shared_1"]["texts"], rounds[0]["shared_1"]["threads"]
    record.write_json(
        options.results / f"{name}.json",
        {
            "benchmark": "heads_speed",
            "texts": texts,
            "threads": threads,
            "environment": ENVIRONMENT,
            "machine": about,
            "contenders": CONTENDERS,
            "median": {one: median(rounds, one, "texts/s") for one in CONTENDERS},
            "ratios": [one._asdict() for one in [*times.values(), *against.values()]],
            "claims": claims,
            "rounds": rounds,
        },
    )
    rows = [
        [
            told,
            f"{median(rounds, one, 'texts/s'):.1f}",
            str(times[one]) if one != "shared_1" else "1",
            str(against[one]) if one in against else "",
        ]
        for one, told in CONTENDERS.items()
    ]
    head = ["contender", "texts/s", "time, of one head", "one encoder with as many heads: times as fast"]
    record.write_text(
        options.results / f"{name}.md",
        f"# {texts:,} SST-5 sentences through many heads, from strings to probabilities\n\n"
        f"{'A partial run: not a result. ' if command.partial(options) else ''}"
        f"Medians of {options.rounds} rounds in turn; ratios: median (least–greatest) of the ratio within a round.\n\n"
        f"{record.table(head, rows)}\n"
        f"{record.told(claims)}\n{threads} threads, at most {MAX_LENGTH} tokens, "
        f"{' '.join(f'{key}={value}' for key, value in ENVIRONMENT.items())} for all. {describe(about)}.\n",
    )


def options() -> argparse.Namespace:
    """The command line; `--contender` is how the script calls itself."""
    parser = command.arguments(__doc__, rounds=5, hidden=("--model",))
    parser.add_argument("--rows", type=int, default=0, help="only so many texts: to try the script")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    command.run(options(), contend, compare)
