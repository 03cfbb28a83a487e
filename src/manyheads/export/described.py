"""What travels with the weights: label order, lengths, cleaning and the tokenizer's fingerprint, as JSON.

Knows tasks and the folder that a model saves. Must not know formats of weights or graphs.
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from manyheads.model import Model

__all__ = ["asked", "described", "labels_of"]


def asked(model: Model, names: Iterable[str] | None) -> list[str]:
    """The tasks that are to be exported: those named, each once, or all; InputError for one that is not there."""
    chosen = list(model.tasks) if names is None else list(dict.fromkeys(names))
    return [model.task(name).name for name in chosen]


def labels_of(kind: Any) -> tuple[str, ...]:
    """The names that a kind's outputs have, in their order; empty where they have none."""
    return tuple(getattr(kind, "labels", ()))


def described(model: Model, names: Sequence[str], folder: Path) -> dict[str, dict[str, Any]]:
    """{task: what `Model.save` keeps of it, and its labels, cleaning and length as a caller meets them}.

    `folder` is one that the model was saved into; where it is not there, it is made for this and removed.
    """
    passing = not folder.exists()
    if passing:
        model.save(folder)
    told = json.loads((folder / "heads.json").read_text(encoding="utf-8"))
    if passing:
        shutil.rmtree(folder)
    longest = model.network.encoder.shape.positions
    return {
        name: {
            **told["tasks"][name],
            "max_length": min(int(told["tasks"][name]["max_length"]), longest),
            "labels": list(labels_of(model.tasks[name].kind)),
            "clean": getattr(model.tasks[name].kind.settings, "clean", None),
        }
        for name in names
    }
