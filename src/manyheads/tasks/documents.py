"""Kinds of task that learn from documents alone: there are no labelled rows, what is to be said is drawn from the text.

Knows spans of text as token ids. Must not know files of documents, recipes or the loop.
"""

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from manyheads.encoder.layout import Layout
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.files import line_encoding
from manyheads.tasks.kind import Kind, KindSettings, O

__all__ = ["DocumentKind", "DocumentSettings"]


class DocumentSettings(KindSettings):
    """Settings of every kind that learns from documents: how its files hold them."""

    format: Literal["auto", "text", "jsonl", "json", "csv", "tsv", "parquet"] = "auto"
    """The format of the files of documents; auto: by each one's name."""
    text: str = "text"
    """The column with the document, in JSON lines, parquet and tables; files of plain text have none."""
    boundary: Literal["blank", "line", "file"] = "blank"
    """Where a document of a text file ends: at a blank line, at every line end, or at the end of the file."""
    encoding: Annotated[str, AfterValidator(line_encoding)] = "utf-8"
    """How the text is encoded: utf-8, latin-1, gb18030 or another whose line ends are one byte."""
    quoting: Literal["auto", "csv", "none"] = "auto"
    """In tables: `csv`: fields may stand in double quotes; `none`: a quote is text. auto: none for tsv, csv for csv."""
    language: Literal["auto", "en", "zh", "lines"] = "auto"
    """How a document is cut into sentences; `lines`: each line is one, `auto`: by the document's beginning."""
    strict: bool = False
    """A broken document is an error; otherwise it is left out, counted and listed."""


class DocumentKind(Kind[O]):
    """A kind whose examples are spans of documents, or pairs of spans, and whose targets are drawn with each batch.

    Its outputs may be too large to be kept for a whole split: its measures come from sums of tallies, which can be
    taken batch by batch.
    """

    settings: DocumentSettings
    takes_pairs: ClassVar[bool]
    """Whether it reads pairs of spans; otherwise it reads pairs only where another task on the same spans does."""

    @abstractmethod
    def bind(self, tokenizer: Tokenizer) -> None:
        """Take the tokenizer of the model that the task belongs to."""

    @abstractmethod
    def draw(
        self, layout: Layout, follows: NDArray[np.bool_] | None, generator: np.random.Generator
    ) -> tuple[Layout, NDArray[np.float64], NDArray[np.int64]]:
        """Spans as the model shall read them, the target numbers of all examples end to end, and how many each has.

        `follows` [n] says of pairs whether the second span follows the first in its document.
        """

    @abstractmethod
    def totals(self, sums: NDArray[np.float64]) -> dict[str, float]:
        """The measures from sums [k] of tallies."""
