"""Claim: on every kind of task manyheads scores as a plain fine-tuning with transformers does, or better.

A contender is one training of one task with one seed: `ours` is `manyheads.train` on the task's recipe, `peer` is
transformers' own model class for the kind under its Trainer (bf16, batches of similar lengths). Both have the same
checkpoint, training rows, dev rows and settings, and are scored once, after the last step, by the same code, which
is not manyheads'. A call runs one contender; `--table` gathers what was run:

    python benchmarks/kinds.py --task rte --contender peer --seed 1
    python benchmarks/kinds.py --table

With `--rows`, `--epochs`, `--recipe` or `--set` the record is called `…-partial` and is no result.

A shortfall counts as within the spread where it is no more than what seeds alone move the peer, the greatest less
the least of its scores. (Of two equal contenders with three seeds each one in twelve falls short by more.)
"""

import argparse
import csv
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side_by_side import examples, record
from side_by_side.examples import Example, Format
from side_by_side.machine import describe, machine
from side_by_side.measures import MEASURES, Answers
from side_by_side.rounds import ENVIRONMENT, QUIET
from side_by_side.rows import ROOT, data_folder

if TYPE_CHECKING:
    from manyheads import Recipe, Run

CONTENDERS = ("ours", "peer")
# What is the same for all tasks and both sides; Trainer's part of it stands in side_by_side/trainer.py.
SETTINGS: dict[str, Any] = {
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "clip": 1.0,
    "warmup": 0.1,
    "decay": "linear",
    "dropout": 0.1,
}
POOLED = ("sequences", "candidates", "choices")  # the peers that see one vector of a sequence
NEVER = 10**9  # steps between two evaluations: there is the last one only


# ---- our predictions in dev's order, from the csv that a run leaves ----


def labels(path: Path, dev: Sequence[Any]) -> Answers:
    """A row an example, with its label or the number of its ending."""
    return [row["label"] for row in rows_of(path)]


def tags(path: Path, dev: Sequence[Any]) -> Answers:
    """A row a sentence, with blanks between its tags."""
    return [row["tags"].split() for row in rows_of(path)]


def ranks(path: Path, dev: Sequence[Any]) -> Answers:
    """A row a candidate, with its rank from 1."""
    rows = iter(rows_of(path))
    return [[-int(next(rows)["rank"]) for _ in query.candidates] for query in dev]


def texts(path: Path, dev: Sequence[Any]) -> Answers:
    """Beside it a file in the official form: id → text."""
    found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return [found[question.id] for question in dev]


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a csv."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# ---- which examples are dev, where there is no file of it ----


def a_share(share: float, by: Callable[[Any], Sequence[str]]) -> Callable[[Any], bool]:
    """Those that our `hold_out` with this share and these columns holds out."""

    def held(example: Any) -> bool:
        from manyheads.data.select import part_of

        return part_of(by(example), {"dev": share}) == "dev"

    return held


# ---- the tasks ----


@dataclass(frozen=True)
class Task:
    """A data set, how both sides train on it, and how they are compared."""

    told: str
    recipe: str
    """Ours, below `recipes/`; it has one task."""
    format: Format
    train: tuple[str, ...]
    dev: tuple[str, ...] = ()
    peer: str = "sequences"
    """Which of `side_by_side.peers.PEERS`."""
    measures: str = "labels"
    """Which of `side_by_side.measures.MEASURES`."""
    shown: tuple[str, ...] = ("accuracy",)
    """The measures that the table has; the first decides."""
    answers: Callable[[Path, Sequence[Any]], Answers] = labels
    """Our predictions' csv and the dev examples → our answers."""
    held: Callable[[Any], bool] | None = None
    """Which of the training files' examples are dev."""
    kept: Callable[[Any], bool] | None = None
    """Which examples take part; default: all."""
    train_rows: int | None = None
    """How many of those, a fixed draw; None: all."""
    dev_rows: int | None = None
    epochs: float = 3
    batch_size: int = 32
    our_batch_size: int | None = None
    """Where an example of ours is several of the peer's."""
    lr: float = 5e-5
    max_length: int = 128
    set: tuple[str, ...] = ()
    """What our recipe is told beyond the settings that both sides share; `TASK` stands for the task's name."""
    note: str = ""
    """What a reader must know of the rows or of the sides."""


