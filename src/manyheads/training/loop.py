"""The one loop: draw, forward, loss, backward, clip, step; evaluate, keep the best, checkpoint, tell.

Knows everything under it. Must not know any kind, head or schedule by name.
"""

import hashlib
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

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
from manyheads.tasks import Kind
from manyheads.tasks.documents import DocumentKind
from manyheads.training import state
from manyheads.training.conflict import Surgery, affinity, draw_affinity
from manyheads.training.documents import Answers, Drawn
from manyheads.training.evaluate import (
    Running,
    calibrate,
    goodness,
    outputs_of,
    score,
    tallies,
    tallies_of,
    tune,
    write_predictions,
    write_spans,
    write_tallies,
)
from manyheads.training.frozen import Vectors, vectors_of
from manyheads.training.journal import Journal
from manyheads.training.objective import Objective, Part
from manyheads.training.setup import (
    Plan,
    attention_backend,
    build_network,
    build_optimizer,
    build_schedule,
    describe,
    key_of,
    open_encoder,
    own_random_numbers,
    plan_steps,
)
from manyheads.training.splits import TaskData, load_tasks
from manyheads.training.teachers import teach
from manyheads.training.throughput import operations, possible

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
    journal = Journal(run.folder, quiet=quiet)
    tasks = load_tasks(
        recipe, tokenizer, positions=encoder.shape.positions, cache=cache, working=journal.preparing
    )
    for task in tasks:
        if not task.reads_another and "train" not in task.lengths:
            raise InputError(f"tasks.{task.name}: no 'train' among its files, so it cannot be trained")
    named = {task.name: task for task in tasks}
    network = build_network(recipe, encoder, named).to(device, chosen.parameters)
    teachers = teach(recipe, named, device=device, attention=attention, cache=cache, say=journal.say)
    objective = Objective(recipe, network, {task.name: task.kind for task in tasks})
    objective.to(device)
    optimizer = build_optimizer(recipe, network, objective)
    schedule = build_schedule(recipe, tasks)
    plan = plan_steps(recipe, schedule, sum(not task.reads_another for task in tasks))
    key = key_of(recipe, tasks, tokenizer, plan, teachers)
    progress = state.Progress()
    found = state.latest(run.checkpoints) if resume else None
    learning = {"network": network, "objective": objective}
    if found is not None:
        progress = state.restore(found, learning, optimizer, key)
    runs = attention_backend(recipe, encoder, device, attention, chosen)

    run.folder.mkdir(parents=True, exist_ok=True)
    run.write_recipe(recipe)
    model = Model(
        network,
        tokenizer,
        [
            Task(task.name, task.kind, named[task.section.read_with or task.name].section.max_length)
            for task in tasks
        ],
        chosen.name,
    )
    model.network.use(compute=chosen.compute, attention=attention)
    with (
        journal.opened(plan.total, resumed_at=progress.step if resume else None),
        own_random_numbers(recipe.seed),
        _interrupt() as interrupted,
    ):
        if any(task.spans for task in tasks):
            journal.possible = possible(device, chosen.compute or chosen.parameters)
        describe(journal, recipe, tasks, schedule, plan, network, optimizer, chosen.name, runs, progress)
        vectors = _frozen_vectors(run, journal, network, tasks) if recipe.encoder.freeze else {}
        material = _Material(named, schedule, teachers, vectors)
        network.train()
        before = time.perf_counter() - progress.seconds
        running = Running()
        while progress.step < plan.total and not progress.stopped:
            every = recipe.gradients.affinity_every
            if every is not None and progress.step % every == 0:
                _measure_affinity(journal, recipe, network, material, progress.step)
            began = time.perf_counter()
            step = _step(recipe, network, objective, optimizer, material, plan, progress.step, running)
            seconds = time.perf_counter() - began
            progress.step_seconds += seconds
            progress.examples += sum(step.sizes.values())
            progress.step += 1
            journal.step(
                progress.step,
                step.losses,
                epoch=schedule.epochs(progress.step * plan.draws),
                rate=optimizer.param_groups[-1]["lr"],
                norm=step.norm,
                tokens=step.tokens,
                seconds=seconds,
                operations=step.operations,
                sizes=step.sizes,
                terms=step.terms,
            )
            last = progress.step == plan.total
            if last or progress.step % plan.evaluate_every == 0:
                _evaluate(run, journal, recipe, network, material, progress, running.take())
            epochs = schedule.epochs(progress.step * plan.draws)
            every = recipe.schedule.keep_every
            if every is not None and epochs == int(epochs) and int(epochs) % every == 0:
                model.save(run.folder / "epochs" / str(int(epochs)))
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
    operations: float = 0.0
    """Of the products, forward and backward."""
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
    running: Running,
) -> _Done:
    """Step `number` (from 0): draw, forward and backward, clip, move."""
    torch.manual_seed(_mixed(recipe.seed, number))  # dropout and noise are functions of (seed, step) alone
    _set_rates(optimizer, recipe, number, plan.total)
    rounds = [material.schedule.draws(number * plan.draws + i) for i in range(plan.draws)]
    reads = [
        # Of a round's examples each counts alike; rounds that are summed into one step count alike.
        _read(material, draw.task, draw.rows, number, recipe.seed, len(draw.rows) / sum(map(_rows, round_)))
        for round_ in rounds
        for draw in round_
    ]
    done = _Done({}, {}, {read.tasks[0].name: len(read.rows) for read in reads})
    several = sum(len(read.tasks) for read in reads) > 1
    surgery = Surgery(network) if recipe.gradients.surgery == "pcgrad" and several else None
    progress = number / max(1, plan.total - 1)
    shares = recipe.schedule.accumulate
    for share in range(shares):
        micro = [part for read in reads if (part := read.part(share, shares)) is not None]
        for some in [micro] if surgery is None else [[one] for read in micro for one in read.apart()]:
            if not some:
                continue
            ragged, parts = _batch(material, some)
            ragged = ragged.to(network.encoder.device)
            said = objective(network, ragged, parts, progress)
            if not math.isfinite(float(said.total.detach())):
                raise WorkError(
                    f"step {number + 1}: the loss is {float(said.total.detach())} (tasks {', '.join(said.losses)}); "
                    "a smaller optimizer.lr or precision float32 may help"
                )
            said.total.backward()
            running.note(parts, said.outputs)
            if surgery is not None:
                surgery.put_aside(some[0].tasks[0].name)
            if parts[0].vectors is None:
                done.tokens += ragged.tokens
                done.operations += operations(network, ragged, parts)
            for read in some:
                for task, counts in zip(read.tasks, read.shares, strict=True):
                    done.losses[task.name] = done.losses.get(task.name, 0.0) + said.losses[task.name] * counts
            for name, value in said.terms.items():
                done.terms[name] = done.terms.get(name, 0.0) + value
    if surgery is not None:
        surgery.operate()
    limit = recipe.optimizer.clip if recipe.optimizer.clip is not None else math.inf
    done.norm = float(optim.clip_(optimizer, limit))
    if not math.isfinite(done.norm):
        raise WorkError(f"step {number + 1}: the gradient is not finite; a smaller optimizer.lr may help")
    optimizer.step()
    objective.stepped(network)
    optimizer.zero_grad(set_to_none=True)
    return done


