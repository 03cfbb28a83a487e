"""A model as one ONNX graph with an output for each head; and such a folder read again through onnxruntime.

Knows the padded network, the exporter of torch and the files of the folder. Must not know commands.
"""

import copy
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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
from manyheads.export.described import asked, described, labels_of
from manyheads.export.folder import Line, new_folder
from manyheads.export.padded import RESTATED, PaddedNetwork, needs_marks, needs_partner, outputs_of
from manyheads.files import write_json
from manyheads.model import Input, Model, Network, Task, predictions_of, ragged_batches
from manyheads.tasks import KINDS, Prediction
from manyheads.tasks.head import Head, Rows, plain
from manyheads.tasks.heads.candidates import CandidatesHead
from manyheads.tasks.heads.span import SpanHead
from manyheads.tasks.heads.tokens import TokenHead

__all__ = ["EMBEDDING", "OnnxModel", "load", "write"]

EMBEDDING = "embedding"
"""The output that is no task's: the mean of each sequence's states [batch, hidden]."""

_FORMAT = 1
_GRAPH = "model.onnx"
_OWN_NAMES = ("input_ids", "attention_mask", "token_type_ids", "partner", "marks", EMBEDDING)
_TOLERANCE = 1e-4
_BATCHES, _LENGTHS = (1, 3, 8), (4, 17, 128)  # at which the graph is compared with torch
_WITHIN = 2_000_000_000  # bytes of weights that one protobuf file can hold
_TEXTS_AT_ONCE = 4096


# ---- writing ----


def write(model: Model, place: str | Path, tasks: Iterable[str] | None = None) -> list[Line]:
    """Write `place`, which must be new: `model.onnx`, `heads.json` and the tokenizer's files.

    The graph computes in float32; batch and length are free. It is compared with the model's own network at several
    shapes before the folder is there. Returns a line for the encoder and each task; one that is left out says why.
    InputError without the libraries or for a task whose name the graph needs for itself; WorkError where the graph
    says something else than the network.
    """
    _libraries("onnx", "onnxscript", "onnxruntime")
    names = asked(model, tasks)
    network = copy.deepcopy(model.network).cpu().float().eval().use(compute=None)
    lines = [Line("encoder", EMBEDDING, "the mean of a text's states")]
    heads: dict[str, Head] = {}
    for name in names:
        if name in _OWN_NAMES:
            raise InputError(
                f"the task {name!r} cannot be exported: the graph has a name {name!r} of its own"
            )
        head = network.head(name)
        if type(head) not in RESTATED:
            why = "its outputs are as wide as the vocabulary, a row for every token"
            if tasks is not None:
                raise InputError(f"the task {name!r} cannot be exported: {why}")
            lines.append(Line(name, None, why))
            continue
        heads[name] = head
        lines.append(Line(name, ", ".join(outputs_of(name, head)), _NOTES[_form(head)]))
    with new_folder(place) as folder:
        told = described(model, list(heads), folder / "model")
        for name, head in heads.items():
            told[name] |= {"outputs": list(outputs_of(name, head)), "form": _form(head)}
        padded = PaddedNetwork(network.encoder, heads).eval()
        fingerprint = model.tokenizer.fingerprint
        _write_graph(folder / _GRAPH, padded, heads, _sealed(fingerprint, told))
        _check(folder / _GRAPH, network, padded, heads)
        model.tokenizer.save_pretrained(folder)
        shape = network.encoder.shape
        described_graph = {"file": _GRAPH, "inputs": list(padded.inputs), "positions": shape.positions}
        write_json(
            folder / "heads.json",
            {"format": _FORMAT, "tokenizer": fingerprint, "graph": described_graph, "tasks": told},
        )
    return lines


_NOTES = {
    "rows": "",
    "pairs": "a row with its partner",
    "candidates": "one score a candidate",
    "tokens": "a row a token",
}


def _form(head: Head) -> str:
    """How the outputs are put together for an example: its row, its first row of two, all its rows, or its tokens'."""
    if needs_partner(head):
        return "pairs"
    if isinstance(head, CandidatesHead):
        return "candidates"
    return "tokens" if isinstance(head, TokenHead | SpanHead) or needs_marks(head) else "rows"


def _sealed(fingerprint: str, told: dict[str, dict[str, Any]]) -> str:
    """What stands in the graph itself, so that a heads.json from elsewhere is known for what it is."""
    labels = {name: one["labels"] for name, one in told.items()}
    return json.dumps({"tokenizer": fingerprint, "labels": labels}, sort_keys=True)


def _libraries(*names: str) -> None:
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise InputError(f"ONNX needs {' and '.join(missing)}: pip install 'manyheads[export]'")


