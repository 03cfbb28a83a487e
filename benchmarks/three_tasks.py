"""Claim: one model for three tasks is within 0.01 of a model for each of them, or better.

The peers are one run of transformers' Trainer a task (bf16, batches of similar lengths), the contender is one
run of manyheads on recipes/three_tasks.yaml. Files, columns, checkpoint, batch sizes and lengths are the recipe's
for both; a peer makes as many passes over its rows as the recipe's schedule does, rounded up. Similarity has two
peers: the pair in one sequence, and encoded apart with a cosine.

Compared are medians over seeds of the dev score: manyheads' kept checkpoint (chosen by the mean of the
three tasks) against each peer's best epoch of its own. Runs are kept a task and seed at a time, so the script
can be stopped and called again for other tasks or seeds.
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side_by_side import record
from side_by_side.machine import describe, machine
from side_by_side.rounds import QUIET
from side_by_side.rows import ROOT, data_folder, drawn, read_table

if TYPE_CHECKING:
    import torch

    from manyheads import Recipe
    from manyheads.recipe import TaskSettings

OURS = "manyheads"
LR = 5e-5


@dataclass(frozen=True)
class Reference:
    """A peer's single-task run: the recipe's task, how the pair is read, classes (1: a number), measure."""

    task: str
    apart: bool
    classes: int
    measure: str
    told: str


REFERENCES = {
    "sst": Reference("sst", False, 5, "accuracy", "SST-5, accuracy"),
    "para": Reference("para", False, 2, "accuracy", "Quora, pair in one sequence, accuracy"),
    "sts_cross": Reference("sts", False, 1, "pearson", "STS, pair in one sequence, Pearson"),
    "sts_siamese": Reference("sts", True, 1, "pearson", "STS, encoded apart, cosine, Pearson"),
}


def columns_of(section: "TaskSettings") -> list[str]:
    """The columns with the text or the two texts."""
    said: Any = section
    return [said.text] if said.pair is None else list(said.pair)


def features(
    tokenizer: Any, section: "TaskSettings", split: str, data: Path, reference: Reference, fraction: float
) -> list[dict[str, Any]]:
    """The examples of a split, tokenised; a fraction of them is a fixed random draw."""
    columns, label = columns_of(section), str(getattr(section, "label"))  # noqa: B009 (the kinds' own)
    assert section.files is not None
    rows = [row for name in section.files[split] for row in read_table(data / name, columns, label)]
    if fraction < 1:
        rows = drawn(rows, math.ceil(fraction * len(rows)))
    texts = [[row[column] for row in rows] for column in columns]
    limits = {"truncation": True, "max_length": section.max_length}
    if reference.apart:
        a, b = (tokenizer(one, return_token_type_ids=False, **limits) for one in texts)
        encoded = {**a, **{f"{name}_b": values for name, values in b.items()}}
    else:
        encoded = dict(tokenizer(*texts, **limits))
    number: Callable[[str], float] = float if reference.classes == 1 else lambda text: int(float(text))
    return [
        {**{name: values[i] for name, values in encoded.items()}, "labels": number(row[label])}
        for i, row in enumerate(rows)
    ]


def padded_apart(tokenizer: Any) -> Callable[[Sequence[dict[str, Any]]], dict[str, "torch.Tensor"]]:
    """A collator for pairs encoded apart: each side is padded to its own longest."""
    import torch

    def collate(examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        names = ("input_ids", "attention_mask")
        batch: dict[str, torch.Tensor] = {}
        for end in ("", "_b"):
            side = [{name: one[name + end] for name in names} for one in examples]
            batch |= {name + end: value for name, value in tokenizer.pad(side, return_tensors="pt").items()}
        return batch | {"labels": torch.tensor([one["labels"] for one in examples])}

    return collate


def siamese_cosine(folder: str, greatest: float) -> "torch.nn.Module":
    """The two-text model: the cosine of the mean token states, scaled to the scores, squared error."""
    import torch
    from torch.nn import functional as F
    from transformers import AutoModel

    class SiameseCosine(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(folder, dtype=torch.float32)

        def vectors(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            weights = mask[:, :, None].float()
            means: torch.Tensor = (states * weights).sum(1) / weights.sum(1)
            return means

        def forward(
            self,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            input_ids_b: torch.Tensor,
            attention_mask_b: torch.Tensor,
            labels: torch.Tensor,
        ) -> dict[str, torch.Tensor]:
            u, v = self.vectors(input_ids, attention_mask), self.vectors(input_ids_b, attention_mask_b)
            values = greatest * F.cosine_similarity(u, v)
            return {"loss": F.mse_loss(values, labels.float()), "logits": values}

    return SiameseCosine()


def measures(reference: Reference) -> Callable[[Any], dict[str, float]]:
    """What Trainer calls to score a dev set."""
    from scipy.stats import pearsonr

    def accuracy(found: Any) -> dict[str, float]:
        return {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())}

    def pearson(found: Any) -> dict[str, float]:
        return {
            "pearson": float(pearsonr(found.label_ids.reshape(-1), found.predictions.reshape(-1)).statistic)
        }

    return accuracy if reference.measure == "accuracy" else pearson


def with_trainer(
    name: str, recipe: "Recipe", model: str, seed: int, epochs: float, fraction: float
) -> dict[str, Any]:
    """One single-task run of a peer: the dev score before training and after each epoch."""
    import torch
    from side_by_side.trainer import EpochClock, training_arguments
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        set_seed,
    )

    reference, tokenizer = REFERENCES[name], AutoTokenizer.from_pretrained(model)
    section, data = recipe.tasks[reference.task], Path(recipe.data or ".")
    train, dev = (
        features(tokenizer, section, split, data, reference, fraction) for split in ("train", "dev")
    )
    set_seed(seed)
    network: torch.nn.Module
    collate: Callable[[Any], dict[str, Any]]
    if reference.apart:
        network, collate = siamese_cosine(model, greatest=5.0), padded_apart(tokenizer)
    else:
        network = AutoModelForSequenceClassification.from_pretrained(
            model,
            num_labels=reference.classes,
            problem_type="regression" if reference.classes == 1 else "single_label_classification",
            dtype=torch.float32,
        )
        collate = DataCollatorWithPadding(tokenizer)
    clock = EpochClock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=network,
            args=training_arguments(
                folder,
                best=True,
                epochs=epochs,
                batch_size=section.batch_size or recipe.schedule.batch_size,
                lr=LR,
                seed=seed,
                evaluate=True,
            ),
            train_dataset=train,  # a list has all that it asks of a Dataset
            eval_dataset=dev,
            data_collator=collate,
            compute_metrics=measures(reference),
            callbacks=[clock],
        )
        before = trainer.evaluate()[f"eval_{reference.measure}"]
        trainer.train()
    key = f"eval_{reference.measure}"
    # The evaluation before training is in the history too, at epoch 0 or without one.
    scores = [float(log[key]) for log in trainer.state.log_history if key in log and log.get("epoch")]
    return {
        "seed": seed,
        "train_rows": len(train),
        "dev_rows": len(dev),
        "before": float(before),
        "epochs": scores,
        "last": scores[-1],
        "best": max(scores),
        "seconds": clock.seconds,
    }


def with_manyheads(recipe: "Recipe", out: Path) -> dict[str, Any]:
    """One run of all three tasks: the kept checkpoint's dev scores, and those after each epoch."""
    import manyheads as mh

    began = time.perf_counter()
    run = mh.train(recipe, out=out, resume=(out / "recipe.yaml").is_file())
    lines = (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    epochs = [event["scores"] for event in map(json.loads, lines) if event["event"] == "evaluation"]
    return {
        "seed": recipe.seed,
        "scores": run.scores,
        "epochs": epochs,
        "seconds_with_loading_and_evaluation": time.perf_counter() - began,
    }


def passes(recipe: "Recipe", task: str, epochs: float) -> int:
    """How often the recipe's schedule reads a task's rows in so many of its epochs, rounded up."""
    from manyheads import mixing

    sizes = {}
    for name, section in recipe.tasks.items():
        assert section.files is not None
        label = str(getattr(section, "label"))  # noqa: B009 (the kinds' own)
        paths = [Path(recipe.data or ".") / path for path in section.files["train"]]
        sizes[name] = sum(len(read_table(path, columns_of(section), label)) for path in paths)
    batches = {name: one.batch_size or recipe.schedule.batch_size for name, one in recipe.tasks.items()}
    schedule = mixing.schedule(recipe.mixing.schedule, sizes, batches, recipe.seed, **recipe.mixing.settings)
    (share,) = [one for one in schedule.describe() if one.task == task]
    return max(1, math.ceil(share.steps_per_epoch * share.batch_size * epochs / share.rows))


def keep(path: Path, name: str, settings: dict[str, Any], about: dict[str, Any], run: dict[str, Any]) -> None:
    """Add a run to its task's record; runs with other settings, or of the same seed, give way."""
    runs: list[dict[str, Any]] = []
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before["settings"] == settings:
            runs = [one for one in before["runs"] if one["seed"] != run["seed"]]
    runs = sorted([*runs, run], key=lambda one: int(one["seed"]))
    content = {"benchmark": "three_tasks", "task": name, "settings": settings, "machine": about, "runs": runs}
    record.write_json(path, content)


def report(folder: Path, suffix: str, settings: dict[str, Any], about: dict[str, Any]) -> None:
    """The table over all records of these settings."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for name in (*REFERENCES, OURS):
        path = folder / f"three_tasks_{name}{suffix}.json"
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if content.get("settings") == settings:
            runs[name] = content["runs"]

    def spread(values: Sequence[float]) -> str:
        return f"{statistics.median(values):.4f} ({min(values):.4f}–{max(values):.4f}, n={len(values)})"

    rows, claims = [], []
    for name, reference in REFERENCES.items():
        ours = [run["scores"][reference.task][reference.measure] for run in runs.get(OURS, ())]
        theirs = runs.get(name, [])
        best = [run["best"] for run in theirs]
        if ours and best:
            # Rounded as the scores are told, so that 0.0100 is not lost to the last bit.
            behind = round(statistics.median(ours) - statistics.median(best), 4)
            claims.append(record.claim(f"{reference.told}: manyheads − Trainer's best epoch", behind, -0.01))
        rows.append(
            [
                reference.told,
                spread([run["before"] for run in theirs]) if theirs else "",
                spread([run["last"] for run in theirs]) if theirs else "",
                spread(best) if best else "",
                spread(ours) if ours else "",
            ]
        )
    head = ["task", "Trainer: before training", "last epoch", "best epoch", "manyheads, one model for all"]
    record.write_text(
        folder / f"three_tasks{suffix}.md",
        f"# Three tasks in one model, and a model for each: dev scores, {settings['epochs']:g} epochs\n\n"
        f"{'A partial run: not a result. ' if suffix else ''}Medians over seeds (least–greatest, seeds).\n\n"
        f"{record.table(head, rows)}\n{record.told(claims)}\n"
        f"Trainer: bf16, batches of similar lengths, lr {LR:g}, linear decay, warm-up 0.1.\n"
        f"{describe(about)}.\n",
    )


def compare(options: argparse.Namespace) -> None:
    """The asked tasks and seeds, one after the other."""
    from manyheads import Recipe
    from manyheads.encoder.sources import resolve

    data, about = data_folder(options.data), machine()
    recipe = Recipe.load(options.recipe, options.set, data=data)
    missing = {one.task for one in REFERENCES.values()} - set(recipe.tasks)
    if missing:
        raise SystemExit(f"error: {options.recipe} has no task {', '.join(sorted(missing))}")
    assert recipe.encoder.from_ is not None
    model, epochs = str(resolve(recipe.encoder.from_)), options.epochs or recipe.schedule.epochs
    suffix = "-partial" if options.fraction < 1 else ""
    settings = {
        "recipe": options.recipe.name,
        "encoder": "minilm" if recipe.encoder.from_ == "minilm" else Path(recipe.encoder.from_).name,
        "epochs": epochs,
        "fraction": options.fraction,
        "batch_sizes": {
            name: one.batch_size or recipe.schedule.batch_size for name, one in recipe.tasks.items()
        },
        "max_lengths": {name: one.max_length for name, one in recipe.tasks.items()},
        "lr_of_trainer": LR,
    }
    os.environ.update(QUIET)  # after `resolve`, which may have to fetch the weights
    for seed in options.seed:
        for name in options.task:
            print(f"== {name}, seed {seed}", flush=True)
            if name == OURS:
                # A fraction is for trying the script: manyheads takes that share of the epochs.
                said = [*options.set, f"schedule.epochs={epochs * options.fraction}"]
                ours = Recipe.load(options.recipe, said, seed=seed, data=data)
                run = with_manyheads(ours, options.runs / f"{ours.name}-{seed}{suffix}")
            else:
                run = with_trainer(
                    name, recipe, model, seed, passes(recipe, REFERENCES[name].task, epochs), options.fraction
                )
            keep(options.results / f"three_tasks_{name}{suffix}.json", name, settings, about, run)
    report(options.results, suffix, settings, about)


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the data sets (default MANYHEADS_DATA)")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/three_tasks.yaml")
    everyone = [*REFERENCES, OURS]
    parser.add_argument(
        "--task", nargs="+", choices=everyone, default=everyone, help="default: all, ours too"
    )
    parser.add_argument("--epochs", type=float, default=None, help="default: the recipe's")
    parser.add_argument("--seed", nargs="+", type=int, default=[11711, 11712, 11713])
    parser.add_argument("--fraction", type=float, default=1.0, help="of the rows: to try the script")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for the recipe")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="where manyheads' run folders go")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the records")
    return parser.parse_args()


if __name__ == "__main__":
    compare(options())