@dataclass(frozen=True, eq=False)
class _Read:
    """Examples that a step reads: whose they are, what stands in them, and how much they count."""

    tasks: tuple[TaskData, ...]
    """The task whose rows they are, and those that read with it."""
    rows: NDArray[np.int64]
    drawn: Drawn
    weight: float
    """Of the examples in the step."""
    shares: tuple[float, ...]
    """Of each task: how much these examples count among those that were drawn for it."""

    def part(self, number: int, parts: int) -> "_Read | None":
        """The `number`-th of nearly equal parts; None where there are fewer examples."""
        if parts == 1:
            return self
        places = np.array_split(np.arange(len(self.rows)), parts)[number]
        if not len(places):
            return None
        drawn = self.drawn.take(places)
        return _Read(
            self.tasks,
            self.rows[places],
            drawn,
            self.weight,
            tuple(
                _part_of(task.kind, some, whole)
                for task, some, whole in zip(self.tasks, drawn.answers, self.drawn.answers, strict=True)
            ),
        )

    def apart(self) -> "Iterator[_Read]":
        """The same for each task alone."""
        for task, answers, share in zip(self.tasks, self.drawn.answers, self.shares, strict=True):
            yield _Read((task,), self.rows, Drawn(self.drawn.layout, (answers,)), self.weight, (share,))


def _rows(draw: mixing.Step) -> int:
    return len(draw.rows)


def _read(
    material: _Material, name: str, rows: NDArray[np.int64], step: int | str, seed: int, weight: float = 1.0
) -> _Read:
    """Examples of a task; what is left to chance in them follows from (seed, step, task)."""
    task = material.tasks[name]
    drawn = task.train.draw(rows, np.random.default_rng(_mixed(seed, f"{step}/{name}")))
    tasks = (task, *task.beside)
    return _Read(tasks, rows, drawn, weight, (1.0,) * len(tasks))


