"""The one loop: draw, forward, loss, backward, clip, step; evaluate, keep the best, checkpoint, tell.

Knows everything under it. Must not know any kind, head or schedule by name.
"""

import hashlib
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manyheads.data import mixing
from manyheads.data.encode import TokenCache
from manyheads.data.select import sampled
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layout import Layout, marked
from manyheads.encoder.ragged import Ragged
from manyheads.errors import InputError, WorkError
from manyheads.formulas import optim
from manyheads.model import Model, Network, Task
from manyheads.recipe import Recipe
from manyheads.run import Run
from manyheads.training import state
from manyheads.training.conflict import Surgery, affinity, draw_affinity
from manyheads.training.evaluate import (
    goodness,
    outputs_of,
    score,
    tune,
    write_predictions,
    write_tallies,
)
from manyheads.training.frozen import Vectors, vectors_of
from manyheads.training.journal import Journal
from manyheads.training.objective import Objective, Part
from manyheads.training.setup import (
    Plan,
    build_network,
    build_optimizer,
    build_schedule,
    describe,
    key_of,
    open_encoder,
    own_random_numbers,
    plan_steps,
)
from manyheads.training.splits import TaskData, load_task
from manyheads.training.teachers import teach

__all__ = ["Stopped", "train"]


class Stopped(KeyboardInterrupt):
    """Ctrl-C was pressed: the step was finished and a checkpoint written."""


@dataclass(frozen=True)
class _Material:
    """What steps are made of: the tasks in the recipe's order, which rows come when, and what is known of them."""

    tasks: dict[str, TaskData]
    schedule: mixing.Schedule
    teachers: dict[str, Grouped]
    """Task → its teacher's answers for the training rows."""
    vectors: dict[tuple[str, str], Vectors]
    """(task, split) → what its head reads of a frozen encoder; empty where the encoder learns."""


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
    tokenizer, encoder, chosen = open_encoder(recipe, device, attention)
    cache = cache or TokenCache()
    tasks = [
        load_task(name, recipe, tokenizer, positions=encoder.shape.positions, cache=cache)
        for name in recipe.tasks
    ]
    for task in tasks:
        if "train" not in task.splits:
            raise InputError(f"tasks.{task.name}: no 'train' among its files, so it cannot be trained")

    journal = Journal(run.folder, quiet=quiet)
    named = {task.name: task for task in tasks}
    network = build_network(recipe, encoder, named).to(device, chosen.parameters)
    teachers = teach(recipe, named, device=device, attention=attention, cache=cache, say=journal.say)
    objective = Objective(recipe, network, {task.name: task.kind for task in tasks})
    objective.to(device)
    optimizer = build_optimizer(recipe, network, objective)
    schedule = build_schedule(recipe, tasks)
    plan = plan_steps(recipe, schedule, len(tasks))
    key = key_of(recipe, tasks, tokenizer, plan, teachers)
    progress = state.Progress()
    found = state.latest(run.checkpoints) if resume else None
    learning = {"network": network, "objective": objective}
    if found is not None:
        progress = state.restore(found, learning, optimizer, key)

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
        journal.opened(plan.total, resumed_at=progress.step if resume else None),
        own_random_numbers(recipe.seed),
        _interrupt() as interrupted,
    ):
        describe(journal, recipe, tasks, schedule, plan, network, optimizer, chosen.name, progress)
        vectors = _frozen_vectors(run, journal, network, tasks) if recipe.encoder.freeze else {}
        material = _Material(named, schedule, teachers, vectors)
        network.train()
        before = time.perf_counter() - progress.seconds
        while progress.step < plan.total and not progress.stopped:
            every = recipe.gradients.affinity_every
            if every is not None and progress.step % every == 0:
                _measure_affinity(journal, recipe, network, material, progress.step)
            began = time.perf_counter()
            step = _step(recipe, network, objective, optimizer, material, plan, progress.step)
            progress.step_seconds += time.perf_counter() - began
            progress.examples += sum(step.sizes.values())
            progress.step += 1
            journal.step(
                progress.step,
                step.losses,
                epoch=progress.step / plan.per_epoch,
                rate=optimizer.param_groups[-1]["lr"],
                norm=step.norm,
                tokens=step.tokens,
                sizes=step.sizes,
                terms=step.terms,
            )
            last = progress.step == plan.total
            if last or progress.step % plan.evaluate_every == 0:
                _evaluate(run, journal, recipe, network, material, progress)
            progress.seconds = time.perf_counter() - before
            if interrupted or last or progress.stopped or progress.step % plan.checkpoint_every == 0:
                journal.flush()
                state.save(run.checkpoints, learning, optimizer, progress, key)
            if interrupted:
                journal.say(f"stopped after step {progress.step}; go on with --resume")
                raise Stopped
        _finish(run, journal, model, material, progress, objective.learnt_weights)
    return run