@contextmanager
def _silent() -> Iterator[None]:
    """Without what the exporter tells developers of torch."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _write_graph(path: Path, padded: PaddedNetwork, heads: dict[str, Head], sealed: str) -> None:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    # Three rows of seven: neither is a number that the tracer takes for a constant.
    ids = torch.ones(3, 7, dtype=torch.int64)
    segments = torch.tensor([0, 0, 0, 0, 1, 1, 1]).repeat(3, 1)
    given = {"input_ids": ids, "attention_mask": ids.clone(), "token_type_ids": segments}
    given |= {"partner": torch.tensor([1, 0, 2]), "marks": ids.clone()}
    square = {0: batch, 1: length}
    shapes = [{0: batch} if name == "partner" else square for name in padded.inputs]
    outputs = [EMBEDDING, *(one for name, head in heads.items() for one in outputs_of(name, head))]
    with _silent(), torch.no_grad():
        program: Any = torch.onnx.export(
            padded,
            tuple(given[name] for name in padded.inputs),
            None,
            dynamo=True,
            dynamic_shapes=(*shapes[:3], tuple(shapes[3:])),
            input_names=list(padded.inputs),
            verbose=False,
        )
        _name_outputs(program.model.graph, outputs)
        program.model.metadata_props["manyheads"] = sealed
        size = sum(one.numel() * one.element_size() for one in padded.state_dict().values())
        program.save(str(path), external_data=size > _WITHIN)


def _name_outputs(graph: Any, names: Sequence[str]) -> None:
    """Give the graph's outputs their names; values within, which the exporter names after what made them, get others
    first, with a point in them, as a task may be called `linear`."""
    said = list(graph.outputs)
    within = [*(one for node in graph for one in node.outputs if one not in said)]
    within += [one for one in graph.initializers.values() if "." not in one.name]
    for number, one in enumerate(within):
        one.name = f"within.{number}"
    for one, name in zip(said, names, strict=True):
        one.name = name


# ---- the check ----


def _check(path: Path, network: Network, padded: PaddedNetwork, heads: dict[str, Head]) -> None:
    """WorkError where the graph and the network differ by more than 1e-4 (of the greatest output, where above 1)."""
    session = _session(path)
    shape = network.encoder.shape
    chance = np.random.default_rng(0)
    by_token = {
        one for name, head in heads.items() if _form(head) == "tokens" for one in outputs_of(name, head)
    }
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
            given = _given_arrays(layout, partner, padded.inputs)
            found = dict(
                zip((one.name for one in session.get_outputs()), session.run(None, given), strict=True)
            )
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
    network: Network, heads: dict[str, Head], layout: Layout, partner: NDArray[np.int64]
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


# ---- reading ----


@dataclass(frozen=True)
class _Exported:
    task: Task
    outputs: tuple[str, ...]
    form: str


class OnnxModel:
    """An exported model in the hand: `predict` as `Model.predict`, computed by onnxruntime on the processor."""

    def __init__(self, session: Any, tokenizer: Tokenizer, exported: Sequence[_Exported]) -> None:
        self.session = session
        self.tokenizer = tokenizer
        self._exported = {one.task.name: one for one in exported}
        self._inputs = tuple(one.name for one in session.get_inputs())

    @property
    def tasks(self) -> dict[str, Task]:
        """The tasks by their names."""
        return {name: one.task for name, one in self._exported.items()}

    def predict(self, task: str, inputs: Iterable[Input]) -> list[Prediction]:
        """Predictions for inputs as `Model.predict` takes them, in their order.

        InputError for an unknown task or an input that is none.
        """
        chosen = self._chosen(task, inputs)
        rest = self._read(chosen.task, inputs)
        found: list[Prediction] = []
        while some := list(islice(rest, _TEXTS_AT_ONCE)):
            found += predictions_of(chosen.task.kind, *self._outputs(chosen, some), some)
        return found

    def outputs(self, task: str, inputs: Iterable[Input]) -> Rows:
        """What the head of a task says of the same inputs, before a prediction is made of it."""
        chosen = self._chosen(task, inputs)
        return self._outputs(chosen, list(self._read(chosen.task, inputs)))[0]

    def _chosen(self, task: str, inputs: object) -> _Exported:
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

    def _outputs(self, chosen: _Exported, inputs: Sequence[Any]) -> tuple[Rows, Layout]:
        """What the graph says of inputs, in the form of the kind's outputs, and how they were laid out."""
        layout = chosen.task.kind.lay(inputs, self.tokenizer, chosen.task.max_length)
        pairs = chosen.form == "pairs"
        # Sequences go through the graph each for itself, but for the two of a pair.
        units = layout if pairs else replace(layout, counts=np.ones(len(layout.lengths), np.int32))
        order, batches = ragged_batches(units.lengths_of_examples)
        parts: list[NDArray[Any]] = []
        for begin, end in batches:
            some = units.take(order[begin:end])
            rows = np.arange(len(some.lengths))
            given = _given_arrays(some, rows ^ 1 if pairs else rows, self._inputs)
            said = self.session.run(list(chosen.outputs), given)
            if chosen.form == "tokens":
                marks = np.zeros(given["input_ids"].shape, np.bool_)
                marks[given["attention_mask"] != 0] = some.marks
                wide = said[0] if len(said) == 1 else np.stack(said, 2)
                parts += [wide[row, marks[row]] for row in rows.tolist()]
            else:
                parts += list(said[0][0::2] if pairs else said[0])
        back = np.argsort(order, kind="stable")
        parts = [parts[place] for place in back.tolist()]
        if chosen.form in ("rows", "pairs"):
            return torch.from_numpy(np.stack(parts)), layout
        counts = layout.counts.astype(np.int64)
        if chosen.form == "candidates":
            return Grouped(torch.from_numpy(np.stack(parts)), counts), layout
        assert layout.marks is not None
        answers = torch.from_numpy(np.concatenate(parts))
        return Grouped(answers, sums(layout.marks, layout.lengths), counts), layout


