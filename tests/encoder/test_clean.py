"""Cleaning of posts: every rule on its own, cleaning twice, where each character came from, and the real posts."""

# ruff: noqa: RUF001 (full-width signs are what this is about)

import builtins
import json
import time
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from manyheads.encoder import clean
from manyheads.encoder.clean import weibo, weibo_with_offsets
from manyheads.errors import InputError

# What makes trouble side by side: marks, addresses and names cut in two, characters of three widths, protected phrases.
PIECES = st.sampled_from(
    [
        *(
            "@",
            "＠",
            "//@",
            "/",
            "//",
            "回复",
            "回覆",
            ":",
            "：",
            "http://",
            "https:",
            "ＨＴＴＰ：／／",
            "t.cn/",
            "www.",
        ),
        *(
            "a@b.com",
            ".com",
            "A6PqoM",
            "某某",
            "·",
            "_",
            "-",
            " ",
            "　",
            "\u200b",
            "\n",
            "#",
            "[泪]",
            "，",
            "。",
        ),
        *(
            "陳昇",
            "蕭乾",
            "乾",
            "坤",
            "乾隆",
            "後",
            "於",
            "幺麼",
            "薴",
            "瞭解",
            "沈",
            "İ",
            "ß",
            "Σ",
            "ﬁ",
            "Ａ",
            "ｂ",
        ),
        *("😭", "👨‍👩‍👧", "❤️", "\U0001f1e8\U0001f1f3", "\ud83d", "\x00", "�", "①", "ｶﾞ", "￥"),
    ]
)
MIXED = st.lists(st.one_of(PIECES, st.text(max_size=4)), max_size=12).map("".join)


@pytest.mark.parametrize(
    ("post", "expected"),
    [
        ("ＡＢＣ，１２３！　（ｘ）～￥", "abc,123! (x)~¥"),  # half-width
        ("「好」、【好】。《好》…", "「好」、【好】。《好》…"),  # there is no other form
        ("這是甚麼爛天氣，後來頭髮", "这是甚么烂天气,后来头发"),
        ("乾隆皇帝很乾淨", "乾隆皇帝很干净"),  # by phrases, not one by one
        ("iPhone BGM", "iphone bgm"),
        ("看这里http://t.cn/R2Wx9I3好", "看这里 好"),
        ("HTTPS://weibo.com/a/b?c=1&d=2.", "."),
        ("（http://t.cn/A6PqoMKY），", "( ),"),
        ("http://t.cn/RtBZZPH#楚雄#", "#楚雄#"),
        ("有害//t.cn/RceoAGq", "有害"),
        ("写信到ab.c-d@mail.163.com吧", "写信到 吧"),
        ("同意//@李百瑶:真的//@郝_聚民-2：好", "同意 真的 好"),
        ("?///@花儿来颗山楂果 :#李鑫一# 新年", "? #李鑫一# 新年"),
        ("看//@·软软小橙·:好http://t.cn/A6//@某：对", "看 好 对"),
        ("回复@寂落乌托邦:交友//@我:回覆@你:行", "交友 行"),
        ("谢谢@人民日报 和@央视新闻，", "谢谢 和 ,"),
        ("@湖北红十字http://t.cn/A6PwORI4 ??", "??"),
        ("这么多人@我？@ 你", "这么多人 ?@ 你"),
        ("＠央视新闻：你好", ":你好"),
        ("#春娇与志明##晚安#[泪][泪]😭🌚❤️👨‍👩‍👧", "#春娇与志明##晚安#[泪][泪]😭🌚❤️👨‍👩‍👧"),
        (" \u200b一\t二 \n\u3000三\ufeff ", "一 二 三"),
        ("@橘子-Fan @新华网", ""),
        ("", ""),
    ],
)
def test_what_becomes_of_a_post(post: str, expected: str) -> None:
    assert weibo(post) == expected


@pytest.mark.parametrize(
    ("post", "expected"),
    [
        ("https://weibo.com/abc?x=1#frag 好", "好"),
        ("看http://v.youku.com/v_show/id_XMTI=.html#comment好看", "看 好看"),
        ("https://www.tiktok.com/@user/video/1 好", "好"),
        ("https://en.wikipedia.org/wiki/Foo_(bar) x", "x"),
        ("http://a.com/?q=1&amp;b=2", ""),
        ("http://user:secret@host.com/x 好", "好"),
        ("http://host:8080/#!/x 好", "好"),
        ("http://t.cn/abc#话题#好", "#话题#好"),
        ("#topic#http://t.cn/RqAbc", "#topic#"),
        ("http://t.cn/abc，好", ",好"),
        ("http://t.cn/A6vX(分享自@网易)", "(分享自 )"),
        ("看m.weibo.cn:80/status/1吧", "看 吧"),
        ("bit.ly/xyz 好 weibo.com/u/123", "好"),
        ("网址：www.sina.com.cn。", "网址: 。"),
        ("bob.a@mail.com.cn，好", ",好"),
        # what only looks like one
        ("node.js很好", "node.js很好"),
        ("用ASP.NET写taobao.com的网页", "用asp.net写taobao.com的网页"),
        ("7.5/10分 and/or e.g.no 12.30", "7.5/10分 and/or e.g.no 12.30"),
    ],
)
def test_addresses_go_whole_and_nothing_else(post: str, expected: str) -> None:
    assert weibo(post) == expected
    assert weibo_with_offsets(post)[0] == expected


