"""A study: recipes × seeds → trained runs, a table, and which variant is better than the first.

Knows planned runs, the loop that trains one, and finished runs. Must not know any method by name.

The same call goes on after a kill at any moment: a finished run (its log says so, its scores are there) is passed
over, an unfinished one is resumed from its checkpoint, and the files of the study are whole or not there. What a run
becomes depends on its recipe alone, so neither the order nor the number of workers changes a result; the number of
threads may change the last bits.

A variant is compared with the first one on each task that both have, by the rule in `judgement`: with 4 seeds or more
on either side Mann–Whitney's p over the seeds decides, after Holm over all variants and tasks; where so few seeds
cannot decide, the paired bootstrap over the examples does, about these trained runs only.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from rich.console import Console

from manyheads.errors import InputError, WorkError
from manyheads.evidence.chart import draw_scores
from manyheads.evidence.judgement import Judgement, Side, compared, judged
from manyheads.evidence.outcome import Outcome, is_finished
from manyheads.evidence.tables import Row, Table, as_csv, as_markdown, table_of
from manyheads.evidence.variants import Plan, PlannedRun, plan_study, refuse_other_recipes
from manyheads.evidence.workers import Workers
from manyheads.files import write_json, write_text
from manyheads.recipe import Recipe
from manyheads.training.loop import Stopped, train

__all__ = ["Study", "study"]

Failed: TypeAlias = dict[tuple[str, int], str]
"""(variant, seed) of runs that failed → why."""

RESAMPLES = 10_000
"""Of the bootstrap once all runs are finished."""
RESAMPLES_MEANWHILE = 1_000
"""Of the bootstrap after each run before: the table is written again and again."""

# A worker of a study that was killed sees that within moments; in a long product it may take seconds.
_LOCK_SECONDS = 10.0


@dataclass(frozen=True)
class Study:
    """A study's folder and what stands in it: `study.json`, `table.md`, `table.csv`, `plot.svg` and the runs."""

    folder: Path
    plan: Plan
    table: Table
    judgements: tuple[Judgement, ...]
    """Each variant against the first, for each task that both have."""

    @property
    def finished(self) -> bool:
        """Whether every run has finished."""
        return all(row.finished == row.planned for row in self.table.rows)


def study(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    preset: str | None = None,
    overrides: Iterable[str] = (),
    seeds: Iterable[int] | None = None,
    workers: int = 1,
    quiet: bool = False,
    device: str = "cpu",
    attention: str | None = None,
) -> Study:
    """Train every variant of a study's file with every seed, and judge the variants against the first.

    `out` is the study's folder (default `runs/NAME`, with a preset `runs/NAME-PRESET`), a run lies in
    `VARIANT/seed-N` of it. Where some of the runs are there already, the study goes on. `overrides` are put into every
    recipe as `--set` does, under the variants' own settings; `seeds` stand in for those of the file. `workers`
    processes train a run each; 1 is this process.

    Raises InputError for bad input; every recipe is checked before anything is trained. A run that fails is told and
    the others go on; WorkError at the end says which. Stopped after Ctrl-C, with a checkpoint of what was running.
    """
    if workers < 1:
        raise InputError(f"workers: expected a whole number of at least 1, found {workers}")
    plan = plan_study(path, out, preset=preset, overrides=overrides, seeds=seeds)
    _refuse_other_content(plan)
    refuse_other_recipes(plan)
    plan.folder.mkdir(parents=True, exist_ok=True)
    progress = _Progress(plan, Console(stderr=True, quiet=quiet, highlight=False), workers)
    results = _Results(plan)
    for run in plan.runs:
        if is_finished(run.folder):
            _thin(plan, run)
            progress.ended(run, results.add(run).speed.seconds)
    results.write()
    if results.outcomes:
        progress.say(f"{len(results.outcomes)} of {len(plan.runs)} runs have finished already")
    todo = [run for run in plan.runs if run.key not in results.outcomes]

    def finished(run: PlannedRun) -> None:
        _thin(plan, run)
        progress.ended(run, results.add(run).speed.seconds)
        results.write()

    if workers == 1 or len(todo) < 2:
        results.failed = _one_by_one(
            todo, finished, progress, quiet=quiet, device=device, attention=attention
        )
    else:
        results.failed = _side_by_side(
            todo, finished, progress, workers=min(workers, len(todo)), device=device, attention=attention
        )
    found = results.write(last=True)
    progress.say(f"study.json, table.md, table.csv and plot.svg are in {plan.folder}")
    if results.failed:
        (variant, seed), why = next(iter(results.failed.items()))
        more = len(results.failed) - 1
        rest = f" (and {more} more of {len(plan.runs)} runs; study.json has them)" if more else ""
        raise WorkError(f"{variant}, seed {seed}: {why}{rest}")
    return found


