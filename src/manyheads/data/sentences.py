"""Documents → sentences, English and Chinese.

Knows characters. Must not know tokens, files or what the sentences are for.

The rules are the library sentencex's: on the books and the Chinese news and novels that it was chosen on it was the
only one of four (beside pysbd, syntok and blingfire) that keeps `"Is it true?" he asked.` and `“这是对的。”` together,
ten to a thousand times as fast as the others, and it is small, alive and without dependencies.
"""

import re
from collections.abc import Iterator
from typing import Final, Literal

import sentencex  # type: ignore[import-untyped, unused-ignore]

__all__ = ["LANGUAGES", "LONGEST", "Language", "bounded", "language_of", "sentences"]

Language = Literal["auto", "en", "zh", "lines"]
LANGUAGES: Final = ("auto", "en", "zh", "lines")

# In characters. Text without any full stop, such as a table of numbers, would else be one sentence of megabytes.
LONGEST = 10_000

_PARAGRAPHS = re.compile(r"\n\s*\n")
# All white space is the same to BERT, and the library takes only the plain kinds for granted.
_SPACE = re.compile(r"[^\S\n ]")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_LOOKED_AT = 2000  # characters that tell the language of a document
_CHINESE_FROM = 0.1  # Chinese news with many names and numbers has a third; English about China less than 1%


def sentences(text: str, language: Language = "auto") -> Iterator[str]:
    """The sentences of a document in their order, without the white space around them and never empty.

    No character but white space is lost, and no sentence goes over a blank line. In Chinese every line end ends a
    sentence; in English lines may be wrapped anywhere. `lines` takes each line as it stands for a sentence; `auto`
    looks at the document's beginning. What is longer than `LONGEST` characters comes in pieces.
    """
    if language == "auto":
        language = language_of(text)
    text = _SPACE.sub(" ", text)
    paragraphs = _PARAGRAPHS.split(text) if language == "en" else text.split("\n")
    for paragraph in paragraphs:
        if not (paragraph := paragraph.strip()):
            continue
        for sentence in [paragraph] if language == "lines" else _cut(paragraph, language):
            for piece in bounded(sentence):
                if piece := piece.strip():
                    yield piece


def language_of(text: str) -> Literal["en", "zh"]:
    """`zh` where at least a tenth of the first characters, white space not counted, are Chinese ones."""
    start = "".join(text[: 2 * _LOOKED_AT].split())[:_LOOKED_AT]
    return "zh" if start and len(_HAN.findall(start)) >= _CHINESE_FROM * len(start) else "en"


def bounded(text: str, longest: int = LONGEST) -> Iterator[str]:
    """A text in pieces of at most so many characters, cut at white space where there is any; `''.join` is the text."""
    start = 0
    while len(text) - start > longest:
        end = start + longest
        space = max(text.rfind(" ", start, end), text.rfind("\n", start, end))
        end = space + 1 if space > start else end
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _cut(paragraph: str, language: str) -> Iterator[str]:
    """The library's sentences. It is given so much at once and no more: on odd texts its time grows as the square."""
    held = ""
    for part in bounded(paragraph):
        *whole, held = _segment(held + part, language)
        yield from whole
        if len(held) > LONGEST:  # else it may go on in the next part
            yield held
            held = ""
    yield held


def _segment(text: str, language: str) -> list[str]:
    try:
        found: list[str] = sentencex.segment(language, text)
    except BaseException as error:
        # A panic of the library's Rust is no Exception: it slices some rare texts inside a character. They stay whole.
        if type(error).__name__ != "PanicException":
            raise
        return [text]
    return found or [text]