def test_a_name_ends_after_fifteen_letters_or_thirty_plain_ones() -> None:
    """The limit of the service: what lost its blank after a name is not lost to the last sign."""
    assert weibo("@" + "某" * 15 + "来了") == "来了"
    assert weibo("@" + "x" * 30 + "来了") == "来了"
    assert weibo("@" + "x" * 31) == "x"


@pytest.mark.parametrize("code", [*range(0xFF01, 0xFF5F), 0x3000, 0xFFE5])
def test_half_width_is_what_unicode_says(code: int) -> None:
    sign = unicodedata.normalize("NFKC", chr(code)).lower()
    assert weibo(f"。{chr(code)}。") == f"。{sign}。"


@settings(max_examples=400, deadline=None)
@given(MIXED)
@example("@某某http://陳昇@蕭乾")
@example("于陳昇")
def test_a_clean_text_is_clean(text: str) -> None:
    once = weibo(text)
    assert weibo(once) == once
    assert once == once.strip()
    assert "  " not in once


@settings(max_examples=400, deadline=None)
@given(MIXED)
@example("İİ後//@a:İ")
def test_each_character_knows_where_it_came_from(text: str) -> None:
    found, offsets = weibo_with_offsets(text)
    assert found == weibo(text)
    assert len(offsets) == len(found)
    assert all(0 <= start < end <= len(text) for start, end in offsets)
    for (start, end), (later, last) in pairwise(offsets):
        assert start <= later
        assert end <= last
        assert end <= later or "İ" in text  # which becomes two signs
    for sign, (start, end) in zip(found, offsets, strict=True):
        if sign != " ":
            one = text[start:end]
            assert len(one) == 1
            han = unicodedata.name(one, "").startswith("CJK")  # 覆 alone stays, in 回覆 it is 复
            assert sign in weibo(one) + one or han or one == "Σ"  # which is small in two ways


def test_a_span_of_the_clean_text_is_found_in_the_post() -> None:
    post = "笑死//@這個 魔非：今天  ＥＬＴＯＮ 在臺灣 http://t.cn/x 唱歌😭"
    found, offsets = weibo_with_offsets(post)
    assert found == "笑死 魔非:今天 elton 在台湾 唱歌😭"

    def meant(piece: str) -> str:
        start = found.index(piece)
        return post[offsets[start][0] : offsets[start + len(piece) - 1][1]]

    assert meant("elton") == "ＥＬＴＯＮ"
    assert meant("台湾 唱歌") == "臺灣 http://t.cn/x 唱歌"
    assert meant("歌😭") == "歌😭"
    assert offsets[2] == (2, 8)  # the space stands for the mark and the blank behind it


def test_nothing_makes_it_slow() -> None:
    """A post of a hundred thousand strange characters takes no longer than as many ordinary ones."""
    names = "/", "a", "@", "回复", "a.", "a@", "//@", "/ "
    addresses = "http:/", "t.cn/", "www.", "a.com", "http://a:", "a.b.", "(", "http://a(", "#a", "&amp;"
    for strange in (*names, *addresses):
        began = time.perf_counter()
        weibo(strange * (100_000 // len(strange)))
        assert time.perf_counter() - began < 3.0, strange


def test_the_table_names_it_and_the_settings_know_the_table() -> None:
    from typing import get_args

    from manyheads.tasks.kind import KindSettings

    names = set(get_args(clean.Cleaner))
    assert names == set(clean._CLEANERS) == set(clean._FOLLOWED)
    literal, _ = get_args(KindSettings.model_fields["clean"].annotation)
    assert set(get_args(literal)) == names


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = builtins.__import__

    def without(name: str, *others: Any, **named: Any) -> Any:
        if name == "opencc":
            raise ImportError(name)
        return ordinary(name, *others, **named)

    clean._opencc.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    assert weibo("Fine @you") == "fine"  # what has no traditional form needs none
    with pytest.raises(InputError, match="pip install opencc"):
        weibo("後")


def contents(path: Path) -> dict[int, str]:
    return {row["id"]: row["content"] for row in json.loads(path.read_text(encoding="utf-8"))}


# The other cleaner writes 【】[] as 《》, 、 as a comma and every quotation mark in one of two ways.
AS_THE_OTHER = str.maketrans("【】[]、“”『』「」", '《》《》,""‘’‘’')


@pytest.mark.parametrize(
    "name", ["usual_eval_labeled", "usual_test_labeled", "virus_train", "virus_eval_labeled"]
)
def test_real_posts_against_the_files_that_others_cleaned(name: str, shared_data: Path) -> None:
    raw = contents(shared_data / "smp2020" / "raw" / f"{name}.txt")
    theirs = contents(shared_data / "smp2020" / "clean" / f"{name}.txt")
    ours = {number: weibo(post) for number, post in raw.items()}
    assert all(weibo(post) == post for post in ours.values())
    equal = sum(ours[number].translate(AS_THE_OTHER) == post for number, post in theirs.items())
    assert equal / len(theirs) > 0.97
    # Their file of the epidemic's training posts leaves out those that cleaning empties.
    assert sum(not post for post in ours.values()) <= 14


def test_real_posts_know_where_they_came_from(shared_data: Path) -> None:
    for post in contents(shared_data / "smp2020" / "raw" / "virus_eval_labeled.txt").values():
        found, offsets = weibo_with_offsets(post)
        assert found == weibo(post)
        origins = [post[start:end] for start, end in offsets]
        assert all(len(origin) == 1 for sign, origin in zip(found, origins, strict=True) if sign != " ")
