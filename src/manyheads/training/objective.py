"""What a step minimises: the sum of terms over the tasks whose examples are in the batch.

Knows outputs, targets and kinds. Must not know files, optimisers or the loop. A new term is a class and a line in
`TERMS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from manyheads.encoder.ragged import Ragged
from manyheads.model import Network
from manyheads.tasks import Kind

__all__ = ["TERMS", "Part", "Term", "objective"]


@dataclass(frozen=True)
class Part:
    """The examples of one task in a batch: sequences `begin` to `end`, targets [B], and the task's weight."""

    task: str
    kind: Kind
    begin: int
    end: int
    targets: Tensor
    weight: float = 1.0


class Term(ABC):
    """One summand of the objective."""

    @abstractmethod
    def __call__(self, network: Network, ragged: Ragged, part: Part, outputs: Tensor) -> Tensor:
        """The term for one part of the batch, a scalar; `outputs` are the head's for the part."""


@final
class Supervised(Term):
    """The kind's own loss against the targets."""

    def __call__(self, network: Network, ragged: Ragged, part: Part, outputs: Tensor) -> Tensor:
        return part.kind.loss(outputs, part.targets.to(outputs.device))


TERMS: dict[str, Term] = {"supervised": Supervised()}


def objective(network: Network, ragged: Ragged, parts: Sequence[Part]) -> tuple[Tensor, dict[str, float]]:
    """The weighted sum over parts and terms, a scalar to call backward on, and each task's loss unweighted.

    One ragged forward serves all parts, whatever their tasks.
    """
    outputs = network(ragged, [(part.task, part.begin, part.end) for part in parts])
    losses = [
        sum((term(network, ragged, part, output) for term in TERMS.values()), output.new_zeros(()))
        for part, output in zip(parts, outputs, strict=True)
    ]
    total = sum(
        (loss * part.weight for part, loss in zip(parts, losses, strict=True)), losses[0].new_zeros(())
    )
    return total, {part.task: float(loss.detach()) for part, loss in zip(parts, losses, strict=True)}
