"""The one loop: draw, forward, loss, backward, clip, step; evaluate, keep the best, checkpoint, tell.

Knows everything under it. Must not know any kind, head or schedule by name.
"""

import hashlib
import json
import math
import platform
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from manyheads.data import mixing
from manyheads.data.encode import TokenCache
from manyheads.encoder import precision
from manyheads.encoder.bert import Encoder, Shape
from manyheads.encoder.ragged import Ragged
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError, WorkError
from manyheads.formulas import optim
from manyheads.model import Model, Network, Task
from manyheads.recipe import Recipe
from manyheads.run import Run
from manyheads.training import state
from manyheads.training.evaluate import goodness, outputs_of, score, write_predictions
from manyheads.training.journal import Journal
from manyheads.training.objective import Part, objective
from manyheads.training.splits import TaskData, load_task, split_names

__all__ = ["Stopped", "evaluate_run", "train"]


class Stopped(KeyboardInterrupt):
    """Ctrl-C was pressed: the step was finished and a checkpoint written."""


@dataclass(frozen=True)
class _Plan:
    """How many steps, and what happens after which."""

    total: int
    per_epoch: int
    draws: int
    evaluate_every: int
    checkpoint_every: int


def train(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    quiet: bool = False,
    device: str = "cpu",
    attention: str | None = None,
    cache: TokenCache | None = None,
) -> Run:
    """Train what the recipe says and leave a run folder.

    `out` is the run's folder (default `runs/NAME`). With `resume` a run that was stopped or killed goes on
    from its last checkpoint, or from the start where it has none yet, and ends with the same weights bit for bit
    as if it had not been stopped. Raises InputError for bad input (nothing is trained then), WorkError for a loss
    that is not finite, and Stopped after Ctrl-C.
    """
    run = Run(out if out is not None else Path("runs") / recipe.name)
    _refuse_other_content(run, resume)
    tokenizer, encoder, chosen = _encoder(recipe, device, attention)
    cache = cache or TokenCache()
    tasks = [
        load_task(name, recipe, tokenizer, positions=encoder.shape.positions, cache=cache)
        for name in recipe.tasks
    ]
    for task in tasks:
        if "train" not in task.splits:
            raise InputError(f"tasks.{task.name}: no 'train' among its files, so it cannot be trained")

    with _own_random_numbers(recipe.seed):
        network = Network(
            encoder,
            {task.name: task.kind.build_head(encoder.shape.hidden, recipe.encoder.dropout) for task in tasks},
        ).to(device, chosen.parameters)
    network.encoder.requires_grad_(not recipe.encoder.freeze)
    optimizer = _optimizer(recipe, network)
    schedule = _schedule(recipe, tasks)
    plan = _plan(recipe, schedule, len(tasks))
    key = _key(recipe, tasks, tokenizer, plan)
    progress = state.Progress()
    found = state.latest(run.checkpoints) if resume else None
    if found is not None:
        progress = state.restore(found, network, optimizer, key)

    run.folder.mkdir(parents=True, exist_ok=True)
    run.write_recipe(recipe)
    model = Model(
        network,
        tokenizer,
        [Task(task.name, task.kind, task.section.max_length) for task in tasks],
        chosen.name,
    )
    model.network.encoder.use(compute=chosen.compute, attention=attention)
    with (
        Journal(run.folder, plan.total, quiet=quiet, resumed_at=progress.step if resume else None) as journal,
        _own_random_numbers(recipe.seed),
        _interrupt() as interrupted,
    ):
        _describe(journal, recipe, tasks, schedule, plan, network, chosen.name, progress)
        network.train()
        before = time.perf_counter() - progress.seconds
        while progress.step < plan.total and not progress.stopped:
            losses, norm, tokens, sizes = _step(
                recipe, network, optimizer, schedule, tasks, plan, progress.step
            )
            progress.step += 1
            journal.step(
                progress.step,
                losses,
                epoch=progress.step / plan.per_epoch,
                rate=optimizer.param_groups[0]["lr"],
                norm=norm,
                tokens=tokens,
                sizes=sizes,
            )
            last = progress.step == plan.total
            if last or progress.step % plan.evaluate_every == 0:
                _evaluate(run, journal, recipe, network, tasks, progress)
            progress.seconds = time.perf_counter() - before
            if interrupted or last or progress.stopped or progress.step % plan.checkpoint_every == 0:
                journal.flush()
                state.save(run.checkpoints, network, optimizer, progress, key)
            if interrupted:
                journal.say(f"stopped after step {progress.step}; go on with --resume")
                raise Stopped
        _finish(run, journal, model, tasks, progress)
    return run