# The peer's tags are each word's most probable, and it reads no sentence beside the one it tags.
FREE = ("tasks.TASK.context=none", "tasks.TASK.decode=free")
PAIR_OF_RTE = examples.texts((1, 2), 3, header="index\tsentence1\tsentence2\tlabel")
PAIR_OF_MRPC = examples.texts((3, 4), 0, header="Quality\t#1 ID\t#2 ID\t#1 String\t#2 String")

TASKS: dict[str, Task] = {
    "conll2003": Task(
        "CoNLL-2003, entities",
        recipe="conll2003.yaml",
        format=examples.CONLL,
        train=("conll2003/eng.train",),
        dev=("conll2003/eng.testa",),
        peer="words",
        measures="entities",
        shown=("f1", "precision", "recall"),
        answers=tags,
        set=FREE,
        note="no document context",
    ),
    "wnut17": Task(
        "WNUT-17, entities",
        recipe="wnut17.yaml",
        format=examples.CONLL,
        train=("wnut17/wnut17train.conll",),
        dev=("wnut17/emerging.dev.conll",),
        peer="words",
        measures="entities",
        shown=("f1", "precision", "recall"),
        answers=tags,
        epochs=5,
        batch_size=16,
        set=FREE,
    ),
    "squad1": Task(
        "SQuAD 1.1, answers",
        recipe="squad1.yaml",
        format=examples.SQUAD,
        train=("squad/train-v1.1.du-test-split.json.gz", "squad/train-v1.1-sample.json.gz"),
        dev=("squad/dev-v1.1.json.gz",),
        peer="answers",
        measures="answers",
        shown=("f1", "exact"),
        answers=texts,
        train_rows=4000,
        dev_rows=2000,
        epochs=1,
        batch_size=16,
        lr=1e-4,
        max_length=384,
        note="4,000 of 15,622 questions, a fixed draw; windows of long paragraphs share 128 tokens with the peer, with "
        "us they start 128 tokens apart",
    ),
    "squad2": Task(
        "SQuAD 2.0, answers or none",
        recipe="squad2.yaml",
        format=examples.SQUAD,
        train=("squad/dev-v2.0.cs224n.json",),
        held=a_share(0.2, lambda one: (one.title,)),
        peer="answers",
        measures="answers_or_none",
        shown=("f1", "exact"),
        answers=texts,
        epochs=1,
        batch_size=16,
        lr=1e-4,
        max_length=384,
        note="half of the official dev part, dev is a fifth of its articles; the threshold is chosen on dev",
    ),
    "codah": Task(
        "CODAH, one of four endings",
        recipe="codah.yaml",
        format=examples.choices(1, (2, 3, 4, 5), 6),
        train=("codah/full_data.tsv",),
        held=a_share(0.2, lambda one: (one.text,)),
        peer="choices",
        batch_size=16,
        max_length=64,
        note="a fifth of the prompts is dev",
    ),
    "wikiqa": Task(
        "WikiQA, ranking",
        recipe="wikiqa.yaml",
        format=examples.WIKIQA,
        train=("wikiqa/train.txt.gz",),
        dev=("wikiqa/dev.txt.gz",),
        kept=lambda query: any(query.relevant),
        peer="candidates",
        measures="ranking",
        shown=("map", "mrr", "accuracy_at_1"),
        answers=ranks,
        epochs=2,
        our_batch_size=4,
        note="questions with an answer; the peer learns pairs, batches of 32, ours questions with 10 candidates on "
        "average, batches of 4",
    ),
    "rte": Task(
        "RTE, entailment",
        recipe="glue/rte.yaml",
        format=PAIR_OF_RTE,
        train=("glue/RTE/train.tsv",),
        dev=("glue/RTE/dev.tsv",),
    ),
    "mrpc": Task(
        "MRPC, paraphrase",
        recipe="glue/mrpc.yaml",
        format=PAIR_OF_MRPC,
        train=("glue/MRPC/train.tsv",),
        dev=("glue/MRPC/dev.tsv",),
        measures="paraphrases",
        shown=("f1", "accuracy"),
    ),
    "cola": Task(
        "CoLA, acceptability",
        recipe="glue/cola.yaml",
        format=examples.texts((3,), 1),
        train=("glue/CoLA/train.tsv",),
        dev=("glue/CoLA/dev.tsv",),
        shown=("matthews", "accuracy"),
        epochs=5,
    ),
    "sst2": Task(
        "SST-2, sentiment",
        recipe="glue/sst2.yaml",
        format=examples.texts((0,), 1, header="sentence\tlabel"),
        train=("glue/SST-2/train.tsv",),
        dev=("glue/SST-2/dev.tsv",),
        epochs=1,
    ),
    "mnli": Task(
        "MNLI (10,000 rows), inference",
        recipe="glue/mnli.yaml",
        format=examples.json_lines(("premise", "hypothesis"), "label"),
        train=("glue/MNLI/train_sample.jsonl",),
        dev=("glue/MNLI/dev_matched.jsonl",),
        epochs=2,
        set=("tasks.TASK.pair=[premise, hypothesis]", "tasks.TASK.label=label"),
    ),
    "trec": Task(
        "TREC, kind of question",
        recipe="trec.yaml",
        format=examples.texts((1,), 0, split=(" ", 1), encoding="latin-1"),
        train=("trec/TREC.train.all",),
        held=a_share(0.1, lambda one: one.texts),
        epochs=5,
        note="a tenth of the training questions is dev",
    ),
}


