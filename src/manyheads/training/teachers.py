"""What teachers say of a student's training rows: computed once, and found again.

Knows runs, tasks and the cache's folder. Must not know the loop, or how a target is mixed.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manyheads.data.encode import TokenCache, file_fingerprint
from manyheads.encoder.checkpoint import load_file, write_tensors
from manyheads.encoder.grouped import Grouped
from manyheads.errors import InputError, nearest
from manyheads.model import Model, Task
from manyheads.recipe import Recipe
from manyheads.run import Run
from manyheads.tasks import Kind
from manyheads.tasks.head import Rows, plain
from manyheads.training.evaluate import outputs_of
from manyheads.training.splits import TaskData, load_task

__all__ = ["teach"]


def teach(
    recipe: Recipe,
    tasks: Mapping[str, TaskData],
    *,
    device: str | torch.device = "cpu",
    attention: str | None = None,
    cache: TokenCache,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Grouped]:
    """{task: its teacher's answers for the training rows}, a group an example, in the form of the kind's soft targets.

    Probabilities in the student's order of labels, softened by `distill.temperature`; or values.
    A teacher reads the rows with its own tokenizer and its own limit of length. Its outputs are kept in the
    cache under the digests of its weights and of what it read. Raises InputError where a teacher is no finished
    run, has no fitting task, or has other labels.
    """
    if recipe.distill is None:
        return {}
    found: dict[str, Grouped] = {}
    loaded: dict[str, Model] = {}
    for name, folder in recipe.distill.teachers.items():
        place = f"distill.teachers.{name}"
        try:
            run = Run.open(folder)
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        if folder not in loaded:
            loaded[folder] = run.model().to(device).use(attention=attention)
        teacher, student = loaded[folder], tasks[name]
        task = _task_of(teacher, name, place, folder)
        outputs = _outputs(recipe, run, teacher, task, student, place, cache, say)
        answers = task.kind.answers(task.kind.tempered(outputs, recipe.distill.temperature))
        one_each = np.ones(len(outputs), dtype=np.int64)
        each = outputs.rows_of_examples if isinstance(outputs, Grouped) else one_each
        found[name] = Grouped(_aligned(student.kind, answers, task.kind, place, folder), each)
    return found


def _task_of(teacher: Model, name: str, place: str, folder: str) -> Task:
    """The teacher's task of that name, or its only one."""
    if name in teacher.tasks:
        return teacher.tasks[name]
    if len(teacher.tasks) == 1:
        return next(iter(teacher.tasks.values()))
    known = ", ".join(teacher.tasks)
    raise InputError(f"{place}: {folder} has no task {name!r}, only {known}{nearest(name, teacher.tasks)}")


def _aligned(student: Kind, answers: Tensor, teacher: Kind, place: str, folder: str) -> Tensor:
    try:
        return student.aligned(answers, teacher)
    except ValueError as error:
        raise InputError(f"{place}: the teacher {folder} {error}") from None


def _outputs(
    recipe: Recipe,
    run: Run,
    teacher: Model,
    task: Task,
    student: TaskData,
    place: str,
    cache: TokenCache,
    say: Callable[[str], None],
) -> Rows:
    """The teacher's head outputs for the student's training rows."""
    # No rows tell whether the labels fit, before anything is computed.
    _aligned(student.kind, torch.zeros(0, task.kind.width), task.kind, place, str(run.folder))
    if task.kind.columns != student.kind.columns:
        theirs, ours = ", ".join(task.kind.columns), ", ".join(student.kind.columns)
        raise InputError(f"{place}: the teacher {run.folder} reads {theirs}, the task {ours}")
    rows = load_task(
        student.name,
        recipe,
        teacher.tokenizer,
        positions=teacher.network.encoder.shape.positions,
        kind=task.kind,
        splits=["train"],
        max_length=task.max_length,
        cache=cache,
    ).splits["train"]
    if [one.row for one in rows.rows.places] != [one.row for one in student.splits["train"].rows.places]:
        raise InputError(
            f"{place}: the teacher {run.folder} takes its label from the column {task.kind.target_column!r}, which "
            f"leaves other rows out than the task's {student.kind.target_column!r}"
        )
    if rows.rows.layout.marks is not None:
        read, mine = rows.rows.layout, student.splits["train"].rows.layout
        pairs = ((read.counts, mine.counts), (read.offsets, mine.offsets))
        if not all(np.array_equal(a, b) for a, b in pairs if a is not None and b is not None):
            raise InputError(
                f"{place}: the teacher {run.folder} reads the texts in other pieces than the task (another vocabulary "
                "or other lengths), and its answers are about pieces"
            )
    digest = hashlib.sha256(f"{task.name}/{rows.digest}/{teacher.precision}/{task.max_length}".encode())
    for name in ("model.safetensors", "heads.safetensors", "heads.json"):
        digest.update(file_fingerprint(run.model_folder / name).encode())
    path = cache.folder.parent / "teachers" / f"{digest.hexdigest()[:32]}.safetensors"
    if path.is_file():
        try:
            kept = _kept(load_file(path))
        except (InputError, KeyError, ValueError):
            kept = None  # damaged: computed anew
        if kept is not None and len(kept) == len(rows):
            return kept
    say(f"{student.name}: asking the teacher {run.folder} about {len(rows):,} rows")
    outputs = outputs_of(teacher.network, task.name, rows)
    _keep(path, outputs)
    return outputs


def _keep(path: Path, outputs: Rows) -> None:
    """Write the outputs to the cache; a cache that cannot be written is done without."""
    tensors = {"outputs": plain(outputs).contiguous()}
    if isinstance(outputs, Grouped):
        tensors["sizes"] = torch.from_numpy(outputs.sizes)
        if outputs.counts is not None:
            tensors["counts"] = torch.from_numpy(outputs.counts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(tensors, path)
    except (OSError, InputError):
        return


def _kept(tensors: Mapping[str, Tensor]) -> Rows:
    """What `_keep` wrote."""
    if "sizes" not in tensors:
        return tensors["outputs"]
    counts = tensors["counts"].numpy() if "counts" in tensors else None
    return Grouped(tensors["outputs"], tensors["sizes"].numpy(), counts)
