"""The interface of a task kind: what a label is, its loss, its distance, its prediction, its measures.

Knows rows' values and outputs as tensors. Must not know data files, recipes or the training loop.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from manyheads.tasks.head import Head
from manyheads.tasks.heads.relation import Relation

__all__ = ["Kind", "KindSettings", "Prediction"]


class KindSettings(BaseModel):
    """What every kind's section of a recipe has; a kind's own settings extend it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: str
    """Which kind of task this is."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one input; what does not apply to the task's kind is None or empty."""

    label: str | None = None
    """The most probable label."""
    score: float | None = None
    """The probability of `label`, 0 to 1."""
    probabilities: Mapping[str, float] | None = None
    """Label → probability, in the run's order of labels; they add up to 1."""
    value: float | None = None
    """The predicted number, in the units of the training data."""
    truncated: bool = False
    """Whether the input was cut to the task's `max_length`."""
    tokens_dropped: int = 0
    """How many tokens were cut."""
    spans: tuple[Any, ...] = ()
    """Pieces of the text, for kinds that point into it."""
    tokens: tuple[Any, ...] = ()
    """One answer a word, for kinds that tag words."""


class Kind(ABC):
    """One kind of task, bound to its settings and to what was learnt from its training rows.

    Outputs are what the head gives, a row [outputs] an example; targets are floats, one an example.
    """

    Settings: ClassVar[type[KindSettings]]
    settings: Any
    squared: ClassVar[bool]
    """Whether the loss is a squared error (of Gaussian noise), not a log-likelihood of labels."""

    @abstractmethod
    def __init__(self, settings: Any, facts: Mapping[str, Any] | None = None) -> None:
        """`settings` is a `Settings`; `facts` is what `facts()` of an earlier object said."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The columns of a row that hold its texts: as many as a caller gives texts for one prediction."""

    @property
    @abstractmethod
    def target_column(self) -> str:
        """The column of a row that holds what is to be predicted."""

    @property
    @abstractmethod
    def sequences_per_example(self) -> int:
        """How many sequences the encoder reads for one example (k)."""

    @abstractmethod
    def sequences(self, texts: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """The k sequences of one example, each one text or two that are packed together."""

    @abstractmethod
    def learn(self, values: Sequence[object]) -> None:
        """Take from the training rows' target values what the settings left open (label names)."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What `learn` found, as JSON; it is kept with the run."""

    @abstractmethod
    def target(self, value: object) -> float:
        """The number that stands for a row's target value; ValueError says what was found and expected."""

    @abstractmethod
    def build_head(self, hidden: int, dropout: float, relation: Relation | None = None) -> Head:
        """A fresh head for an encoder of width `hidden`; `dropout` is used where the settings have none.

        With `relation` it is a linear layer over what that shared layer makes of a pair.
        """

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss over the batch, a scalar. Targets are hard [B], or soft as `soft` gives them."""

    @abstractmethod
    def soft(self, targets: Tensor) -> Tensor:
        """Hard targets [B] in the form of a model's answers: one-hot rows [B, labels], or values [B]."""

    @abstractmethod
    def answers(self, outputs: Tensor) -> Tensor:
        """What outputs say, in the form of soft targets: probabilities [B, labels], or values [B]."""

    @abstractmethod
    def aligned(self, answers: Tensor, teacher: "Kind") -> Tensor:
        """A teacher's answers as this kind would give them: its labels in this kind's order.

        ValueError where the teacher's labels are not these, or it is of another kind.
        """

    @abstractmethod
    def tempered(self, outputs: Tensor, temperature: float) -> Tensor:
        """Outputs whose probabilities are softened (Hinton et al. 2015, equation 1); values stay as they are."""

    @abstractmethod
    def distance(self, p: Tensor, q: Tensor) -> Tensor:
        """How far two outputs for the same inputs lie apart, mean over examples, a scalar."""

    @abstractmethod
    def predictions(self, outputs: Tensor) -> list[Prediction]:
        """One prediction for each row of the outputs."""

    @abstractmethod
    def measures(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """The measures of a whole split; the first is the one that chooses the best checkpoint."""

    @abstractmethod
    def tallies(self, outputs: Tensor, targets: Tensor) -> NDArray[np.float64]:
        """[n, k] numbers of each example whose sums over any examples give the first measure.

        Column 0 is 1; column 1 is the example's own score, for labels 1 where it is right and 0 where not.
        """

    @abstractmethod
    def measure_of(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """The first measure [...] from sums of tallies [..., k]; NaN where it is undefined."""

    @abstractmethod
    def goodness(self, first_measure: float) -> float:
        """The first measure on a scale from 0 (worst) to 1 (best); NaN counts as 0."""
