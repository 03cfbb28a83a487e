"""Exact resume: all that a step depends on, in one file that is either whole or not there.

Knows networks, optimisers and the folder of checkpoints. Must not know tasks, data or the loop.

What the next steps do depends on the weights, the optimiser's moments and the step's number alone: batches
and dropout are drawn from (seed, step). So a checkpoint holds those three, and what the best score was.
"""

import json
import re
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
    """How far a run is: steps done, examples seen of each task, the best evaluation, evaluations since it."""

    step: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_step: int | None = None
    stale: int = 0
    stopped: bool = False


def save(
    folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, key: str
) -> None:
    """Write `step-N.safetensors` beside and rename it, then remove older ones. `key` identifies the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"network/{name}": tensor for name, tensor in network.state_dict().items()}
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
    for old in _checkpoints(folder)[:-1]:
        old.unlink()


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def restore(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, key: str) -> Progress:
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
    network.load_state_dict(
        {name.removeprefix("network/"): one for name, one in tensors.items() if name.startswith("network/")}
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
