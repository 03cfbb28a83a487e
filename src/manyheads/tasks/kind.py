"""The interface of a task kind: what an input and a label are, the loss, the distance, predictions and measures.

Knows rows' values, token ids, and outputs as tensors. Must not know data files, recipes or the training loop.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from typing_extensions import TypeVar

from manyheads.encoder import clean as cleaners
from manyheads.encoder.bert import Encoder
from manyheads.encoder.layout import Layout, sums
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.formulas.calibration import COLDEST
from manyheads.tasks.head import Head
from manyheads.tasks.heads.relation import Relation

__all__ = [
    "ColumnError",
    "Example",
    "Kind",
    "KindSettings",
    "Prediction",
    "Span",
    "Tagged",
    "examples_of",
]

O = TypeVar("O", default=Any)  # noqa: E741 (outputs: what a kind's heads give)
P = TypeVar("P")


class ColumnError(ValueError):
    """What is wrong with one column of a row."""

    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column


class KindSettings(BaseModel):
    """What every kind's section of a recipe has; a kind's own settings extend it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: str
    """Which kind of task this is."""
    clean: cleaners.Cleaner | None = None
    """How the texts are cleaned before they are read, in training and in use: `weibo` makes characters half-width,
    simplified and small, and drops links, e-mail addresses and @names; default: not at all. Places in texts stay those
    of the raw ones."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of the caller's text."""

    start: int
    """Its first character, in code points."""
    end: int
    """One beyond its last."""
    text: str
    """The text from `start` to `end`."""
    label: str
    """What it is."""
    score: float
    """Its probability, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """A word with its tag."""

    text: str
    """The word."""
    start: int
    """Its first character in the caller's text, in code points."""
    end: int
    """One beyond its last."""
    label: str
    """Its tag."""
    score: float
    """The tag's probability, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one input; what does not apply to the task's kind is None or empty."""

    label: str | None = None
    """The most probable label, the best candidate or the answer."""
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
    dropped: tuple[int, ...] = ()
    """How many of each candidate's sequence, for kinds that are given several."""
    spans: tuple[Span, ...] = ()
    """Pieces of the text, for kinds that point into it."""
    tokens: tuple[Tagged, ...] = ()
    """One answer a word, for kinds that tag words."""
    ranking: tuple[int, ...] = ()
    """The candidates by number, best first, for kinds that are given several."""
    shares: tuple[float, ...] = ()
    """The probability of each candidate, in the order they were given."""


@dataclass(frozen=True, slots=True)
class Example:
    """What a kind may look back at when it reads outputs."""

    input: Any
    """What `Kind.input` made of the row; None for kinds that do not keep it."""
    value: Any
    """The row's target value as the file gave it; None without one."""
    sizes: NDArray[np.int64]
    """[k] the marked tokens of each of its sequences."""
    offsets: NDArray[np.int32]
    """[M, 2] where its marked tokens lie in its text, all its sequences one after the other."""


def examples_of(layout: Layout, inputs: Sequence[Any] | None, values: Sequence[Any] | None) -> list[Example]:
    """The examples of a layout; `inputs` and `values` hold one entry each, or are not known."""
    n, k = len(layout), layout.counts.astype(np.int64)
    firsts = np.concatenate([[0], np.cumsum(k)])
    marks = np.zeros(len(layout.ids), np.bool_) if layout.marks is None else layout.marks
    marked = sums(marks, layout.lengths)
    places = np.concatenate([[0], np.cumsum(marked)])[firsts]
    offsets = np.zeros((int(places[-1]), 2), np.int32) if layout.offsets is None else layout.offsets
    return [
        Example(
            None if inputs is None else inputs[i],
            None if values is None else values[i],
            marked[firsts[i] : firsts[i + 1]],
            np.asarray(offsets[places[i] : places[i + 1]]),
        )
        for i in range(n)
    ]


