"""The kind `classification`: one of several labels for a text or a pair.

Knows label names, logits and probabilities. Must not know data files, recipes or the loop.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import field_validator, model_validator
from torch import Tensor
from torch.nn import functional as F

from manyheads.encoder.bert import Encoder
from manyheads.errors import nearest, shown
from manyheads.formulas import calibration, metrics, smart
from manyheads.tasks.head import Head
from manyheads.tasks.heads.relation import Relation, RelationHead
from manyheads.tasks.kind import Example, Kind, Prediction
from manyheads.tasks.text_heads import TextHeadSettings, text_head
from manyheads.tasks.texts import TextKind

__all__ = ["Classification", "ClassificationSettings"]

_MOST_LABELS = 1000  # more names than this are almost surely a column of texts or ids taken for labels


class ClassificationSettings(TextHeadSettings):
    """Settings of `kind: classification`."""

    kind: Literal["classification"] = "classification"
    """Which kind of task this is."""
    labels: tuple[str, ...] | None = None
    """The label names in their order; default: those of the training rows, sorted."""
    head: Literal["linear", "bilstm", "answer_network"] = "linear"
    """`linear`: a layer over the pooled vector(s); `bilstm`: two recurrent layers over all tokens; `answer_network`:
    MT-DNN's network for a packed pair."""
    loss: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy"
    """`binary_cross_entropy`: one output through a sigmoid, for tasks with two labels."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """How much a row counts in the loss, by its label: `balanced`, so that every label of the training rows has the
    same part in it, or `{label: weight}`, where a label that is not named counts 1; default: all alike.
    The measure `loss` counts so too."""
    measure: Literal["accuracy", "macro_f1", "f1", "matthews"] = "accuracy"
    """The measure that comes first: it chooses the best checkpoint and decides comparisons. `f1` is that of the
    second of two labels."""

    @field_validator("labels", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        # YAML reads [0, 1] as numbers and [true, false] as booleans; a label is always a name.
        if isinstance(value, list | tuple):
            return tuple(_name(item) for item in value)
        return value

    @field_validator("class_weights", mode="before")
    @classmethod
    def _named_weights(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return {_name(label): weight for label, weight in value.items()}
        return value

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if isinstance(self.class_weights, dict):
            if not self.class_weights:
                raise ValueError("'class_weights' expects 'balanced' or {label: weight}, found nothing")
            for label, weight in self.class_weights.items():
                if not (math.isfinite(weight) and weight > 0):
                    raise ValueError(
                        f"'class_weights' expects weights above 0, found {weight} for {shown(label)}"
                    )
            if self.labels is not None:
                _check_weighted(self.class_weights, self.labels)
        return self

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        if self.labels is not None:
            if len(self.labels) < 2:
                raise ValueError(f"'labels' expects two or more names, found {len(self.labels)}")
            twice = sorted({name for name in self.labels if self.labels.count(name) > 1})
            if twice:
                raise ValueError(f"'labels' names {', '.join(map(repr, twice))} twice")
            for key, value in (("loss", "binary_cross_entropy"), ("measure", "f1")):
                if getattr(self, key) == value and len(self.labels) != 2:
                    raise ValueError(f"'{key}: {value}' expects two labels")
        if self.loss == "binary_cross_entropy" and self.head == "answer_network":
            raise ValueError("'head: answer_network' needs 'loss: cross_entropy'")
        return self


@final
class Classification(TextKind):
    """A label for a text or a pair; measures accuracy (first), macro-F1 and, for two labels, F1 and Matthews."""

    Settings = ClassificationSettings
    settings: ClassificationSettings
    squared = False

    def __init__(self, settings: ClassificationSettings, facts: Mapping[str, Any] | None = None) -> None:
        self.settings = settings
        self.labels: tuple[str, ...] = tuple((facts or {}).get("labels") or settings.labels or ())
        self._number = {name: number for number, name in enumerate(self.labels)}
        weights = (facts or {}).get("class_weights")
        self.class_weights: tuple[float, ...] | None = None if weights is None else tuple(weights)
        """The weight of each label in the loss; None: all count alike."""
        self._take_temperature(facts)

    def learn(self, values: Sequence[object]) -> None:
        if not self.labels:
            self._learn_labels(values)
        if self.settings.class_weights == "balanced":
            self.class_weights = self._balanced(values)
        elif self.settings.class_weights is not None:
            named = self.settings.class_weights
            _check_weighted(named, self.labels)
            self.class_weights = tuple(named.get(label, 1.0) for label in self.labels)

    def _balanced(self, values: Sequence[object]) -> tuple[float, ...]:
        """n / (k · n_c) of each label c with n_c of the n rows, k labels that occur (King & Zeng 2001; scikit-learn).

        The mean over the rows is 1, and so is the weight of a label that has none: only a teacher speaks of it.
        """
        counts = np.zeros(len(self.labels), dtype=np.int64)
        for value in values:
            try:
                counts[int(self.target(value))] += 1
            except ValueError:
                continue  # no label; it is refused with its row where the targets are made
        occurs = counts > 0
        weights = counts.sum() / (occurs.sum() * np.where(occurs, counts, 1))
        return tuple(np.where(occurs, weights, 1.0).tolist())

    def _learn_labels(self, values: Sequence[object]) -> None:
        # NaN is no label; `target` refuses it with its row.
        names = {_name(value) for value in values if not (isinstance(value, float) and math.isnan(value))}
        if all(_whole_number(name) is not None for name in names):
            names = {str(_whole_number(name)) for name in names}
            found = tuple(sorted(names, key=int))
        else:
            found = tuple(sorted(names))
        if len(found) < 2:
            only = ", ".join(map(shown, found)) or "none"
            raise ValueError(f"expected two or more labels, found only {only}")
        if len(found) > _MOST_LABELS:
            raise ValueError(
                f"expected labels, found {len(found)} different values such as {shown(found[0])}"
            )
        for key, value in (("loss", "binary_cross_entropy"), ("measure", "f1")):
            if getattr(self.settings, key) == value and len(found) != 2:
                raise ValueError(f"'{key}: {value}' expects two labels, found {len(found)}")
        self.labels = found
        self._number = {name: number for number, name in enumerate(found)}

    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = {"labels": list(self.labels)}
        if self.class_weights is not None:
            found["class_weights"] = list(self.class_weights)
        return self._with_temperature(found)

    def target(self, value: object, example: Example | None = None) -> float:
        name = _name(value)
        number = self._number.get(name)
        if number is None:  # data sets write the label 1 as "1.0" (a column of floats) or " 1"
            number = self._number.get(name.strip())
        if number is None and (whole := _whole_number(name)) is not None:
            number = next((i for i, label in enumerate(self.labels) if _whole_number(label) == whole), None)
        if number is None:
            known = ", ".join(self.labels[:12]) + (", …" if len(self.labels) > 12 else "")
            raise ValueError(f"found {shown(value)}, expected one of {known}{nearest(name, self.labels)}")
        return float(number)

    def build_head(
        self, hidden: int, dropout: float, relation: Relation | None = None, encoder: Encoder | None = None
    ) -> Head:
        outputs = 1 if self._binary else len(self.labels)
        share = dropout if self.settings.dropout is None else self.settings.dropout
        if relation is not None:
            return RelationHead(relation, outputs, pooling=self.settings.pooling or "mean", dropout=share)
        return text_head(self.settings, hidden, outputs, dropout=share)

    @property
    def _binary(self) -> bool:
        return self.settings.loss == "binary_cross_entropy"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy of logits [B, labels] (binary: [B, 1]) with label numbers [B] or probabilities [B, labels].

        With class weights w it is the weighted mean Σ w_c p_c (−log q_c) / Σ w_c p_c over rows and labels, p one-hot
        for label numbers: what torch's cross entropy is for these, and the same for probabilities that say as much.
        (For probabilities torch divides by B, so that a soft target would count otherwise than its label.)
        """
        if self.class_weights is not None:
            told = targets if targets.ndim == 2 else self.soft(targets)
            shares = told.to(outputs.dtype) * outputs.new_tensor(self.class_weights)
            return -(shares * self._log_probabilities(outputs)).sum() / shares.sum()
        if self._binary:
            second = targets[:, 1] if targets.ndim == 2 else targets
            return F.binary_cross_entropy_with_logits(outputs[:, 0], second.to(outputs.dtype))
        soft = targets.ndim == 2
        return F.cross_entropy(outputs, targets.to(outputs.dtype) if soft else targets.long())

    def soft(self, targets: Tensor, outputs: Tensor | None = None) -> Tensor:
        return F.one_hot(targets.long(), len(self.labels)).to(targets.dtype)

    def answers(self, outputs: Tensor) -> Tensor:
        return self._log_probabilities(outputs).exp()

    @property
    def width(self) -> int:
        return len(self.labels)

    def from_answers(self, answers: Tensor, outputs: Tensor) -> Tensor:
        logs = answers.log()  # the logarithm of 0 is an answer too: the softmax gives 0 again
        return logs[:, 1:] - logs[:, :1] if self._binary else logs

    def aligned(self, answers: Tensor, teacher: Kind) -> Tensor:
        if not isinstance(teacher, Classification):
            raise ValueError(f"is of kind {teacher.settings.kind}, expected {self.settings.kind}")
        if sorted(teacher.labels) != sorted(self.labels):
            raise ValueError(f"has the labels {', '.join(teacher.labels)}, expected {', '.join(self.labels)}")
        return answers[:, [teacher.labels.index(label) for label in self.labels]]

    def tempered(self, outputs: Tensor, temperature: float) -> Tensor:
        return outputs / temperature

    def distance(self, p: Tensor, q: Tensor) -> Tensor:
        """KL(P‖Q) + KL(Q‖P) of the two distributions (Jiang et al. 2020, equation 3)."""
        # Log-probabilities are logits of the same distribution, also where a sigmoid stands for two labels.
        return smart.symmetric_kl(self._log_probabilities(p), self._log_probabilities(q))

    def predictions(self, outputs: Tensor, examples: Sequence[Example] | None = None) -> list[Prediction]:
        probabilities = self._log_probabilities(outputs.double()).exp().tolist()
        return [
            Prediction(
                label=self.labels[best],
                score=row[best],
                probabilities=dict(zip(self.labels, row, strict=True)),
            )
            for row in probabilities
            for best in [max(range(len(row)), key=row.__getitem__)]
        ]

    def measures(
        self, outputs: Tensor, targets: Tensor, examples: Sequence[Example] | None = None
    ) -> dict[str, float]:
        gold = targets.long().tolist()
        guess = self._log_probabilities(outputs.double()).argmax(1).tolist()  # as in `predictions`
        found = {
            "accuracy": metrics.accuracy(gold, guess),
            "macro_f1": metrics.macro_f1(gold, guess),
        }
        if len(self.labels) == 2:
            found["f1"] = metrics.f1(gold, guess, positive=1)
        if len(self.labels) == 2 or self.settings.measure == "matthews":
            found["matthews"] = metrics.matthews(gold, guess)
        first = self.settings.measure
        return {first: found[first], **found, "loss": float(self.loss(outputs, targets))}

    def tallies(
        self, outputs: Tensor, targets: Tensor, examples: Sequence[Example] | None = None
    ) -> NDArray[np.float64]:
        """[n, 2 + 3 · labels]: 1, right or not, then for each label whether it is a true positive, a false
        positive, a false negative."""
        gold = targets.long().numpy()[:, None]
        guess = self._log_probabilities(outputs.double()).argmax(1).numpy()[:, None]
        label = np.arange(len(self.labels))
        said, meant = guess == label, gold == label
        each = np.stack([said & meant, said & ~meant, ~said & meant], axis=2).reshape(len(gold), -1)
        return np.concatenate([np.ones_like(gold), guess == gold, each], axis=1).astype(np.float64)

    def measure_of(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        count, right = sums[..., 0], sums[..., 1]
        true, false, missed = (sums[..., 2 + part :: 3] for part in range(3))
        with np.errstate(divide="ignore", invalid="ignore"):
            match self.settings.measure:
                case "accuracy":
                    return np.asarray(right / count)
                case "matthews":  # of any number of labels (Gorodkin 2004), 0 where it is undefined
                    said, meant = true + false, true + missed
                    top = right * count - (said * meant).sum(-1)
                    bottom = (count**2 - (said**2).sum(-1)) * (count**2 - (meant**2).sum(-1))
                    return np.where(bottom > 0, top / np.sqrt(bottom), 0.0)
            # A label that neither occurs nor is said has no part in the mean; one that never fits has F1 0.
            occurs = true + false + missed > 0
            f1 = np.where(occurs, 2 * true / (2 * true + false + missed), 0.0)
            if self.settings.measure == "f1":
                return np.asarray(f1[..., 1])
            return np.asarray(f1.sum(-1) / occurs.sum(-1))

    def goodness(self, first_measure: float) -> float:
        """The measure itself; (1 + r) / 2 of the Matthews correlation, which runs from −1 to 1."""
        if math.isnan(first_measure):
            return 0.0
        return (1 + first_measure) / 2 if self.settings.measure == "matthews" else first_measure

    def fitted_temperature(self, outputs: Tensor, targets: Tensor) -> float:
        """By the likelihood of the labels as they are, without class weights: those are a wish, not a frequency."""
        return calibration.temperature(outputs, targets)

    def cells(self, prediction: Prediction) -> list[dict[str, Any]]:
        """The label, its probability, and each label's as `p:LABEL`."""
        shares = prediction.probabilities or {}
        return [
            {"label": prediction.label, "score": prediction.score}
            | {f"p:{name}": share for name, share in shares.items()}
        ]

    def _log_probabilities(self, outputs: Tensor) -> Tensor:
        """[B, labels]"""
        if self._binary:
            return torch.cat([F.logsigmoid(-outputs), F.logsigmoid(outputs)], dim=1)
        return outputs.log_softmax(1)


def _name(value: object) -> str:
    """A label as text; booleans as JSON and YAML write them."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_weighted(weights: Mapping[str, float], labels: Sequence[str]) -> None:
    """ValueError where a weight is for something that is no label."""
    for label in weights:
        if label not in labels:
            known = ", ".join(labels[:12]) + (", …" if len(labels) > 12 else "")
            raise ValueError(
                f"'class_weights' names {shown(label)}, expected some of {known}{nearest(label, labels)}"
            )


def _whole_number(name: str) -> int | None:
    """The whole number that a label such as "1", "1.0" or " 1" writes, or None."""
    try:
        number = float(name)
    except ValueError:
        return None
    return int(number) if math.isfinite(number) and number == int(number) else None
