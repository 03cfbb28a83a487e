"""An exported graph in the hand: what it is asked, how its outputs become answers, and whether it says what torch says.

Knows layouts, padded arrays, and the file that tells what the outputs mean. Must not know a runtime, or how a graph is
written.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layout import Layout, sums
from manyheads.encoder.ragged import Ragged
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError, WorkError, nearest, shown
from manyheads.export.described import labels_of
from manyheads.export.padded import needs_marks, needs_partner, outputs_of
from manyheads.model import Input, Network, Task, predictions_of
from manyheads.passes import ragged_batches
from manyheads.tasks import KINDS, Prediction
from manyheads.tasks.head import Head, Rows, plain
from manyheads.tasks.heads.candidates import CandidatesHead
from manyheads.tasks.heads.span import SpanHead
from manyheads.tasks.heads.tokens import TokenHead

__all__ = [
    "EMBEDDING",
    "FORMAT",
    "FORMS",
    "Exported",
    "Graph",
    "GraphModel",
    "arrays_of",
    "check",
    "form_of",
    "needed",
    "read_described",
    "sealed",
]

EMBEDDING = "embedding"
"""The output that is no task's: the mean of each sequence's states [batch, hidden]."""

FORMAT = 2
"""Of `heads.json` beside a graph; raise when its meaning changes."""

FORMS = {
    "rows": "",
    "pairs": "a row with its partner",
    "candidates": "one score a candidate",
    "tokens": "a row a token",
}
"""How outputs are put together for an example (its row, its first row of two, all its rows, its tokens'), and what a
caller is told of it."""

_TOLERANCE = 1e-4
_BATCHES, _LENGTHS = (1, 3, 8), (4, 17, 128)  # at which a graph is compared with torch
_TEXTS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph that some runtime computes."""

    inputs: tuple[str, ...]
    """The names of its inputs."""
    ask: Callable[[Sequence[str], Mapping[str, NDArray[np.int64]]], list[NDArray[Any]]]
    """(names of outputs, {input: array}) → those outputs."""


@dataclass(frozen=True)
class Exported:
    """A task as a graph answers it."""

    task: Task
    outputs: tuple[str, ...]
    """The names of its outputs."""
    form: str
    """One of FORMS."""
    graph: str | None = None
    """Which graph answers it, where there are several."""


class GraphModel:
    """An exported model in the hand: `predict` as `Model.predict`, computed by another runtime on the processor."""

    def __init__(
        self, graphs: Mapping[str | None, Graph], tokenizer: Tokenizer, exported: Sequence[Exported]
    ) -> None:
        self._graphs = dict(graphs)
        self.tokenizer = tokenizer
        self._exported = {one.task.name: one for one in exported}

    @property
    def tasks(self) -> dict[str, Task]:
        """The tasks by their names."""
        return {name: one.task for name, one in self._exported.items()}

    def predict(self, task: str, inputs: Iterable[Input], *, raw: bool = False) -> list[Prediction]:
        """Predictions for inputs as `Model.predict` takes them, in their order; with `raw` not calibrated.

        InputError for an unknown task or an input that is none.
        """
        chosen = self._chosen(task, inputs)
        rest = self._read(chosen.task, inputs)
        found: list[Prediction] = []
        while some := list(islice(rest, _TEXTS_AT_ONCE)):
            layout = self._laid(chosen.task, some)
            outputs = self.outputs_of_layout(task, layout)
            found += predictions_of(chosen.task.kind, outputs, layout, some, raw=raw)
        return found

    def outputs(self, task: str, inputs: Iterable[Input]) -> Rows:
        """What the head of a task says of the same inputs, before a prediction is made of it."""
        chosen = self._chosen(task, inputs)
        return self.outputs_of_layout(task, self._laid(chosen.task, list(self._read(chosen.task, inputs))))

    def outputs_of_layout(self, task: str, layout: Layout) -> Rows:
        """What the head of a task says of examples as its kind laid them out."""
        chosen = self._chosen(task, ())
        graph = self._graphs[chosen.graph]
        pairs = chosen.form == "pairs"
        # Sequences go through the graph each for itself, but for the two of a pair.
        units = layout if pairs else replace(layout, counts=np.ones(len(layout.lengths), np.int32))
        order, batches = ragged_batches(units.lengths_of_examples)
        parts: list[NDArray[Any]] = []
        for begin, end in batches:
            some = units.take(order[begin:end])
            given = arrays_of(some, graph.inputs, pairs=pairs)
            said = graph.ask(chosen.outputs, given)
            if chosen.form == "tokens":
                marks = np.zeros(given["input_ids"].shape, np.bool_)
                marks[given["attention_mask"] != 0] = some.marks
                wide = said[0] if len(said) == 1 else np.stack(said, 2)
                parts += [wide[row, marks[row]] for row in range(len(some.lengths))]
            else:
                parts += list(said[0][0::2] if pairs else said[0])
        back = np.argsort(order, kind="stable")
        parts = [parts[place] for place in back.tolist()]
        if chosen.form in ("rows", "pairs"):
            return torch.from_numpy(np.stack(parts))
        counts = layout.counts.astype(np.int64)
        if chosen.form == "candidates":
            return Grouped(torch.from_numpy(np.stack(parts)), counts)
        assert layout.marks is not None
        answers = torch.from_numpy(np.concatenate(parts))
        return Grouped(answers, sums(layout.marks, layout.lengths), counts)

    def _chosen(self, task: str, inputs: object) -> Exported:
        if task not in self._exported:
            known = ", ".join(self._exported)
            raise InputError(
                f"no task {task!r} in this export; it has {known}{nearest(task, self._exported)}"
            )
        if isinstance(inputs, str):
            raise InputError(f"{task}: expected a list of inputs, found one text {shown(inputs)}")
        return self._exported[task]

    @staticmethod
    def _read(task: Task, inputs: Iterable[Input]) -> Iterator[Any]:
        for number, one in enumerate(inputs, start=1):
            try:
                yield task.kind.input(task.kind.given(one))
            except ValueError as error:
                raise InputError(f"{task.name}: input {number}: {error}") from None

    def _laid(self, task: Task, inputs: Sequence[Any]) -> Layout:
        return task.kind.lay(inputs, self.tokenizer, task.max_length)


def arrays_of(
    layout: Layout, inputs: Sequence[str], partner: NDArray[np.int64] | None = None, *, pairs: bool = False
) -> dict[str, NDArray[np.int64]]:
    """The sequences of a layout as the padded arrays [batch, length] of a graph's inputs.

    `partner` [batch] is each row's partner; where it is not given a row is its own, or with `pairs` two neighbouring
    rows are each other's.
    """
    lengths = layout.lengths.astype(np.int64)
    mask = np.arange(int(lengths.max()))[None] < lengths[:, None]
    flat: dict[str, NDArray[Any]] = {
        "input_ids": layout.ids,
        "attention_mask": np.ones_like(layout.ids),
        "token_type_ids": layout.segments,
        "marks": np.zeros(len(layout.ids), np.bool_) if layout.marks is None else layout.marks,
    }
    given = {}
    for name in inputs:
        if name == "partner":
            rows = np.arange(len(lengths), dtype=np.int64)
            given[name] = partner.astype(np.int64) if partner is not None else rows ^ 1 if pairs else rows
            continue
        given[name] = np.zeros(mask.shape, np.int64)
        given[name][mask] = flat[name]
    return given


# ---- what stands beside a graph ----


def form_of(head: Head) -> str:
    """How the outputs of a head are put together for an example."""
    if needs_partner(head):
        return "pairs"
    if isinstance(head, CandidatesHead):
        return "candidates"
    return "tokens" if isinstance(head, TokenHead | SpanHead) or needs_marks(head) else "rows"


def sealed(fingerprint: str, told: Mapping[str, Mapping[str, Any]]) -> str:
    """What stands in a graph itself, so that a heads.json from elsewhere is known for what it is."""
    kept = {name: {key: one[key] for key in ("labels", "max_length", "clean")} for name, one in told.items()}
    return json.dumps({"tokenizer": fingerprint, "tasks": kept}, sort_keys=True)


def read_described(place: Path, expected: str) -> tuple[dict[str, Any], Tokenizer, list[Exported], str]:
    """(`heads.json`, the tokenizer, the tasks, what must stand in the graphs) of an exported folder.

    `expected` says in errors what the folder should be. InputError where something is missing, damaged, or does not
    belong together.
    """
    path = place / "heads.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no such file; expected {expected}", file=path) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot be read as JSON ({str(error).splitlines()[0]})", file=path) from None
    if not isinstance(told, dict) or not isinstance(told.get("tasks"), dict):
        raise InputError("expected an object with 'graph' and 'tasks'", file=path)
    if told.get("format") != FORMAT:
        raise InputError(f"format {shown(told.get('format'))}: this version reads {FORMAT}", file=path)
    tokenizer = Tokenizer.from_pretrained(place)
    if tokenizer.fingerprint != told.get("tokenizer"):
        raise InputError("the tokenizer beside it is not the one the model was exported with", file=path)
    exported = [_task(name, one, path) for name, one in told["tasks"].items()]
    return told, tokenizer, exported, sealed(tokenizer.fingerprint, told["tasks"])