def _batch(material: _Material, reads: Sequence[_Read]) -> tuple[Ragged, list[Part]]:
    """One ragged batch for the examples of all tasks, and which of its sequences are whose.

    With a frozen encoder no tokens are read: the parts carry the vectors, and the batch is one token for form's sake.
    """
    layouts: list[Layout] = []
    parts: list[Part] = []
    sequences = 0
    for read in reads:
        count = len(read.drawn.layout.lengths)
        for task, answers, share in zip(read.tasks, read.drawn.answers, read.shares, strict=True):
            kept = material.vectors.get((task.name, "train"))
            teacher = material.teachers.get(task.name)
            parts.append(
                Part(
                    task.name,
                    task.kind,
                    sequences,
                    sequences + count,
                    torch.from_numpy(answers.targets),
                    task.section.weight * read.weight * share,
                    None if teacher is None else teacher.take(read.rows).rows,
                    None if kept is None else kept.take(read.rows),
                )
            )
        layouts.append(read.drawn.layout)
        sequences += count
    if parts[0].vectors is not None:
        return Ragged.of([[0]]), parts
    return Ragged.of_layout(Layout.joined(marked(layouts))), parts


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
        owner = material.tasks[task.section.read_with or task.name]
        size = owner.section.batch_size or recipe.schedule.batch_size
        purpose = f"affinity of {task.name} before step {number + 1}"
        rows = sampled(len(owner.train), size, recipe.seed, purpose)

        def compute() -> torch.Tensor:
            whole = _read(material, owner.name, rows, purpose, recipe.seed)
            (read,) = (one for one in whole.apart() if one.tasks[0] is task)
            ragged, (part,) = _batch(material, [read])
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
    learnt: dict[str, dict[str, float]],
) -> None:
    """Score the dev splits; keep the weights where the mean is the best so far; say when patience has run out."""
    scores: dict[str, dict[str, float]] = {}
    for task in material.tasks.values():
        split, spans = task.splits.get("dev"), task.spans.get("dev")
        if spans is not None:
            scores |= _totals(material, tallies_of(network, task, spans))
        elif split is not None and split.targets is not None:
            outputs = outputs_of(network, task.name, split, material.vectors.get((task.name, "dev")))
            tune(task.kind, outputs, split)
            scores[task.name] = score(task.kind, outputs, split)
    scores = {name: scores[name] for name in material.tasks if name in scores}
    mean = goodness(list(material.tasks.values()), scores) if scores else math.nan
    better = not scores or progress.best is None or mean > progress.best
    if better:
        progress.best, progress.stale = (mean if scores else None), 0
    else:
        progress.stale += 1
    if better or recipe.schedule.keep == "last":
        progress.best_step = progress.step
        state.save_weights(run.checkpoints / "best.safetensors", network)
    journal.evaluation(progress.step, scores, mean, better, learnt)
    patience = recipe.schedule.patience
    if patience is not None and progress.stale >= patience:
        progress.stopped = True
        journal.say(f"no better score in {patience} evaluations: stopped after step {progress.step}")


def _totals(material: _Material, tallies: Mapping[str, NDArray[np.float64]]) -> dict[str, dict[str, float]]:
    """{task: its measures} of tasks on documents."""
    found = {}
    for name, numbers in tallies.items():
        kind = material.tasks[name].kind
        assert isinstance(kind, DocumentKind)
        found[name] = kind.totals(numbers.sum(0))
    return found


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
    for task in sorted(material.tasks.values(), key=lambda one: one.section.head_of is not None):
        if task.section.head_of is not None:  # what its own dev split, if it has one, may find anew
            task.kind.temperature = material.tasks[task.section.head_of].kind.temperature
        for name, split in sorted(task.splits.items(), key=lambda one: one[0] != "dev"):
            if name == "train":
                continue
            outputs = outputs_of(model.network, task.name, split, material.vectors.get((task.name, name)))
            path = run.folder / "predictions" / f"{task.name}-{name}.csv"
            if split.targets is not None:
                if name == "dev":
                    tune(task.kind, outputs, split)
                    calibrate(task.kind, outputs, split)
                scores.setdefault(name, {})[task.name] = score(task.kind, outputs, split)
                write_tallies(path.with_suffix(".npy"), tallies(task.kind, outputs, split))
            write_predictions(path, task.kind, split, outputs)
        for name, spans in task.spans.items():
            if name == "train":
                continue
            found = tallies_of(model.network, task, spans)
            for one, numbers in found.items():
                write_tallies(run.folder / "predictions" / f"{one}-{name}.npy", numbers)
                write_spans(run.folder / "predictions" / f"{one}-{name}.csv", spans)
            scores.setdefault(name, {}).update(_totals(material, found))
    scores = {
        split: {task: of[task] for task in material.tasks if task in of} for split, of in scores.items()
    }
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


def _part_of(kind: Kind, some: Answers, whole: Answers) -> float:
    """How much some examples count among all that were drawn, so that their mean losses add up to the mean of all."""
    if len(some.sizes) == len(whole.sizes):
        return 1.0
    total = float(kind.counted(whole.targets, whole.sizes).sum())
    counts = float(kind.counted(some.targets, some.sizes).sum())
    return counts / total if total else len(some.sizes) / len(whole.sizes)


def _mixed(seed: int, step: int | str) -> int:
    """A seed from the run's seed and the step (or what else it is for): neighbouring steps share no bits."""
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
