"""Tags of words: the schemes that write entities, from one to another, which follow which, and words as pieces.

Knows words, tags, a tokenizer's pieces, and scores of tags. Must not know tasks, settings, files or models.
Letters in the docstrings: W words of all sentences end to end, n sentences, K labels.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from manyheads.encoder.tokenizer import Tokenizer, room_for_text
from manyheads.errors import shown
from manyheads.formulas.metrics.entities import PREFIXES, Entity, Scheme, entities, parted

__all__ = [
    "SCHEMES",
    "Moves",
    "Scheme",
    "align",
    "convert",
    "detect",
    "labels_of",
    "moves",
    "pieces_of",
    "types_of",
    "viterbi",
    "written",
]

SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
Tag = TypeVar("Tag")

_NO_LABEL = -100  # what torch's cross entropy leaves out
_NUMBERS_AT_ONCE = 1 << 22  # sentences · K² that Viterbi holds at a time
_FLOOR = (
    -1e9
)  # stands for the logarithm of 0, so that of several impossible words the rest of the path still counts


# ---- schemes ----


def written(found: Sequence[Entity], words: int, scheme: Scheme) -> list[str]:
    """Entities, in their order and apart from each other, as the tags of a sentence of so many words."""
    tags = ["O"] * words
    before = Entity("", -1, -1)
    for entity in found:
        type_, first, end = entity
        touches = before.end == first and before.of_type == type_
        letters = ["I"] * (end - first)
        if scheme != "iob1" or touches:
            letters[0] = "B"
        if scheme == "bioes":
            letters[-1] = "E" if len(letters) > 1 else "S"
        tags[first:end] = [f"{letter}-{type_}" if type_ else letter for letter in letters]
        before = entity
    return tags


def convert(tags: Sequence[str], source: Scheme, target: Scheme) -> list[str]:
    """The tags of a sentence in another scheme.

    A sequence that `source` could not have written is read as conlleval reads it (`formulas.metrics.entities`), and
    comes out well formed. ValueError for what is no tag, and for a text in place of a list.
    """
    _refuse_text(tags, "tags")
    return written(entities(tags, source), len(tags), target)


def detect(sentences: Iterable[Sequence[str]]) -> Scheme:
    """The scheme that some sentences are written in; `iob2` where they do not tell.

    E and S are those of BIOES alone. Without them it is IOB1 if some entity begins with I and no B stands where
    IOB1 has none (the two are read alike, so that mixtures of both do no harm). ValueError for what is no tag.
    """
    begins_with_i = b_apart = False
    for tags in sentences:
        before = ("O", "")
        for tag in tags:
            letter, type_ = parted(tag, "bioes")
            if letter in "ES":
                return "bioes"
            same = before[0] != "O" and before[1] == type_
            begins_with_i |= letter == "I" and not same
            b_apart |= letter == "B" and not same
            before = letter, type_
    return "iob1" if begins_with_i and not b_apart else "iob2"


def types_of(tags: Iterable[str], scheme: Scheme) -> list[str]:
    """The types of the tags, each once, in the order in which they come. ValueError for what is no tag."""
    return list(
        dict.fromkeys(type_ for letter, type_ in (parted(tag, scheme) for tag in tags) if letter != "O")
    )


def labels_of(types: Iterable[str], scheme: Scheme) -> tuple[str, ...]:
    """All tags of some types in a scheme: O, then each type with B and I (and E and S)."""
    letters = PREFIXES[scheme]
    named = (f"{letter}-{type_}" if type_ else letter for type_ in types for letter in letters)
    return ("O", *named)


# ---- which tag follows which ----


class Moves(NamedTuple):
    """What a scheme allows, among K labels."""

    follow: NDArray[np.bool_]
    """[K, K] whether the second may stand after the first."""
    begin: NDArray[np.bool_]
    """[K] whether a sentence may begin with it."""
    end: NDArray[np.bool_]
    """[K] whether a sentence may end with it."""


def moves(labels: Sequence[str], scheme: Scheme) -> Moves:
    """The moves between labels that some sentence written in `scheme` makes. ValueError for what is no tag."""
    parts = [parted(label, scheme) for label in labels]
    outside = ("O", "")
    follow = np.array([[_may_follow(a, b, scheme) for b in parts] for a in parts], dtype=np.bool_)
    begin = np.array([_may_follow(outside, b, scheme) for b in parts], dtype=np.bool_)
    end = np.array([_may_follow(a, outside, scheme) for a in parts], dtype=np.bool_)
    return Moves(follow.reshape(len(parts), len(parts)), begin, end)


def _may_follow(a: tuple[str, str], b: tuple[str, str], scheme: Scheme) -> bool:
    (before, type_before), (after, type_) = a, b
    same = before != "O" and type_before == type_
    if scheme == "bioes":
        return same and after in "IE" if before in "BI" else after in "OBS"
    if scheme == "iob2":
        return after != "I" or same
    return after != "B" or same


def viterbi(scores: NDArray[np.float64], lengths: NDArray[np.int64], allowed: Moves) -> NDArray[np.int64]:
    """The labels [W] of the best allowed sequence of each sentence: of all whose moves are allowed, the one with the
    largest sum of scores (Viterbi 1967).

    `scores` [W, K] are log-probabilities of the words' labels, `lengths` [n] the words of each sentence, their sum is
    W; -inf counts as a very small number. Where two sequences are worth the same, the labels that come first are
    taken, from the last word on. There must be some label that may begin, follow itself and end, such as O.
    """
    if len(scores) != int(lengths.sum()):
        raise ValueError(f"scores of {len(scores)} words for sentences of {int(lengths.sum())}")
    best = np.zeros(len(scores), dtype=np.int64)
    firsts = np.cumsum(lengths) - lengths
    # From long to short, so that the sentences that have a word at a step are the first ones of a block.
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    at_once = max(1, _NUMBERS_AT_ONCE // scores.shape[1] ** 2)
    floored = np.maximum(scores, _FLOOR)
    for begin in range(0, len(order), at_once):
        block = order[begin : begin + at_once]
        _fill_best(best, floored, firsts[block], lengths[block], allowed)
    return best


def _fill_best(
    best: NDArray[np.int64],
    scores: NDArray[np.float64],
    firsts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    allowed: Moves,
) -> None:
    """The best labels of some sentences, from long to short, at their words of `best` [W]."""
    follow, begin, end = (np.where(one, 0.0, -np.inf) for one in allowed)
    steps = int(sizes[0])
    alive = [
        int(np.searchsorted(-sizes, -step)) for step in range(steps)
    ]  # sentences of more than `step` words
    came_from: list[NDArray[np.int64]] = []
    total = scores[firsts] + begin
    last = total.copy()  # [sentences, K] the totals at each one's last word
    for step, now in enumerate(alive[1:], start=1):
        through = total[:now, :, None] + follow
        came_from.append(through.argmax(1))
        total = through.max(1) + scores[firsts[:now] + step]
        last[:now] = total
    label = (last + end).argmax(1)
    for step in range(steps - 1, -1, -1):
        now = alive[step]
        best[firsts[:now] + step] = label[:now]
        if step:
            label[:now] = came_from[step - 1][np.arange(now), label[:now]]


# ---- words as pieces ----


def pieces_of(words: Iterable[str], tokenizer: Tokenizer) -> dict[str, list[int]]:
    """Word → ids of its pieces, none where the tokenizer sees nothing in it (a space, a control character)."""
    each = list(dict.fromkeys(words))
    flat = tokenizer.encode_batch(each)
    ids, ends = flat.ids.tolist(), np.cumsum(flat.lengths, dtype=np.int64).tolist()
    begins = [0, *ends]
    # Between the [CLS] and the [SEP] of each.
    return {word: ids[begin + 1 : end - 1] for word, begin, end in zip(each, begins, ends, strict=False)}


def align(
    words: Sequence[str], tags: Sequence[Tag], tokenizer: Tokenizer, max_length: int | None = None
) -> tuple[list[int], list[Tag | int]]:
    """Words with a tag each as token ids, [CLS] and [SEP] included, and a label for each of them.

    The first piece of a word has the word's tag (names or numbers, as they are given); all other tokens have -100,
    which torch's cross entropy leaves out (Devlin et al. 2019, section 5.3). A word that the tokenizer sees nothing
    in is one [UNK], so that no tag is lost. What goes beyond `max_length` tokens is cut at the right.
    ValueError where the numbers of words and tags differ, for a text in place of a list, and for a word that is no
    text, which it counts from 1.
    """
    _refuse_text(words, "words")
    _refuse_text(tags, "tags")
    for number, word in enumerate(words, start=1):
        if not isinstance(word, str):
            raise ValueError(f"word {number}: found {shown(word)}, expected a text")
    if len(words) != len(tags):
        counts = f"{len(words)} word{'s' * (len(words) != 1)} and {len(tags)} tag{'s' * (len(tags) != 1)}"
        raise ValueError(f"found {counts}, expected as many")
    room = room_for_text(max_length, paired=False)
    pieces = pieces_of(words, tokenizer)
    ids: list[int] = []
    labels: list[Tag | int] = []
    for word, tag in zip(words, tags, strict=True):
        found = pieces[word] or [tokenizer.unk_id]
        ids += found
        labels += [tag, *[_NO_LABEL] * (len(found) - 1)]
    return [tokenizer.cls_id, *ids[:room], tokenizer.sep_id], [_NO_LABEL, *labels[:room], _NO_LABEL]


def _refuse_text(found: object, expected: str) -> None:
    """A text would pass for a list of its letters."""
    if isinstance(found, str):
        raise ValueError(f"expected a list of {expected}, found the text {shown(found)}")
