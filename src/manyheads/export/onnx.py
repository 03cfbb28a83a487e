"""A model as one ONNX graph with an output for each head; and such a folder read again through onnxruntime.

Knows the padded network, the exporter of torch and the files of the folder. Must not know commands.
"""

import copy
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manyheads.errors import InputError
from manyheads.export.described import asked, described
from manyheads.export.folder import Line, new_folder
from manyheads.export.graph import (
    EMBEDDING,
    FORMAT,
    FORMS,
    Graph,
    GraphModel,
    check,
    form_of,
    needed,
    read_described,
    sealed,
)
from manyheads.export.padded import RESTATED, PaddedNetwork, outputs_of
from manyheads.files import write_json
from manyheads.model import Model, Network
from manyheads.tasks.head import Head

__all__ = ["Chosen", "choose", "load", "silent", "write", "write_graph"]

_GRAPH = "model.onnx"
_OWN_NAMES = ("input_ids", "attention_mask", "token_type_ids", "partner", "marks", EMBEDDING)
_WITHIN = 2_000_000_000  # bytes of weights that one protobuf file can hold


# ---- writing ----


@dataclass(frozen=True, eq=False)
class Chosen:
    """What of a model goes into a graph."""

    network: Network
    """A copy, in float32 on the processor."""
    heads: dict[str, Head]
    """Task → its head in the copy."""
    lines: list[Line]
    """One for the encoder and each task."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the graph's inputs."""
        return self.padded.inputs

    @cached_property
    def padded(self) -> PaddedNetwork:
        """The same parameters over padded tensors."""
        return PaddedNetwork(self.network.encoder, self.heads).eval()

    def described(self, model: Model, folder: Path) -> dict[str, dict[str, Any]]:
        """{task: what travels with the graph}; `folder` is one that may be made and removed."""
        told = described(model, list(self.heads), folder)
        for name, head in self.heads.items():
            told[name] |= {"outputs": list(outputs_of(name, head)), "form": form_of(head)}
        return told


def choose(model: Model, tasks: Iterable[str] | None = None) -> Chosen:
    """The heads of a model that a graph can have.

    InputError for a task whose name the graph needs for itself, or that was named and cannot be exported.
    """
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
        lines.append(Line(name, ", ".join(outputs_of(name, head)), FORMS[form_of(head)]))
    return Chosen(network, heads, lines)


def write(model: Model, place: str | Path, tasks: Iterable[str] | None = None) -> list[Line]:
    """Write `place`, which must be new: `model.onnx`, `heads.json` and the tokenizer's files.

    The graph computes in float32; batch and length are free. It is compared with the model's own network at several
    shapes before the folder is there. Returns a line for the encoder and each task; one that is left out says why.
    InputError without the libraries or for a task whose name the graph needs for itself; WorkError where the graph
    says something else than the network.
    """
    needed("ONNX", "export", "onnx", "onnxscript", "onnxruntime")
    chosen = choose(model, tasks)
    with new_folder(place) as folder:
        told = chosen.described(model, folder / "model")
        padded = chosen.padded
        fingerprint = model.tokenizer.fingerprint
        write_graph(folder / _GRAPH, padded, chosen.heads, sealed(fingerprint, told))
        check(_graph(_session(folder / _GRAPH)), chosen.network, chosen.heads)
        model.tokenizer.save_pretrained(folder)
        positions = chosen.network.encoder.shape.positions
        described_graph = {"file": _GRAPH, "inputs": list(padded.inputs), "positions": positions}
        write_json(
            folder / "heads.json",
            {"format": FORMAT, "tokenizer": fingerprint, "graph": described_graph, "tasks": told},
        )
    return chosen.lines


@contextmanager
def silent(library: str) -> Iterator[None]:
    """Without warnings, and what a library tells its own developers by its logger."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def write_graph(path: Path, padded: PaddedNetwork, heads: Mapping[str, Head], seal: str) -> None:
    """Trace the padded network and write it as ONNX, with `seal` in it; needs onnx and onnxscript."""
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    # Three rows of seven: neither is a number that the tracer takes for a constant.
    ids = torch.ones(3, 7, dtype=torch.int64)
    segments = torch.tensor([0, 0, 0, 0, 1, 1, 1]).repeat(3, 1)
    given = {"input_ids": ids, "attention_mask": ids.clone(), "token_type_ids": segments}
    given |= {"partner": torch.tensor([1, 0, 2]), "marks": ids.clone()}
    square = {0: batch, 1: length}
    shapes = [{0: batch} if name == "partner" else square for name in padded.inputs]
    outputs = [EMBEDDING, *(one for name, head in heads.items() for one in outputs_of(name, head))]
    with silent("torch.onnx"), torch.no_grad():
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
        program.model.metadata_props["manyheads"] = seal
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


# ---- reading ----


def load(folder: str | Path) -> GraphModel:
    """The model in a folder that `write` wrote.

    InputError where something is missing or damaged, or does not belong together: another tokenizer, labels in
    another order than the graph was written with.
    """
    needed("ONNX", "export", "onnxruntime")
    place = Path(folder)
    told, tokenizer, exported, seal = read_described(place, "a folder that `export --to onnx` wrote")
    if not isinstance(told.get("graph"), dict):
        raise InputError("expected an object with 'graph' and 'tasks'", file=place / "heads.json")
    session = _session(place / _GRAPH)
    if session.get_modelmeta().custom_metadata_map.get("manyheads") != seal:
        raise InputError(
            "the graph was written with other labels, lengths or cleaning, or another tokenizer",
            file=place / "heads.json",
        )
    names = {one.name for one in session.get_outputs()}
    for one in exported:
        if missing := sorted(set(one.outputs) - names):
            raise InputError(f"the graph has no output {missing[0]!r}", file=place / _GRAPH)
    return GraphModel({None: _graph(session)}, tokenizer, exported)


def _session(path: Path) -> Any:
    import onnxruntime

    if not path.is_file():
        raise InputError("no such file; expected a folder that `export --to onnx` wrote", file=path)
    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # the library has a dozen classes of its own for a damaged graph
        raise InputError(f"cannot be read as a graph ({str(error).splitlines()[0]})", file=path) from None


def _graph(session: Any) -> Graph:
    def ask(outputs: Sequence[str], given: Mapping[str, NDArray[np.int64]]) -> list[NDArray[Any]]:
        found: list[NDArray[Any]] = session.run(list(outputs), dict(given))
        return found

    return Graph(tuple(one.name for one in session.get_inputs()), ask)