# ---- training ----


def _one_by_one(
    todo: Sequence[PlannedRun],
    finished: Callable[[PlannedRun], None],
    progress: "_Progress",
    *,
    quiet: bool,
    device: str,
    attention: str | None,
) -> Failed:
    """Train the runs in this process."""
    failed: Failed = {}
    for run in todo:
        missing = _lacking(run, failed)
        if missing is not None:
            failed[run.key] = missing
            continue
        progress.starts(run)
        try:
            _train(run.recipe, run.folder, quiet=quiet, device=device, attention=attention)
        except InputError as error:
            raise InputError(f"{run}: {error}") from error
        except WorkError as error:
            failed[run.key] = str(error)
            progress.fails(run, error)
            continue
        finished(run)
    return failed


def _side_by_side(
    todo: Sequence[PlannedRun],
    finished: Callable[[PlannedRun], None],
    progress: "_Progress",
    *,
    workers: int,
    device: str,
    attention: str | None,
) -> Failed:
    """Train the runs in processes of their own, each as soon as a worker is free and the runs it names are there."""
    failed: Failed = {}
    waiting = {run.key: run for run in todo}
    runs = dict(waiting)
    threads = max(1, torch.get_num_threads() // workers)
    with Workers[tuple[str, int]](workers, _train_apart, threads) as pool:
        try:
            while waiting or pool.busy:
                for run in list(waiting.values()):
                    missing = _lacking(run, failed)
                    if missing is not None:
                        failed[run.key] = missing
                        del waiting[run.key]
                    elif pool.free and not any(need in waiting or need in pool.busy for need in run.needs):
                        progress.starts(run)
                        values = run.recipe.model_dump(mode="json", by_alias=True)
                        pool.start(run.key, (values, str(run.folder), device, attention))
                        del waiting[run.key]
                for key, error in pool.wait() if pool.busy else ():
                    if isinstance(error, InputError):
                        raise InputError(f"{runs[key]}: {error}")
                    if error is not None:
                        failed[key] = str(error)
                        progress.fails(runs[key], error)
                    else:
                        finished(runs[key])
        except KeyboardInterrupt:
            progress.say("stopping: the runs in hand write a checkpoint; the same command goes on")
            pool.stop()
            raise Stopped from None
    return failed


def _train_apart(values: dict[str, Any], folder: str, device: str, attention: str | None) -> None:
    """One run in a worker's process."""
    _train(Recipe.parse(values), Path(folder), quiet=True, device=device, attention=attention)


def _train(recipe: Recipe, folder: Path, *, quiet: bool, device: str, attention: str | None) -> None:
    """One run, from its last checkpoint; nothing where another process has finished it meanwhile."""
    with _alone(folder):
        if not is_finished(folder):
            train(recipe, folder, resume=True, quiet=quiet, device=device, attention=attention)


def _lacking(run: PlannedRun, failed: Failed) -> str | None:
    """Why a run cannot be trained: one that it names has failed."""
    need = next((need for need in run.needs if need in failed), None)
    return None if need is None else f"not trained, as {need[0]}, seed {need[1]} failed"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep every other process from training into `folder`; the lock goes with this process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with (folder / ".lock").open("w") as file:
        patience = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > patience:
                    raise InputError("is being trained by another process", file=folder) from None
                time.sleep(0.1)
            except OSError:  # a file system without locks
                break
        yield


def _thin(plan: Plan, run: PlannedRun) -> None:
    """Delete of a finished run what the study does not keep."""
    if plan.settings.keep != "all":
        shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    if plan.settings.keep == "scores" and run.key not in plan.named:
        # First what makes the folder a model: a kill in between must not leave half of one.
        (run.folder / "model" / "heads.json").unlink(missing_ok=True)
        shutil.rmtree(run.folder / "model", ignore_errors=True)


def _refuse_other_content(plan: Plan) -> None:
    folder = plan.folder
    if folder.exists() and not folder.is_dir():
        raise InputError("is a file, expected a folder for the study", file=folder)
    try:
        known = json.loads((folder / "study.json").read_text(encoding="utf-8"))["study"]
    except FileNotFoundError:
        # What begins with a dot is the leftover of a kill while the first file was written.
        if folder.is_dir() and not all(one.name.startswith(".") for one in folder.iterdir()):
            raise InputError("exists already and holds no study; name another --out", file=folder) from None
        return
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError("is no study's; name another --out", file=folder / "study.json") from None
    if known != plan.settings.name:
        raise InputError(
            f"belongs to the study {known!r}, not to {plan.settings.name!r}; name another --out", file=folder
        )


# ---- what is told meanwhile ----


class _Progress:
    """A line for each run, with a guess at what is left."""

    def __init__(self, plan: Plan, console: Console, workers: int) -> None:
        self.plan, self.console, self.workers = plan, console, workers
        self.number = {run.key: number for number, run in enumerate(plan.runs, start=1)}
        self.left = set(self.number)
        self.seconds: dict[str, list[float]] = {run.variant: [] for run in plan.runs}

    def ended(self, run: PlannedRun, seconds: float) -> None:
        """A finished run, now or earlier, and how long it took."""
        self.left.discard(run.key)
        if seconds == seconds:
            self.seconds[run.variant].append(seconds)

    def starts(self, run: PlannedRun) -> None:
        """`[7/45] smart, seed 2 · about 12 min left`."""
        text = f"[{self.number[run.key]}/{len(self.plan.runs)}] {run}"
        left = self.expected()
        self.say(text if left is None else f"{text} · about {duration(left)} left")

    def fails(self, run: PlannedRun, error: Exception) -> None:
        """A run that failed."""
        self.left.discard(run.key)
        self.say(f"[{self.number[run.key]}/{len(self.plan.runs)}] {run} failed: {error}")

    def expected(self) -> float | None:
        """Seconds for all that are left, by the finished runs of the same variant or else of any; None without."""
        every = [seconds for each in self.seconds.values() for seconds in each]
        if not every:
            return None
        each = [float(np.median(self.seconds[variant] or every)) for variant, _ in self.left]
        return sum(each) / min(self.workers, max(1, len(each)))

    def say(self, text: str) -> None:
        """One line for the person at the terminal."""
        self.console.print(text, soft_wrap=True, markup=False)


def duration(seconds: float) -> str:
    """In words, roughly: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# ---- results ----


class _Results:
    """The finished runs, and the study's files made of them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.outcomes: dict[tuple[str, int], Outcome] = {}
        self.failed: Failed = {}
        self._compared: dict[Any, Judgement | None] = {}

    def add(self, run: PlannedRun) -> Outcome:
        """A run that has finished."""
        self.outcomes[run.key] = outcome = Outcome.open(run.folder)
        return outcome

    def write(self, *, last: bool = False) -> Study:
        """Write all files anew; the bootstrap is thorough once nothing more will come."""
        plan, whole = self.plan, len(self.outcomes) == len(self.plan.runs)
        # By the plan, not by which run finished first.
        variants = {
            variant: {
                str(run.seed): self.outcomes[run.key] for run in plan.of(variant) if run.key in self.outcomes
            }
            for variant in dict.fromkeys(run.variant for run in plan.runs)
        }
        planned = {variant: len(plan.of(variant)) for variant in variants}
        table = table_of(variants, planned, plan.settings.split)
        resamples = RESAMPLES if whole or last else RESAMPLES_MEANWHILE
        judgements = tuple(self.judgements(variants, resamples))
        study = Study(plan.folder, plan, table, judgements)
        write_json(plan.folder / "study.json", self.as_json(study, resamples))
        write_text(plan.folder / "table.md", self.as_markdown(study))
        write_text(plan.folder / "table.csv", as_csv(table))
        scores = {
            column: {row.variant: row.cells[column].defined for row in table.rows if has_score(row, column)}
            for column in table.columns
        }
        drawn = {column: found for column, found in scores.items() if found}
        draw_scores(plan.folder / "plot.svg", drawn, plan.reference)
        return study

    def judgements(self, variants: Mapping[str, Mapping[str, Outcome]], resamples: int) -> list[Judgement]:
        """Each variant against its reference (the first, or what `against` says), for each task that both have.

        What has not changed is not computed anew.
        """
        first, *others = variants
        split, against = self.plan.settings.split, self.plan.settings.against
        found = []
        for name in [*([first] if first in against else []), *others]:
            side = Side(name, variants[name])
            other = against.get(name, first)
            reference = Side(other, variants[other])
            tasks = dict.fromkeys(
                task for outcome in reference.runs.values() for task in outcome.scores(split)
            )
            for task in tasks:
                key = name, other, task, tuple(side.runs), tuple(reference.runs), resamples
                if key not in self._compared:
                    self._compared[key] = _compared(side, reference, task, split, resamples)
                found.append(self._compared[key])
        return judged([one for one in found if one is not None])

    def as_json(self, study: Study, resamples: int) -> dict[str, Any]:
        """All that is known, for machines."""
        plan = self.plan
        runs = []
        for run in plan.runs:
            told: dict[str, Any] = {"variant": run.variant, "seed": run.seed}
            told["folder"] = run.folder.relative_to(plan.folder).as_posix()
            outcome = self.outcomes.get(run.key)
            told["state"] = "finished" if outcome else "failed" if run.key in self.failed else "planned"
            if outcome is not None:
                told |= {"scores": outcome.run.all_scores, **asdict(outcome.speed)}
            elif run.key in self.failed:
                told["why"] = self.failed[run.key]
            runs.append(told)
        return {
            "study": plan.settings.name,
            "preset": plan.preset,
            "split": plan.settings.split,
            "reference": plan.reference,
            "resamples": resamples,
            "table": study.table.as_json(),
            "comparisons": [one.as_json() for one in study.judgements],
            "runs": runs,
        }

    def as_markdown(self, study: Study) -> str:
        """The table and the sentences, for people."""
        plan = self.plan
        text = f"# {plan.settings.name}{f' ({plan.preset})' if plan.preset else ''}\n\n{as_markdown(study.table)}\n"
        text += (
            f"Scores on {plan.settings.split}: the median over the seeds [first–third quartile]. Seeds: finished of "
            "planned. Seconds and examples count the time inside training steps, as medians over the runs.\n"
        )
        for reference in dict.fromkeys(one.reference for one in study.judgements):
            sentences = [one.sentence for one in study.judgements if one.reference == reference]
            text += f"\n## Against {reference}\n\n" + "".join(f"- {one}\n" for one in sentences)
        failed = [f"- {variant}, seed {seed}: {why}\n" for (variant, seed), why in self.failed.items()]
        return text + (f"\n## Failed\n\n{''.join(failed)}" if failed else "")


def has_score(row: Row, column: tuple[str, str]) -> bool:
    """Whether a variant has a score that can be drawn."""
    return column in row.cells and bool(row.cells[column].defined)


def _compared(side: Side, reference: Side, task: str, split: str, resamples: int) -> Judgement | None:
    try:
        return compared(side, reference, task, split, resamples=resamples)
    except InputError as error:
        sentence = f"{side.name} cannot be compared with {reference.name} on {task}: {error}."
        return Judgement(
            side.name, reference.name, task, split, "", verdict="not comparable", sentence=sentence
        )
