"""Claim: fine-tuning is at least 4 × as fast as Trainer's defaults and 1.6 × its best setting, in less memory.

minilm on SST-5, a whole epoch (short windows mislead), samples a second = rows / seconds of the training
epoch. Counted: everything between drawing the first batch and the end of the last step, logging included.
Not counted: reading and tokenising the files, evaluating, saving weights. With `--size base` a BERT of bert-base's size
with random weights on a part of the rows. Without the native kernels (no compiler) the claim is 2.7 × and 1 ×.

Memory is the greatest resident size of a contender's process up to the end of its last step.

    python benchmarks/finetune_speed.py
    python benchmarks/finetune_speed.py --size base
    python benchmarks/finetune_speed.py --rows 200 --rounds 1        # does it run at all?
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from side_by_side import command, record
from side_by_side.machine import describe, machine
from side_by_side.models import SIZES, model_folder
from side_by_side.rounds import ENVIRONMENT, interleaved, median, ratio
from side_by_side.rows import data_folder, drawn, read_table, write_table

CONTENDERS = {
    "trainer": "transformers Trainer, defaults (float32, padded to the batch's longest, random order)",
    "trainer_best": "transformers Trainer, bf16 and batches of similar lengths",
    "manyheads": "manyheads, defaults (bf16 where the processor has it)",
    "manyheads_torch": "manyheads without its native kernels",
    "manyheads_float32": "manyheads, precision: float32",
}
SETTINGS: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 32,
    "lr": 5e-5,
    "max_length": 128,
    "weight_decay": 0.01,
    "warmup": 0.1,
    "decay": "linear",
    "clip": 1.0,
    "dropout": 0.1,
    "optimizer": "AdamW",
    "seed": 11711,
}
LABELS = 5
ROWS = {"base": 1500}  # of a size that would take too long on all
DEFAULT = ["trainer", "trainer_best", "manyheads", "manyheads_torch"]
CLAIMS = {
    ("minilm", "manyheads"): (4.0, 1.6),
    ("minilm", "manyheads_torch"): (2.7, 1.0),
    ("base", "manyheads"): (4.0, 1.3),
}
"""What is claimed over Trainer's defaults and over its best setting."""
LESS_MEMORY = 0.8


def with_trainer(options: argparse.Namespace, best: bool) -> dict[str, Any]:
    """One epoch with transformers' Trainer; then dev accuracy, to show that the same was learnt."""
    import numpy as np
    import torch
    from side_by_side.trainer import EpochClock, training_arguments
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        set_seed,
    )

    tokenizer = AutoTokenizer.from_pretrained(options.model)

    def features(path: Path) -> list[dict[str, Any]]:
        rows = read_table(path, ["sentence"], "label")
        encoded = tokenizer(
            [row["sentence"] for row in rows], truncation=True, max_length=SETTINGS["max_length"]
        )
        return [
            {name: encoded[name][i] for name in encoded} | {"labels": int(row["label"])}
            for i, row in enumerate(rows)
        ]

    train: Any  # lists have all that Trainer asks of a Dataset
    dev: Any
    train, dev = features(options.train), features(options.dev)
    set_seed(SETTINGS["seed"])
    model = AutoModelForSequenceClassification.from_pretrained(
        options.model,
        num_labels=LABELS,
        dtype=torch.float32,
        hidden_dropout_prob=SETTINGS["dropout"],
        attention_probs_dropout_prob=SETTINGS["dropout"],
    )
    clock = EpochClock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(
            folder,
            best=best,
            epochs=SETTINGS["epochs"],
            batch_size=SETTINGS["batch_size"],
            lr=SETTINGS["lr"],
            seed=SETTINGS["seed"],
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=train,
            data_collator=DataCollatorWithPadding(tokenizer),
            callbacks=[clock],
        )
        trainer.train()
        peak = peak_mib()
        predicted = trainer.predict(dev)
    guessed = np.asarray(predicted.predictions).argmax(-1)
    return {
        "seconds": clock.seconds,
        "steps": trainer.state.global_step,
        "rows": len(train),
        "dev_accuracy": float((guessed == predicted.label_ids).mean()),
        "peak_mib": peak,
        "threads": torch.get_num_threads(),
    }


