"""What a training begins with: encoder, heads, optimiser, schedule, how many steps; and what is said before the first.

Knows recipes, tasks with their rows, and everything that is built from them. Must not know the loop.
"""

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from rich.table import Table

from manyheads.data import mixing
from manyheads.encoder import checkpoint, precision
from manyheads.encoder.attention import described
from manyheads.encoder.bert import Encoder, Shape
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.reduced import reduced
from manyheads.encoder.sources import resolve
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError
from manyheads.formulas import optim
from manyheads.model import Network
from manyheads.recipe import Recipe
from manyheads.tasks.head import Head
from manyheads.tasks.heads.relation import Relation
from manyheads.training import state
from manyheads.training.journal import Journal
from manyheads.training.objective import Objective
from manyheads.training.splits import TaskData

__all__ = [
    "Plan",
    "attention_backend",
    "build_network",
    "build_optimizer",
    "build_schedule",
    "describe",
    "key_of",
    "open_encoder",
    "own_random_numbers",
    "plan_steps",
]


@dataclass(frozen=True)
class Plan:
    """How many steps, and what happens after which."""

    total: int
    per_epoch: int
    draws: int
    evaluate_every: int
    checkpoint_every: int


def open_encoder(
    recipe: Recipe, device: str, attention: str | None
) -> tuple[Tokenizer, Encoder, precision.Precision]:
    """The tokenizer, the encoder and the precision that the recipe asks for."""
    chosen = precision.choose(recipe.precision, precision.usable(device))
    settings = recipe.encoder
    shares = {"dropout": settings.dropout, "attention_dropout": settings.attention_dropout}
    if settings.size is not None:
        assert settings.vocab is not None
        tokenizer = Tokenizer.from_vocabulary(settings.vocab)
        shape = Shape(
            layers=settings.size.layers,
            hidden=settings.size.hidden,
            heads=settings.size.heads,
            intermediate=settings.size.intermediate,
            positions=settings.size.max_positions,
            vocabulary=tokenizer.vocab_size,
            causal=bool(settings.causal),
        )
        with own_random_numbers(recipe.seed):
            encoder = Encoder(shape, **shares)
    else:
        assert settings.from_ is not None
        tokenizer = Tokenizer.from_pretrained(settings.from_)
        with own_random_numbers(recipe.seed):
            encoder = Encoder.from_pretrained(settings.from_, **shares, causal=settings.causal)
            smaller = {
                "layers": settings.layers,
                "hidden": settings.hidden,
                "intermediate": settings.intermediate,
            }
            if any(one is not None for one in smaller.values()):
                encoder = reduced(encoder, **smaller, **shares)  # type: ignore[arg-type]
    if tokenizer.vocab_size > encoder.shape.vocabulary:
        raise InputError(
            f"encoder: the tokenizer has {tokenizer.vocab_size} tokens, the weights only {encoder.shape.vocabulary}"
        )
    return tokenizer, encoder.use(compute=chosen.compute, attention=attention), chosen


def build_network(recipe: Recipe, encoder: Encoder, tasks: Mapping[str, TaskData]) -> Network:
    """The encoder with a fresh head for each task, and the layer that some share."""
    hidden, share = encoder.shape.hidden, recipe.encoder.dropout
    with own_random_numbers(recipe.seed):
        asked = recipe.relation
        relation = Relation(hidden, asked.negative_slope) if asked is not None else None
        related = asked.tasks if asked is not None else ()
        built = {
            name: task.kind.build_head(hidden, share, relation if name in related else None, encoder)
            for name, task in tasks.items()
        }
    head_of = {name: task.section.head_of for name, task in tasks.items() if task.section.head_of is not None}
    for name, other in head_of.items():
        if _parameters(built[name]) != _parameters(built[other]):
            raise InputError(
                f"tasks.{name}.head_of: by its settings the task's head has other parameters than that of {other!r}"
            )
    heads = {name: head for name, head in built.items() if name not in head_of}
    network = Network(encoder, heads, relation, head_of)
    _begin_with(recipe, network)
    for name, head in heads.items():
        if head.least_layers > encoder.shape.layers:
            raise InputError(
                f"tasks.{name}.layers: expected an encoder of {head.least_layers} or more layers, "
                f"found {encoder.shape.layers}"
            )
        if head.reads == "first" and encoder.shape.causal:
            raise InputError(
                f"tasks.{name}: reads the first token, which has seen nothing in an encoder with causal attention"
                + ("; 'pooling: last' or 'mean' reads others" if hasattr(head, "pooling") else "")
            )
    network.encoder.requires_grad_(not recipe.encoder.freeze)
    return network


