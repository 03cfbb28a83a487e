"""What a run tells while it works: a progress bar, `log.jsonl`, TensorBoard.

Knows numbers and names of numbers. Must not know models, tasks or files of data.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from manyheads.files import finite, write_text

__all__ = ["Journal"]

_EVERY_SECONDS = 10.0  # between two lines where there is no terminal to draw a bar on


class Journal:
    """The log of one run. Within `opened`, `step` and `evaluation` may be called in any order; `say` always."""

    def __init__(self, folder: Path, *, quiet: bool) -> None:
        self.folder = folder
        self.total = 0
        self.quiet = quiet
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.bar = self.console.is_terminal and not quiet
        self._smooth: dict[str, float] = {}
        self._tokens, self._since, self._said = 0, time.perf_counter(), time.perf_counter()
        self._speed = 0.0
        self.possible: tuple[float, str] | None = None
        """The operations a second that the device is capable of, and whence the number is; None: not asked."""
        self._interval = [
            0.0,
            0.0,
            0.0,
        ]  # seconds, tokens and operations of the steps since the last evaluation

    @contextmanager
    def opened(self, total: int, *, resumed_at: int | None = None) -> Iterator[None]:
        """The files of the log and, on a terminal, the bar of `total` steps; `resumed_at`: the step to go on from."""
        from torch.utils.tensorboard import SummaryWriter  # half a second that only training pays

        self.total = total
        self._since = self._said = time.perf_counter()
        path = self.folder / "log.jsonl"
        if resumed_at is not None and path.is_file():
            _cut(path, resumed_at)
        # A run that was killed before its first checkpoint starts afresh, and so does its log.
        self._file = open(path, "w" if resumed_at is None else "a", encoding="utf-8")  # noqa: SIM115
        board = self.folder / "tensorboard"
        purge = (resumed_at or 0) + 1 if board.exists() else None
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
        try:
            self._progress.start()
            self._row: TaskID = self._progress.add_task(
                "training", total=total, completed=resumed_at or 0, told=""
            )
            yield
        finally:
            self._progress.stop()
            self._file.close()
            self._board.close()

    @contextmanager
    def working(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        """Say what is being done, with a bar for `total` examples on a terminal; gives what moves the bar."""
        if not self.bar:
            self.say(text)
            yield lambda count: None
            return
        row = self._progress.add_task(text, total=total, told="")
        yield lambda count: self._progress.advance(row, count)
        self._progress.remove_task(row)

    @contextmanager
    def preparing(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        """`working` before the log is opened; the bar is drawn only once there is something to show."""
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:.0f}%"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.bar,
        )
        begun = False

        def advance(count: int) -> None:
            nonlocal begun
            if not begun:
                begun = True
                bar.start()
                bar.add_task(text, total=total)
                if not self.bar:
                    self.say(text)
            bar.advance(bar.task_ids[0], count)

        try:
            yield advance
        finally:
            bar.stop()

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
        seconds: float,
        operations: float,
        sizes: Mapping[str, int],
        terms: Mapping[str, float],
    ) -> None:
        """A training step: each task's loss, the heads' rate, the gradient's norm before clipping, tokens read, the
        seconds and the operations it took, examples of each task, the other terms of the objective."""
        now = time.perf_counter()
        self._interval = [a + b for a, b in zip(self._interval, (seconds, tokens, operations), strict=True)]
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
                "seconds": round(seconds, 6),
                "lr": rate,
                "norm": norm,
                **({"terms": dict(terms)} if terms else {}),
            },
            flush=False,
        )
        for name, value in terms.items():
            self._board.add_scalar(f"term/{name}", value, step)
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
        self,
        step: int,
        scores: Mapping[str, Mapping[str, float]],
        mean: float,
        best: bool,
        learnt: Mapping[str, Mapping[str, float]],
    ) -> None:
        """The dev scores after a step, and the measures of the training's own batches since the last ones."""
        speed = self._speeds()
        self._write(
            {
                "event": "evaluation",
                "step": step,
                "scores": scores,
                "mean": mean,
                "best": best,
                "train": learnt,
                **speed,
            },
            flush=True,
        )
        for side, found in (("dev", scores), ("train", learnt)):
            for task, measures in found.items():
                for name, value in measures.items():
                    self._board.add_scalar(f"{side}/{task}/{name}", value, step)
        for name, value in speed.items():
            self._board.add_scalar(f"speed/{name}", value, step)
        told = " · ".join(
            f"{task} {name} {value:.4f}"
            for task, measures in scores.items()
            for name, value in list(measures.items())[:1]
        )
        if told:
            self.say(f"step {step}/{self.total} · dev {told}" + (" · best so far" if best else ""))
        self._since = time.perf_counter()
        self._tokens = 0

    def _speeds(self) -> dict[str, float]:
        """Tokens a second within steps since the last evaluation and, where it is known what is possible, the share
        of it that the products' operations are (model FLOPs utilisation)."""
        seconds, tokens, operations = self._interval
        self._interval = [0.0, 0.0, 0.0]
        if not tokens or not seconds:
            return {}
        found = {"tokens_per_second": tokens / seconds}
        if self.possible is not None:
            found["mfu"] = operations / seconds / self.possible[0]
        return found

    def affinity(self, step: int, tasks: Sequence[str], cosines: Mapping[str, Any]) -> None:
        """Cosines [tasks, tasks] between the tasks' gradients for each floor, before step `step`."""
        self._write(
            {"event": "affinity", "step": step, "tasks": list(tasks), "cosines": dict(cosines)}, flush=False
        )

    def measured_affinity(self) -> list[dict[str, Any]]:
        """The cosines of all measurements, earlier lives of the run included."""
        self.flush()
        with open(self.folder / "log.jsonl", encoding="utf-8") as file:
            return [json.loads(line)["cosines"] for line in file if line.startswith('{"event": "affinity"')]

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
