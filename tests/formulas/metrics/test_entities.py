"""Entity F1 against the algorithm of conlleval, written out here line for line from its two tables."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyheads.formulas.metrics.entities import PREFIXES, Scheme, entities, entity_counts, entity_f1, parted


def ends(before: str, after: str, type_before: str, type_after: str) -> bool:
    """conlleval's endOfChunk, with the lines for E and S of its extension to BIOES."""
    table = {"BB", "BO", "IB", "IO", "BS", "IS"}
    return (
        before in ("E", "S")
        or before + after in table
        or (before not in ("O", ".") and type_before != type_after)
        or before in ("]", "[")
    )


def starts(before: str, after: str, type_before: str, type_after: str) -> bool:
    """conlleval's startOfChunk, with the same lines."""
    table = {"BB", "IB", "OB", "OI", "EE", "EI", "OE", "SE", "SI"}
    return (
        after in ("B", "S")
        or before + after in table
        or (after not in ("O", ".") and type_before != type_after)
        or after in ("[", "]")
    )


def conlleval(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> tuple[int, int, int, float, float, float]:
    """The script's loop over lines, blank ones between the sentences: correct, guessed and true chunks, then
    precision, recall and FB1 in percent."""

    def split(tag: str) -> tuple[str, str]:
        letter, _, type_ = tag.partition("-")
        return letter, type_

    lines: list[tuple[str, str] | None] = []
    for true, said in zip(gold, predicted, strict=True):
        lines += [*zip(true, said, strict=True), None]
    correct = guessed = real = 0
    inside = False
    last_gold, last_gold_type, last_said, last_said_type = "O", "", "O", ""
    for line in lines:
        (now_gold, gold_type), (now_said, said_type) = map(split, line or ("O", "O"))
        end_gold = ends(last_gold, now_gold, last_gold_type, gold_type)
        end_said = ends(last_said, now_said, last_said_type, said_type)
        if inside:
            if end_gold and end_said and last_said_type == last_gold_type:
                inside = False
                correct += 1
            elif end_gold != end_said or said_type != gold_type:
                inside = False
        start_gold = starts(last_gold, now_gold, last_gold_type, gold_type)
        start_said = starts(last_said, now_said, last_said_type, said_type)
        inside |= start_gold and start_said and gold_type == said_type
        real += start_gold
        guessed += start_said
        last_gold, last_gold_type, last_said, last_said_type = now_gold, gold_type, now_said, said_type
    correct += inside
    precision = 100 * correct / guessed if guessed else 0.0
    recall = 100 * correct / real if real else 0.0
    both = precision + recall
    return correct, guessed, real, precision, recall, 2 * precision * recall / both if both else 0.0


TYPES = ("PER", "LOC", "creative-work", "")


def tag_of(scheme: Scheme) -> st.SearchStrategy[str]:
    """Any tag of the scheme, in any order: most sequences are ones that the scheme could not have written."""
    named = [f"{letter}-{type_}".rstrip("-") for letter in PREFIXES[scheme] for type_ in TYPES]
    return st.one_of(st.just("O"), st.sampled_from(named))


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(["iob1", "iob2", "bioes"]))
def test_it_counts_as_conlleval(data: st.DataObject, scheme: Scheme) -> None:
    tag = tag_of(scheme)
    pairs = st.lists(st.tuples(tag, tag), max_size=12)
    sentences = data.draw(st.lists(pairs, min_size=1, max_size=5))
    gold = [[one for one, _ in pair] for pair in sentences]
    predicted = [[other for _, other in pair] for pair in sentences]
    correct, guessed, real, precision, recall, f1 = conlleval(gold, predicted)
    assert entity_counts(gold, predicted, scheme).sum(0).tolist() == [correct, guessed, real]
    found = entity_f1(gold, predicted, scheme)
    assert list(found) == ["precision", "recall", "f1"]
    assert [100 * value for value in found.values()] == pytest.approx([precision, recall, f1])


@pytest.mark.parametrize("scheme", ["iob1", "iob2", "bioes"])
def test_it_counts_as_conlleval_where_much_is_right(scheme: Scheme) -> None:
    chance = random.Random(3)
    named = [f"{letter}-{type_}" for letter in PREFIXES[scheme] for type_ in ("PER", "LOC")]
    gold = [[chance.choice([*named, "O", "O"]) for _ in range(chance.randint(0, 30))] for _ in range(400)]
    predicted = [
        [tag if chance.random() < 0.9 else chance.choice([*named, "O"]) for tag in tags] for tags in gold
    ]
    correct, guessed, real, *_, f1 = conlleval(gold, predicted)
    assert correct > 1000  # the comparison is of something
    assert entity_counts(gold, predicted, scheme).sum(0).tolist() == [correct, guessed, real]
    assert entity_f1(gold, predicted, scheme)["f1"] == pytest.approx(f1 / 100, rel=1e-12)