def load(folder: str | Path) -> OnnxModel:
    """The model in a folder that `write` wrote.

    InputError where something is missing or damaged, or does not belong together: another tokenizer, labels in
    another order than the graph was written with.
    """
    _libraries("onnxruntime")
    place = Path(folder)
    path = place / "heads.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file; expected a folder that `export --to onnx` wrote", file=path) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot be read as JSON ({str(error).splitlines()[0]})", file=path) from None
    if (
        not isinstance(told, dict)
        or not isinstance(told.get("graph"), dict)
        or not isinstance(told.get("tasks"), dict)
    ):
        raise InputError("expected an object with 'graph' and 'tasks'", file=path)
    if told.get("format") != _FORMAT:
        raise InputError(f"format {shown(told.get('format'))}: this version reads {_FORMAT}", file=path)
    tokenizer = Tokenizer.from_pretrained(place)
    if tokenizer.fingerprint != told.get("tokenizer"):
        raise InputError("the tokenizer beside it is not the one the model was exported with", file=path)
    exported = [_task(name, one, path) for name, one in told["tasks"].items()]
    session = _session(place / _GRAPH)
    labels = {one.task.name: {"labels": list(labels_of(one.task.kind))} for one in exported}
    if session.get_modelmeta().custom_metadata_map.get("manyheads") != _sealed(tokenizer.fingerprint, labels):
        raise InputError("the graph was written with other labels, or another tokenizer", file=path)
    names = {one.name for one in session.get_outputs()}
    for one in exported:
        if missing := sorted(set(one.outputs) - names):
            raise InputError(f"the graph has no output {missing[0]!r}", file=place / _GRAPH)
    return OnnxModel(session, tokenizer, exported)


def _task(name: str, told: Any, path: Path) -> _Exported:
    try:
        kind = KINDS[told["kind"]["kind"]]
        settings = kind.Settings.model_validate(told["kind"])
        task = Task(name, kind(settings, told["facts"]), int(told["max_length"]))
        if list(labels_of(task.kind)) != told["labels"] or told["form"] not in _NOTES:
            raise ValueError("labels")
        return _Exported(task, tuple(told["outputs"]), str(told["form"]))
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise InputError(
            f"task {name!r} is not described as expected ({type(error).__name__})", file=path
        ) from None


def _session(path: Path) -> Any:
    import onnxruntime

    if not path.is_file():
        raise InputError("no such file; expected a folder that `export --to onnx` wrote", file=path)
    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # the library has a dozen classes of its own for a damaged graph
        raise InputError(f"cannot be read as a graph ({str(error).splitlines()[0]})", file=path) from None


def _given_arrays(
    layout: Layout, partner: NDArray[np.int64], inputs: Sequence[str]
) -> dict[str, NDArray[np.int64]]:
    """The sequences of a layout as the padded arrays [batch, length] of the graph's inputs."""
    lengths = layout.lengths.astype(np.int64)
    mask = np.arange(int(lengths.max()))[None] < lengths[:, None]
    marks = np.zeros(len(layout.ids), np.bool_) if layout.marks is None else layout.marks
    flat: dict[str, NDArray[Any]] = {
        "input_ids": layout.ids,
        "attention_mask": np.ones_like(layout.ids),
        "token_type_ids": layout.segments,
        "marks": marks,
    }
    given = {}
    for name in inputs:
        if name == "partner":
            given[name] = partner.astype(np.int64)
            continue
        given[name] = np.zeros(mask.shape, np.int64)
        given[name][mask] = flat[name]
    return given