# ---- one contender ----


@dataclass(frozen=True)
class Rows:
    """The examples of a run, and the files that hold them."""

    train: list[Example]
    dev: list[Example]
    files: dict[str, list[str]]


def rows_for(task: Task, data: Path, beside: Path) -> Rows:
    """The examples of a task; what are not whole files is written to `beside`, in the format of the files."""

    def read(names: Sequence[str]) -> list[Example]:
        return [one for name in names for one in examples.read(data / name, task.format)]

    whole = read(task.train)
    dev = read(task.dev)
    train = whole
    if task.held is not None:
        train, dev = ([one for one in whole if task.held(one) == dev_] for dev_ in (False, True))
    if task.kept is not None:
        train, dev = ([one for one in part if task.kept(one)] for part in (train, dev))
    train, dev = examples.drawn(train, task.train_rows), examples.drawn(dev, task.dev_rows)
    files = {}
    for split, part, names in (("train", train, task.train), ("dev", dev, task.dev)):
        if names and len(part) == len(read(names)):
            files[split] = [str(data / name) for name in names]
        else:
            name = Path((names or task.train)[0]).name.removesuffix(".gz")
            files[split] = [str(examples.write(beside / split / name, part, task.format))]
    return Rows(train, dev, files)


def with_trainer(task: Task, rows: Rows, model: Path, seed: int) -> tuple[Answers, dict[str, Any]]:
    """One run of the peer: its answers on dev, and what is told of the run."""
    from side_by_side.peers import PEERS, Settings

    settings = Settings(
        str(model), seed, task.epochs, task.batch_size, task.lr, task.max_length, SETTINGS["dropout"]
    )
    outcome = PEERS[task.peer](rows.train, rows.dev, settings)
    told = {"seconds": outcome.seconds, "steps": outcome.steps, "sequences": outcome.sequences}
    return outcome.answers, told


