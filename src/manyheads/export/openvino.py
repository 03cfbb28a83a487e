"""A model as OpenVINO graphs: in float32, or in int8 for each head whose dev score that leaves where it was.

Knows the ONNX graph, OpenVINO and NNCF, and for int8 the recipe's rows. Must not know commands.

One encoder cannot be int8 for one head and float for the next. So there are up to two graphs, each with an encoder:
`int8.xml` for the heads that pass the gate, `model.xml` in float32 for those that do not. A head never answers from a
graph that was not measured for it.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from manyheads.errors import InputError, nearest
from manyheads.export.folder import Line, new_folder
from manyheads.export.gate import Int8, Verdict, examples, lowest_cosine, rows_of, verdicts
from manyheads.export.graph import (
    EMBEDDING,
    FORMAT,
    Exported,
    Graph,
    GraphModel,
    check,
    form_of,
    needed,
    read_described,
    sealed,
)
from manyheads.export.onnx import Chosen, choose, silent, write_graph
from manyheads.export.padded import outputs_of
from manyheads.files import write_json
from manyheads.model import Model

__all__ = ["Precision", "load", "write"]

Precision = Literal["auto", "float32", "bf16"]
"""How a float graph multiplies: `auto` is the runtime's own choice, bf16 where the processor has it."""

_HINTS = {"float32": "f32", "bf16": "bf16"}
_FLOAT, _INT8 = "float", "int8"
_FILES = {_FLOAT: "model.xml", _INT8: "int8.xml"}
_EXTRA = "openvino"
_WHERE = ["manyheads", "sealed"]  # in a graph's information for the runtime


def write(
    model: Model, place: str | Path, tasks: Iterable[str] | None = None, *, int8: Int8 | None = None
) -> list[Line]:
    """Write `place`, which must be new: `model.xml` and `model.bin`, `heads.json` and the tokenizer's files.

    The graph in float32 is compared with the model's own network at several shapes before the folder is there. With
    `int8` the heads that pass the gate stand in `int8.xml`, and `model.xml` has those that do not, if there are any.
    Returns a line for the encoder and each task. InputError without the libraries, for a task whose name the graph
    needs for itself, and for int8 where rows are missing; WorkError where the graph says something else than the
    network.
    """
    needed("OpenVINO", _EXTRA, "openvino", "onnx", "onnxscript", *(("nncf",) if int8 else ()))
    chosen = choose(model, tasks)
    rows = {} if int8 is None else rows_of(model, chosen, int8)
    with new_folder(place) as folder:
        told = chosen.described(model, folder / "model")
        seal = sealed(model.tokenizer.fingerprint, told)
        plain = _traced(folder, chosen, seal)
        check(_graph(plain, "float32"), chosen.network, chosen.heads)
        graphs, lines, record = {_FLOAT: plain}, chosen.lines, dict[str, Any]()
        heads = {_FLOAT: list(chosen.heads)}
        if int8 is not None:
            small = _quantized(plain, examples(rows, chosen, int8.texts))
            asked = _graph(plain, "float32"), _graph(small, "auto")
            before, after = (_in_hand(model, chosen, one) for one in asked)
            found = verdicts(chosen, rows, before, after, int8.gate)
            heads = {
                _INT8: [name for name in found if found[name].passes],
                _FLOAT: [name for name in found if not found[name].passes],
            }
            graphs = {
                which: _only(graph, chosen, heads[which])
                for which, graph in ((_INT8, small), (_FLOAT, plain))
                if heads[which]
            }
            lines = _lines(chosen, found, lowest_cosine(chosen, rows, *asked))
            record["int8"] = _record(int8, found)
        for which, names in heads.items():
            for name in names:
                told[name]["graph"] = which
        for which, graph in graphs.items():
            _save(graph, folder / _FILES[which], seal)
        model.tokenizer.save_pretrained(folder)
        about = {"inputs": list(chosen.inputs), "positions": chosen.network.encoder.shape.positions}
        write_json(
            folder / "heads.json",
            {
                "format": FORMAT,
                "tokenizer": model.tokenizer.fingerprint,
                "graphs": {which: {"file": _FILES[which], **about} for which in graphs},
                **record,
                "tasks": told,
            },
        )
    return lines


def _lines(chosen: Chosen, found: Mapping[str, Verdict], cosine: float) -> list[Line]:
    """The lines of an export to int8: which graph a head is in, and why."""
    several = len({one.passes for one in found.values()}) > 1
    lines = []
    for line in chosen.lines:
        if line.name in found:
            one = found[line.name]
            file = _FILES[_INT8 if one.passes else _FLOAT]
            lines.append(
                Line(line.name, f"{line.became} ({file})", "; ".join(filter(None, (line.note, one.told))))
            )
        elif line.became is not None and any(one.passes for one in found.values()):
            near = "" if math.isnan(cosine) else f", cosine with float32's at least {cosine:.4f}"
            beside = "; the other graph has float32's" if several else ""
            lines.append(Line(line.name, line.became, f"{line.note}; in int8{near}{beside}"))
        else:
            lines.append(line)
    return lines


def _record(int8: Int8, found: Mapping[str, Verdict]) -> dict[str, Any]:
    """What the gate found, as it is kept beside the graphs."""
    scores = {
        name: {"measure": one.measure, "float32": one.before, "int8": one.after, "passes": one.passes}
        for name, one in found.items()
    }
    versions = {name: version(name) for name in ("openvino", "nncf")}
    return {"gate": int8.gate, "texts": int8.texts, "versions": versions, "scores": scores}