@dataclass
class _Done:
    """What one step did."""

    losses: dict[str, float]
    """Task → its loss before it is weighed."""
    terms: dict[str, float]
    """Term of the objective → its value, weighed."""
    sizes: dict[str, int]
    """Task → examples."""
    tokens: int = 0
    norm: float = 0.0
    """2-norm of the gradient before it is shortened."""


def _step(
    recipe: Recipe,
    network: Network,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    material: _Material,
    plan: Plan,
    number: int,
) -> _Done:
    """Step `number` (from 0): draw, forward and backward, clip, move."""
    torch.manual_seed(_mixed(recipe.seed, number))  # dropout and noise are functions of (seed, step) alone
    _set_rates(optimizer, recipe, number, plan.total)
    rounds = [material.schedule.draws(number * plan.draws + i) for i in range(plan.draws)]
    drawn = [
        # Of a round's examples each counts alike; rounds that are summed into one step count alike.
        (draw, len(draw.rows) / sum(len(one.rows) for one in round_))
        for round_ in rounds
        for draw in round_
    ]
    done = _Done({}, {}, {draw.task: len(draw.rows) for draw, _ in drawn})
    weights = {draw.task: weight for draw, weight in drawn}
    surgery = Surgery(network) if recipe.gradients.surgery == "pcgrad" and len(done.sizes) > 1 else None
    progress = number / max(1, plan.total - 1)
    for share in range(recipe.schedule.accumulate):
        micro = [
            (draw.task, rows, weight * _part_of(material.tasks[draw.task], rows, draw.rows))
            for draw, weight in drawn
            if len(rows := _share(draw.rows, share, recipe.schedule.accumulate))
        ]
        for some in [micro] if surgery is None else [[one] for one in micro]:
            if not some:
                continue
            ragged, parts = _batch(material, some)
            ragged = ragged.to(next(network.parameters()).device)
            loss, losses, terms = objective(network, ragged, parts, progress)
            if not math.isfinite(float(loss.detach())):
                raise WorkError(
                    f"step {number + 1}: the loss is {float(loss.detach())} (tasks {', '.join(losses)}); "
                    "a smaller optimizer.lr or precision float32 may help"
                )
            loss.backward()
            if surgery is not None:
                surgery.put_aside(some[0][0])
            done.tokens += 0 if parts[0].vectors is not None else ragged.tokens
            for task, _, weight in some:
                part = losses[task] * weight / weights[task]
                done.losses[task] = done.losses.get(task, 0.0) + part
            for name, value in terms.items():
                done.terms[name] = done.terms.get(name, 0.0) + value
    if surgery is not None:
        surgery.operate()
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    limit = recipe.optimizer.clip if recipe.optimizer.clip is not None else math.inf
    done.norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit, foreach=True))
    if not math.isfinite(done.norm):
        raise WorkError(f"step {number + 1}: the gradient is not finite; a smaller optimizer.lr may help")
    optimizer.step()
    objective.stepped(network)
    optimizer.zero_grad(set_to_none=True)
    return done


def _batch(
    material: _Material, drawn: Sequence[tuple[str, np.ndarray[Any, np.dtype[np.int64]], float]]
) -> tuple[Ragged, list[Part]]:
    """One ragged batch for the examples of all drawn tasks, (task, rows, weight), and which of its sequences are whose.

    With a frozen encoder no tokens are read: the parts carry the vectors, and the batch is one token for form's sake.
    """
    layouts: list[Layout] = []
    parts: list[Part] = []
    sequences = 0
    for name, rows, weight in drawn:
        task = material.tasks[name]
        split = task.splits["train"]
        kept = material.vectors.get((name, "train"))
        if kept is None:
            layouts.append(split.rows.batch(rows))
        count = int(split.rows.layout.counts[rows].sum())
        teacher = material.teachers.get(name)
        parts.append(
            Part(
                name,
                task.kind,
                sequences,
                sequences + count,
                torch.from_numpy(split.targets_of(rows)),
                task.section.weight * weight,
                None if teacher is None else teacher.take(rows).rows,
                None if kept is None else kept.take(rows),
            )
        )
        sequences += count
    return Ragged.of_layout(Layout.joined(marked(layouts))) if layouts else Ragged.of([[0]]), parts


def _frozen_vectors(
    run: Run, journal: Journal, network: Network, tasks: Sequence[TaskData]
) -> dict[tuple[str, str], Vectors]:
    """What each head reads of the frozen encoder, for every split; files in `features/` while the training lasts."""
    found = {}
    for task in tasks:
        for name, split in task.splits.items():
            path = run.folder / "features" / f"{task.name}-{name}.bin"
            with journal.working(
                f"{task.name} {name}: reading it once with the frozen encoder", len(split)
            ) as on:
                found[task.name, name] = vectors_of(network, task.name, split, path, on)
    return found