def recipe_for(task: Task, rows: Rows, options: argparse.Namespace, data: Path) -> "Recipe":
    """Our recipe with the rows and settings of the comparison."""
    from manyheads import Recipe

    path = options.recipe or ROOT / "recipes" / task.recipe
    found = list(Recipe.load(path, options.set, data=data).tasks)
    if len(found) != 1:
        raise SystemExit(f"error: {path}: expected one task, found {', '.join(found)}; --set 'use=[TASK]'")
    (name,) = found
    schedule = {
        "epochs": task.epochs,
        "batch_size": task.our_batch_size or task.batch_size,
        "warmup": SETTINGS["warmup"],
        "decay": SETTINGS["decay"],
        "evaluate_every": NEVER,
    }
    optimizer = {
        "name": SETTINGS["optimizer"],
        "lr": task.lr,
        "weight_decay": SETTINGS["weight_decay"],
        "clip": SETTINGS["clip"],
    }
    said = [
        *options.set,
        f"encoder={json.dumps({'from': options.model, 'dropout': SETTINGS['dropout']})}",
        f"optimizer={json.dumps(optimizer)}",
        f"schedule={json.dumps(schedule)}",
        f"tasks.{name}.files={json.dumps(rows.files)}",
        f"tasks.{name}.max_length={task.max_length}",
        f"tasks.{name}.batch_size=null",
        f"tasks.{name}.hold_out=null",
        f"tasks.{name}.read_split={{}}",
        f"tasks.{name}.sample={{}}",
        # The vector of a sequence is what transformers' classes take: BERT's pooler.
        *([f"tasks.{name}.pooling=pooled"] if task.peer in POOLED else []),
        *(one.replace("TASK", name) for one in task.set),
    ]
    return Recipe.load(path, said, seed=options.seed, data=data)


def with_manyheads(
    recipe: "Recipe", task: Task, rows: Rows, out: Path, resume: bool
) -> tuple[Answers, dict[str, Any]]:
    """One run of ours: its answers on dev, and what is told of the run."""
    import manyheads as mh

    try:
        run: Run = mh.train(recipe, out=out, resume=resume)
    except mh.InputError as error:
        raise SystemExit(f"error: {error}") from None
    (name,) = recipe.tasks
    log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    begun, ended = (next(event for event in log if event["event"] == kind) for kind in ("start", "end"))
    expected = {"train": len(rows.train), "dev": len(rows.dev)}
    if begun["rows"][name] != expected:
        raise SystemExit(f"error: manyheads read {begun['rows'][name]} rows, expected {expected}")
    answers = task.answers(run.folder / "predictions" / f"{name}-dev.csv", rows.dev)
    told = {
        "seconds": ended["step_seconds"],
        "steps": ended["step"],
        "own_scores": run.scores[name],
        "recipe": Path(task.recipe).name,
    }
    return answers, told


