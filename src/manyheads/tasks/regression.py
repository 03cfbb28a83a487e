"""The kind `regression`: a number for a text or a pair.

Knows values, ranges and outputs. Must not know data files, recipes or the loop.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional as F

from manyheads.encoder.bert import Encoder
from manyheads.errors import shown
from manyheads.formulas import metrics, smart
from manyheads.tasks.head import Head
from manyheads.tasks.heads.cosine import CosineHead
from manyheads.tasks.heads.relation import Relation, RelationHead
from manyheads.tasks.kind import Example, Kind, Prediction
from manyheads.tasks.text_heads import TextHeadSettings, text_head
from manyheads.tasks.texts import TextKind

__all__ = ["Regression", "RegressionSettings"]

_ROUNDING = 1e-12  # a variance below this share of the mean square is what rounding leaves of none


class RegressionSettings(TextHeadSettings):
    """Settings of `kind: regression`."""

    kind: Literal["regression"] = "regression"
    """Which kind of task this is."""
    range: tuple[float, float] | None = None
    """Least and greatest value; needed by `head: cosine` and `output: sigmoid`. Values outside are errors."""
    head: Literal["linear", "cosine", "bilstm", "answer_network"] = "linear"
    """`linear`: a layer over the pooled vector(s); `cosine`: the cosine of the two vectors, scaled to the range;
    `bilstm`: two recurrent layers over all tokens; `answer_network`: MT-DNN's network for a packed pair."""
    output: Literal["identity", "sigmoid"] = "identity"
    """For all heads but `cosine`: the number as it is, or through a sigmoid scaled to the range."""

    @model_validator(mode="after")
    def _head_fits(self) -> Self:
        if self.range is not None and not (
            all(map(math.isfinite, self.range)) and self.range[0] < self.range[1]
        ):
            raise ValueError(f"'range' expects [least, greatest], found {list(self.range)}")
        if self.head == "cosine":
            if self.encode != "siamese":
                raise ValueError("'head: cosine' needs 'encode: siamese'")
            if self.features is not None or self.dropout is not None:
                raise ValueError("'features' and 'dropout' have no meaning for 'head: cosine'")
            if self.output != "identity":
                raise ValueError("'output' has no meaning for 'head: cosine'")
        if self.range is None and (self.head == "cosine" or self.output == "sigmoid"):
            raise ValueError("'head: cosine' and 'output: sigmoid' need 'range: [least, greatest]'")
        return self


