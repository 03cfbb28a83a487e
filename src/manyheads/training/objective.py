"""What a step minimises: each task's loss against labels and teachers, weighed, and the terms beside it.

Knows outputs, targets and kinds. Must not know files, optimisers or the loop. A new term is a class and a line in
`TERMS`.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from manyheads.encoder.layers import Masks
from manyheads.encoder.ragged import Ragged
from manyheads.formulas import smart
from manyheads.formulas.distill import mixed_target
from manyheads.formulas.gradients import uncertainty_loss
from manyheads.formulas.smart import SmartSettings
from manyheads.model import Network
from manyheads.recipe import Recipe
from manyheads.tasks import Kind
from manyheads.tasks.head import Rows, plain, regrouped

__all__ = ["TERMS", "Batch", "Objective", "Part", "Result", "Term"]


@dataclass(frozen=True, eq=False)
class Part:
    """The examples of one task in a batch: sequences `begin` to `end`, their targets, and the part's weight."""

    task: str
    kind: Kind
    begin: int
    end: int
    targets: Tensor
    weight: float = 1.0
    teacher: Tensor | None = None
    """The teacher's answers for these examples, in the form of the kind's soft targets."""
    vectors: Rows | None = None
    """What the head reads of a frozen encoder, computed before; then the batch has no tokens."""


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch after its forward pass: what terms may look at."""

    network: Network
    ragged: Ragged
    parts: Sequence[Part]
    outputs: Sequence[Rows]
    words: Tensor
    """[T, H] the word vectors that were read."""
    masks: Masks
    """The dropout masks of the pass, for another one that must be the same function."""

    @property
    def numbers(self) -> list[Tensor]:
        """The outputs' numbers alone, without their groups."""
        return [plain(one) for one in self.outputs]

    def again(self, network: Network, words: Tensor) -> list[Tensor]:
        """The outputs' numbers for other word vectors or of another network, through the same dropout masks."""
        with self.masks.replayed():
            return [plain(one) for one in network(self.ragged, _places(self.parts), words)]

    def distance(self, these: Sequence[Tensor], those: Sequence[Tensor]) -> Tensor:
        """How far the numbers of all parts lie apart: the kinds' own distances, weighed as the losses are."""
        parts = zip(self.parts, self.outputs, these, those, strict=True)
        return torch.stack(
            [
                part.weight * part.kind.distance(regrouped(p, like), regrouped(q, like))
                for part, like, p, q in parts
            ]
        ).sum()


class Term(nn.Module, ABC):
    """A summand of the objective beside the tasks' losses. What it must remember between steps is module state, and
    so is saved and resumed."""

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """The term, a scalar."""

    @abstractmethod
    def stepped(self, network: Network) -> None:
        """Called after the optimiser has moved the network."""


@final
class Smoothness(Term):
    """SMART's adversarial term: what the worst small noise on the word vectors changes (formulas/smart.py)."""

    def __init__(self, settings: SmartSettings) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, batch: Batch) -> Tensor:
        s = self.settings

        def forward(words: Tensor) -> list[Tensor]:
            return batch.again(batch.network, words)

        def ascent(words: Tensor) -> list[Tensor]:
            with _held(batch.network):
                return batch.again(batch.network, words)

        loss = smart.adversarial_loss(
            forward,
            batch.words,
            batch.numbers,
            batch.distance,
            epsilon=s.epsilon,
            sigma=s.sigma,
            eta=s.eta,
            steps=s.steps,
            norm=s.norm,
            ascent=ascent,
        )
        return s.weight * loss

    def stepped(self, network: Network) -> None:
        """Nothing to remember."""


