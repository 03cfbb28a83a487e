"""A model as folders that transformers loads: the encoder with its tokenizer, and a class with a head for each task.

Knows the names and formulas of transformers' BERT classes. Must not know sentence-transformers, graphs or commands;
transformers itself is never imported.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyheads.encoder import checkpoint
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError
from manyheads.export.described import asked, described
from manyheads.export.folder import Line, new_folder
from manyheads.files import write_json
from manyheads.model import Model, Task
from manyheads.tasks.classification import Classification
from manyheads.tasks.head import Head
from manyheads.tasks.heads import HEADS
from manyheads.tasks.heads.candidates import CandidatesHead
from manyheads.tasks.heads.linear import LinearHead
from manyheads.tasks.heads.span import SpanHead
from manyheads.tasks.heads.tokens import TokenHead
from manyheads.tasks.regression import Regression

__all__ = ["FORMAT", "write"]

FORMAT = 1
"""Of `manyheads.json`; raise when its meaning changes."""


@dataclass(frozen=True)
class _Class:
    """A class of transformers with the tensors of a head, by their names there."""

    name: str
    tensors: dict[str, Tensor]
    labels: tuple[str, ...] = ()
    problem: str | None = None
    pooler: bool = True
    note: str = ""


def write(model: Model, place: str | Path, tasks: Iterable[str] | None = None) -> list[Line]:
    """Write `place`, which must be new: the whole model as `Model.save` writes it, which AutoModel and AutoTokenizer
    load, and in it a folder `TASK` for each task that a class of transformers computes exactly.

    Each of these has the tokenizer with the task's `max_length`, and `manyheads.json` with the label order, cleaning
    and the tokenizer's fingerprint. Returns a line for the encoder and each task; one that is left out says why.
    """
    names = asked(model, tasks)
    made = {name: _class(model, name) for name in names}
    for name, one in made.items():
        if tasks is not None and isinstance(one, str):
            raise InputError(f"the task {name!r} cannot be exported for transformers: {one}")
    whole = checkpoint.ARCHITECTURES[frozenset(model.network.in_checkpoint)]
    lines = [Line("encoder", whole)]
    with new_folder(place) as folder:
        model.save(folder)
        weights = {
            name.removeprefix("bert."): tensor.float()
            for name, tensor in checkpoint.load_file(folder / "model.safetensors").items()
            if not name.startswith("cls.")
        }
        told = described(model, names, folder)
        for name, one in made.items():
            if isinstance(one, str):
                lines.append(Line(name, None, one))
                continue
            if one is _IN_FOLDER:
                lines.append(Line(name, whole, "stands in the folder itself"))
                continue
            record = {
                "format": FORMAT,
                "tokenizer": model.tokenizer.fingerprint,
                "task": name,
                **told[name],
            }
            _write_class(folder, name, model.tokenizer, one, weights, record)
            cleaned = told[name]["clean"]
            first = f"texts are to be cleaned before (clean: {cleaned})" if cleaned else ""
            lines.append(Line(name, one.name, "; ".join(filter(None, (one.note, first)))))
    return lines


def _write_class(
    within: Path,
    name: str,
    tokenizer: Tokenizer,
    made: _Class,
    weights: Mapping[str, Tensor],
    record: Mapping[str, Any],
) -> None:
    """Write the folder of a task into that of the whole model."""
    folder = within / name
    folder.mkdir()
    tensors = {
        f"bert.{key}": one for key, one in weights.items() if made.pooler or not key.startswith("pooler.")
    }
    tensors |= {key: one.float() for key, one in made.tensors.items()}
    checkpoint.save_weights(tensors, folder / "model.safetensors")
    config = json.loads((within / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = [made.name]
    if made.labels:
        config["id2label"] = {str(number): label for number, label in enumerate(made.labels)}
        config["label2id"] = {label: number for number, label in enumerate(made.labels)}
    if made.problem is not None:
        config["problem_type"] = made.problem
    write_json(folder / "config.json", config)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**said, "model_max_length": record["max_length"]})
    write_json(folder / "manyheads.json", record)


_IN_FOLDER = _Class("", {})
"""Of a head that stands beside the encoder in the folder of the whole model."""


def _class(model: Model, name: str) -> _Class | str:
    """The class that computes a task's head exactly, or why there is none."""
    task, head = model.tasks[name], model.network.head(name)
    kind = task.kind
    if head in model.network.in_checkpoint.values():
        return _IN_FOLDER
    match head:
        case LinearHead() if head.features is not None:
            return "its two texts are encoded apart (encode: siamese)"
        case LinearHead() if head.layers != "last":
            return f"it reads other layers than the last (layers: {head.layers})"
        case LinearHead() if head.pooling != "pooled":
            return f"transformers classifies the tanh pooler's vector (pooling: {head.pooling})"
        case LinearHead():
            weight, bias = head.output.weight.detach(), head.output.bias.detach()
            if isinstance(kind, Regression):
                return _regression(task, kind, weight, bias)
            assert isinstance(kind, Classification)
            if len(weight) == 1:  # the sigmoid of z is the softmax of (0, z)
                weight, bias = (torch.cat([torch.zeros_like(one), one]) for one in (weight, bias))
            return _Class(
                "BertForSequenceClassification",
                {"classifier.weight": weight, "classifier.bias": bias},
                kind.labels,
                "single_label_classification",
            )
        case TokenHead() if head.layers != "last":
            return f"it reads other layers than the last (layers: {head.layers})"
        case TokenHead():
            return _Class(
                "BertForTokenClassification",
                {
                    "classifier.weight": head.output.weight.detach(),
                    "classifier.bias": head.output.bias.detach(),
                },
                tuple(getattr(kind, "labels", ())),
                pooler=False,
                note="the first piece of a word answers for it",
            )
        case SpanHead():
            weight = head.vectors.detach()
            return _Class(
                "BertForQuestionAnswering",
                {"qa_outputs.weight": weight, "qa_outputs.bias": weight.new_zeros(2)},
                pooler=False,
                note="windows and the threshold for no answer are the caller's",
            )
        case CandidatesHead() if head.pooling != "pooled":
            return f"transformers scores the tanh pooler's vector (pooling: {head.pooling})"
        case CandidatesHead():
            weight = head.vector.detach()
            tensors = {"classifier.weight": weight, "classifier.bias": weight.new_zeros(1)}
            if kind.settings.kind == "choice":
                return _Class("BertForMultipleChoice", tensors)
            return _Class(
                "BertForSequenceClassification",
                tensors,
                (task.name,),
                "regression",
                note="one score for each candidate, to be compared within a query",
            )
    return f"transformers has no class with this head ({_name(task, head)})"


def _regression(task: Task, kind: Regression, weight: Tensor, bias: Tensor) -> _Class | str:
    if kind.settings.output == "sigmoid":
        return "its number goes through a sigmoid (output: sigmoid)"
    bounds = kind.settings.range
    return _Class(
        "BertForSequenceClassification",
        {"classifier.weight": weight, "classifier.bias": bias},
        (task.name,),
        "regression",
        note="" if bounds is None else "values are to be clipped to {:g} … {:g}".format(*bounds),
    )


def _name(task: Task, head: Head) -> str:
    return next(
        (f"head: {name}" for name, one in HEADS.items() if type(head) is one), task.kind.settings.kind
    )
