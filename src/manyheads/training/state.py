"""Exact resume: all that a step depends on, in one file that is either whole or not there.

Knows networks, optimisers and the folder of checkpoints. Must not know tasks, data or the loop.

What the next steps do depends on the weights, the optimiser's moments and the step's number alone: batches,
dropout and noise are drawn from (seed, step). So a checkpoint holds those three, what the objective remembers
(averaged weights, learnt variances), and what the best score was.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from manyheads.encoder.checkpoint import write_tensors
from manyheads.errors import InputError

__all__ = ["Progress", "latest", "load_weights", "restore", "save", "save_weights"]

_NAME = re.compile(r"step-(\d+)\.safetensors")


@dataclass
class Progress:
    """How far a run is: steps, seconds (in all, and within steps), examples trained on, the best evaluation and how
    many came since."""

    step: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0
    examples: int = 0
    best: float | None = None
    best_step: int | None = None
    stale: int = 0
    stopped: bool = False


def save(
    folder: Path,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    key: str,
) -> None:
    """Write `step-N.safetensors` beside and rename it, then remove older ones and leftovers of a kill.

    `key` identifies the recipe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{part}/{name}": tensor
        for part, module in modules.items()
        for name, tensor in module.state_dict().items()
    }
    described = optimizer.state_dict()
    plain: dict[str, dict[str, Any]] = {}
    for number, state in described["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{number}/{name}"] = value
            else:
                plain.setdefault(str(number), {})[name] = value
    metadata = {
        "progress": json.dumps(asdict(progress)),
        "groups": json.dumps(described["param_groups"]),
        "plain": json.dumps(plain),
        "key": key,
    }
    path = folder / f"step-{progress.step:08d}.safetensors"
    write_tensors(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, metadata
    )
    # What a kill has left half written is as large as a checkpoint, and nothing else is being written here now.
    halves = (
        one for pattern in (".*.part-*", ".tmp*") for one in folder.glob(pattern)
    )  # safetensors' own: .tmp…
    for old in (*_checkpoints(folder)[:-1], *halves):
        old.unlink(missing_ok=True)


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def restore(
    path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, key: str
) -> Progress:
    """Put a checkpoint's weights and moments back; InputError where it is damaged or of another recipe."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"not a whole checkpoint ({error})", file=path) from None
    if metadata.get("key") != key:
        raise InputError(
            "was written with another recipe, other data or other labels; resume with the same ones, or start afresh "
            "in another folder",
            file=path,
        )
    for part, module in modules.items():
        before = f"{part}/"
        module.load_state_dict(
            {name.removeprefix(before): one for name, one in tensors.items() if name.startswith(before)}
        )
    state: dict[int, dict[str, Any]] = {
        int(number): dict(values) for number, values in json.loads(metadata["plain"]).items()
    }
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, number, field = name.split("/", 2)
            state.setdefault(int(number), {})[field] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": json.loads(metadata["groups"])})
    return Progress(**json.loads(metadata["progress"]))


def save_weights(path: Path, network: nn.Module) -> None:
    """Keep the weights alone (of the best evaluation)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors({name: one.detach().cpu().contiguous() for name, one in network.state_dict().items()}, path)


def load_weights(path: Path, network: nn.Module) -> None:
    """Put weights back that `save_weights` kept."""
    try:
        with safe_open(path, framework="pt") as file:
            network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"not a whole checkpoint ({error})", file=path) from None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*.safetensors") if _NAME.fullmatch(path.name))
