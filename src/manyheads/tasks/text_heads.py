"""The heads that the kinds on texts share: their settings, and how a head is made of them.

Knows heads and their arguments. Must not know labels, losses, files or the loop.
"""

from typing import Self

from pydantic import model_validator

from manyheads.tasks.head import Head
from manyheads.tasks.heads.answer_network import AnswerNetworkHead
from manyheads.tasks.heads.bilstm import BiLSTMHead
from manyheads.tasks.heads.layer_choice import Layers
from manyheads.tasks.heads.linear import LinearHead
from manyheads.tasks.texts import TextSettings

__all__ = ["TextHeadSettings", "text_head"]

_BELONGS = {  # what has a meaning for some heads alone
    "pooling": ("linear", "cosine"),
    "width": ("bilstm",),
    "answer_steps": ("answer_network",),
    "prediction_dropout": ("answer_network",),
}


class TextHeadSettings(TextSettings):
    """Which head stands over the text or the pair, and what it reads."""

    head: str
    """The head; each kind says which it has."""
    layers: Layers = "last"
    """The states that the head reads: of the `last` layer, the `embeddings`, `second_to_last`,
    `sum_last_four`, `concat_last_four` or `sum_all`."""
    width: int | None = None
    """For `bilstm`: units in each direction; default 768."""
    answer_steps: int | None = None
    """For `answer_network`: how many answers are averaged (K); default 5."""
    prediction_dropout: float | None = None
    """For `answer_network`: the probability that a step's answer is left out while training; default 0.1."""

    @property
    def reads_last(self) -> bool:
        return self.layers == "last"

    @model_validator(mode="after")
    def _head_has_what_it_needs(self) -> Self:
        for name, heads in _BELONGS.items():
            if getattr(self, name) is not None and self.head not in heads:
                raise ValueError(f"'{name}' has no meaning for 'head: {self.head}'")
        for name in ("width", "answer_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"'{name}' expects 1 or more, found {value}")
        if self.prediction_dropout is not None and not 0 <= self.prediction_dropout < 1:
            raise ValueError(
                f"'prediction_dropout' expects a share from 0 up to 1, found {self.prediction_dropout}"
            )
        if self.head == "answer_network" and (self.pair is None or self.apart):
            raise ValueError("'head: answer_network' needs a pair with 'encode: cross'")
        if self.head == "bilstm" and self.apart:
            raise ValueError("'head: bilstm' reads one sequence, and 'encode: siamese' makes two")
        if self.layers != "last":
            if self.head == "cosine":
                raise ValueError("'layers' has no meaning for 'head: cosine'")
            if self.pooling == "pooled":
                raise ValueError(f"'pooling: pooled' reads the last layer, found 'layers: {self.layers}'")
            if self.pooling == "cls" and self.layers == "embeddings":
                raise ValueError(
                    "'layers: embeddings' needs 'pooling: mean': there [CLS] is the same in every text"
                )
        return self


def text_head(
    settings: TextHeadSettings, hidden: int, outputs: int, *, dropout: float, numbers: bool = False
) -> Head:
    """The `linear`, `bilstm` or `answer_network` head of these settings; `numbers`: the outputs are no logits."""
    layers = settings.layers
    match settings.head:
        case "bilstm":
            width = settings.width or 768
            return BiLSTMHead(hidden, outputs, layers=layers, pool=True, width=width, dropout=dropout)
        case "answer_network":
            left_out = settings.prediction_dropout
            return AnswerNetworkHead(
                hidden,
                outputs,
                numbers=numbers,
                layers=layers,
                steps=settings.answer_steps or 5,
                prediction_dropout=0.1 if left_out is None else left_out,
                dropout=dropout,
            )
    return LinearHead(
        hidden,
        outputs,
        # The pooler was trained on the last layer, and the [CLS] of the embeddings says nothing.
        pooling=settings.pooling or ("pooled" if layers == "last" else "mean"),
        layers=layers,
        features=settings.linear_features,
        dropout=dropout,
    )
