"""What a run tells while it works: a progress bar, `log.jsonl`, TensorBoard.

Knows numbers and names of numbers. Must not know models, tasks or files of data.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from manyheads.files import finite, write_text

__all__ = ["Journal"]

_EVERY_SECONDS = 10.0  # between two lines where there is no terminal to draw a bar on


class Journal:
    """The log of one run. Use it as a context manager; `step` and `evaluation` may be called in any order."""

    def __init__(self, folder: Path, total: int, *, quiet: bool, resumed_at: int | None = None) -> None:
        self.folder = folder
        self.total = total
        self.quiet = quiet
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.bar = self.console.is_terminal and not quiet
        self._resumed_at = resumed_at
        self._smooth: dict[str, float] = {}
        self._tokens, self._since, self._said = 0, time.perf_counter(), time.perf_counter()
        self._speed = 0.0

    def __enter__(self) -> Self:
        from torch.utils.tensorboard import SummaryWriter  # half a second that only training pays

        path = self.folder / "log.jsonl"
        if self._resumed_at is not None and path.is_file():
            _cut(path, self._resumed_at)
        # A run that was killed before its first checkpoint starts afresh, and so does its log.
        self._file = open(path, "w" if self._resumed_at is None else "a", encoding="utf-8")
        board = self.folder / "tensorboard"
        purge = (self._resumed_at or 0) + 1 if board.exists() else None
        self._board = SummaryWriter(str(board), purge_step=purge)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.bar,
            refresh_per_second=4,
        )
        self._progress.start()
        self._row: TaskID = self._progress.add_task(
            "training", total=self.total, completed=self._resumed_at or 0, told=""
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._file.close()
        self._board.close()

    def say(self, text: str) -> None:
        """One line for the person at the terminal."""
        self.console.print(text, soft_wrap=True, markup=False)

    def table(self, table: Table) -> None:
        """A table for the person at the terminal."""
        self.console.print(table)

    def note(self, kind: str, **values: Any) -> None:
        """One record of `log.jsonl` that belongs to no step."""
        self._write({"event": kind, **values})

    def step(
        self,
        step: int,
        losses: Mapping[str, float],
        *,
        epoch: float,
        rate: float,
        norm: float,
        tokens: int,
        sizes: Mapping[str, int],
    ) -> None:
        """A training step: each task's loss, the rate, the gradient's norm before clipping, tokens read."""
        now = time.perf_counter()
        self._tokens += tokens
        if now - self._since >= 1.0:
            self._speed = self._tokens / (now - self._since)
            self._tokens, self._since = 0, now
        for task, loss in losses.items():
            self._smooth[task] = loss if task not in self._smooth else 0.95 * self._smooth[task] + 0.05 * loss
        self._write(
            {
                "event": "step",
                "step": step,
                "epoch": round(epoch, 4),
                "loss": dict(losses),
                "examples": dict(sizes),
                "tokens": tokens,
                "lr": rate,
                "norm": norm,
            },
            flush=False,
        )
        for task, loss in losses.items():
            self._board.add_scalar(f"loss/{task}", loss, step)
        self._board.add_scalar("lr", rate, step)
        told = " ".join(f"{task} {loss:.3f}" for task, loss in self._smooth.items())
        told = f"loss {told} · lr {rate:.2e} · {self._speed:,.0f} tokens/s"
        if self.bar:
            self._progress.update(
                self._row, completed=step, description=f"epoch {epoch:.1f}", told=told, refresh=False
            )
        elif not self.quiet and now - self._said >= _EVERY_SECONDS:
            self._said = now
            self.say(f"step {step}/{self.total} · epoch {epoch:.2f} · {told}")

    def evaluation(
        self, step: int, scores: Mapping[str, Mapping[str, float]], mean: float, best: bool
    ) -> None:
        """The dev scores after a step."""
        self._write(
            {"event": "evaluation", "step": step, "scores": scores, "mean": mean, "best": best}, flush=True
        )
        for task, measures in scores.items():
            for name, value in measures.items():
                self._board.add_scalar(f"dev/{task}/{name}", value, step)
        told = " · ".join(
            f"{task} {name} {value:.4f}"
            for task, measures in scores.items()
            for name, value in list(measures.items())[:1]
        )
        self.say(f"step {step}/{self.total} · dev {told}" + (" · best so far" if best else ""))
        self._since = time.perf_counter()
        self._tokens = 0

    def flush(self) -> None:
        """Bring what was written to the disk: called before a checkpoint names the step."""
        self._file.flush()

    def _write(self, record: dict[str, Any], flush: bool = True) -> None:
        self._file.write(json.dumps(finite(record), ensure_ascii=False, allow_nan=False) + "\n")
        if flush:
            self._file.flush()


def _cut(path: Path, step: int) -> None:
    """Drop the records after `step` (0: all of them), the end's, and a last line that a kill has cut in two."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if step > 0 and record.get("step", 0) <= step and record.get("event") != "end":
            kept.append(line)
    write_text(path, "".join(line + "\n" for line in kept))