def evaluate_run(
    run: Run,
    splits: Sequence[str] | None = None,
    *,
    model: Model | None = None,
    overrides: Sequence[str] = (),
    cache: TokenCache | None = None,
) -> dict[str, dict[str, dict[str, float]]]:
    """{split: {task: {measure: value}}} of a trained run, scored anew on the recipe's files.

    `splits` default to all that have labels, but train; a task without one of them is passed over. Labels outside the
    run's are refused.
    """
    model = model or run.model()
    recipe = run.recipe.with_overrides(overrides)
    found: dict[str, dict[str, dict[str, float]]] = {}
    known = {split for section in recipe.tasks.values() for split in split_names(section)}
    for split in splits or ():
        if split not in known:
            raise InputError(f"no task has a split {split!r}; there are {', '.join(sorted(known))}")
    for name, section in recipe.tasks.items():
        if name not in model.tasks:
            raise InputError(f"the run's recipe has a task {name!r} that its model has not", file=run.folder)
        named = split_names(section)
        wanted = [one for one in named if (one in splits if splits is not None else one != "train")]
        data = load_task(
            name,
            recipe,
            model.tokenizer,
            positions=model.network.encoder.shape.positions,
            kind=model.task(name).kind,
            splits=wanted,
            cache=cache or TokenCache(),
        )
        for split, rows in data.splits.items():
            if rows.targets is not None:
                outputs = outputs_of(model.network, name, rows)
                found.setdefault(split, {})[name] = score(data.kind, outputs, rows)
    return found


def _step(
    recipe: Recipe,
    network: Network,
    optimizer: torch.optim.Optimizer,
    schedule: mixing.Schedule,
    tasks: Sequence[TaskData],
    plan: _Plan,
    number: int,
) -> tuple[dict[str, float], float, int, dict[str, int]]:
    """Step `number` (from 0): losses by task, the gradient's norm, tokens read, examples by task."""
    torch.manual_seed(_mixed(recipe.seed, number))  # dropout is a function of (seed, step) alone
    _set_rates(optimizer, recipe, number, plan.total)
    by_name = {task.name: task for task in tasks}
    drawn = [schedule[number * plan.draws + i] for i in range(plan.draws)]
    losses: dict[str, float] = {}
    sizes = {draw.task: len(draw.rows) for draw in drawn}
    tokens = 0
    for share in range(recipe.schedule.accumulate):
        micro = [(by_name[draw.task], _share(draw.rows, share, recipe.schedule.accumulate)) for draw in drawn]
        ragged, parts = _batch([(task, rows) for task, rows in micro if len(rows)], sizes)
        if not parts:
            continue
        ragged = ragged.to(next(network.parameters()).device)
        loss, told = objective(network, ragged, parts)
        if not math.isfinite(float(loss.detach())):
            raise WorkError(
                f"step {number + 1}: the loss is {float(loss.detach())} (tasks {', '.join(told)}); "
                "a smaller optimizer.lr or precision float32 may help"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        tokens += ragged.tokens
        for task, rows in micro:
            if len(rows):
                losses[task.name] = (
                    losses.get(task.name, 0.0) + told[task.name] * len(rows) / sizes[task.name]
                )
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    limit = recipe.optimizer.clip if recipe.optimizer.clip is not None else math.inf
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit, foreach=True))
    if not math.isfinite(norm):
        raise WorkError(f"step {number + 1}: the gradient is not finite; a smaller optimizer.lr may help")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return losses, norm, tokens, sizes


def _batch(
    drawn: Sequence[tuple[TaskData, np.ndarray[Any, np.dtype[np.int64]]]], sizes: dict[str, int]
) -> tuple[Ragged, list[Part]]:
    """One ragged batch for the examples of all drawn tasks, and which of its sequences are whose."""
    if not drawn:
        return Ragged.of([[0]]), []
    ids, segments, lengths, parts, sequences = [], [], [], [], 0
    for task, rows in drawn:
        split = task.splits["train"]
        assert split.targets is not None
        one_ids, one_segments, one_lengths = split.rows.batch(rows)
        ids.append(one_ids)
        segments.append(one_segments)
        lengths.append(one_lengths)
        end = sequences + len(one_lengths)
        weight = (
            task.section.weight * len(rows) / sizes[task.name]
        )  # micro-batches add up to the batch's mean
        targets = torch.from_numpy(split.targets[rows])
        parts.append(Part(task.name, task.kind, sequences, end, targets, weight))
        sequences = end
    return Ragged.of_flat(np.concatenate(ids), np.concatenate(segments), np.concatenate(lengths)), parts