def contend(options: argparse.Namespace, task: Task) -> None:
    """Run one contender and write its record."""
    os.environ.update(ENVIRONMENT)
    # Set before torch is imported: later its threads and its allocator are settled.
    os.environ.update({"OMP_NUM_THREADS": str(options.threads), "RAYON_NUM_THREADS": str(options.threads)})
    from manyheads.encoder.sources import resolve

    began = time.perf_counter()
    about, data, model = machine(), data_folder(options.data), resolve(options.model)
    os.environ.update(QUIET)  # after `resolve`, which may have to fetch the weights
    suffix = "-partial" if options.partial else ""
    rows = rows_for(task, data, options.runs / f"rows-{options.task}{suffix}")
    if options.contender == "peer":
        answers, told = with_trainer(task, rows, model, options.seed)
    else:
        recipe = recipe_for(task, rows, options, data)
        out = options.runs / f"{options.task}-{options.seed}{suffix}"
        answers, told = with_manyheads(recipe, task, rows, out, options.resume)
    scores = MEASURES[task.measures](rows.dev, answers)
    for name, own in told.get("own_scores", {}).items():
        if name in scores and abs(scores[name] - own) > 1e-6:
            print(f"warning: {name} is {scores[name]:.6f}, manyheads itself says {own:.6f}")
    content = {
        "benchmark": "kinds",
        "task": options.task,
        "contender": options.contender,
        "seed": options.seed,
        "settings": settings_of(task, options.model),
        "set": options.set,
        "rows": {"train": len(rows.train), "dev": len(rows.dev)},
        "scores": scores,
        **told,
        "seconds_with_all": time.perf_counter() - began,
        "threads": options.threads,
        "machine": about,
    }
    name = f"{options.task}-{options.contender}-{options.seed}{suffix}.json"
    record.write_json(options.results / "kinds" / name, content)
    shown = ", ".join(f"{measure} {scores[measure]:.4f}" for measure in task.shown)
    print(
        f"{options.task}, {options.contender}, seed {options.seed}: {shown}; {told['seconds']:.0f} s",
        flush=True,
    )


def smaller(task: Task, rows: int | None, epochs: float | None) -> Task:
    """The task as `--rows` and `--epochs` try it."""
    if rows is not None:
        train, dev = (min(rows, of) if of else rows for of in (task.train_rows, task.dev_rows))
        task = replace(task, train_rows=train, dev_rows=dev)
    return task if epochs is None else replace(task, epochs=epochs)


def settings_of(task: Task, model: str) -> dict[str, Any]:
    """What both sides were told; records with other settings than a task's now are not compared."""
    return {
        "encoder": "minilm" if model == "minilm" else Path(model).name,
        "train_rows": task.train_rows,
        "dev_rows": task.dev_rows,
        "epochs": task.epochs,
        "batch_size": task.batch_size,
        "our_batch_size": task.our_batch_size or task.batch_size,
        "lr": task.lr,
        "max_length": task.max_length,
        **SETTINGS,
    }


# ---- the table ----