@final
class Proximity(Term):
    """SMART's Bregman proximal term: how far the answers are from those of the averaged weights θ̃."""

    def __init__(self, settings: SmartSettings, network: Network) -> None:
        super().__init__()
        self.settings = settings
        self.averaged = (
            copy.deepcopy(network).requires_grad_(False).train()
        )  # its passes replay dropout masks

    def forward(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            before = batch.again(self.averaged, self.averaged.encoder.embeddings.word(batch.ragged.token_ids))
        return self.settings.mu * smart.bregman_loss(batch.numbers, before, batch.distance)

    def stepped(self, network: Network) -> None:
        smart.average_(list(self.averaged.parameters()), list(network.parameters()), self.settings.momentum)


def _smoothness(recipe: Recipe, network: Network) -> Term | None:
    asked = recipe.regularize.smart
    return Smoothness(asked) if asked is not None and asked.weight > 0 else None


def _proximity(recipe: Recipe, network: Network) -> Term | None:
    asked = recipe.regularize.smart
    return Proximity(asked, network) if asked is not None and asked.mu > 0 else None


TERMS: dict[str, Callable[[Recipe, Network], Term | None]] = {
    "smart": _smoothness,
    "bregman": _proximity,
}
"""The terms by the name the journal gives them; each makes itself of the recipe, or None where it has no part."""


class Result(NamedTuple):
    """What the objective says of a batch."""

    total: Tensor
    """A scalar to call backward on."""
    losses: dict[str, float]
    """Task → its loss before it is weighed."""
    terms: dict[str, float]
    """Term → its value, weighed."""
    outputs: list[Rows]
    """What each part's head said."""


class Objective(nn.Module):
    """The number that a step minimises, as a function of a batch; with the parameters and the memory of its terms.

    L = Σ_parts weight · loss(outputs, target) + Σ terms. The target of a task with a teacher is
    λ · gold + (1 − λ) · teacher (BAM). With uncertainty weighting the tasks' losses are weighed by learnt
    variances (Kendall et al. 2018).
    """

    def __init__(self, recipe: Recipe, network: Network, kinds: dict[str, Kind]) -> None:
        super().__init__()
        self.distill = recipe.distill
        self.tasks = list(kinds)
        self.halves = [kind.squared for kind in kinds.values()]
        learnt = recipe.gradients.weighting == "uncertainty"
        self.log_variances = nn.Parameter(torch.zeros(len(kinds))) if learnt else None
        made = {name: make(recipe, network) for name, make in TERMS.items()}
        self.terms = nn.ModuleDict({name: term for name, term in made.items() if term is not None})
        self.share = recipe.regularize.smart.share if recipe.regularize.smart is not None else 1.0

    def forward(self, network: Network, ragged: Ragged, parts: Sequence[Part], progress: float) -> Result:
        """The objective of a batch.

        `progress` is the share of the training that is done, 0 to 1. One ragged forward serves all parts.
        """
        batch, due = None, self._due()
        outputs: list[Rows]
        if parts[0].vectors is not None:
            read = [part.vectors.to(ragged.token_ids.device) for part in parts if part.vectors is not None]
            outputs = [network.head(part.task)(one) for part, one in zip(parts, read, strict=True)]
        elif not due:
            outputs = network(ragged, _places(parts))
        else:
            masks, words = Masks(), network.encoder.embeddings.word(ragged.token_ids)
            with masks.recorded():
                outputs = network(ragged, _places(parts), words)
            batch = Batch(network, ragged, parts, outputs, words, masks)
        losses = [self._loss(part, output, progress) for part, output in zip(parts, outputs, strict=True)]
        shares = losses[0].new_tensor([part.weight for part in parts])
        total = (self._weighed(parts, losses) * shares).sum()
        told = {}
        for name, term in due.items():
            assert batch is not None  # a recipe with a frozen encoder has no terms
            value = term(batch) / self.share
            told[name] = float(value.detach())
            total = total + value
        each = {part.task: float(loss.detach()) for part, loss in zip(parts, losses, strict=True)}
        return Result(total, each, told, outputs)

    def stepped(self, network: Network) -> None:
        """Called after the optimiser has moved the network."""
        for term in self.terms.values():
            assert isinstance(term, Term)
            term.stepped(network)

    @property
    def learnt_weights(self) -> dict[str, float]:
        """Task → the factor of its loss as it is learnt (Kendall et al. 2018); empty where it is fixed."""
        if self.log_variances is None:
            return {}
        halves = (0.5 if half else 1.0 for half in self.halves)
        weights = self.log_variances.detach().neg().exp().tolist()
        return {name: half * one for name, half, one in zip(self.tasks, halves, weights, strict=True)}

    def _due(self) -> dict[str, nn.Module]:
        """The terms that this step pays for: all of them or none, drawn from torch's generator."""
        if not self.terms or (self.share < 1 and float(torch.rand(())) >= self.share):
            return {}
        return dict(self.terms.items())

    def _loss(self, part: Part, outputs: Rows, progress: float) -> Tensor:
        """A task's loss against its labels, or against labels and teacher."""
        numbers = plain(outputs)
        kind, targets = part.kind, part.targets.to(numbers.device)
        if part.teacher is None or self.distill is None:
            return kind.loss(outputs, targets)
        gold, teacher = kind.soft(targets.to(numbers.dtype), outputs), part.teacher.to(numbers)
        anneal, temperature = self.distill.anneal, self.distill.temperature
        if temperature == 1 or kind.squared:  # numbers have nothing to soften
            return kind.loss(outputs, mixed_target(gold, teacher, progress, anneal))
        # Softened answers have gradients 1/T² as large (Hinton et al. 2015, section 2); cross entropy is linear in
        # its target, so this is the mixed target at T = 1.
        of_gold = float(mixed_target(1.0, 0.0, progress, anneal))
        taught = kind.loss(kind.tempered(outputs, temperature), teacher) * temperature**2
        return of_gold * kind.loss(outputs, gold) + (1 - of_gold) * taught

    def _weighed(self, parts: Sequence[Part], losses: Sequence[Tensor]) -> Tensor:
        """[parts] the losses, weighed by the learnt variances where they are learnt."""
        if self.log_variances is None:
            return torch.stack(list(losses))
        which = [self.tasks.index(part.task) for part in parts]
        return uncertainty_loss(losses, self.log_variances[which], [self.halves[i] for i in which])


def _places(parts: Sequence[Part]) -> list[tuple[str, int, int]]:
    return [(part.task, part.begin, part.end) for part in parts]


@contextmanager
def _held(network: Network) -> Iterator[None]:
    """No gradients for the weights inside: the search for the worst noise needs none, and saves their products."""
    learning = [one for one in network.parameters() if one.requires_grad]
    for one in learning:
        one.requires_grad_(False)
    try:
        yield
    finally:
        for one in learning:
            one.requires_grad_(True)