def _evaluate(
    run: Run,
    journal: Journal,
    recipe: Recipe,
    network: Network,
    tasks: Sequence[TaskData],
    progress: state.Progress,
) -> None:
    """Score the dev splits; keep the weights where the mean is the best so far; say when patience has run out."""
    scores = {}
    for task in tasks:
        split = task.splits.get("dev")
        if split is not None and split.targets is not None:
            scores[task.name] = score(task.kind, outputs_of(network, task.name, split), split)
    mean = goodness(tasks, scores) if scores else math.nan
    better = not scores or progress.best is None or mean > progress.best
    if better:
        progress.best, progress.best_step, progress.stale = (mean if scores else None), progress.step, 0
        state.save_weights(run.checkpoints / "best.safetensors", network)
    else:
        progress.stale += 1
    journal.evaluation(progress.step, scores, mean, better)
    patience = recipe.schedule.patience
    if patience is not None and progress.stale >= patience:
        progress.stopped = True
        journal.say(f"no better score in {patience} evaluations: stopped after step {progress.step}")


def _finish(
    run: Run, journal: Journal, model: Model, tasks: Sequence[TaskData], progress: state.Progress
) -> None:
    """Bring the best weights back; write scores, predictions and the model."""
    state.load_weights(run.checkpoints / "best.safetensors", model.network)
    model.network.eval()
    scores: dict[str, dict[str, dict[str, float]]] = {}
    (run.folder / "predictions").mkdir(exist_ok=True)
    for task in tasks:
        for name, split in task.splits.items():
            if name == "train":
                continue
            outputs = outputs_of(model.network, task.name, split)
            if split.targets is not None:
                scores.setdefault(name, {})[task.name] = score(task.kind, outputs, split)
            write_predictions(
                run.folder / "predictions" / f"{task.name}-{name}.csv", task.kind, split, outputs
            )
    run.write_scores(scores)
    model.save(run.model_folder)
    journal.note(
        "end", step=progress.step, best_step=progress.best_step, seconds=progress.seconds, scores=scores
    )
    journal.say(f"best checkpoint: step {progress.best_step}; the run is in {run.folder}")


def _encoder(
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
        )
        with _own_random_numbers(recipe.seed):
            encoder = Encoder(shape, **shares)
    else:
        assert settings.from_ is not None
        tokenizer = Tokenizer.from_pretrained(settings.from_)
        with _own_random_numbers(recipe.seed):
            encoder = Encoder.from_pretrained(settings.from_, **shares)
    if tokenizer.vocab_size > encoder.shape.vocabulary:
        raise InputError(
            f"encoder: the tokenizer has {tokenizer.vocab_size} tokens, the weights only {encoder.shape.vocabulary}"
        )
    return tokenizer, encoder.use(compute=chosen.compute, attention=attention), chosen


def _optimizer(recipe: Recipe, network: Network) -> torch.optim.Optimizer:
    named = [(f"encoder.{name}", one) for name, one in network.encoder.named_parameters()]
    named += [(f"heads.{name}", one) for name, one in network.named_head_parameters()]
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
    return optim.build(
        groups,
        name=settings.name,
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )


def _schedule(recipe: Recipe, tasks: Sequence[TaskData]) -> mixing.Schedule:
    sizes = {task.name: len(task.splits["train"]) for task in tasks}
    batches = {task.name: task.section.batch_size or recipe.schedule.batch_size for task in tasks}
    return mixing.schedule(recipe.mixing.schedule, sizes, batches, recipe.seed, **recipe.mixing.settings)