def gathered(folder: Path, name: str, settings: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """{contender: its records with these settings, by seed}."""
    found: dict[str, list[dict[str, Any]]] = {}
    for contender in CONTENDERS:
        runs = []
        for path in folder.glob(f"{name}-{contender}-*.json"):
            if path.stem.endswith("-partial"):
                continue
            run = json.loads(path.read_text(encoding="utf-8"))
            if run["settings"] == settings:
                runs.append(run)
            else:
                print(f"left out, other settings than the task has now: {path.name}")
        found[contender] = sorted(runs, key=lambda run: int(run["seed"]))
    return found


def compared(task: Task, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians and spreads of each measure, and the verdict on the first."""
    found: dict[str, Any] = {"measures": {}}
    for measure in task.shown:
        of: dict[str, Any] = {}
        for contender, done in runs.items():
            values = [float(run["scores"][measure]) for run in done]
            if values:
                of[contender] = {
                    "median": statistics.median(values),
                    "least": min(values),
                    "greatest": max(values),
                    "each": {str(run["seed"]): value for run, value in zip(done, values, strict=True)},
                }
        if len(of) == len(CONTENDERS):
            of["difference"] = of["ours"]["median"] - of["peer"]["median"]
            of["verdict"] = verdict(of["difference"], of["peer"]["greatest"] - of["peer"]["least"])
        found["measures"][measure] = of
    found["rows"] = next(run["rows"] for done in runs.values() for run in done)
    found["seconds"] = {
        contender: statistics.median(run["seconds"] for run in done)
        for contender, done in runs.items()
        if done
    }
    return found


def verdict(difference: float, spread: float) -> str:
    """What a difference of medians says, given how far seeds alone move the peer."""
    if difference >= 0:
        return "better" if difference > 0 else "the same"
    return "within the spread" if -difference <= spread else "below"


def report(options: argparse.Namespace) -> None:
    """The table over all records."""
    folder, lines, found, notes = options.results / "kinds", [], {}, []
    abouts: list[dict[str, Any]] = []
    for name, task in TASKS.items():
        settings = settings_of(task, options.model)
        runs = gathered(folder, name, settings)
        abouts += [run["machine"] for done in runs.values() for run in done]
        if not any(runs.values()):
            continue
        found[name] = {"settings": settings, **compared(task, runs)}
        lines += lines_of(task, found[name])
        if task.note:
            notes.append(f"- {task.told}: {task.note}.\n")
    if not found:
        raise SystemExit(f"error: no records in {folder}")
    about = abouts[-1]
    content = {"benchmark": "kinds", "tasks": found, "machine": about}
    record.write_json(options.results / "kinds.json", content)
    head = [
        "task",
        "rows",
        "epochs · batch · lr · length",
        "measure",
        "manyheads",
        "Trainer",
        "difference",
        "",
    ]
    shared = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in SETTINGS.items())
    record.write_text(
        options.results / "kinds.md",
        "# Every kind of task: manyheads beside a plain fine-tuning with transformers\n\n"
        f"Dev scores after the last step, medians over seeds (least–greatest, seeds). {shared} for both; rows are "
        "training / dev. Both are scored by the same code. A shortfall is within the spread where it is no more than "
        "the peer's greatest less its least score.\n\n"
        f"{record.table(head, lines)}\n{''.join(notes)}\n"
        f"Checkpoint: {settings_of(TASKS['rte'], options.model)['encoder']}. {describe(about)}.\n",
    )


def lines_of(task: Task, found: dict[str, Any]) -> list[list[str]]:
    """A task's lines of the table, one a measure."""

    def spread(of: dict[str, Any] | None) -> str:
        if of is None:
            return ""
        digits = 2 if task.peer == "answers" else 4  # percents, else fractions
        least, greatest = (f"{of[key]:.{digits}f}" for key in ("least", "greatest"))
        return f"{of['median']:.{digits}f} ({least}–{greatest}, n={len(of['each'])})"

    lines = []
    for measure in task.shown:
        of, first = found["measures"][measure], measure == task.shown[0]
        rows, settings = found["rows"], found["settings"]
        difference = (
            f"{of['difference']:+.{2 if task.peer == 'answers' else 4}f}" if "difference" in of else ""
        )
        told = f"{settings['epochs']:g} · {settings['batch_size']} · {settings['lr']:g} · {settings['max_length']}"
        lines.append(
            [
                task.told if first else "",
                f"{rows['train']:,} / {rows['dev']:,}" if first else "",
                told if first else "",
                measure.replace("_", " "),
                spread(of.get("ours")),
                spread(of.get("peer")),
                difference,
                of.get("verdict", "") if first else "",
            ]
        )
    return lines


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--contender", choices=CONTENDERS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="gather what was run")
    parser.add_argument("--data", type=Path, help="folder of the data sets (default MANYHEADS_DATA)")
    parser.add_argument("--model", default="minilm", help="the encoder's folder or name (default minilm)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, help="at most so many training and dev rows: to try the script")
    parser.add_argument("--epochs", type=float, help="likewise")
    parser.add_argument("--recipe", type=Path, help="another recipe of ours for the task")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for our recipe")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "kinds", help="where our run folders go")
    parser.add_argument("--resume", action="store_true", help="go on with our run of this task and seed")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the records")
    said = parser.parse_args()
    if not said.table and (said.task is None or said.contender is None):
        parser.error("expected --task and --contender, or --table")
    said.partial = bool(said.rows or said.epochs or said.set or said.recipe)
    return said


if __name__ == "__main__":
    chosen = options()
    if chosen.table:
        report(chosen)
    else:
        contend(chosen, smaller(TASKS[chosen.task], chosen.rows, chosen.epochs))
