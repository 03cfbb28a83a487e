"""Sentences of English and Chinese, and that nothing is lost on the way."""

# ruff: noqa: RUF001 (full-width signs are what Chinese is written with)

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyheads.data.sentences import LANGUAGES, LONGEST, Language, bounded, language_of, sentences


def test_english() -> None:
    text = (
        'Mr. Smith went to Washington. He met Dr. Jones, i.e. the man in the\nU.S. Army. "Is it true?" he asked.\n'
        "\n  \nIt cost $3.50! A heading\n\nThe end"
    )
    assert list(sentences(text)) == [
        "Mr. Smith went to Washington.",
        "He met Dr. Jones, i.e. the man in the\nU.S. Army.",
        '"Is it true?" he asked.',
        "It cost $3.50!",
        "A heading",
        "The end",
    ]


def test_chinese() -> None:
    text = "第一章\n\u3000\u3000“这是对的。”他说。今天天气很好！你呢？我也很好……真的\n价格是3.5元。"
    expected = [
        "第一章",
        "“这是对的。”",
        "他说。",
        "今天天气很好！",
        "你呢？",
        "我也很好……真的",
        "价格是3.5元。",
    ]
    assert list(sentences(text)) == expected


def test_lines_stay_as_they_are() -> None:
    assert list(sentences("One. Two.\n\n Three \n", "lines")) == ["One. Two.", "Three"]


def test_the_language_is_told_by_the_characters() -> None:
    assert language_of("BERT模型 was made by Google in 2018 and reads both directions of a text.") == "en"
    assert language_of("北京2008年奥运会 (the Olympic Games)") == "zh"
    assert language_of("") == "en"


TEXTS = st.text(st.sampled_from('aM.?!。？！”“"「」（） \n\t\u3000\u2028中é😀\u0301,;:3'), max_size=80)


@settings(max_examples=100, deadline=None)
@given(
    text=TEXTS | st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
    language=st.sampled_from(LANGUAGES),
)
def test_only_white_space_is_lost(text: str, language: Language) -> None:
    found = list(sentences(text, language))
    assert all(one and one == one.strip() for one in found)
    assert "".join("".join(found).split()) == "".join(text.split())


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.sampled_from("ab \n"), max_size=60), longest=st.integers(1, 12))
def test_pieces_are_bounded_and_whole(text: str, longest: int) -> None:
    found = list(bounded(text, longest))
    assert "".join(found) == text
    assert all(0 < len(one) <= longest for one in found)


def test_text_without_an_end_comes_in_pieces() -> None:
    found = list(sentences("x" * (3 * LONGEST + 5)))
    assert "".join(found) == "x" * (3 * LONGEST + 5)
    assert max(map(len, found)) <= LONGEST


def test_a_sentence_over_the_edge_of_what_is_cut_at_once_stays_whole() -> None:
    one = "The quick brown fox jumps over the lazy dog."
    count = 3 * LONGEST // len(one)
    assert list(sentences(" ".join([one] * count))) == [one] * count


def test_what_the_library_dies_of_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    def segment(language: str, text: str) -> list[str]:
        raise PanicException

    monkeypatch.setattr("sentencex.segment", segment)
    assert list(sentences("One. Two.\n\nThree.")) == ["One. Two.", "Three."]
