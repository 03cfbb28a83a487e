"""The kind `choice`: which of several continuations or answers fits a text.

Knows choices by number, and scores in groups. Must not know data files, recipes or the loop.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor

from manyheads.encoder.grouped import Grouped
from manyheads.errors import shown
from manyheads.formulas import metrics
from manyheads.tasks.candidates import CandidateKind, Candidates, CandidateSettings, settled, texts_of
from manyheads.tasks.kind import ColumnError, Example, Prediction
from manyheads.tasks.texts import text_of

__all__ = ["Choice", "ChoiceSettings"]


class ChoiceSettings(CandidateSettings):
    """Settings of `kind: choice`."""

    kind: Literal["choice"] = "choice"
    """Which kind of task this is."""
    text: str
    """The column with the text that a choice continues or answers."""
    second: str | None = None
    """A column whose text is put before each choice: in SWAG the start of the sentence that the choices end."""
    choices: str | tuple[str, ...]
    """The columns of the choices, in order; or one column that holds a list of them, of any length in each row."""
    label: str = "label"
    """The column with the number of the right choice."""
    first: Literal[0, 1] = 0
    """The number of the first choice."""

    @model_validator(mode="after")
    def _several(self) -> Self:
        if not isinstance(self.choices, str):
            if len(self.choices) < 2:
                found = list(self.choices)
                raise ValueError(
                    f"'choices' expects two or more columns, or the name of one with lists, found {found}"
                )
            twice = sorted({name for name in self.choices if self.choices.count(name) > 1})
            if twice:
                raise ValueError(f"'choices' names {', '.join(map(repr, twice))} twice")
        return self


@final
class Choice(CandidateKind):
    """One of several choices for a text; measures accuracy.

    Each choice is read with the text in a sequence of its own and gets a score; the softmax over the scores of an
    example is how probable each is (Devlin et al. 2019, section 4.4). A target is the right choice's place, from 0.
    """

    Settings = ChoiceSettings
    settings: ChoiceSettings

    def __init__(self, settings: ChoiceSettings, facts: Mapping[str, Any] | None = None) -> None:
        self.settings = settings
        self._take_temperature(facts)

    @property
    def columns(self) -> tuple[str, ...]:
        before = () if self.settings.second is None else (self.settings.second,)
        return (self.settings.text, *before, *self._choice_columns)

    @property
    def _choice_columns(self) -> tuple[str, ...]:
        choices = self.settings.choices
        return (choices,) if isinstance(choices, str) else choices

    @property
    def target_column(self) -> str:
        return self.settings.label

    @property
    def laid_by(self) -> Any:
        lists = isinstance(self.settings.choices, str)
        return [self.settings.text, self.settings.second, lists, list(self._choice_columns), self.cleaned_by]

    def input(self, values: Mapping[str, Any]) -> Candidates:
        """No text and no choice may be empty; what `second` names may: in HellaSwag it is where a choice is all."""
        text = text_of(values[self.settings.text], self.settings.text, empty=False)
        begin = ""
        if self.settings.second is not None:
            begin = text_of(values[self.settings.second], self.settings.second)
        first, *others = self._choice_columns
        if isinstance(self.settings.choices, str) or not any(name in values for name in others):
            choices = [(first, choice) for choice in texts_of(values[first], first)]
        else:
            choices = [(name, text_of(values[name], name)) for name in self._choice_columns]
        if len(choices) < 2:
            raise ColumnError(first, f"found {len(choices)} choices, expected two or more")
        for number, (name, choice) in enumerate(choices, start=self.settings.first):
            if not choice.strip():
                raise ColumnError(name, f"choice {number} is empty, expected a text")
        ends = (f"{begin} {choice}" if begin else choice for _, choice in choices)
        return self.cleaned(text), [self.cleaned(one) for one in ends]

    def given(self, one: object) -> dict[str, Any]:
        """(text, [choice, …]): any number of whole choices, whatever the number in the training rows was."""
        text, choices = self._given(one, "a text and its choices: (text, [choice, …])")
        before = {} if self.settings.second is None else {self.settings.second: ""}
        # A list in the first choice's column, and no other of them, stands for all choices.
        return {self.settings.text: text, **before, self._choice_columns[0]: choices}

    def learn(self, values: Sequence[object]) -> None:
        """Nothing is left open: choices have numbers."""

    def target(self, value: object, example: Example | None = None) -> float:
        number, first = _whole_number(value), self.settings.first
        count = len(self._choice_columns) if example is None else len(example.sizes)
        if example is None and isinstance(self.settings.choices, str):
            count = 0  # not known without the row
        if number is not None and first <= number and (not count or number < first + count):
            return float(number - first)
        wanted = f"{first} to {first + count - 1}" if count else f"{first}, {first + 1}, …"
        hint = (
            "; where the first choice has the number 1, say 'first: 1'"
            if number == count and not first
            else ""
        )
        raise ValueError(
            f"found {shown(value)}, expected the number of a choice, {wanted}{hint if count else ''}"
        )

    def soft(self, targets: Tensor, outputs: Grouped | None = None) -> Tensor:
        assert outputs is not None
        shares = torch.zeros_like(outputs.rows)
        shares[_starts(outputs) + targets.long().to(outputs.rows.device)] = 1
        return shares

    def predictions(self, outputs: Grouped, examples: Sequence[Example] | None = None) -> list[Prediction]:
        """`label` is the number of the most probable choice, the first of several."""
        first = self.settings.first
        return [
            Prediction(
                label=str(best + first),
                score=shares[best],
                probabilities={str(number): share for number, share in enumerate(shares, start=first)},
                shares=tuple(shares),
            )
            for shares, best in _chosen(outputs)
        ]

    def measures(
        self, outputs: Grouped, targets: Tensor, examples: Sequence[Example] | None = None
    ) -> dict[str, float]:
        return {
            "accuracy": metrics.accuracy(targets.long().tolist(), [best for _, best in _chosen(outputs)]),
            "loss": float(self.loss(outputs, targets)),
        }

    def tallies(
        self, outputs: Grouped, targets: Tensor, examples: Sequence[Example] | None = None
    ) -> NDArray[np.float64]:
        """[n, 2]: 1, right or not."""
        right = targets.long().numpy() == np.array([best for _, best in _chosen(outputs)])
        return np.stack([np.ones_like(right), right], axis=1).astype(np.float64)

    def cells(self, prediction: Prediction) -> list[dict[str, Any]]:
        """The label, its probability, and each choice's as `p:NUMBER`; all as one list where rows hold lists."""
        said = {"label": prediction.label, "score": prediction.score}
        if isinstance(self.settings.choices, str):
            return [{**said, "shares": json.dumps(prediction.shares)}]
        return [said | {f"p:{number}": share for number, share in (prediction.probabilities or {}).items()}]


def _chosen(outputs: Grouped) -> Iterator[tuple[list[float], int]]:
    """The probabilities of each example's choices and the place of the most probable, the first of several (their
    scores may differ by rounding)."""
    exact = outputs.detach().double()
    for scores, rows in zip(exact.split(), exact.with_rows(exact.log_softmax().exp()).split(), strict=True):
        yield rows[:, 0].tolist(), int(settled(scores[:, 0].cpu().numpy()).argmax())


def _starts(outputs: Grouped) -> Tensor:
    """[G] the row of each group's first candidate."""
    return torch.from_numpy(np.cumsum(outputs.sizes) - outputs.sizes).to(outputs.rows.device)


def _whole_number(value: object) -> int | None:
    """The whole number that a cell writes, such as 2, "2" or "2.0", or None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if math.isfinite(number) and number == int(number) else None