def with_manyheads(options: argparse.Namespace, precision: str) -> dict[str, Any]:
    """One epoch with `manyheads.train`; the clock hangs on the journal, at the start and each step."""
    import torch

    import manyheads as mh
    from manyheads.data.encode import TokenCache
    from manyheads.training.journal import Journal

    recipe = mh.Recipe.parse(
        {
            "name": "finetune-speed",
            "seed": SETTINGS["seed"],
            "precision": precision,
            "encoder": {"from": options.model, "dropout": SETTINGS["dropout"]},
            "tasks": {
                "sst": {
                    "kind": "classification",
                    "files": {"train": [str(options.train)], "dev": [str(options.dev)]},
                    "text": "sentence",
                    "label": "label",
                    "labels": [str(label) for label in range(LABELS)],
                    "max_length": SETTINGS["max_length"],
                }
            },
            "optimizer": {
                "name": "adamw",
                "lr": SETTINGS["lr"],
                "weight_decay": SETTINGS["weight_decay"],
                "clip": SETTINGS["clip"],
            },
            "schedule": {
                "epochs": SETTINGS["epochs"],
                "batch_size": SETTINGS["batch_size"],
                "warmup": SETTINGS["warmup"],
                "decay": SETTINGS["decay"],
            },
        }
    )
    began: list[float] = []
    ended: list[float] = []
    peaks: list[float] = []
    note, step = Journal.note, Journal.step

    def note_and_look(journal: Journal, kind: str, **values: Any) -> None:
        note(journal, kind, **values)
        if kind == "start":  # the last thing before the first step
            began.append(time.perf_counter())

    def step_and_look(journal: Journal, *positional: Any, **named: Any) -> None:
        step(journal, *positional, **named)
        ended.append(time.perf_counter())
        peaks.append(peak_mib())

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(Journal, "note", note_and_look),
        mock.patch.object(Journal, "step", step_and_look),
    ):
        run = mh.train(recipe, out=Path(folder) / "run", quiet=True, cache=TokenCache(Path(folder) / "cache"))
        lines = (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
        accuracy = run.scores["sst"]["accuracy"]
    log = [json.loads(line) for line in lines]
    steps = [event for event in log if event["event"] == "step"]
    if len(began) != 1 or len(ended) != len(steps):
        raise SystemExit("error: the journal was not called as expected; the clock cannot be trusted")
    return {
        "seconds": ended[-1] - began[0],
        "seconds_with_evaluation_and_saving": next(e["seconds"] for e in log if e["event"] == "end"),
        "steps": len(steps),
        "rows": sum(event["examples"]["sst"] for event in steps),
        "tokens": sum(event["tokens"] for event in steps),
        "dev_accuracy": accuracy,
        "peak_mib": peaks[-1],
        "precision": next(event["precision"] for event in log if event["event"] == "start"),
        "threads": torch.get_num_threads(),
    }


def peak_mib() -> float:
    """The greatest resident size of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts KiB


def contend(options: argparse.Namespace) -> None:
    """What the process of one contender does."""
    if options.contender == "manyheads_torch":
        os.environ["MANYHEADS_NATIVE"] = "off"
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    if options.contender.startswith("trainer"):
        answer = with_trainer(options, best=options.contender == "trainer_best")
    else:
        precision = "float32" if options.contender == "manyheads_float32" else "auto"
        answer = with_manyheads(options, precision)
    answer["samples/s"] = answer["rows"] / answer["seconds"]
    options.answer.write_text(json.dumps(answer), encoding="utf-8")


def compare(options: argparse.Namespace) -> None:
    """All rounds, the record and the table."""
    data, about = data_folder(options.data), machine()
    with tempfile.TemporaryDirectory(prefix="rows-") as folder:
        files = {"train": data / "sst5/sst5-train.tsv", "dev": data / "sst5/sst5-dev.tsv"}
        count = options.rows or ROWS.get(options.size, 0)
        if count:
            for split, path in files.items():
                rows = drawn(read_table(path, ["sentence"], "label"), count)
                files[split] = write_table(Path(folder) / f"{split}.tsv", rows)
        wanted = len(read_table(files["train"], ["sentence"], "label"))
        arguments = ["--train", str(files["train"]), "--dev", str(files["dev"])]
        model = model_folder(options.size, Path(folder) / options.size)
        arguments += ["--model", str(model), "--threads", str(options.threads)]
        rounds = interleaved(Path(__file__), options.contenders, options.rounds, arguments, "samples/s")
    for answers in rounds:
        for name, answer in answers.items():
            if answer["rows"] != wanted:
                raise SystemExit(f"error: {name} trained on {answer['rows']} rows, expected {wanted}")

    ratios, claims = [], []
    for ours in [name for name in options.contenders if name.startswith("manyheads")]:
        for theirs, place in {"trainer": 0, "trainer_best": 1}.items():
            if theirs not in options.contenders:
                continue
            ratios.append(ratio(rounds, ours, theirs, "samples/s"))
            if (options.size, ours) in CLAIMS:
                least = CLAIMS[options.size, ours][place]
                claims.append(record.claim(f"{ours} / {theirs}, samples/s", ratios[-1].median, least))
            memory = ratio(rounds, theirs, ours, "peak_mib")
            if ours == "manyheads":
                claims.append(record.claim(f"peak memory, {theirs} / {ours}", memory.median, 1 / LESS_MEMORY))
    name = "finetune_speed" + ("" if options.size == "minilm" else f"_{options.size}")
    name += "-partial" if command.partial(options, DEFAULT) else ""
    threads = rounds[0][options.contenders[0]]["threads"]
    record.write_json(
        options.results / f"{name}.json",
        {
            "benchmark": "finetune_speed",
            "size": options.size,
            "rows": wanted,
            "settings": SETTINGS,
            "threads": threads,
            "environment": ENVIRONMENT,
            "machine": about,
            "contenders": {one: CONTENDERS[one] for one in options.contenders},
            "median": {one: median(rounds, one, "samples/s") for one in options.contenders},
            "ratios": [one._asdict() for one in ratios],
            "claims": claims,
            "rounds": rounds,
        },
    )
    lines = []
    for one in options.contenders:
        against = {other.to: str(other) for other in ratios if other.of == one}
        lines.append(
            [
                CONTENDERS[one],
                f"{median(rounds, one, 'samples/s'):.1f}",
                f"{median(rounds, one, 'dev_accuracy'):.3f}",
                f"{median(rounds, one, 'peak_mib'):.0f}",
                against.get("trainer", ""),
                against.get("trainer_best", ""),
            ]
        )
    layers, hidden = SIZES[options.size]
    what = "minilm" if options.size == "minilm" else f"a BERT of {layers} × {hidden} from random weights"
    head = [
        "contender",
        "samples/s",
        "dev accuracy after",
        "peak, MiB",
        "× Trainer's defaults",
        "× Trainer's best",
    ]
    record.write_text(
        options.results / f"{name}.md",
        f"# Fine-tuning {what} on SST-5, one whole epoch of {wanted:,} rows\n\n"
        f"{'A partial run: not a result. ' if command.partial(options, DEFAULT) else ''}"
        f"Medians of {options.rounds} rounds in turn; ratios: median (least–greatest) of the ratio within a "
        f"round.\n\n{record.table(head, lines)}\n{record.told(claims)}\n"
        f"{threads} threads, batches of {SETTINGS['batch_size']}, "
        f"{' '.join(f'{key}={value}' for key, value in ENVIRONMENT.items())} for all. {describe(about)}.\n",
    )


def options() -> argparse.Namespace:
    """The command line; `--contender` is how the script calls itself."""
    parser = command.arguments(__doc__, rounds=3, hidden=("--model", "--train", "--dev"))
    parser.add_argument("--size", choices=SIZES, default="minilm")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    parser.add_argument("--rows", type=int, default=0, help="only so many rows: to try the script")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=DEFAULT)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    command.run(options(), contend, compare)