def _task(name: str, told: Any, path: Path) -> Exported:
    try:
        kind = KINDS[told["kind"]["kind"]]
        settings = kind.Settings.model_validate(told["kind"])
        task = Task(name, kind(settings, told["facts"]), int(told["max_length"]))
        if (
            list(labels_of(task.kind)) != told["labels"]
            or getattr(settings, "clean", None) != told["clean"]
            or told["form"] not in FORMS
        ):
            raise ValueError("labels")
        return Exported(task, tuple(told["outputs"]), str(told["form"]), told.get("graph"))
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise InputError(
            f"task {name!r} is not described as expected ({type(error).__name__})", file=path
        ) from None


def needed(what: str, extra: str, *names: str) -> None:
    """InputError where a library is not installed, with the extra that brings it."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise InputError(f"{what} needs {' and '.join(missing)}: pip install 'manyheads[{extra}]'")


# ---- the check ----


def check(graph: Graph, network: Network, heads: Mapping[str, Head]) -> None:
    """WorkError where the graph and the network differ by more than 1e-4 (of the greatest output, where above 1)."""
    shape = network.encoder.shape
    chance = np.random.default_rng(0)
    by_token = {
        one for name, head in heads.items() if form_of(head) == "tokens" for one in outputs_of(name, head)
    }
    names = [EMBEDDING, *(one for name, head in heads.items() for one in outputs_of(name, head))]
    for batch in _BATCHES:
        for length in sorted({min(one, shape.positions) for one in _LENGTHS}):
            lengths = chance.integers(min(4, length), length + 1, batch)
            lengths[0] = length
            tokens = int(lengths.sum())
            within = np.arange(tokens) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            halves = np.repeat(lengths // 2, lengths)
            layout = Layout(
                chance.integers(0, shape.vocabulary, tokens).astype(np.int32),
                ((within >= halves) & (shape.segments > 1)).astype(np.uint8),
                lengths.astype(np.int32),
                np.zeros(batch, np.int32),
                np.ones(batch, np.int32),
                (within == 0) | (chance.random(tokens) < 0.5),
            )
            partner = chance.permutation(batch)
            given = arrays_of(layout, graph.inputs, partner)
            found = dict(zip(names, graph.ask(names, given), strict=True))
            mask = given["attention_mask"] != 0
            marks = np.zeros_like(mask)
            assert layout.marks is not None
            marks[mask] = layout.marks
            for name, wanted in _expected(network, heads, layout, partner).items():
                _compare(
                    name, found[name][marks] if name in by_token else found[name], wanted, (batch, length)
                )


def _compare(name: str, said: NDArray[Any], wanted: NDArray[Any], shape: tuple[int, int]) -> None:
    limit = _TOLERANCE * max(1.0, float(np.abs(wanted).max(initial=0.0)))
    apart = float(np.abs(said - wanted).max(initial=0.0)) if said.shape == wanted.shape else np.inf
    if not apart <= limit:
        raise WorkError(
            f"the graph's output {name!r} is not what torch says: {apart:.1e} apart at {shape[0]} texts of "
            f"{shape[1]} tokens; nothing was written"
        )


@torch.inference_mode()
def _expected(
    network: Network, heads: Mapping[str, Head], layout: Layout, partner: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """{output: what the network itself says of the ragged batch}; of tokens the marked ones."""
    states = network.encoder.encode(
        Ragged.of_layout(layout), all_layers=any(head.all_layers for head in heads.values())
    )
    found = {EMBEDDING: states.mean().numpy()}
    for name, head in heads.items():
        read = head.read(states)
        if needs_partner(head):
            read = torch.stack([read, read[torch.from_numpy(partner)]], 1).flatten(0, 1)
        rows = plain(head(read)).numpy()
        outputs = outputs_of(name, head)
        found |= {outputs[0]: rows} if len(outputs) == 1 else dict(zip(outputs, rows.T, strict=True))
    return found