def test_an_entity_is_right_with_its_type_and_both_its_ends() -> None:
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "I-ORG", "I-ORG"], ["O"]]
    predicted = [["B-PER", "I-PER", "O", "B-ORG"], ["B-ORG", "I-ORG", "O"], ["B-PER"]]
    assert entity_counts(gold, predicted).tolist() == [[1, 2, 2], [0, 1, 1], [0, 1, 0]]
    found = entity_f1(gold, predicted)
    assert found == {
        "precision": pytest.approx(1 / 4),
        "recall": pytest.approx(1 / 3),
        "f1": pytest.approx(2 / 7),
    }


def test_ill_formed_sequences_are_read_as_the_script_reads_them() -> None:
    assert [tuple(one) for one in entities(["I-PER", "I-PER", "B-PER", "I-LOC", "O", "I-LOC"])] == [
        ("PER", 0, 2),
        ("PER", 2, 3),
        ("LOC", 3, 4),
        ("LOC", 5, 6),
    ]
    bioes = ["I-PER", "S-PER", "I-PER", "E-PER", "E-PER", "B-LOC", "O"]
    assert [tuple(one) for one in entities(bioes, "bioes")] == [
        ("PER", 0, 1),
        ("PER", 1, 2),
        ("PER", 2, 4),
        ("PER", 4, 5),
        ("LOC", 5, 6),
    ]


def test_nothing_said_or_true_gives_zero() -> None:
    nothing = {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert entity_f1([["O", "O"]], [["O", "O"]]) == nothing
    assert entity_f1([["B-X", "O"]], [["O", "O"]]) == nothing
    assert entity_f1([["O"]], [["B-X"]]) == nothing
    assert entity_f1([[]], [[]]) == nothing


@pytest.mark.parametrize(
    ("tag", "scheme", "expected"),
    [
        ("O", "iob1", ("O", "")),
        ("B-PER", "iob2", ("B", "PER")),
        ("I-creative-work", "iob2", ("I", "creative-work")),
        ("S-PER", "bioes", ("S", "PER")),
        ("B", "iob2", ("B", "")),
        ("E", "bioes", ("E", "")),
        ("B--", "iob2", ("B", "-")),
    ],
)
def test_a_tag_is_a_letter_and_a_type(tag: str, scheme: Scheme, expected: tuple[str, str]) -> None:
    assert parted(tag, scheme) == expected


@pytest.mark.parametrize(
    "tag", ["", "X-PER", "b-per", "PER", "O-PER", "B-", "-PER", "BI-PER", "B PER", "0", 3, None]
)
@pytest.mark.parametrize("scheme", ["iob1", "iob2", "bioes"])
def test_what_is_no_tag_is_refused(tag: str, scheme: Scheme) -> None:
    with pytest.raises(ValueError, match=r"^found .+, expected O, or B-"):
        parted(tag, scheme)


def test_the_letters_of_another_scheme_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"^found 'E-PER', expected O, or B- or I- and a type; E- and S- belong to"
    ):
        parted("E-PER", "iob2")


@pytest.mark.parametrize(
    ("gold", "predicted", "said"),
    [
        ([], [], "of at least one; found 0 gold and 0 predicted"),
        ([["O"]], [], "found 1 gold and 0 predicted"),
        ([["O"], ["O", "O"]], [["O"], ["O"]], "sentence 2: found 2 gold tags and 1 predicted"),
        ([["O"]], [["X"]], "sentence 1, predicted, word 1: found 'X'"),
        (["O"], ["O"], "sentence 1, gold: found 'O', expected a list of tags"),
        ([["O"], [3]], [["O"], ["O"]], "sentence 2, gold, word 1: found 3"),
    ],
)
def test_what_cannot_be_counted_is_refused(
    gold: list[list[str]], predicted: list[list[str]], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        entity_f1(gold, predicted)


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="found the scheme 'bilou', expected one of iob1, iob2, bioes"):
        entity_f1([["O"]], [["O"]], scheme="bilou")  # type: ignore[arg-type]


def test_counts_are_whole_numbers_of_each_sentence() -> None:
    counts = entity_counts([["B-A"]] * 3, [["B-A"]] * 3)
    assert counts.dtype == np.int64
    assert counts.shape == (3, 3)
