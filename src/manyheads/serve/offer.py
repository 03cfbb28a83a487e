"""What is on offer: the tasks of one or more runs under names of their own, each with the queue before its encoder.

Knows models, their tasks and queues. Must not know HTTP or JSON.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from manyheads.encoder.bert import Encoder, States
from manyheads.encoder.layout import Layout
from manyheads.model import Model, Task, predictions_of
from manyheads.passes import Part, Reader, read_together, tokens_of_inputs
from manyheads.run import load
from manyheads.serve.batcher import Batcher
from manyheads.serve.limits import Limits
from manyheads.serve.metrics import Metrics
from manyheads.tasks import Prediction
from manyheads.tasks.head import Rows
from manyheads.tasks.texts import TextKind

__all__ = ["Embedder", "Laid", "Offer", "Offered", "load_models"]

_WARM_LENGTH = 32  # tokens of each sequence of the pass that warms up and measures

Pooling = Literal["mean", "cls"]


@dataclass(frozen=True, eq=False)
class Offered:
    """A task as it is served."""

    name: str
    """What clients call it: the task's name, or RUN/TASK where several runs have one of that name."""
    run: str
    task: Task
    model: Model
    reader: Reader
    queue: Batcher

    def input(self, one: object) -> Any:
        """What a client hands over, as the task's kind reads it; ValueError says what was expected and found."""
        return self.task.kind.input(self.task.kind.given(one))

    def part(self, inputs: Sequence[Any]) -> Part:
        """Inputs as the encoder reads them for this task."""
        longest = min(self.task.max_length, self.model.network.encoder.shape.positions)
        return Part(self.reader, self.task.kind.lay(inputs, self.model.tokenizer, longest))

    def lay(self, inputs: Sequence[Any]) -> "Laid":
        """Inputs for this task alone, as `input` gives them."""
        part = self.part(inputs)
        return Laid(self.queue, [part], [list(inputs)], tokens_of_inputs([part]))

    @property
    def explainable(self) -> bool:
        """Whether its answers are single scores."""
        return isinstance(self.task.kind, TextKind)

    @property
    def cleans(self) -> bool:
        """Whether texts are cleaned before they are read."""
        return self.task.kind.settings.clean is not None

    def read(self, laid: "Laid") -> list[tuple[str, ...] | None]:
        """For each input the text, or both, as they were cleaned; None where the task does not clean, or reads
        something else."""
        inputs = laid.inputs[laid.readers.index(self.reader)]
        told = self.cleans and isinstance(self.task.kind, TextKind)
        return [tuple(one) if told else None for one in inputs]

    def predictions(self, laid: "Laid", outputs: Rows) -> list[Prediction]:
        """What the head's outputs say of the inputs that were laid out for it."""
        at = laid.readers.index(self.reader)
        return predictions_of(self.task.kind, outputs, laid.parts[at].layout, laid.inputs[at])


@dataclass(frozen=True, eq=False)
class Embedder:
    """A run's encoder as it makes vectors of texts."""

    run: str
    model: Model
    queue: Batcher
    readers: Mapping[Pooling, Reader]

    @property
    def dimension(self) -> int:
        """Numbers of a vector."""
        return self.model.network.encoder.shape.hidden

    def lay(self, texts: Sequence[str], pooling: Pooling) -> "Laid":
        """Texts as sequences, cut where `Model.embed` cuts them."""
        positions = self.model.network.encoder.shape.positions
        longest = max((task.max_length for task in self.model.tasks.values()), default=512)
        flat = self.model.tokenizer.encode_batch(texts, max_length=min(longest, positions))
        one_each = np.ones(len(texts), dtype=np.int32)
        layout = Layout(flat.ids, flat.segments.astype(np.uint8), flat.lengths, flat.dropped, one_each)
        part = Part(self.readers[pooling], layout)
        return Laid(self.queue, [part], [list(texts)], tokens_of_inputs([part]))


@dataclass(frozen=True, eq=False)
class Laid:
    """Inputs as they wait for one encoder: a part for each task that reads them."""

    queue: Batcher
    parts: list[Part]
    inputs: list[list[Any]]
    """For each part the inputs as its kind reads them."""
    tokens: NDArray[np.int64]
    """[n] of each input."""

    @property
    def readers(self) -> list[Reader]:
        """Who reads each part."""
        return [part.reader for part in self.parts]

    def submit(self) -> "Future[list[Rows]]":
        """Queue it; see `Batcher.submit`."""
        return self.queue.submit(self.parts, self.tokens)


