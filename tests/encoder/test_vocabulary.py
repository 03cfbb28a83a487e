"""Vocabularies: what they hold, that nothing but the text decides it, and that transformers reads them alike."""

# ruff: noqa: RUF001 (full-width signs are what Chinese is written with)

import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from transformers.models.bert.tokenization_bert import BertTokenizerFast

from manyheads.encoder.tokenizer import Tokenizer
from manyheads.encoder.vocabulary import Vocabulary, train_vocabulary
from manyheads.errors import InputError

ENGLISH = [
    "The lowest of the low, the newer and the newest; a wider café is the widest.",
    "He lowered the price: 3.50 — 42 newer ones! Naïve?",
    "It's low. LOW, Low & lower; new news.",
] * 3
CHINESE = ["今天天气很好，我们去公园玩。", "天气不好的时候，我们在家看书ABC。", "龘字只出现一次"]


def tokens(vocabulary: Vocabulary) -> list[str]:
    tokenizer = vocabulary.tokenizer
    return [tokenizer.id_to_token(one) or "" for one in range(tokenizer.vocab_size)]


def train(texts: list[str], **settings: Any) -> Vocabulary:
    return train_vocabulary(lambda: iter(texts), **{"size": 200, **settings})


def test_special_tokens_come_first_and_every_character_has_a_token() -> None:
    trained = train(ENGLISH, unused=2)
    found = tokens(trained)
    assert found[:7] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]", "[unused2]"]
    assert len(found) == len(set(found)) <= 200
    assert {"the", "low", "##er", "new"} <= set(found)
    assert not any(one != one.lower() for one in found[7:])
    assert trained.unknown == 0
    flat = trained.tokenizer.encode_batch(ENGLISH)
    assert trained.tokenizer.unk_id not in flat.ids


def test_the_most_frequent_pair_is_merged_first() -> None:
    # Pairs: (b, ##c) 5 times, (a, ##b) 4 times, then of the 3 words "abd" ("ab", ##d) 3 times.
    trained = train(["bc"] * 5 + ["ab"] + ["abd"] * 3, size=100)
    assert tokens(trained)[5:] == ["a", "b", "c", "d", "##a", "##b", "##c", "##d", "bc", "ab", "abd"]


def test_the_order_of_the_texts_does_not_matter() -> None:
    words = random.Random(1)
    texts = ["".join(words.choices("abcdefgh", k=words.randint(2, 6))) + " " for _ in range(400)]
    first = tokens(train(texts, size=150))
    for seed in range(3):
        random.Random(seed).shuffle(texts)
        assert tokens(train(texts, size=150)) == first
    assert tokens(train(["".join(texts)], size=150)) == first


def test_case_and_accents_are_kept_on_demand() -> None:
    found = set(tokens(train(ENGLISH, cased=True)))
    assert {"L", "é", "The"} <= found
    assert "é" not in tokens(train(ENGLISH))


def test_chinese_characters_are_words_by_themselves() -> None:
    trained = train(CHINESE, chinese=True, min_frequency=1)
    found = tokens(trained)
    assert {"天", "气", "龘", "，"} <= set(found)
    assert not any(len(one) > 1 and "\u4e00" <= one[-1] <= "\u9fff" for one in found)
    assert trained.tokenizer.unk_id not in trained.tokenizer.encode_batch(CHINESE).ids
    rare = train(CHINESE, chinese=True, min_frequency=2)
    assert "龘" not in tokens(rare)
    assert rare.unknown > 0


def test_without_chinese_only_the_most_frequent_characters_have_a_token() -> None:
    many = ["".join(map(chr, range(0x4E00, 0x4E00 + 1500))), "天天"]
    plain, chinese = (train(many, size=3000, chinese=said, min_frequency=1) for said in (False, True))
    assert (plain.unknown, chinese.unknown) == (501, 0)
    assert "天" in tokens(plain)


def test_a_small_size_keeps_the_frequent_characters() -> None:
    many = ["".join(map(chr, range(0x4E00, 0x4E00 + 500))) + "天" * 9]
    trained = train(many, size=100, chinese=True, min_frequency=1)
    assert trained.tokenizer.vocab_size == 100
    assert "天" in tokens(trained)


@pytest.mark.parametrize("settings", [{}, {"cased": True}, {"chinese": True}, {"unused": 5}])
def test_transformers_reads_the_folder_alike(tmp_path: Path, settings: dict[str, Any]) -> None:
    texts = ENGLISH + CHINESE + ["Unknown: ÆØÅ 日本語 [MASK] wide\u3000lower"]
    ours = train(ENGLISH + CHINESE, **settings).tokenizer
    ours.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.fingerprint == ours.fingerprint
    expected = again(texts).input_ids
    for theirs in (AutoTokenizer.from_pretrained(tmp_path), BertTokenizerFast.from_pretrained(tmp_path)):
        assert theirs(texts)["input_ids"] == expected
        assert len(theirs) == ours.vocab_size
        assert (theirs.pad_token_id, theirs.mask_token_id) == (0, 4)


@pytest.mark.parametrize(
    ("texts", "settings", "message"),
    [
        (ENGLISH, {"size": 99}, "found size 99, expected 100 or more"),
        (ENGLISH, {"size": 104, "unused": 5}, "expected 105 or more"),
        (ENGLISH, {"min_frequency": 0}, "min_frequency 0"),
        ([" \n"], {}, "no characters"),
        ([], {}, "no characters"),
    ],
)
def test_what_cannot_be_trained_is_an_error(texts: list[str], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(texts, **settings)