def load(folder: str | Path, precision: Precision = "auto") -> GraphModel:
    """The model in a folder that `write` wrote; `precision` is how what is not int8 is multiplied.

    InputError where something is missing or damaged, or does not belong together: another tokenizer, labels in
    another order than the graphs were written with.
    """
    needed("OpenVINO", _EXTRA, "openvino")
    if precision not in get_args(Precision):
        raise InputError(
            f"precision {precision!r}: expected {', '.join(get_args(Precision))}"
            f"{nearest(precision, get_args(Precision))}"
        )
    place = Path(folder)
    told, tokenizer, exported, seal = read_described(place, "a folder that `export --to openvino` wrote")
    graphs = told.get("graphs")
    if not isinstance(graphs, dict) or not graphs or not set(graphs) <= set(_FILES):
        raise InputError("expected 'graphs', each 'float' or 'int8'", file=place / "heads.json")
    found: dict[str | None, Graph] = {}
    for which in graphs:
        path = place / _FILES[which]
        if not path.is_file():
            raise InputError("no such file; expected a folder that `export --to openvino` wrote", file=path)
        try:
            graph = _core().read_model(str(path))
            own = graph.get_rt_info(_WHERE).astype(str) if graph.has_rt_info(_WHERE) else ""
            compiled = _graph(graph, precision)
        except (
            Exception
        ) as error:  # what the runtime says of a damaged graph is a RuntimeError with its stack
            raise InputError(f"cannot be read as a graph ({_first_line(error)})", file=path) from None
        if own != seal:
            raise InputError(
                "the graph was written with other labels, lengths or cleaning, or another tokenizer",
                file=place / "heads.json",
            )
        names = {name for one in graph.outputs for name in one.get_names()}
        for one in exported:
            if one.graph == which and (missing := sorted(set(one.outputs) - names)):
                raise InputError(f"the graph has no output {missing[0]!r}", file=path)
        found[which] = compiled
    for one in exported:
        if one.graph not in found:
            raise InputError(f"task {one.task.name!r}: no graph {one.graph!r}", file=place / "heads.json")
    return GraphModel(found, tokenizer, exported)


def _first_line(error: Exception) -> str:
    """The last of the lines in which the runtime says what is wrong: those before it say where in its own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


# ---- graphs ----


def _core() -> Any:
    import openvino

    return openvino.Core()


def _traced(folder: Path, chosen: Chosen, seal: str) -> Any:
    """The graph of the padded network, by way of ONNX; inputs and outputs have their names alone."""
    beside = folder / "onnx"
    beside.mkdir()
    path = beside / "model.onnx"
    write_graph(path, chosen.padded, chosen.heads, seal)
    core = _core()
    core.set_property({"ENABLE_MMAP": False})  # the file is removed, and the weights stay
    graph = core.read_model(str(path))
    _named(graph, chosen.padded.inputs)
    for one in sorted(beside.iterdir()):
        one.unlink()
    beside.rmdir()
    return graph


def _named(graph: Any, inputs: Sequence[str]) -> None:
    """Each input by its own name: some bear that of a copy of theirs too."""
    for one in graph.inputs:
        (name,) = set(inputs) & one.get_names()
        one.get_tensor().set_names({name})


def _graph(model: Any, precision: Precision) -> Graph:
    settings = {"INFERENCE_PRECISION_HINT": _HINTS[precision]} if precision in _HINTS else {}
    compiled = _core().compile_model(model, "CPU", settings)
    inputs = tuple(one.get_any_name() for one in compiled.inputs)

    def ask(outputs: Sequence[str], given: Mapping[str, NDArray[np.int64]]) -> list[NDArray[Any]]:
        # A request of its own each time: what it answers stays as it is when the next one is asked.
        found = compiled.create_infer_request().infer(dict(given))
        return [np.array(found[name], dtype=np.float32) for name in outputs]

    return Graph(inputs, ask)


def _only(graph: Any, chosen: Chosen, names: Sequence[str]) -> Any:
    """The graph with the outputs of some tasks, and the embedding; the rest of it is left out."""
    import openvino

    wanted = [EMBEDDING, *(one for name in names for one in outputs_of(name, chosen.heads[name]))]
    results = {name: one for one in graph.get_results() for name in one.get_output_tensor(0).get_names()}
    return openvino.Model([results[name] for name in wanted], graph.get_parameters(), "manyheads")


def _save(graph: Any, path: Path, seal: str) -> None:
    import openvino

    graph.set_rt_info(seal, _WHERE)
    openvino.save_model(graph, str(path), compress_to_fp16=False)


# ---- int8 ----


def _quantized(graph: Any, given: Sequence[Mapping[str, NDArray[np.int64]]]) -> Any:
    """The graph with products in int8, their scales set by what is given."""
    # Otherwise the library would tell its makers, over the network, that it was used.
    os.environ.setdefault("NNCF_CI", "1")
    # Its bars stand on standard output, which may be read by machines.
    with silent("nncf"), redirect_stdout(StringIO()):
        import nncf

        return nncf.quantize(
            graph.clone(),
            nncf.Dataset(list(given)),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(given),
        )


def _in_hand(model: Model, chosen: Chosen, graph: Graph) -> GraphModel:
    """A graph that answers for all heads, before it is a file."""
    exported = [
        Exported(model.task(name), outputs_of(name, head), form_of(head))
        for name, head in chosen.heads.items()
    ]
    return GraphModel({None: graph}, model.tokenizer, exported)
