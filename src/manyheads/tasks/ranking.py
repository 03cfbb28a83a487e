"""The kind `ranking`: candidates for a query in the order of their relevance.

Knows queries, candidates, relevances, and scores in groups. Must not know data files, recipes or the loop.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal, Self, TypeVar, final

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator, model_validator
from torch import Tensor

from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layout import sums
from manyheads.errors import nearest, shown
from manyheads.formulas.metrics import ranking as metrics
from manyheads.tasks.candidates import CandidateKind, Candidates, CandidateSettings, settled, texts_of
from manyheads.tasks.kind import ColumnError, Example, Prediction
from manyheads.tasks.texts import text_of

__all__ = ["Ranking", "RankingSettings"]

P = TypeVar("P")


class RankingSettings(CandidateSettings):
    """Settings of `kind: ranking`."""

    kind: Literal["ranking"] = "ranking"
    """Which kind of task this is."""
    query: str
    """The column with the query."""
    candidate: str | None = None
    """The column with a candidate, one a row; consecutive rows with the same query belong together."""
    candidates: str | None = None
    """Instead of `candidate`: the column that holds a list of all candidates of the row's query."""
    relevance: str = "relevance"
    """The column with the relevance of the candidate, or with a list of those of `candidates`."""
    positive: str | None = None
    """The relevance that means relevant, such as `entailment` in QNLI; default: any number above 0."""

    @field_validator("positive", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        # YAML reads 1 as a number and true as a boolean; what stands in a cell is compared as text.
        if isinstance(value, str) and not value.strip():
            raise ValueError("'positive' expects a relevance, found an empty text")
        return _name(value) if isinstance(value, bool | int | float) else value

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.candidate is None) == (self.candidates is None):
            raise ValueError(
                "expected either 'candidate: COLUMN' or, where rows hold lists, 'candidates: COLUMN'"
            )
        return self