def _plan(recipe: Recipe, schedule: mixing.Schedule, tasks: int) -> _Plan:
    draws = tasks if recipe.sums_rounds else 1
    per_epoch = max(1, schedule.steps_per_epoch // draws)
    asked = recipe.schedule
    total = asked.steps
    if total is None:
        total = max(1, schedule.steps_for(asked.epochs) // draws)
    elif schedule.total_steps is not None:
        total = min(total, schedule.total_steps // draws)
    every = per_epoch if asked.evaluate_every == "epoch" else asked.evaluate_every
    return _Plan(total, per_epoch, draws, every, asked.checkpoint_every or every)


def _set_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, total: int) -> None:
    """The rate of step `step` (from 0): warm-up, then decay."""
    factor = optim.DECAYS[recipe.schedule.decay](step, total, recipe.schedule.warmup_steps(total))
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def _share(rows: Any, number: int, shares: int) -> Any:
    """The `number`-th of `shares` nearly equal parts."""
    return np.array_split(rows, shares)[number]


def _mixed(seed: int, step: int) -> int:
    """A seed for torch from the run's seed and the step: neighbouring steps share no bits."""
    digest = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little")


def _key(recipe: Recipe, tasks: Sequence[TaskData], tokenizer: Tokenizer, plan: _Plan) -> str:
    """What a checkpoint belongs to: the recipe, the tokenizer, each task's labels and rows to learn and choose by."""
    told = {
        "recipe": recipe.model_dump(mode="json", exclude={"name", "data"}),
        "tokenizer": tokenizer.fingerprint,
        "total": plan.total,
        "tasks": {
            task.name: [
                task.kind.facts(),
                *(task.splits[name].digest for name in ("train", "dev") if name in task.splits),
            ]
            for task in tasks
        },
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def _refuse_other_content(run: Run, resume: bool) -> None:
    folder = run.folder
    if folder.is_file():
        raise InputError("is a file, expected a folder for the run", file=folder)
    above = next((one for one in folder.absolute().parents if one.exists()), None)
    if above is not None and not above.is_dir():
        raise InputError("is a file, expected a folder to make the run's in", file=above)
    if resume and (folder / "recipe.yaml").is_file():
        return
    # A run that was killed before it wrote anything starts anew, resumed or not.
    # What begins with a dot is no run's: the leftover of a kill while the first file was written, for one.
    if folder.is_dir() and not all(one.name.startswith(".") for one in folder.iterdir()):
        raise InputError("exists already; --resume goes on with it, --out names another folder", file=folder)


def _describe(
    journal: Journal,
    recipe: Recipe,
    tasks: Sequence[TaskData],
    schedule: mixing.Schedule,
    plan: _Plan,
    network: Network,
    precision_name: str,
    progress: state.Progress,
) -> None:
    """Say before the first step what will be trained on what; and what was left out or cut."""
    table = Table(
        "task", "kind", "rows", "batch", "steps an epoch", "cut", "no label", box=None, pad_edge=False
    )
    steps = {name: (batch, count) for name, _, batch, count in schedule.describe()}
    for task in tasks:
        rows = task.splits["train"].rows
        sizes = " / ".join(f"{len(split):,}" for split in task.splits.values())
        batch, count = steps.get(task.name, ("–", 0))  # a task of an earlier stage alone
        table.add_row(
            task.name,
            task.section.kind,
            sizes,
            str(batch),
            str(count),
            str(rows.truncated),
            str(sum(len(split.rows.unlabelled) for split in task.splits.values())),
        )
    journal.table(table)
    for task in tasks:
        for split in task.splits.values():
            for place in split.rows.unlabelled[:3]:
                journal.say(f"left out, no label: {place.file}, row {place.row}")
    count = sum(one.numel() for one in network.parameters())
    journal.say(
        f"{count:,} parameters · {plan.total} steps, {plan.per_epoch} an epoch · {precision_name} · "
        f"torch {torch.__version__}" + (f" · resumed at step {progress.step}" if progress.step else "")
    )
    if progress.step == 0:
        journal.note(
            "start",
            step=0,
            parameters=count,
            steps=plan.total,
            precision=precision_name,
            torch=torch.__version__,
            python=platform.python_version(),
            threads=torch.get_num_threads(),
            rows={task.name: {name: len(split) for name, split in task.splits.items()} for task in tasks},
            truncated={task.name: task.splits["train"].rows.truncated for task in tasks},
            unlabelled={
                task.name: [
                    [place.file, place.row]
                    for split in task.splits.values()
                    for place in split.rows.unlabelled
                ]
                for task in tasks
            },
        )


@contextmanager
def _own_random_numbers(seed: int) -> Iterator[None]:
    """Seed torch's generator inside, and give the caller's back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def _interrupt() -> Iterator[list[int]]:
    """A list that becomes non-empty at the first Ctrl-C; the second one interrupts at once."""
    seen: list[int] = []

    def note(number: int, frame: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not in the main thread: the caller keeps its own handling
        yield seen
        return
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
