"""What the kinds that read one text or two share: which columns, how a pair is encoded, which vectors a head sees.

Knows rows as mappings, token ids, cleaners and pooled vectors by name. Must not know losses, files or the loop.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from pydantic import model_validator
from torch import Tensor

from manyheads.encoder.layout import Layout
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import shown
from manyheads.tasks.heads.linear import Feature
from manyheads.tasks.heads.pooling import Pooling
from manyheads.tasks.kind import ColumnError, Kind, KindSettings

__all__ = ["TextKind", "TextSettings", "text_of"]


class TextSettings(KindSettings):
    """One text, or a pair packed in one sequence, or a pair encoded apart."""

    text: str | None = None
    """The column with the text, for a task on single texts."""
    pair: tuple[str, str] | None = None
    """The two columns with the texts, for a task on pairs."""
    label: str = "label"
    """The column with what is to be predicted."""
    encode: Literal["cross", "siamese"] = "cross"
    """How a pair is read: `cross` packs both texts in one sequence, `siamese` encodes them apart."""
    features: tuple[Feature, ...] | None = None
    """For `siamese` with a linear head: what of the vectors u and v the head sees; default u, v, absdiff."""
    pooling: Pooling | None = None
    """The vector of a text: `pooled` (the encoder's tanh pooler, the default), `cls` (the first token's
    last state), `mean` (over the tokens; the default of the cosine head and of a relation layer) or `last` (the last
    token's, for an encoder with causal attention, whose first token has seen nothing)."""
    dropout: float | None = None
    """Share of the head's input that is dropped while training; default: the encoder's dropout."""

    @model_validator(mode="after")
    def _one_text_or_a_pair(self) -> Self:
        if (self.text is None) == (self.pair is None):
            raise ValueError("expected either 'text: COLUMN' or 'pair: [COLUMN, COLUMN]'")
        if self.pair is None and self.encode == "siamese":
            raise ValueError("'encode: siamese' needs a pair, but the task has 'text'")
        if self.features is not None:
            if self.encode != "siamese":
                raise ValueError("'features' belong to 'encode: siamese'")
            if not self.features or len(set(self.features)) != len(self.features):
                raise ValueError("'features' expects one or more of u, v, absdiff, product, each once")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"'dropout' expects a share from 0 up to 1, found {self.dropout}")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that hold the texts, one or two."""
        return (self.text,) if self.pair is None else self.pair  # type: ignore[return-value]

    @property
    def apart(self) -> bool:
        """Whether the two texts of a pair are encoded apart."""
        return self.encode == "siamese"

    @property
    def reads_last(self) -> bool:
        """Whether the head reads the last layer's states; settings that offer others say so."""
        return True

    @property
    def linear_features(self) -> tuple[Feature, ...] | None:
        """What a linear head sees of u and v, or None where there is one sequence an example."""
        if not self.apart:
            return None
        return self.features or ("u", "v", "absdiff")

    def related(self) -> Self:
        """These settings where a relation layer takes the place of the head: what belongs to other heads is gone."""
        return self.model_copy(update={"head": "linear", "features": None})

    def sequences(self, texts: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """The sequences of one example: ((a,),) · ((a, b),) packed · ((a,), (b,)) apart."""
        return tuple((text,) for text in texts) if self.apart else (tuple(texts),)


class TextKind(Kind[Tensor]):
    """The part of a kind that reads its texts as `TextSettings` say."""

    settings: TextSettings

    @property
    def columns(self) -> tuple[str, ...]:
        return self.settings.columns

    @property
    def target_column(self) -> str:
        return self.settings.label

    @property
    def reads(self) -> int:
        return len(self.columns)

    @property
    def laid_by(self) -> Any:
        return [list(self.columns), self.settings.encode, self.cleaned_by]

    def input(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(self.cleaned(text_of(values[column], column)) for column in self.columns)

    def given(self, one: object) -> dict[str, Any]:
        texts = (one,) if isinstance(one, str) else tuple(one) if isinstance(one, Sequence) else ()
        if len(texts) != self.reads or not all(isinstance(text, str) for text in texts):
            wanted = "a text" if self.reads == 1 else "a pair of texts"
            raise ValueError(f"expected {wanted}, found {shown(one)}")
        return dict(zip(self.columns, texts, strict=True))

    def lay(self, inputs: Sequence[tuple[str, ...]], tokenizer: Tokenizer, max_length: int) -> Layout:
        sequences = [one for texts in inputs for one in self.settings.sequences(texts)]
        packed = bool(sequences) and len(sequences[0]) == 2
        flat = tokenizer.encode_batch(
            [one[0] for one in sequences],
            [one[1] for one in sequences] if packed else None,
            max_length=max_length,
        )
        k = 2 if self.settings.apart else 1
        counts = np.full(len(inputs), k, dtype=np.int32)
        return Layout(flat.ids, flat.segments.astype(np.uint8), flat.lengths, flat.dropped, counts)


def text_of(value: object, column: str, *, empty: bool = True) -> str:
    """A row's text; numbers are written out, anything else that is no text is a ColumnError.

    `empty` says whether the text may be empty, or nothing but white space.
    """
    if isinstance(value, str):
        if not empty and not value.strip():
            raise ColumnError(column, f"found the empty text {shown(value)}, expected a text")
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ColumnError(column, f"found {'null' if value is None else shown(value)}, expected a text")