def _measure_affinity(
    journal: Journal, recipe: Recipe, network: Network, material: _Material, number: int
) -> None:
    """Note the cosines between the tasks' gradients before step `number`, each on a batch of its own rows."""
    device = next(network.parameters()).device
    network.eval()  # without dropout: less noise in the gradients, and no random number of the training is used

    def loss_of(task: TaskData) -> Callable[[], torch.Tensor]:
        size = task.section.batch_size or recipe.schedule.batch_size
        purpose = f"affinity of {task.name} before step {number + 1}"
        rows = sampled(len(task.splits["train"]), size, recipe.seed, purpose)

        def compute() -> torch.Tensor:
            ragged, (part,) = _batch(material, [(task.name, rows, 1.0)])
            (outputs,) = network(ragged.to(device), [(part.task, part.begin, part.end)])
            return part.kind.loss(outputs, part.targets.to(device))

        return compute

    cosines = affinity(network, {name: loss_of(task) for name, task in material.tasks.items()})
    network.train()
    journal.affinity(number + 1, list(material.tasks), cosines)


def _evaluate(
    run: Run,
    journal: Journal,
    recipe: Recipe,
    network: Network,
    material: _Material,
    progress: state.Progress,
) -> None:
    """Score the dev splits; keep the weights where the mean is the best so far; say when patience has run out."""
    scores = {}
    for task in material.tasks.values():
        split = task.splits.get("dev")
        if split is not None and split.targets is not None:
            outputs = outputs_of(network, task.name, split, material.vectors.get((task.name, "dev")))
            tune(task.kind, outputs, split)
            scores[task.name] = score(task.kind, outputs, split)
    mean = goodness(list(material.tasks.values()), scores) if scores else math.nan
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
    run: Run,
    journal: Journal,
    model: Model,
    material: _Material,
    progress: state.Progress,
    learnt_weights: dict[str, float],
) -> None:
    """Bring the best weights back; write scores, predictions, their tallies, the heat map and the model."""
    state.load_weights(run.checkpoints / "best.safetensors", model.network)
    model.network.eval()
    scores: dict[str, dict[str, dict[str, float]]] = {}
    (run.folder / "predictions").mkdir(exist_ok=True)
    for task in material.tasks.values():
        for name, split in sorted(task.splits.items(), key=lambda one: one[0] != "dev"):
            if name == "train":
                continue
            outputs = outputs_of(model.network, task.name, split, material.vectors.get((task.name, name)))
            path = run.folder / "predictions" / f"{task.name}-{name}.csv"
            if split.targets is not None:
                if name == "dev":
                    tune(task.kind, outputs, split)
                scores.setdefault(name, {})[task.name] = score(task.kind, outputs, split)
                write_tallies(path.with_suffix(".npy"), task.kind, split, outputs)
            write_predictions(path, task.kind, split, outputs)
    run.write_scores(scores)
    measured = journal.measured_affinity()
    if measured and len(material.tasks) > 1:
        draw_affinity(run.folder / "affinity.svg", list(material.tasks), measured)
    model.save(run.model_folder)
    shutil.rmtree(run.folder / "features", ignore_errors=True)
    journal.note(
        "end",
        step=progress.step,
        best_step=progress.best_step,
        seconds=progress.seconds,
        step_seconds=progress.step_seconds,
        examples=progress.examples,
        scores=scores,
        **({"learnt_weights": learnt_weights} if learnt_weights else {}),
    )
    journal.say(f"best checkpoint: step {progress.best_step}; the run is in {run.folder}")


def _set_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, total: int) -> None:
    """The rate of step `step` (from 0): warm-up, then decay."""
    factor = optim.DECAYS[recipe.schedule.decay](step, total, recipe.schedule.warmup_steps(total))
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def _part_of(task: TaskData, rows: Any, whole: Any) -> float:
    """How much some rows count among all that were drawn, so that their mean losses add up to the mean of all."""
    if len(rows) == len(whole):
        return 1.0
    split = task.splits["train"]

    def counted(some: Any) -> float:
        sizes = np.ones(len(some), dtype=np.int64) if split.sizes is None else split.sizes[some]
        return float(task.kind.counted(split.targets_of(some), sizes).sum())

    total = counted(whole)
    return counted(rows) / total if total else len(rows) / len(whole)


def _share(rows: Any, number: int, shares: int) -> Any:
    """The `number`-th of `shares` nearly equal parts."""
    return np.array_split(rows, shares)[number]


def _mixed(seed: int, step: int) -> int:
    """A seed for torch from the run's seed and the step: neighbouring steps share no bits."""
    digest = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little")


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
