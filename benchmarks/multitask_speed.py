"""Claim: on a GPU, fine-tuning three tasks at once reads at least 3 × the samples a second of Trainer in bf16.

SST-5, Quora (the pair in one sequence) and STS (encoded apart, cosine): every row of each once, in the batches
of `recipes/three_tasks.yaml`. Ours is one training of one model with three heads; the peer trains a model for
each task, one after the other (transformers has no multi-task training), in bf16 and batches of similar
lengths. Samples a second are all rows by the seconds of all training epochs; loading, tokenising, evaluating
and saving are not counted, for nobody.

    python benchmarks/multitask_speed.py --device cuda --size base
    python benchmarks/multitask_speed.py --rows 200 --rounds 1        # does it run at all?
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from side_by_side import command, record
from side_by_side.machine import describe, machine
from side_by_side.models import SIZES, model_folder
from side_by_side.rounds import ENVIRONMENT, interleaved, median, ratio
from side_by_side.rows import ROOT, data_folder, drawn, read_table, write_table
from three_tasks import LR, REFERENCES, columns_of, features, padded_apart, siamese_cosine

CONTENDERS = {
    "trainer": "transformers Trainer, bf16, batches of similar lengths, a model for each task",
    "manyheads": "manyheads, one model for all",
}
PEERS = ("sst", "para", "sts_siamese")
SEED = 11711
CLAIM = {"cuda": 3.0, "cpu": 1.0}


def recipe_of(options: argparse.Namespace, data: Path) -> Any:
    """The three tasks on the rows and weights of the comparison, each row once."""
    from manyheads import Recipe

    said = [f"encoder={json.dumps({'from': str(options.model)})}", "mixing={schedule: proportional}"]
    said += ["schedule.epochs=1", f"schedule.evaluate_every={10**9}"]
    plain = Recipe.load(ROOT / "recipes/three_tasks.yaml", [], data=data)
    for name, section in plain.tasks.items():
        if options.rows:
            assert section.files is not None
            label = str(getattr(section, "label"))  # noqa: B009 (the kinds' own)
            rows = [
                row
                for path in section.files["train"]
                for row in read_table(data / path, columns_of(section), label)
            ]
            path = write_table(options.folder / f"{name}.tsv", drawn(rows, options.rows))
            said.append(f"tasks.{name}.files.train={json.dumps([str(path)])}")
    return Recipe.load(ROOT / "recipes/three_tasks.yaml", said, seed=SEED, data=data)


def with_trainer(options: argparse.Namespace, recipe: Any, data: Path) -> dict[str, Any]:
    """An epoch of each task by itself."""
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
    seconds, rows = 0.0, 0
    for name in PEERS:
        reference = REFERENCES[name]
        section = recipe.tasks[reference.task]
        train: Any = features(tokenizer, section, "train", data, reference, 1.0)
        set_seed(SEED)
        network: torch.nn.Module
        collate: Any
        if reference.apart:
            network, collate = siamese_cosine(str(options.model), greatest=5.0), padded_apart(tokenizer)
        else:
            network = AutoModelForSequenceClassification.from_pretrained(
                options.model, num_labels=reference.classes, dtype=torch.float32
            )
            collate = DataCollatorWithPadding(tokenizer)
        clock = EpochClock()
        with tempfile.TemporaryDirectory() as folder:
            arguments = training_arguments(
                folder,
                best=True,
                epochs=1,
                batch_size=section.batch_size or recipe.schedule.batch_size,
                lr=LR,
                seed=SEED,
                device=options.device,
            )
            Trainer(
                model=network,
                args=arguments,
                train_dataset=train,
                data_collator=collate,
                callbacks=[clock],
            ).train()
        seconds, rows = seconds + clock.seconds, rows + len(train)
    return {"seconds": seconds, "rows": rows}


def with_manyheads(options: argparse.Namespace, recipe: Any) -> dict[str, Any]:
    """The same rows in one training; the clock hangs on the journal, at the start and at the last step."""
    import manyheads as mh
    from manyheads.data.encode import TokenCache
    from manyheads.training.journal import Journal

    began: list[float] = []
    ended: list[float] = []
    rows = 0
    note, step = Journal.note, Journal.step

    def note_and_look(journal: Journal, kind: str, **values: Any) -> None:
        note(journal, kind, **values)
        if kind == "start":
            began.append(time.perf_counter())

    def step_and_look(journal: Journal, *positional: Any, **named: Any) -> None:
        nonlocal rows
        step(journal, *positional, **named)
        rows += sum(named["sizes"].values())
        ended.append(time.perf_counter())

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(Journal, "note", note_and_look),
        mock.patch.object(Journal, "step", step_and_look),
    ):
        cache = TokenCache(Path(folder) / "cache")
        mh.train(recipe, out=Path(folder) / "run", quiet=True, device=options.device, cache=cache)
    return {"seconds": ended[-1] - began[0], "rows": rows, "steps": len(ended)}


def contend(options: argparse.Namespace) -> None:
    """What the process of one contender does."""
    data = data_folder(options.data)
    recipe = recipe_of(options, data)
    peer = options.contender == "trainer"
    answer = with_trainer(options, recipe, data) if peer else with_manyheads(options, recipe)
    answer["samples/s"] = answer["rows"] / answer["seconds"]
    options.answer.write_text(json.dumps(answer), encoding="utf-8")


def compare(options: argparse.Namespace) -> None:
    """All rounds, the record and the table."""
    data, about = data_folder(options.data), machine()
    with tempfile.TemporaryDirectory(prefix="rows-") as folder:
        model = model_folder(options.size, Path(folder) / options.size)
        arguments = ["--data", str(data), "--model", str(model), "--folder", folder]
        arguments += ["--device", options.device, "--rows", str(options.rows), "--size", options.size]
        rounds = interleaved(Path(__file__), list(CONTENDERS), options.rounds, arguments, "samples/s")
    for answers in rounds:
        if answers["trainer"]["rows"] != answers["manyheads"]["rows"]:
            raise SystemExit(
                f"error: {answers['manyheads']['rows']} rows against {answers['trainer']['rows']}"
            )
    found = ratio(rounds, "manyheads", "trainer", "samples/s")
    claims = [record.claim("manyheads / trainer, samples/s", found.median, CLAIM[options.device])]
    name = f"multitask_speed_{options.device}_{options.size}" + (
        "-partial" if command.partial(options) else ""
    )
    count = rounds[0]["manyheads"]["rows"]
    record.write_json(
        options.results / f"{name}.json",
        {
            "benchmark": "multitask_speed",
            "device": options.device,
            "size": options.size,
            "rows": count,
            "environment": ENVIRONMENT,
            "machine": about,
            "contenders": CONTENDERS,
            "ratios": [found._asdict()],
            "claims": claims,
            "rounds": rounds,
        },
    )
    rows = [
        [told, f"{median(rounds, one, 'samples/s'):.1f}", str(found) if one == "manyheads" else ""]
        for one, told in CONTENDERS.items()
    ]
    record.write_text(
        options.results / f"{name}.md",
        f"# Three tasks, {count:,} rows once, {options.size} on {options.device}\n\n"
        f"{'A partial run: not a result. ' if command.partial(options) else ''}"
        f"Medians of {options.rounds} rounds in turn; the ratio: median (least–greatest) within a round.\n\n"
        f"{record.table(['contender', 'samples/s', '×'], rows)}\n{record.told(claims)}\n{describe(about)}.\n",
    )


def options() -> argparse.Namespace:
    """The command line; `--contender` is how the script calls itself."""
    parser = command.arguments(__doc__, rounds=3, hidden=("--model", "--folder"))
    parser.add_argument("--device", choices=CLAIM, default="cpu")
    parser.add_argument("--size", choices=SIZES, default="minilm")
    parser.add_argument("--rows", type=int, default=0, help="only so many rows a task: to try the script")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    command.run(options(), contend, compare)
