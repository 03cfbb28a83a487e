"""A file of rows with a task's answers beside each row, a piece of it at a time.

Knows rows, csv and a task as it is served. Must not know HTTP or how its inputs are queued.
"""

import io
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, BinaryIO

from manyheads.data.read import Dialect, Row, read_rows
from manyheads.data.write import RowWriter, labelled, open_writer
from manyheads.errors import InputError
from manyheads.serve.limits import Limits
from manyheads.serve.offer import Laid, Offered
from manyheads.tasks import Prediction

__all__ = ["FILE", "Labelling"]

FILE = "the file"
"""What errors call it."""

_INPUTS = 256  # of a piece at most
_CHARACTERS = 4  # a token, about: a piece has as many tokens as one pass of the encoder
_LONG = 16  # an input of this part of the queue's tokens as characters is measured before it is taken


class Labelling:
    """A csv file that a task labels.

    `columns` are those of the file that make an input, in the order of the kind's; empty: by the kind's names.
    """

    def __init__(
        self,
        offered: Offered,
        file: BinaryIO,
        columns: Sequence[str],
        *,
        probabilities: bool,
        limits: Limits,
    ) -> None:
        self.offered, self.file, self.limits = offered, file, limits
        self.kind = offered.task.kind
        self.probabilities = probabilities
        own = self.kind.columns
        self.columns = tuple(columns) or own
        if len(self.columns) != len(own):
            raise InputError(
                f"column: found {len(self.columns)}, expected {len(own)} for the task's {', '.join(own)}"
            )
        self._waiting: deque[Row] = deque()
        self._rest: Iterator[Any] | None = None
        self._buffer = io.BytesIO()
        self._open = ExitStack()
        self._writer: RowWriter | None = None

    def check(self) -> int:
        """Read it all once, and say how many rows there are; InputError names the first row that cannot be labelled.

        Afterwards nothing is wrong with any row, so that an answer that has begun can be brought to its end.
        """
        self.file.seek(0)
        self._waiting.clear()
        rows = 0
        for one in self._inputs(check=True):
            del one
            rows += len(self._waiting)
            self._waiting.clear()
        rows += len(self._waiting)
        self.file.seek(0)
        self._waiting.clear()
        self._rest = self._inputs(check=False)
        return rows

    def next(self) -> Laid | None:
        """The inputs of the next rows, about as many as fill a pass of the encoder; None at the end."""
        assert self._rest is not None, "the rows have not been checked"
        inputs: list[Any] = []
        size = 0
        for one in self._rest:
            inputs.append(one)
            size += sum(map(len, _texts(one)))
            if len(inputs) >= _INPUTS or size >= self.limits.batch_tokens * _CHARACTERS:
                break
        return self.offered.lay(inputs) if inputs else None

    def written(self, predictions: Sequence[Prediction]) -> bytes:
        """The rows that the next predictions belong to, as csv; the header before the first."""
        for prediction in predictions:
            cells = self.kind.cells(prediction)
            several = len(prediction.dropped) == len(cells) > 1
            dropped = prediction.dropped if several else [prediction.tokens_dropped] * len(cells)
            for one, lost in zip(cells, dropped, strict=True):
                values = labelled(self._waiting.popleft().values, one, lost, probabilities=self.probabilities)
                if self._writer is None:
                    self._writer = self._open.enter_context(
                        open_writer(self._buffer, list(values), format="csv")
                    )
                self._writer.write(values)
        found = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return found

    def close(self) -> None:
        """Let go of the file."""
        self._open.close()
        self.file.close()

    # ---- its rows ----

    def _inputs(self, *, check: bool) -> Iterator[Any]:
        """The inputs of the examples; their rows wait for their answers."""
        kind, theirs = self.kind, dict(zip(self.kind.columns, self.columns, strict=True))
        place: Row | None = None
        last: Row | None = None

        def examples() -> Iterator[tuple[Row, dict[str, Any]]]:
            nonlocal last
            for row in read_rows(self.file, Dialect(format="csv"), need=self.columns, name=FILE):
                last = row
                self._waiting.append(row)
                yield row, row.values | {ours: row.values[its] for ours, its in theirs.items()}

        try:
            for row, values in kind.gather(examples()):
                place = row
                one = kind.input(values)
                if check:
                    self._check(one)
                yield one
                place = None
        except InputError as error:
            raise InputError(_without_recipe(str(error))) from None
        except ValueError as error:
            at = place or last
            column = getattr(error, "column", None)
            raise InputError(
                str(error),
                file=FILE,
                row=None if at is None else at.number,
                line=None if at is None else at.line,
                column=None if column is None else theirs.get(column, column),
            ) from None

    def _check(self, one: Any) -> None:
        """ValueError for an input of more than this service takes."""
        limits, texts = self.limits, list(_texts(one))
        if len(texts) > limits.texts:
            raise ValueError(
                f"found {len(texts):,} texts that are read together, at most {limits.texts:,} are taken"
            )
        longest = max(map(len, texts), default=0)
        if longest > limits.characters:
            raise ValueError(
                f"found a text of {longest:,} characters, at most {limits.characters:,} are taken"
            )
        long = sum(map(len, texts)) > limits.queue_tokens // _LONG
        if long and (tokens := int(self.offered.lay([one]).tokens.sum())) > limits.queue_tokens:
            raise ValueError(f"found {tokens:,} tokens, at most {limits.queue_tokens:,} are taken")


def _texts(one: Any) -> Iterator[str]:
    """All texts of an input, whatever its kind makes of one."""
    level = [one]
    while level:
        value = level.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            level += value.values()
        elif isinstance(value, list | tuple):
            level += value


def _without_recipe(message: str) -> str:
    """An error about a file without the hints at a recipe's keys, which nobody writes here."""
    first, *others = message.split("; ")
    return "; ".join([first, *(one for one in others if "`" not in one)])
