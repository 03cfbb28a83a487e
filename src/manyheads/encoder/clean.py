"""Cleaning of a text before it is cut into pieces: what stays, what goes, and where each character came from.

Knows characters, and the library opencc for Chinese ones. Must not know rows, vocabularies or tasks.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final, Literal

from manyheads.errors import InputError

__all__ = [
    "RULES",
    "Cleaner",
    "by_line",
    "cleaned",
    "cleaned_with_offsets",
    "original",
    "weibo",
    "weibo_with_offsets",
]

Cleaner = Literal["weibo"]
"""The cleaners by the name that a recipe gives them; each cleans its own result to itself."""

RULES = 2  # raise when a rule below changes: texts that were encoded before are then encoded anew

_AGAIN = 8  # rounds at most; two or three do, and a rule that ran in a circle would end here
# A nickname: letters of any script, digits, _ - and ·, at most 15 of them or 30 plain ones.
_NO_LINK = r"(?!https?:/|ftp:/)"  # a name ends where an address begins
_NAME = rf"(?:{_NO_LINK}[a-z0-9_-](?:{_NO_LINK}[a-z0-9_-])?|[^\Wa-z0-9_]|·){{1,15}}"
# Signs that may stand in an address, but not at its end; a double stroke begins the next post of a chain, a # where
# another follows a topic. Commas and the like end it: most of them stand in the sentence, not in the address.
_ADDRESS = (
    r"(?:&amp;|[a-z0-9._~:?&=%+$*|-]|/@?(?!/)|!(?=/)|\([a-z0-9._%-]*\)|#(?![^\s#]{1,30}#))*(?<=[a-z0-9/=_)])"
)
# An address without http or www. is known by its ending and a / behind it; a site's bare name is a word of the post.
_ENDINGS = (
    "com|net|org|cn|cc|tv|me|io|co|ly|gl|gd|im|us|uk|hk|tw|jp|kr|be|la|fm|so|to|edu|gov|info|biz|vip|top|xyz|club"
    "|site|shop"
)
_SITE = rf"(?<![a-z0-9._%+@-])(?:[a-z0-9-]{{1,63}}\.){{1,5}}(?:{_ENDINGS})(?::\d+)?/(?!/)"
_PIECES = re.compile(
    "|".join(
        (
            rf"(?:https?|ftp):/+(?:[a-z0-9._~%-]+(?::[^\s/@]*)?@(?=[a-z0-9]))?{_ADDRESS}",
            rf"(?<![a-z0-9.])(?://)?(?:www\.|t\.cn/){_ADDRESS}",
            r"(?<![a-z0-9._%+-])[a-z0-9._%+-]{1,64}@(?:[a-z0-9-]{1,63}\.)+[a-z]{2,24}",
            rf"{_SITE}(?:{_ADDRESS})?",
            rf"(?:(?<!/)/+\s?|回复\s?)@{_NAME}(?:\s?:)?",
            rf"@{_NAME}",
        )
    )
)
_BLANKS = re.compile(r"[\s\u200b\ufeff]+")
_HALF = {
    **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)},
    **dict(zip(range(0xFFE0, 0xFFE7), map(ord, "¢£¬¯¦¥₩"), strict=True)),
    0x3000: 0x20,
    **dict.fromkeys(range(0xD800, 0xE000), 0xFFFD),
}

Offsets = list[tuple[int, int]]
"""[characters] (start, end) of what each character was made of, in code points."""


def weibo(text: str) -> str:
    """A post as a model of Chinese reads it best; what it says is kept, who is called and what is linked goes.

    In this order:

    1. full-width letters, digits, signs and spaces become half-width ones (`。、【】` have no such form and stay);
    2. traditional characters become simplified ones (opencc, `t2s`);
    3. letters become small;
    4. addresses (`http://…`, `www.…`, `t.cn/…`, `weibo.com/…`), e-mail addresses and `@names` become a space. Of a
       chain of reposts (`//@name:`) and of an answer (`回复@name:`) only the mark goes, the words of everybody stay.
       `#topics#`, `[泪]` and emoji stay as they are;
    5. white space becomes one space between words and none at the ends.

    Rules on single characters come first, so that a full-width @ is known for what it is; pieces become a space
    and not nothing, so that what stood around one is not read as one word; white space comes last, as cutting makes
    some. All is done again until nothing changes: cleaning a clean text does nothing. (opencc alone would not do:
    it keeps 昇 in 陳昇, a name, but not in 陈昇, which it then has become.)

    An empty text stays one, and a post of nothing but names becomes one. Raises InputError without opencc.
    """
    for _ in range(_AGAIN):
        before, text = text, _simplified(text.translate(_HALF)).lower()
        if "@" in text or "/" in text or "." in text:
            text = _PIECES.sub(" ", text)
        text = _BLANKS.sub(" ", text).strip(" ")
        if text == before:
            break
    return text


def weibo_with_offsets(text: str) -> tuple[str, Offsets]:
    """`weibo(text)`, and for each of its characters the (start, end) in `text` of what it was made of.

    A space that stands for a piece has the whole piece, with the white space around it. So the characters i to j − 1
    of the clean text say what stands from `offsets[i][0]` to `offsets[j - 1][1]` of the post.
    """
    offsets = [(place, place + 1) for place in range(len(text))]
    for _ in range(_AGAIN):
        before = text
        text = text.translate(_HALF)
        text, offsets = _changed(text, offsets, _simplified)
        text, offsets = _changed(text, offsets, str.lower)
        text, offsets = _spaced(text, offsets, _PIECES)
        text, offsets = _spaced(text, offsets, _BLANKS)
        begin, end = len(text) - len(text.lstrip(" ")), len(text.rstrip(" "))
        text, offsets = text[begin:end], offsets[begin:end]
        if text == before:
            break
    return text, offsets


_CLEANERS: Final[dict[Cleaner, Callable[[str], str]]] = {"weibo": weibo}
_FOLLOWED: Final[dict[Cleaner, Callable[[str], tuple[str, Offsets]]]] = {"weibo": weibo_with_offsets}


def cleaned(text: str, name: Cleaner | None) -> str:
    """A text cleaned by the cleaner called so; None: as it is."""
    return text if name is None else _CLEANERS[name](text)


def cleaned_with_offsets(text: str, name: Cleaner | None) -> tuple[str, Offsets | None]:
    """`cleaned(text, name)`, and for each of its characters the (start, end) in `text` of what it was made of;
    None in their place where nothing was cleaned."""
    return (text, None) if name is None else _FOLLOWED[name](text)


def original(start: int, end: int, offsets: Offsets | None) -> tuple[int, int]:
    """Where in the raw text the characters `start` to `end` of the cleaned one came from; None: nothing was cleaned."""
    return (start, end) if offsets is None else (offsets[start][0], offsets[end - 1][1])


def by_line(text: str, name: Cleaner | None) -> str:
    """A document with each of its lines cleaned."""
    return text if name is None else "\n".join(cleaned(line, name) for line in text.split("\n"))


def _simplified(text: str) -> str:
    # Of Latin letters, digits and signs there is no traditional form.
    return text if text.isascii() else str(_opencc().convert(text))


@cache
def _opencc() -> Any:
    try:
        from opencc import OpenCC
    except ImportError as error:
        raise InputError("'clean: weibo' needs the library opencc: pip install opencc") from error
    return OpenCC("t2s")


def _changed(text: str, offsets: Offsets, rule: Callable[[str], str]) -> tuple[str, Offsets]:
    """What a rule on single characters makes of a text; one may become several (İ has no single small letter)."""
    found = rule(text)
    if len(found) == len(text):
        return found, offsets
    sizes = [len(rule(one)) for one in text]
    if sum(sizes) == len(found):
        spread = [place for place, size in zip(offsets, sizes, strict=True) for _ in range(size)]
    else:  # characters that change together: each of them was made of all
        spread = [(offsets[0][0], offsets[-1][1])] * len(found)
    return found, spread


def _spaced(text: str, offsets: Offsets, pattern: re.Pattern[str]) -> tuple[str, Offsets]:
    """`pattern.sub(" ", text)`, followed."""
    parts: list[str] = []
    spread: Offsets = []
    done = 0
    for match in pattern.finditer(text):
        begin, end = match.span()
        parts += text[done:begin], " "
        spread += [*offsets[done:begin], _around(offsets[begin:end])]
        done = end
    return "".join((*parts, text[done:])), [*spread, *offsets[done:]]


def _around(places: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return places[0][0], places[-1][1]
