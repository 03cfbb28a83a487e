"""Looking over the loop's shoulder: what the objective was given and said at each step, and what moved the weights."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from manyheads.encoder.ragged import Ragged
from manyheads.model import Network
from manyheads.training import loop, setup
from manyheads.training.objective import Objective, Part


@dataclass(eq=False)
class Pass:
    """One call of the objective, and the network as it was then."""

    network: Network
    objective: dict[str, Tensor]
    """The objective's state before the call."""
    ragged: Ragged
    parts: Sequence[Part]
    progress: float
    random: Tensor
    """The state of torch's generator before the call."""
    total: float
    losses: dict[str, float]
    terms: dict[str, float]


@dataclass
class Watched:
    """What was seen: a pass for each micro-batch, and the gradients [name → tensor or None] of each step, as the
    optimiser got them."""

    passes: list[Pass] = field(default_factory=list)
    gradients: list[dict[str, Tensor | None]] = field(default_factory=list)
    optimizers: list[torch.optim.Optimizer] = field(default_factory=list)

    def clear(self) -> None:
        """Forget it."""
        self.passes.clear()
        self.gradients.clear()
        self.optimizers.clear()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """What trainings in this test do."""
    seen = Watched()
    plain_forward, plain_optimizer = Objective.forward, setup.build_optimizer

    def forward(
        self: Objective, network: Network, ragged: Ragged, parts: Sequence[Part], progress: float
    ) -> Any:
        before = copy.deepcopy(network), {name: one.clone() for name, one in self.state_dict().items()}
        random = torch.get_rng_state()
        found = plain_forward(self, network, ragged, parts, progress)
        total = float(found.total.detach())
        seen.passes.append(
            Pass(*before, ragged, parts, progress, random, total, dict(found.losses), dict(found.terms))
        )
        return found

    def optimizer(recipe: Any, network: Network, objective: Objective) -> torch.optim.Optimizer:
        made = plain_optimizer(recipe, network, objective)
        step = made.step

        def noted(*given: Any, **named: Any) -> Any:
            seen.gradients.append(
                {
                    name: None if one.grad is None else one.grad.clone()
                    for name, one in network.named_parameters()
                }
            )
            return step(*given, **named)

        made.step = noted  # type: ignore[method-assign]
        seen.optimizers.append(made)
        return made

    monkeypatch.setattr(Objective, "forward", forward)
    monkeypatch.setattr(loop, "build_optimizer", optimizer)
    return seen