def _parameters(head: Head) -> list[tuple[str, torch.Size]]:
    return [(name, one.shape) for name, one in head.named_parameters()]


def _begin_with(recipe: Recipe, network: Network) -> None:
    """Fill the heads that the pre-trained folder has, where there is one and the encoder is as wide as it."""
    settings = recipe.encoder
    heads = network.in_checkpoint
    if heads and settings.from_ is not None and settings.hidden is None:
        checkpoint.load_pretraining(heads, resolve(settings.from_))


def build_optimizer(recipe: Recipe, network: Network, objective: Objective) -> torch.optim.Optimizer:
    """The optimiser of all that learns, each part at its rate; InputError where nothing does."""
    named = list(network.named_parameters())
    named += [(f"objective.{name}", one) for name, one in objective.named_parameters()]
    settings = recipe.optimizer
    learning = [(name, one) for name, one in named if one.requires_grad]
    if not learning:
        raise InputError("nothing to train: the encoder is frozen and no head has parameters")
    groups = optim.parameter_groups(
        learning,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        layer_decay=settings.layer_decay,
        layers=network.encoder.shape.layers,
        head_lr=settings.head_lr,
    )
    optimizer = optim.build(
        groups,
        name=settings.name,
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )
    # Gradients of the word table by rows, unless somebody lays gradients side by side or reads the whole table.
    asked = recipe.gradients
    alone = asked.surgery == "none" and asked.affinity_every is None and not network.in_checkpoint
    if alone and isinstance(optimizer, optim.NativeAdamW):
        network.encoder.embeddings.keep(optimizer)
    return optimizer


