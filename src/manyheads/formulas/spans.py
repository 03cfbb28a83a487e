"""Spans of tokens: the windows that a long text is read in, and the best of all spans by start and end scores.

Knows counts, scores and positions of tokens. Must not know text, tokenizers, tasks or models.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Scored", "best", "most_context", "nbest", "windows"]

Scores: TypeAlias = Sequence[float] | NDArray[Any] | Tensor
"""One number for each token."""

_SPECIAL = 3  # [CLS] question [SEP] context [SEP]


class Scored(NamedTuple):
    """A span of tokens, both ends included, and the sum of its start's and its end's score."""

    start: int
    end: int
    score: float


def windows(
    question_length: int, context_length: int, max_length: int = 384, stride: int = 128
) -> list[tuple[int, int]]:
    """The windows in which a context is read beside its question: (first token, tokens) of each, in order.

    A sequence of `max_length` tokens has room for `max_length` − `question_length` − 3 of the context; the next
    window begins `stride` tokens after the last one (or right behind it, where it is shorter than that), until
    one reaches the context's end. So does run_squad of BERT (Devlin et al. 2019). A context without tokens has
    no window.

    Raises ValueError where the question leaves no room, or a number makes no sense.
    """
    if question_length < 0 or context_length < 0 or stride < 1:
        raise ValueError(
            "expected lengths of 0 or more and a stride of 1 or more, found a question of "
            f"{question_length}, a context of {context_length} tokens and a stride of {stride}"
        )
    room = max_length - question_length - _SPECIAL
    if room < 1:
        raise ValueError(
            f"a question of {question_length} tokens leaves no room for a context in {max_length} tokens"
        )
    found = []
    start = 0
    while start < context_length:
        length = min(room, context_length - start)
        found.append((start, length))
        if start + length == context_length:
            break
        start += min(length, stride)
    return found


def most_context(places: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """For each token of a context the window, by number, that shows the most of what stands around it: [tokens].

    `places` are windows as `windows` gives them. What counts is the smaller of the numbers of tokens at its left
    and at its right, and a hundredth of the window's length; the first of equal windows is taken (run_squad).
    """
    tokens = max((start + length for start, length in places), default=0)
    most = np.full(tokens, -np.inf)
    window = np.zeros(tokens, dtype=np.int64)
    for number, (start, length) in enumerate(places):
        inside = np.arange(length)
        context = np.minimum(inside, length - 1 - inside) + 0.01 * length
        part = slice(start, start + length)
        better = context > most[part]
        window[part][better] = number
        most[part][better] = context[better]
    return window


def best(
    start_scores: Scores,
    end_scores: Scores,
    positions: Scores | range,
    max_answer_length: int = 30,
) -> Scored:
    """The span whose start's and end's scores add up to most; of equal ones the first.

    `positions` [P], increasing, are the tokens that may begin or end an answer; the scores are those of these
    tokens [P], or of all tokens of the sequence [L]. The result's start and end are positions, end ≥ start, and
    the span has at most `max_answer_length` tokens. A score of −inf rules its token out. Tensors may have any type of
    number, on any device.

    Raises ValueError where no span is left, or the lengths do not fit.
    """
    found = nbest(start_scores, end_scores, positions, max_answer_length, count=1)
    if not found:
        raise ValueError("no token may begin or end an answer")
    return found[0]


def nbest(
    start_scores: Scores,
    end_scores: Scores,
    positions: Scores | range,
    max_answer_length: int = 30,
    count: int = 20,
) -> list[Scored]:
    """The `count` best spans (fewer where there are fewer, none where there is none), best first; otherwise as `best`.

    All spans are looked at, not only those of the best starts and ends.
    """
    if count < 1:
        raise ValueError(f"count: expected 1 or more, found {count}")
    at = _numbers(positions)
    if at.ndim != 1 or (at.size and not np.issubdtype(at.dtype, np.integer)):
        raise ValueError(f"positions: expected whole numbers in one row, found {at.dtype} {list(at.shape)}")
    at = at.astype(np.int64)
    if max_answer_length < 1:
        raise ValueError(f"max_answer_length: expected 1 or more, found {max_answer_length}")
    if (np.diff(at) < 1).any():
        raise ValueError("positions: expected increasing numbers")
    starts, ends = (_of_positions(scores, at) for scores in (start_scores, end_scores))
    if not at.size:
        return []
    width = min(max_answer_length, at.size)
    # sums[i, k]: from the i-th position to the k-th after it; beyond the last position stands −inf.
    beyond = np.full(width - 1, -np.inf)
    sums = starts[:, None] + sliding_window_view(np.concatenate([ends, beyond]), width)
    if at[-1] - at[0] >= at.size:  # with gaps between them, fewer positions fit in an answer
        sums[_reach(at, width) >= max_answer_length] = -np.inf
    flat = sums.ravel()
    if count < flat.size:
        least = np.partition(flat, flat.size - count)[flat.size - count]
        some = np.flatnonzero((flat >= least) & (flat > -np.inf))
    else:
        some = np.flatnonzero(flat > -np.inf)
    some = some[np.argsort(-flat[some], kind="stable")[:count]]
    rows, columns = np.divmod(some, width)
    return [
        Scored(int(at[i]), int(at[i + k]), float(flat[place]))
        for i, k, place in zip(rows, columns, some, strict=True)
    ]


def _numbers(given: Scores | range) -> NDArray[Any]:
    """As an array; fractions in float64, since numpy has not all of torch's types (bfloat16)."""
    if not isinstance(given, Tensor):
        return np.asarray(given)
    plain = given.detach().cpu()
    return np.asarray((plain.double() if plain.is_floating_point() else plain).numpy())


def _of_positions(scores: Scores, positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """[P] the scores of the positions, given for them or for all tokens."""
    values = np.asarray(_numbers(scores), dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"scores: expected one number for each token, found the shape {list(values.shape)}")
    if len(values) != len(positions):
        if positions.size and not 0 <= int(positions[0]) <= int(positions[-1]) < len(values):
            raise ValueError(
                f"found scores of {len(values)} tokens, but positions from {positions[0]} to {positions[-1]}"
            )
        values = values[positions]
    if np.isnan(values).any():
        raise ValueError("scores: found NaN, expected numbers")
    return values


def _reach(positions: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """[P, width] how far the k-th position after each one lies from it."""
    beyond = np.full(width - 1, np.iinfo(np.int64).max // 2)
    return sliding_window_view(np.concatenate([positions, beyond]), width) - positions[:, None]
