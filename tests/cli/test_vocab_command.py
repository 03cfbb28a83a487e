"""`manyheads vocab` from files to a folder, and what it refuses."""

# ruff: noqa: RUF001 (full-width signs are what Chinese is written with)

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from manyheads.encoder.tokenizer import Tokenizer

TEXTS = ["The newest of the new.\n\nThe lowest of the low.", "今天天气很好，天气好。", "Lower and lower."]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = [json.dumps({"body": text}, ensure_ascii=False) for text in TEXTS]
    (folder / "a.jsonl").write_text("\n".join([*rows, "broken"]), encoding="utf-8")
    return folder


def test_a_folder_that_both_load(corpus: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    out = tmp_path / "out"
    options = ("--size", 120, "--text", "body", "--chinese", "--cased", "--min-frequency", 1, "--out", out)
    ended = command("vocab", corpus, *options)
    assert ended.status == 0, ended
    assert "tokens from" in ended.out
    assert "1 broken documents were left out" in ended.err
    assert "row 4 (line 4): not JSON" in ended.err
    assert sorted(path.name for path in out.iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    tokenizer = Tokenizer.from_pretrained(out)
    assert not tokenizer.lowercase
    ids = tokenizer(TEXTS).input_ids
    assert AutoTokenizer.from_pretrained(out)(TEXTS)["input_ids"] == ids
    assert all(tokenizer.unk_id not in one for one in ids)
    refused = command.refused("vocab", corpus, *options)  # type: ignore[attr-defined]
    assert "the folder exists and is not empty" in refused


def test_a_limit_reads_the_first_documents(corpus: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    out = tmp_path / "out"
    ended = command("vocab", corpus, "--text", "body", "--limit", 1, "--size", 120, "--out", out, "--quiet")
    assert (ended.status, ended.out, ended.err) == (0, "", "")
    assert "天" not in (out / "vocab.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "no key 'text'"),
        (("--text", "bodi"), "row 1 (line 1): no key 'bodi'; did you mean 'body'?"),
        (("--text", "body", "--size", 10), "found size 10, expected 100 or more"),
        (("--text", "body", "--limit", 0), "--limit: found 0, expected 1 or more"),
        (("--text", "body", "--strict"), "not JSON"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(
    corpus: Path, tmp_path: Path, command: Any, options: tuple[object, ...], message: str
) -> None:
    told = command.refused("vocab", corpus, "--out", tmp_path / "out", *options)
    assert message in told
    assert not (tmp_path / "out").exists()


def test_a_corpus_that_is_not_there(tmp_path: Path, command: Any) -> None:
    assert "no such file or folder" in command.refused("vocab", tmp_path / "none", "--out", tmp_path / "out")