@final
class Regression(TextKind):
    """A number for a text or a pair; measures Pearson (first), Spearman and the mean squared error.

    The loss is the squared error in the units of the data, as in the sentence-similarity model of the CS 224N project
    (cosine scaled to 0–5).
    """

    Settings = RegressionSettings
    settings: RegressionSettings
    squared = True

    def __init__(self, settings: RegressionSettings, facts: Mapping[str, Any] | None = None) -> None:
        self.settings = settings

    def learn(self, values: Sequence[object]) -> None:
        """Nothing is left open: the range is part of the settings."""

    def facts(self) -> dict[str, Any]:
        return {}

    def target(self, value: object, example: Example | None = None) -> float:
        wanted = "a number"
        if self.settings.range is not None:
            wanted += " from {:g} to {:g}".format(*self.settings.range)
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"found {shown(value)}, expected {wanted}") from None
        least, greatest = self.settings.range or (-math.inf, math.inf)
        if isinstance(value, bool) or not math.isfinite(number) or not least <= number <= greatest:
            raise ValueError(f"found {shown(value)}, expected {wanted}")
        return number

    def build_head(
        self, hidden: int, dropout: float, relation: Relation | None = None, encoder: Encoder | None = None
    ) -> Head:
        share = dropout if self.settings.dropout is None else self.settings.dropout
        if relation is not None:
            # It begins where the cosine head does, and like that one without dropout: the cosine scaled to the range.
            cosine = self.settings.range is not None and self.settings.output == "identity"
            return RelationHead(
                relation,
                1,
                pooling=self.settings.pooling or "mean",
                dropout=0.0 if cosine and self.settings.dropout is None else share,
                start=self.settings.range if cosine else None,
            )
        if self.settings.head == "cosine":
            return CosineHead(pooling=self.settings.pooling or "mean")
        return text_head(self.settings, hidden, 1, dropout=share, numbers=True)

    def values(self, outputs: Tensor) -> Tensor:
        """Head outputs [B, 1] as values [B] in the units of the data (not yet clipped to the range)."""
        plain = outputs[:, 0]
        if self.settings.head == "cosine" or self.settings.output == "sigmoid":
            least, greatest = self.settings.range or (0.0, 1.0)
            share = torch.sigmoid(plain) if self.settings.output == "sigmoid" else plain
            return least + (greatest - least) * share
        return plain

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error of values against targets [B]."""
        return F.mse_loss(self.values(outputs), targets.to(outputs.dtype))

    def soft(self, targets: Tensor, outputs: Tensor | None = None) -> Tensor:
        return targets

    def answers(self, outputs: Tensor) -> Tensor:
        return self.values(outputs)

    def from_answers(self, answers: Tensor, outputs: Tensor) -> Tensor:
        plain = answers
        if self.settings.head == "cosine" or self.settings.output == "sigmoid":
            least, greatest = self.settings.range or (0.0, 1.0)
            share = (answers - least) / (greatest - least)
            plain = torch.logit(share) if self.settings.output == "sigmoid" else share
        return plain[:, None]

    def aligned(self, answers: Tensor, teacher: Kind) -> Tensor:
        if not isinstance(teacher, Regression):
            raise ValueError(f"is of kind {teacher.settings.kind}, expected {self.settings.kind}")
        return answers

    def tempered(self, outputs: Tensor, temperature: float) -> Tensor:
        return outputs

    def distance(self, p: Tensor, q: Tensor) -> Tensor:
        """(p − q)², mean over examples (Jiang et al. 2020, section 3.1, for regression)."""
        return smart.squared_error(self.values(p), self.values(q))

    def predictions(self, outputs: Tensor, examples: Sequence[Example] | None = None) -> list[Prediction]:
        """Values are clipped to the range, where there is one."""
        return [Prediction(value=value) for value in self._clipped(outputs.double()).tolist()]

    def measures(
        self, outputs: Tensor, targets: Tensor, examples: Sequence[Example] | None = None
    ) -> dict[str, float]:
        # In float64 as in `predictions`: what float32 rounds together would be tied ranks here and not there.
        values, gold = self._clipped(outputs.double()), targets.tolist()
        return {
            "pearson": metrics.pearson(gold, values.tolist()),
            "spearman": metrics.spearman(gold, values.tolist()),
            "mse": float(F.mse_loss(values, targets.to(values.dtype))),
            "loss": float(self.loss(outputs, targets)),
        }

    def tallies(
        self, outputs: Tensor, targets: Tensor, examples: Sequence[Example] | None = None
    ) -> NDArray[np.float64]:
        """[n, 7]: 1, the squared error, gold x and value y, each less its mean over the split, x², y², x·y."""
        # Correlations do not change when all values move; around their mean the sums of squares lose no digits.
        gold, values = targets.double().numpy(), self._clipped(outputs.double()).numpy()
        x, y = gold - gold.mean(), values - values.mean()
        return np.stack([np.ones_like(x), (gold - values) ** 2, x, y, x * x, y * y, x * y], axis=1)

    def measure_of(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        n, _, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            of_x, of_y = n * xx - x * x, n * yy - y * y
            varies = (of_x > _ROUNDING * n * xx) & (of_y > _ROUNDING * n * yy)
            return np.where(varies, (n * xy - x * y) / np.sqrt(of_x) / np.sqrt(of_y), np.nan)

    def goodness(self, first_measure: float) -> float:
        """(1 + r) / 2 of Pearson's r, which runs from −1 to 1."""
        return 0.0 if math.isnan(first_measure) else (1 + first_measure) / 2

    def cells(self, prediction: Prediction) -> list[dict[str, Any]]:
        """The value."""
        return [{"value": prediction.value}]

    def _clipped(self, outputs: Tensor) -> Tensor:
        values = self.values(outputs)
        return values if self.settings.range is None else values.clamp(*self.settings.range)