def attention_backend(
    recipe: Recipe, encoder: Encoder, device: str, attention: str | None, chosen: precision.Precision
) -> str:
    """What computes attention in this training, and why."""
    settings, shape = recipe.encoder, encoder.shape
    share = settings.dropout if settings.attention_dropout is None else settings.attention_dropout
    dtype = chosen.compute or chosen.parameters
    return described(attention, device, dtype, shape.hidden // shape.heads, share)


def build_schedule(recipe: Recipe, tasks: Sequence[TaskData]) -> mixing.Schedule:
    """Which rows of which task come when, as the recipe's mixing says."""
    drawn = [task for task in tasks if not task.reads_another]
    sizes = {task.name: len(task.train) for task in drawn}
    batches = {task.name: task.section.batch_size or recipe.schedule.batch_size for task in drawn}
    name, settings = recipe.mixing.schedule, dict(recipe.mixing.settings)
    if "epochs" in mixing.SCHEDULES[name].settings and "epochs" not in settings:
        # What changes over the training changes over all of it, unless the recipe says otherwise.
        asked = recipe.schedule
        one = mixing.schedule(name, sizes, batches, recipe.seed, **settings, epochs=1)
        settings["epochs"] = asked.epochs if asked.steps is None else asked.steps / one.steps_per_epoch
    return mixing.schedule(name, sizes, batches, recipe.seed, **settings)


def plan_steps(recipe: Recipe, schedule: mixing.Schedule, tasks: int) -> Plan:
    """How many steps, and what happens after which, for so many tasks."""
    draws = tasks if recipe.sums_rounds else 1
    per_epoch = max(1, schedule.steps_per_epoch // draws)
    asked = recipe.schedule
    total = asked.steps
    if total is None:
        total = max(1, schedule.steps_for(asked.epochs) // draws)
    elif schedule.total_steps is not None:
        total = min(total, schedule.total_steps // draws)
    every = per_epoch if asked.evaluate_every == "epoch" else asked.evaluate_every
    return Plan(total, per_epoch, draws, every, asked.checkpoint_every or every)


def key_of(
    recipe: Recipe,
    tasks: Sequence[TaskData],
    tokenizer: Tokenizer,
    plan: Plan,
    teachers: Mapping[str, Grouped],
) -> str:
    """What a checkpoint belongs to: the recipe, the tokenizer, each task's labels and rows to learn and choose by,
    and what its teacher says of them."""
    told = {
        "recipe": recipe.model_dump(
            mode="json", exclude={"name": True, "data": True, "distill": {"teachers"}}
        ),
        "teachers": {
            name: hashlib.sha256(answers.rows.contiguous().numpy().data).hexdigest()
            for name, answers in teachers.items()
        },
        "tokenizer": tokenizer.fingerprint,
        "total": plan.total,
        "tasks": {
            task.name: [
                task.kind.facts(),
                *task.digests,
            ]
            for task in tasks
        },
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def describe(
    journal: Journal,
    recipe: Recipe,
    tasks: Sequence[TaskData],
    schedule: mixing.Schedule,
    plan: Plan,
    network: Network,
    optimizer: torch.optim.Optimizer,
    precision_name: str,
    attention: str,
    progress: state.Progress,
) -> None:
    """Say before the first step what will be trained on what; and what was left out or cut."""
    table = Table(
        "task", "kind", "rows", "batch", "steps an epoch", "cut", "no label", box=None, pad_edge=False
    )
    steps = {name: (batch, count) for name, _, batch, count in schedule.describe()}
    for task in tasks:
        sizes = " / ".join(f"{length:,}" for length in task.lengths.values())
        batch, count = steps.get(task.name, ("–", 0))  # a task of an earlier stage alone
        told = [str(batch), str(count)]
        if task.reads_another:
            sizes, told = f"those of {task.section.read_with}", ["–", "–"]
        if task.splits:
            unlabelled = sum(len(split.rows.unlabelled) for split in task.splits.values())
            told += [str(task.splits["train"].rows.truncated), str(unlabelled)]
        table.add_row(task.name, task.section.kind, sizes, *told)
    journal.table(table)
    for task in tasks:
        for remark in task.kind.remarks():
            journal.say(f"{task.name}: {remark}")
        for split in task.splits.values():
            for place in split.rows.unlabelled[:3]:
                journal.say(f"left out, no label: {place.file}, row {place.row}")
        for name, spans in task.spans.items():
            corpus = spans.chunks.corpus
            journal.say(
                f"{task.name} {name}: {corpus.documents:,} documents, {corpus.sentences:,} sentences, "
                f"{corpus.tokens:,} tokens" + (f"; {corpus.skipped:,} left out" if corpus.skipped else "")
            )
        for problem in task.left_out[:3]:
            journal.say(f"left out: {problem}")
        if len(task.left_out) > 3:
            journal.say(f"left out: {len(task.left_out) - 3:,} more, listed in log.jsonl")
    rates = [
        {
            "name": group["name"],
            "lr": group["base_lr"],
            "weight_decay": group["weight_decay"],
            "parameters": sum(one.numel() for one in group["params"]),
        }
        for group in optimizer.param_groups
    ]
    if len({one["lr"] for one in rates}) > 1:
        shown = Table("learns", "highest rate", "decay", "parameters", box=None, pad_edge=False)
        for one in rates:
            cells = (one["name"], f"{one['lr']:.2e}", f"{one['weight_decay']:g}", f"{one['parameters']:,}")
            shown.add_row(*cells)
        journal.table(shown)
    count = sum(one.numel() for one in network.parameters())
    journal.say(
        f"{count:,} parameters · {plan.total} steps, {plan.per_epoch} an epoch · {precision_name} · "
        f"attention {attention} · torch {torch.__version__}"
        + (f" · resumed at step {progress.step}" if progress.step else "")
    )
    if progress.step == 0:
        journal.note(
            "start",
            step=0,
            parameters=count,
            steps=plan.total,
            precision=precision_name,
            attention=attention,
            rates=rates,
            torch=torch.__version__,
            python=platform.python_version(),
            threads=torch.get_num_threads(),
            **(
                {}
                if journal.possible is None
                else {"possible": {"operations_per_second": journal.possible[0], "from": journal.possible[1]}}
            ),
            rows={task.name: task.lengths for task in tasks},
            truncated={task.name: task.splits["train"].rows.truncated for task in tasks if task.splits},
            unlabelled={
                task.name: [
                    [place.file, place.row]
                    for split in task.splits.values()
                    for place in split.rows.unlabelled
                ]
                for task in tasks
            },
            left_out={task.name: task.left_out for task in tasks if task.spans},
            skipped={
                task.name: {split: spans.chunks.corpus.skipped for split, spans in task.spans.items()}
                for task in tasks
                if task.spans
            },
        )


@contextmanager
def own_random_numbers(seed: int) -> Iterator[None]:
    """Seed torch's generator inside, and give the caller's back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