@final
class Ranking(CandidateKind):
    """Candidates by relevance to a query; measures mean average precision (first), mean reciprocal rank, accuracy at 1.

    Each candidate is read with the query in a sequence of its own and gets a score; the loss is the negative
    log-likelihood of the relevant one under the softmax over the query's candidates (Liu et al. 2019, section 3.1,
    without its factor gamma). Of several relevant ones each counts alike: cross entropy with the uniform distribution
    over them. A query without a relevant candidate has no part in loss and measures.

    Targets are 1 for a relevant candidate and 0 for any other, those of all queries end to end.
    """

    Settings = RankingSettings
    settings: RankingSettings
    keeps_inputs = True

    def __init__(self, settings: RankingSettings, facts: Mapping[str, Any] | None = None) -> None:
        self.settings = settings
        self._take_temperature(facts)
        self._unanswered = 0
        self._again = 0

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.settings.query, self._column)

    @property
    def _column(self) -> str:
        """The column with the candidate or candidates."""
        column = self.settings.candidate or self.settings.candidates
        assert column is not None
        return column

    @property
    def told_by(self) -> tuple[str, ...]:
        """All candidates of a query stay together."""
        return (self.settings.query,)

    @property
    def target_column(self) -> str:
        return self.settings.relevance

    @property
    def laid_by(self) -> Any:
        return [self.settings.query, self.settings.candidate, self.settings.candidates, self.cleaned_by]

    def gather(self, rows: Iterator[tuple[P, dict[str, Any]]]) -> Iterator[tuple[P, dict[str, Any]]]:
        """Consecutive rows with the same query as one: its other columns hold lists, a value a row."""
        if self.settings.candidate is None:
            yield from rows
            return
        for query, group in groupby(self._checked(rows), key=lambda row: row[1][self.settings.query]):
            places, each = zip(*group, strict=True)
            lists = {column: [values.get(column) for values in each] for column in each[0]}
            yield places[0], {**lists, self.settings.query: query}

    def _checked(self, rows: Iterator[tuple[P, dict[str, Any]]]) -> Iterator[tuple[P, dict[str, Any]]]:
        """The rows as they are; what is no text is told while its own row is read, not the query's first."""
        for place, values in rows:
            for column in self.columns:
                text_of(values[column], column, empty=False)
            yield place, values

    def input(self, values: Mapping[str, Any]) -> Candidates:
        """No query and no candidate may be empty: rows without a query would all be candidates of one."""
        query = text_of(values[self.settings.query], self.settings.query, empty=False)
        candidates = texts_of(values[self._column], self._column)
        if not candidates:
            raise ColumnError(self._column, "found no candidates, expected one or more")
        for place, candidate in enumerate(candidates, start=1):
            if not candidate.strip():
                raise ColumnError(
                    self._column,
                    f"candidate {place} of {len(candidates)} is empty, expected a text",
                )
        return self.cleaned(query), [self.cleaned(one) for one in candidates]

    def given(self, one: object) -> dict[str, Any]:
        query, candidates = self._given(one, "a query and its candidates: (query, [candidate, …])")
        return {self.settings.query: query, self._column: candidates}

    def learn(self, values: Sequence[object]) -> None:
        """Nothing is left open, but rows of which none is relevant say that something else is wrong."""
        said = [one for value in values for one in (value if isinstance(value, list | tuple) else [value])]
        if any(self._relevant(one) for one in said):
            return
        if self.settings.positive is None:
            if all(self._relevant(one) is False for one in said):
                raise ValueError("no candidate is relevant: expected a number above 0 for some")
            return  # `target` refuses what is no number, with its row
        names = sorted({_name(one) for one in said if not _blank(one)})
        found = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        raise ValueError(
            f"no candidate has the relevance {shown(self.settings.positive)} of 'positive', "
            f"found {found}{nearest(self.settings.positive, names)}"
        )

    def target(self, value: object, example: Example | None = None) -> list[float]:
        if not isinstance(value, list | tuple):
            raise ValueError(f"found {shown(value)}, expected a list of relevances")
        if example is not None and len(value) != len(example.sizes):
            raise ValueError(
                f"found {len(value)} relevances for {len(example.sizes)} candidates, expected one for each"
            )
        numbers = []
        for place, one in enumerate(value, start=1):
            relevant = self._relevant(one)
            if relevant is None:
                which = f"for candidate {place} of {len(value)} of this query" if len(value) > 1 else ""
                wanted = "a number" if self.settings.positive is None else "a name"
                hint = ""
                if self.settings.positive is None and isinstance(one, str) and one.strip():
                    hint = "; 'positive: NAME' says which name means relevant"
                raise ValueError(
                    f"found {' '.join(filter(None, (shown(one), which)))}, expected {wanted}{hint}"
                )
            numbers.append(float(relevant))
        return numbers

    def teaches(self, value: object) -> bool:
        """A query without a relevant candidate has no loss; what is no relevance at all is `target`'s to refuse."""
        several = value if isinstance(value, list | tuple) else [value]
        worth = any(self._relevant(one) is not False for one in several)
        self._unanswered += not worth
        return worth

    def remarks(self) -> list[str]:
        said = []
        if self._unanswered:
            said.append(f"{self._unanswered:,} queries of train have no relevant candidate and are left out")
        if self._again:
            said.append(
                f"{self._again:,} queries come back after others and are examples of their own; sort the rows by query "
                "to rank all candidates of one together"
            )
        return said

    def _relevant(self, value: object) -> bool | None:
        """Whether a relevance means relevant; None if it is none at all."""
        if _blank(value) or not isinstance(value, str | int | float):
            return None
        number = _number(value)
        positive = self.settings.positive
        if positive is None:
            return None if number is None else number > 0
        return _name(value).strip() == positive.strip() or (
            number is not None and number == _number(positive)
        )

    def counted(self, targets: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Queries with a relevant candidate."""
        return (sums(targets > 0, sizes) > 0).astype(np.float64)

    def note(self, split: str, examples: Sequence[Example]) -> None:
        seen: set[str] = set()
        for one in examples:
            query = one.input[0]
            self._again += query in seen
            seen.add(query)

    def soft(self, targets: Tensor, outputs: Grouped | None = None) -> Tensor:
        assert outputs is not None
        relevant = targets.to(outputs.rows.dtype)
        count = outputs.total(relevant).clamp_min(1)
        return (relevant / count.index_select(0, outputs.owners))[:, None]

    def predictions(self, outputs: Grouped, examples: Sequence[Example] | None = None) -> list[Prediction]:
        """`label` is the text of the best candidate where the inputs are known; of scores that are equal, but for
        rounding, the first is best."""
        exact = outputs.detach().double()
        found = []
        for number, (scores, rows) in enumerate(
            zip(exact.split(), exact.with_rows(exact.log_softmax().exp()).split(), strict=True)
        ):
            # By score: probabilities of candidates far behind may round to the same.
            order = np.argsort(-settled(scores[:, 0].cpu().numpy()), kind="stable").tolist()
            shares = rows[:, 0].tolist()
            input = examples[number].input if examples is not None else None
            found.append(
                Prediction(
                    label=None if input is None else input[1][order[0]],
                    score=shares[order[0]],
                    ranking=tuple(order),
                    shares=tuple(shares),
                )
            )
        return found

    def measures(
        self, outputs: Grouped, targets: Tensor, examples: Sequence[Example] | None = None
    ) -> dict[str, float]:
        """`queries` is how many have a relevant candidate: those that are scored."""
        queries = list(_queries(outputs, targets))
        scored = sum(bool((relevances > 0).any()) for _, relevances in queries)
        return {
            "map": metrics.mean_average_precision(queries),
            "mrr": metrics.mrr(queries),
            "accuracy_at_1": metrics.accuracy_at_1(queries),
            "queries": float(scored),
            "loss": float(self.loss(outputs, targets)) if scored else math.nan,
        }

    def tallies(
        self, outputs: Grouped, targets: Tensor, examples: Sequence[Example] | None = None
    ) -> NDArray[np.float64]:
        """[n, 2]: 1 and the average precision; 0 and 0 for a query without a relevant candidate."""
        each = metrics.average_precisions(_queries(outputs, targets))
        return np.stack([~np.isnan(each), np.nan_to_num(each)], axis=1).astype(np.float64)

    def cells(self, prediction: Prediction) -> list[dict[str, Any]]:
        """For each candidate's row its probability and its rank, from 1; for a row with a list the best candidate, its
        probability, the candidates' numbers, from 0 and best first, and their probabilities."""
        if self.settings.candidate is None:
            return [
                {
                    "label": prediction.label,
                    "score": prediction.score,
                    "ranking": json.dumps(prediction.ranking),
                    "shares": json.dumps(prediction.shares),
                }
            ]
        rank = {candidate: place for place, candidate in enumerate(prediction.ranking, start=1)}
        return [
            {"score": share, "rank": rank[candidate]} for candidate, share in enumerate(prediction.shares)
        ]

    def told(self, value: Any) -> list[Any]:
        return [json.dumps(value)] if self.settings.candidate is None else list(value)


def _queries(outputs: Grouped, targets: Tensor) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """(scores, relevances) of each query; scores that differ by rounding alone are tied."""
    ends = np.cumsum(outputs.sizes)[:-1]
    scores = outputs.rows[:, 0].detach().double().cpu().numpy()
    equal = map(settled, np.split(scores, ends))
    return zip(equal, np.split(targets.double().cpu().numpy(), ends), strict=True)


def _name(value: object) -> str:
    """A relevance as text; booleans as JSON and YAML write them."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _number(value: str | int | float) -> float | None:
    """The finite number that a cell writes, or None."""
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