class Kind(ABC, Generic[O]):
    """One kind of task, bound to its settings and to what was learnt from its training rows.

    Outputs are what its heads give: a tensor with a row [outputs] an example, or `Grouped` rows. Targets are floats:
    one an example, or as many as the kind says, those of all examples end to end.
    """

    Settings: ClassVar[type[KindSettings]]
    settings: Any
    squared: ClassVar[bool]
    """Whether the loss is a squared error (of Gaussian noise), not a log-likelihood of labels."""
    keeps_inputs: ClassVar[bool] = False
    """Whether predictions and measures look back at the inputs."""
    temperature: float = 1.0
    """What `calibrated` divides outputs by; `calibrate` finds it on dev, and it is one of the facts."""

    @abstractmethod
    def __init__(self, settings: Any, facts: Mapping[str, Any] | None = None) -> None:
        """`settings` is a `Settings`; `facts` is what `facts()` of an earlier object said."""

    # ---- what it reads ----

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The columns of a row that make an input."""

    @property
    def also(self) -> tuple[str, ...]:
        """Columns that are kept with the input where the file has them, such as an id."""
        return ()

    @property
    def told_by(self) -> tuple[str, ...]:
        """The columns whose values keep rows together where a split is cut from the training rows."""
        return self.columns

    @property
    @abstractmethod
    def target_column(self) -> str:
        """The column of a row that holds what is to be predicted."""

    @property
    @abstractmethod
    def reads(self) -> int:
        """How many texts a caller gives for one prediction, 1 or 2; 0: something else."""

    @property
    def laid_by(self) -> Any:
        """What the layout of a row depends on beside the tokenizer and the length, as JSON."""
        return [
            self.settings.model_dump(mode="json", include=set(self.Settings.model_fields)),
            self.cleaned_by,
        ]

    @property
    def cleaned_by(self) -> Any:
        """What cleaning depends on, as JSON; None where nothing is cleaned."""
        return None if self.settings.clean is None else [self.settings.clean, cleaners.RULES]

    def cleaned(self, text: str) -> str:
        """A text as the settings clean it."""
        return cleaners.cleaned(text, self.settings.clean)

    def gather(self, rows: Iterator[tuple[P, dict[str, Any]]]) -> Iterator[tuple[P, dict[str, Any]]]:
        """Rows of one file, each with its place, as rows of examples; they stream. Here: a row is an example."""
        return rows

    @abstractmethod
    def input(self, values: Mapping[str, Any]) -> Any:
        """A row's `columns` (and `also`) as an input; ColumnError says what was found and expected."""

    def kept(self, one: Any) -> Any:
        """What of an input is kept for predictions and measures, where inputs are kept. Here: all of it."""
        return one

    @abstractmethod
    def given(self, one: object) -> dict[str, Any]:
        """What a caller hands over, as a row's `columns`; ValueError says what was expected and found."""

    @abstractmethod
    def lay(self, inputs: Sequence[Any], tokenizer: Tokenizer, max_length: int) -> Layout:
        """Inputs as sequences of at most `max_length` token ids."""

    # ---- what it learns ----

    @abstractmethod
    def learn(self, values: Sequence[object]) -> None:
        """Take from the training rows' target values what the settings left open (label names)."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What `learn` and `tune` found, as JSON; it is kept with the run."""

    @abstractmethod
    def target(self, value: object, example: Example | None = None) -> float | Sequence[float]:
        """The number or numbers that stand for a row's target value; ValueError says what was found and expected."""

    def note(self, split: str, examples: Sequence[Example]) -> None:
        """Look once at the examples of a split, after their targets; ValueError for what does not belong together."""

    def teaches(self, value: object) -> bool:
        """Whether anything can be learnt from a training row with this target value. Here: always."""
        return True

    def remarks(self) -> list[str]:
        """What the rows' targets were like that a person should know, before training. Here: nothing."""
        return []

    @abstractmethod
    def build_head(
        self, hidden: int, dropout: float, relation: Relation | None = None, encoder: Encoder | None = None
    ) -> Head:
        """A fresh head for an encoder of width `hidden`; `dropout` is used where the settings have none.

        With `relation` it is a linear layer over what that shared layer makes of a pair. `encoder` is the encoder
        that it will stand on, for heads that share parameters with it.
        """

    @abstractmethod
    def loss(self, outputs: O, targets: Tensor) -> Tensor:
        """Mean loss over the batch, a scalar. Targets are hard, or soft as `soft` gives them."""

    def counted(self, targets: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """[n] how much each example counts in the mean that `loss` takes; `sizes` are its target numbers. Here: 1."""
        return np.ones(len(sizes))

    @abstractmethod
    def soft(self, targets: Tensor, outputs: O | None = None) -> Tensor:
        """Hard targets in the form of a model's answers to the same examples: one-hot rows, or values [B]."""

    @abstractmethod
    def answers(self, outputs: O) -> Tensor:
        """What outputs say, in the form of soft targets: probabilities, a row for each of them, or values [B]."""

    @property
    def width(self) -> int:
        """How many answers stand in a row: labels; 1 where there is one number."""
        return 1

    @abstractmethod
    def from_answers(self, answers: Tensor, outputs: O) -> O:
        """Outputs in the form of `outputs` that say these answers."""

    def mean(self, several: Sequence[tuple["Kind", O]]) -> O:
        """Outputs that say what several models say on average, each given with its own kind; in float64.

        Here: the mean of their answers.
        """
        exact: list[tuple[Kind, Any]] = [(kind, one) for kind, one in several]
        answers = [self.aligned(kind.answers(one.double()), kind) for kind, one in exact]
        found: O = self.from_answers(torch.stack(answers).mean(0), exact[0][1].double())
        return found

    @abstractmethod
    def aligned(self, answers: Tensor, teacher: "Kind") -> Tensor:
        """A teacher's answers as this kind would give them: its labels in this kind's order.

        ValueError where the teacher's labels are not these, or it is of another kind.
        """

    @abstractmethod
    def tempered(self, outputs: O, temperature: float) -> O:
        """Outputs whose probabilities are softened (Hinton et al. 2015, equation 1); values stay as they are."""

    @abstractmethod
    def distance(self, p: O, q: O) -> Tensor:
        """How far two outputs for the same inputs lie apart, mean over examples (or positions), a scalar."""

    # ---- what it says ----

    @abstractmethod
    def predictions(self, outputs: O, examples: Sequence[Example] | None = None) -> list[Prediction]:
        """One prediction for each example of the outputs."""

    @abstractmethod
    def measures(
        self, outputs: O, targets: Tensor, examples: Sequence[Example] | None = None
    ) -> dict[str, float]:
        """The measures of a whole split; the first is the one that chooses the best checkpoint."""

    @abstractmethod
    def tallies(
        self, outputs: O, targets: Tensor, examples: Sequence[Example] | None = None
    ) -> NDArray[np.float64]:
        """[n, k] numbers of each example whose sums over any examples give the first measure.

        Column 0 is 1; column 1 is the example's own score, for labels 1 where it is right and 0 where not.
        """

    @abstractmethod
    def measure_of(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """The first measure [...] from sums of tallies [..., k]; NaN where it is undefined."""

    @abstractmethod
    def goodness(self, first_measure: float) -> float:
        """The first measure on a scale from 0 (worst) to 1 (best); NaN counts as 0."""

    def tune(self, outputs: O, targets: Tensor, examples: Sequence[Example] | None = None) -> None:
        """Choose on dev what is chosen there, such as a threshold, before dev is scored. Here: nothing."""

    def fitted_temperature(self, outputs: O, targets: Tensor) -> float | None:
        """The temperature at which the targets are most likely (Guo et al. 2017, section 4.2); None where the
        probabilities of predictions are no softmax of the outputs. Here: None."""
        return None

    def calibrate(self, outputs: O, targets: Tensor) -> None:
        """Find the temperature on dev, after the best weights are back."""
        found = self.fitted_temperature(outputs, targets)
        # A split that is answered without an error sets no limit to how sure a head may be: its own word stays.
        self.temperature = 1.0 if found is None or found == COLDEST else found

    def calibrated(self, outputs: O) -> O:
        """Outputs with calibrated probabilities: what predictions are made of. Distillation, ensembles and measures
        take the outputs as they are."""
        return outputs if self.temperature == 1.0 else self.tempered(outputs, self.temperature)

    def _with_temperature(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Facts, and the temperature where one was found."""
        return facts if self.temperature == 1.0 else {**facts, "temperature": self.temperature}

    def _take_temperature(self, facts: Mapping[str, Any] | None) -> None:
        """The temperature that an earlier object found; ValueError where it is none."""
        found = float((facts or {}).get("temperature", 1.0))
        if not (math.isfinite(found) and found > 0):
            raise ValueError(f"'temperature' expects a number above 0, found {found}")
        self.temperature = found

    @abstractmethod
    def cells(self, prediction: Prediction) -> list[dict[str, Any]]:
        """A prediction as columns of a table: one mapping for each row of the file that made the example."""

    def told(self, value: Any) -> list[Any]:
        """A target value as those rows' cells in a column `gold`."""
        return [value]

    def official(
        self, predictions: Sequence[Prediction], examples: Sequence[Example] | None
    ) -> dict[str, Any]:
        """Predictions as a benchmark's own files: end of the file's name → JSON. Here: none."""
        return {}