class Offer:
    """All tasks of some models; runs whose encoder and tokenizer are the same, number for number, share one queue.

    Warm when it is made: each encoder has made a pass, by which its speed is known.
    """

    def __init__(self, models: Mapping[str, Model], limits: Limits, metrics: Metrics | None = None) -> None:
        self.limits = limits
        self.queues: list[Batcher] = []
        self.tasks: dict[str, Offered] = {}
        self.embedders: dict[str, Embedder] = {}
        homes: list[tuple[Model, Batcher]] = []
        named = Counter(name for model in models.values() for name in model.tasks)
        for run, model in models.items():
            queue = next((queue for other, queue in homes if _share(model, other)), None)
            if queue is None:
                queue = self._queue(model, metrics)
                homes.append((model, queue))
            for name, task in model.tasks.items():
                called = name if named[name] == 1 else f"{run}/{name}"
                reader = Reader.of_head(model.network.head(name))
                self.tasks[called] = Offered(called, run, task, model, reader, queue)
            self.embedders[run] = Embedder(
                run, model, queue, {"mean": Reader(States.mean), "cls": Reader(States.first, reads="first")}
            )
        if metrics is not None:
            metrics.watch("queue_tokens", "Tokens that are in no pass yet.", self._waiting_tokens)
            metrics.watch("queue_requests", "Requests taken and not answered.", self._waiting_requests)

    def lay(self, tasks: Sequence[Offered], inputs: Sequence[Any]) -> Iterator[Laid]:
        """Inputs as the tasks read them, those of tasks with one queue together.

        `inputs` hold for each task its inputs, as `Offered.input` gives them.
        """
        of_queue: dict[Batcher, list[int]] = {}
        for number, offered in enumerate(tasks):
            of_queue.setdefault(offered.queue, []).append(number)
        for queue, numbers in of_queue.items():
            parts = [tasks[number].part(inputs[number]) for number in numbers]
            yield Laid(queue, parts, [list(inputs[number]) for number in numbers], tokens_of_inputs(parts))

    @property
    def alive(self) -> bool:
        """Whether every queue takes and answers requests."""
        return all(queue.alive for queue in self.queues)

    def close(self, seconds: float | None = None) -> bool:
        """Answer what was taken and end; False where that took longer than `seconds`."""
        ended = [queue.close(seconds) for queue in self.queues]
        return all(ended)

    def _queue(self, model: Model, metrics: Metrics | None) -> Batcher:
        limits, encoder = self.limits, model.network.encoder
        queue = Batcher(
            partial(_read, encoder, limits.batch_tokens),
            batch_tokens=limits.batch_tokens,
            tokens=limits.queue_tokens,
            requests=limits.queue_requests,
            patience=limits.timeout,
            passed=None if metrics is None else metrics.passed,
        )
        queue.measure([_warm_up(encoder, model.tokenizer.unk_id, limits.batch_tokens)])
        self.queues.append(queue)
        return queue

    def _waiting_tokens(self) -> float:
        return float(sum(queue.waiting_tokens for queue in self.queues))

    def _waiting_requests(self) -> float:
        return float(sum(queue.waiting_requests for queue in self.queues))


def load_models(
    folders: Sequence[Path], device: str = "cpu", precision: str | None = None
) -> dict[str, Model]:
    """{name: model} of run folders; a run is called as its folder, with a number behind where two are called alike."""
    models: dict[str, Model] = {}
    for folder in folders:
        model = load(folder, precision).to(device)
        whole = folder.resolve()
        name = plain = whole.parent.name if whole.name == "model" else whole.name
        again = 1
        while name in models:
            again += 1
            name = f"{plain}-{again}"
        models[name] = model
    return models


def _read(encoder: Encoder, tokens: int, parts: Sequence[Part]) -> list[Rows]:
    return read_together(encoder, parts, tokens)


def _share(model: Model, other: Model) -> bool:
    """Whether the two have one encoder and tokenizer, number for number; `model` then uses the other's."""
    mine, theirs = model.network.encoder, other.network.encoder
    if (
        mine.shape != theirs.shape
        or model.precision != other.precision
        or model.tokenizer.fingerprint != other.tokenizer.fingerprint
    ):
        return False
    own, foreign = mine.state_dict(), theirs.state_dict()
    same = all(
        one.dtype is foreign[name].dtype
        and one.device == foreign[name].device
        and torch.equal(one, foreign[name])
        for name, one in own.items()
    )
    if same:
        model.network.encoder = theirs
    return same


def _warm_up(encoder: Encoder, token: int, tokens: int) -> Part:
    """About a pass of sequences of one token over and over."""
    length = min(_WARM_LENGTH, encoder.shape.positions)
    count = max(1, tokens // length)
    layout = Layout(
        np.full(count * length, token, dtype=np.int32),
        np.zeros(count * length, dtype=np.uint8),
        np.full(count, length, dtype=np.int32),
        np.zeros(count, dtype=np.int32),
        np.ones(count, dtype=np.int32),
    )
    # Each sequence another, as equal ones would go through once.
    layout.ids[length // 2 :: length] = np.arange(count) % encoder.shape.vocabulary
    layout.ids[length - 1 :: length] = np.arange(count) // encoder.shape.vocabulary
    return Part(Reader(States.mean), layout)
