"""Measures of entities in tagged words, counted as conlleval counts: an entity is right if its type and both ends are.

Knows tags and sentences of tags. Must not know words, tokens, models or files.

conlleval is the script of the CoNLL shared tasks (Tjong Kim Sang & Buchholz 2000; Tjong Kim Sang & De Meulder 2003).
It reads IOB1 and IOB2 with one set of rules, which also say where an entity begins and ends in a sequence that
neither scheme could have written: `O I-PER` and `B-LOC I-PER` both begin an entity at `I-PER`. For BIOES, which
the script does not know, the rules are those of its common extension: E and S end an entity, B and S begin one, and
whatever follows an E or S begins one.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from manyheads.errors import shown

__all__ = ["PREFIXES", "Entity", "Scheme", "entities", "entity_counts", "entity_f1", "parted"]

Scheme: TypeAlias = Literal["iob1", "iob2", "bioes"]
"""How tags write entities. `iob1`: B- only where an entity touches the one before, of the same type; `iob2`: B- at
every beginning; `bioes`: also E- at the end, and S- for an entity of one word."""

PREFIXES: dict[Scheme, str] = {"iob1": "BI", "iob2": "BI", "bioes": "BIES"}
"""The letters that a tag of each scheme may begin with, beside the tag O."""

_SPELT: dict[Scheme, str] = {
    "iob1": "O, or B- or I- and a type",
    "iob2": "O, or B- or I- and a type",
    "bioes": "O, or B-, I-, E- or S- and a type",
}


class Entity(NamedTuple):
    """Some words in a row: from word `first` up to, not including, word `end` (counted from 0)."""

    of_type: str
    first: int
    end: int


def parted(tag: object, scheme: Scheme = "iob2") -> tuple[str, str]:
    """A tag as its letter and its type: `B-PER` → B and PER, `O` → O and nothing.

    A letter alone is a tag of the type without a name. Types may hold hyphens. ValueError for what is no tag.
    """
    if isinstance(tag, str):
        letter, hyphen, type_ = tag.partition("-")
        if tag == "O" or (len(letter) == 1 and letter in PREFIXES[scheme] and bool(hyphen) == bool(type_)):
            return letter, type_
    hint = ""
    if scheme != "bioes" and isinstance(tag, str) and tag[:2] in ("E-", "S-", "E", "S"):
        hint = "; E- and S- belong to the scheme bioes"
    raise ValueError(f"found {shown(tag)}, expected {_SPELT[scheme]}{hint}")


def entities(tags: Sequence[str], scheme: Scheme = "iob2") -> list[Entity]:
    """The entities of one sentence, in their order. ValueError, which counts words from 1, for what is no tag."""
    found: list[Entity] = []
    before, inside = "O", ""  # the letter and the type of the word before
    first = 0
    for place, tag in enumerate(tags):
        try:
            letter, type_ = parted(tag, scheme)
        except ValueError as error:
            raise ValueError(f"word {place + 1}: {error}") from None
        # In these schemes a word that is not O goes on with the entity before it or begins one: the script's two
        # tables, of beginnings and of ends, say the same thing twice.
        goes_on = before in "BI" and letter in "IE" and type_ == inside
        if before != "O" and not goes_on:
            found.append(Entity(inside, first, place))
        if letter != "O" and not goes_on:
            first = place
        before, inside = letter, type_
    if before != "O":
        found.append(Entity(inside, first, len(tags)))
    return found


def entity_counts(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], scheme: Scheme = "iob2"
) -> NDArray[np.int64]:
    """[sentences, 3] how many entities of each sentence are right, were said, and are true.

    ValueError names the sentence (counted from 1) where the number of tags differs or something is no tag.
    """
    _check_scheme(scheme)
    if len(gold) != len(predicted) or not len(gold):
        raise ValueError(
            "gold and predicted expect the tags of each sentence, of at least one; "
            f"found {len(gold)} gold and {len(predicted)} predicted"
        )
    counts = np.zeros((len(gold), 3), dtype=np.int64)
    for number, (true, said) in enumerate(zip(gold, predicted, strict=True)):
        both = []
        for name, tags in (("gold", true), ("predicted", said)):
            if isinstance(tags, str) or not isinstance(tags, Sequence):
                raise ValueError(
                    f"sentence {number + 1}, {name}: found {shown(tags)}, expected a list of tags"
                )
            try:
                both.append(set(entities(tags, scheme)))
            except ValueError as error:
                raise ValueError(f"sentence {number + 1}, {name}, {error}") from None
        if len(true) != len(said):
            raise ValueError(f"sentence {number + 1}: found {len(true)} gold tags and {len(said)} predicted")
        counts[number] = len(both[0] & both[1]), len(both[1]), len(both[0])
    return counts


def entity_f1(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], scheme: Scheme = "iob2"
) -> dict[str, float]:
    """`precision`, `recall` and `f1` of the entities of all sentences together, 0 to 1; 0 where conlleval says so:
    nothing was said, nothing is true, or nothing is right. Otherwise as `entity_counts`."""
    right, said, true = entity_counts(gold, predicted, scheme).sum(0).tolist()
    return {
        "precision": right / said if said else 0.0,
        "recall": right / true if true else 0.0,
        "f1": 2 * right / (said + true) if right else 0.0,
    }


def _check_scheme(scheme: str) -> None:
    if scheme not in PREFIXES:
        raise ValueError(f"found the scheme {shown(scheme)}, expected one of {', '.join(PREFIXES)}")
