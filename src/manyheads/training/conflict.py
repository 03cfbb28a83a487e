"""The tasks' gradients side by side: how far they agree, layer by layer, and what is done where they conflict.

Knows networks, objectives and formulas of gradients. Must not know data files, optimisers or the loop.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from manyheads.files import replacing
from manyheads.formulas.gradients import cosines, pcgrad
from manyheads.model import Network

__all__ = ["Surgery", "affinity", "draw_affinity"]


def floors(network: Network) -> dict[str, list[nn.Parameter]]:
    """The parameters that tasks share, from the ground up: embeddings, layer 1 …, pooler, relation."""
    encoder = network.encoder
    found = {"embeddings": list(encoder.embeddings.parameters())}
    found |= {f"layer {i}": list(layer.parameters()) for i, layer in enumerate(encoder.layers, start=1)}
    found["pooler"] = list(encoder.pooler.parameters())
    if network.relation is not None:
        found["relation"] = list(network.relation.parameters())
    return {name: [one for one in some if one.requires_grad] for name, some in found.items()}


def affinity(
    network: Network, losses: Mapping[str, Callable[[], Tensor]]
) -> dict[str, list[list[float | None]]]:
    """{floor: cosines [tasks, tasks] between the tasks' gradients}; None where a task has none in the floor.

    `losses` compute each task's loss on rows of its own; one is computed and gone before the next begins, so the
    memory is that of one step and of one gradient a task. The network's own gradients stay as they are.
    """
    shared = floors(network)
    parameters = [one for some in shared.values() for one in some]
    rows: dict[str, list[Tensor]] = {name: [] for name in shared}
    for compute in losses.values():
        found = torch.autograd.grad(compute(), parameters, allow_unused=True)
        by_parameter = dict(zip(map(id, parameters), found, strict=True))
        for name, some in shared.items():
            rows[name].append(_flat(some, [by_parameter[id(one)] for one in some]))
    table = {name: cosines(torch.stack(one)) for name, one in rows.items() if one and one[0].numel()}
    return {
        name: [[None if value != value else value for value in row] for row in one.tolist()]
        for name, one in table.items()
    }


class Surgery:
    """PCGrad over one step: the gradient of each task is put aside, then all of them are made one.

    Only what tasks share is operated on; a head's gradient has no other to conflict with.
    """

    def __init__(self, network: Network) -> None:
        self._shared = [one for some in floors(network).values() for one in some]
        self._apart: dict[str, Tensor] = {}
        self._reached: set[int] = set()

    def put_aside(self, task: str) -> None:
        """Take the gradient that a backward pass of this task has left, adding it to what the task has already."""
        flat = _flat(self._shared, [one.grad for one in self._shared])
        self._reached |= {number for number, one in enumerate(self._shared) if one.grad is not None}
        for one in self._shared:
            one.grad = None
        self._apart[task] = flat if task not in self._apart else self._apart[task] + flat

    def operate(self) -> None:
        """Give the shared parameters the sum of the gradients without what works against another task."""
        whole = pcgrad(
            torch.stack(list(self._apart.values()))
        )  # the order of meetings is drawn from torch's seed
        place = 0
        for number, one in enumerate(self._shared):
            # What no task reaches keeps no gradient: one of zeros would let the optimiser decay it.
            if number in self._reached:
                one.grad = whole[place : place + one.numel()].view_as(one).clone()
            place += one.numel()
        self._apart, self._reached = {}, set()


def _flat(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> Tensor:
    """[n] the gradients end to end, zeros where there is none."""
    parts = [
        (torch.zeros_like(one) if gradient is None else gradient).reshape(-1)
        for one, gradient in zip(parameters, gradients, strict=True)
    ]
    return torch.cat(parts) if parts else torch.zeros(0)


def draw_affinity(
    path: Path, tasks: Sequence[str], measured: Sequence[Mapping[str, Sequence[Sequence[float | None]]]]
) -> None:
    """A heat map as SVG: a row for each two tasks, a column for each floor, the mean over all measurements."""
    from matplotlib.figure import Figure  # without pyplot: the backend is the caller's to choose

    pairs = [(i, j) for i in range(len(tasks)) for j in range(i + 1, len(tasks))]
    # A floor that no task trains, such as a pooler that no head reads, has no cosines.
    names = [
        name for name, table in measured[0].items() if any(one is not None for row in table for one in row)
    ]
    grid = torch.tensor(
        [
            [
                [one[name][i][j] if one[name][i][j] is not None else float("nan") for one in measured]
                for name in names
            ]
            for i, j in pairs
        ],
        dtype=torch.float64,
    ).nanmean(2)
    figure = Figure(figsize=(1.6 + 0.75 * len(names), 1.2 + 0.45 * len(pairs)), layout="constrained")
    axes = figure.subplots()
    limit = max(0.05, float(grid.nan_to_num().abs().max()))
    picture = axes.imshow(grid.numpy(), cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(pairs)), [f"{tasks[i]} · {tasks[j]}" for i, j in pairs])
    for row, line in enumerate(grid.tolist()):
        for column, value in enumerate(line):
            if value == value:
                dark = abs(value) > 0.6 * limit
                axes.text(
                    column,
                    row,
                    f"{value:+.2f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if dark else "black",
                )
    axes.set_title(f"Cosine between the tasks' gradients, mean of {len(measured)} measurements", fontsize=9)
    figure.colorbar(picture, ax=axes, shrink=0.8)
    with replacing(path) as beside:
        figure.savefig(beside, format="svg")
