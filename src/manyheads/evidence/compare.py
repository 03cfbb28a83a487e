"""Is run A better than run B? The tests of a study, for any two finished runs.

Knows run folders and folders of run folders. Must not know how runs came about or how a test works.

The rule for better and worse stands in `judgement`. With one run on either side the seeds cannot decide: the paired
bootstrap over the examples then says which of the two trained models is better, not which method.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyheads.errors import InputError
from manyheads.evidence.judgement import Judgement, Side, compared, judged
from manyheads.evidence.outcome import Outcome

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """Run A against run B on every task that both have."""

    a: str
    b: str
    split: str
    judgements: tuple[Judgement, ...]

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "a": self.a,
            "b": self.b,
            "split": self.split,
            "comparisons": [one.as_json() for one in self.judgements],
        }


def compare(
    run_a: str | os.PathLike[str],
    run_b: str | os.PathLike[str],
    *,
    split: str = "dev",
    resamples: int = 10_000,
) -> Comparison:
    """Compare two run folders, or folders that hold several runs (`seed-1`, `seed-2`, … of one variant).

    For each task that both have: the paired bootstrap over the examples, McNemar's test where an example is right or
    wrong and each side is one run, and with several runs Mann–Whitney's U and the permutation test over them; Holm's
    correction over the tasks. Runs of the same name on both sides are paired.

    Raises InputError where a folder has no finished run, no task is common, a task is measured differently, or the
    predictions are not of the same examples.
    """
    a, b = _side(run_a), _side(run_b)
    tasks = {side.name: _tasks(side, split) for side in (a, b)}
    for side in (a, b):
        if not tasks[side.name]:
            known = sorted({one for run in side.runs.values() for one in run.splits})
            raise InputError(
                f"no scores on {split!r}, there are {', '.join(known) or 'none'}", file=side.name
            )
    common = [task for task in tasks[a.name] if task in tasks[b.name]]
    if not common:
        ours, theirs = (", ".join(tasks[side.name]) for side in (a, b))
        raise InputError(f"no common task: {a.name} has {ours}, {b.name} has {theirs}")
    found = [compared(a, b, task, split, resamples=resamples) for task in common]
    return Comparison(a.name, b.name, split, tuple(judged([one for one in found if one is not None])))


def _side(given: str | os.PathLike[str]) -> Side:
    """The finished run or runs in a folder."""
    folder = Path(given)
    if (folder / "recipe.yaml").is_file() or not folder.is_dir():
        return Side(str(folder), {"": Outcome.open(folder)})
    inner = sorted(path for path in folder.iterdir() if (path / "recipe.yaml").is_file())
    finished = {path.name: Outcome.open(path) for path in inner if (path / "scores.json").is_file()}
    if not finished:
        what = f"none of its {len(inner)} runs has finished" if inner else "no run folder, and it holds none"
        raise InputError(f"{what}", file=folder)
    return Side(str(folder), finished)


def _tasks(side: Side, split: str) -> list[str]:
    return list(dict.fromkeys(task for run in side.runs.values() for task in run.scores(split)))
