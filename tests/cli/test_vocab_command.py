"""`manyheads vocab` from files to a folder, and what it refuses."""

# ruff: noqa: RUF001 (full-width signs are what Chinese is written with)

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from manyheads.data.select import part_of
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
        (("--text", "body", "--min-frequency", 99), "no character of the texts comes 99 times"),
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


RECIPE = """\
name: text
encoder: {size: tiny, vocab: nowhere}
data: DATA
tasks:
  words:
    kind: mlm
    files: {train: [corpus/a.jsonl]}
    text: body
  again: {kind: mlm, files: {train: [corpus/a.jsonl]}, text: body, max_length: 32, head_of: words}
  posts:
    kind: mlm
    files: {train: [posts.txt]}
    format: json
    text: content
    clean: weibo
    language: lines
  next: {kind: nsp, pairs_of: words}
"""


@pytest.fixture
def recipe(corpus: Path, tmp_path: Path) -> Path:
    posts = [{"content": "笑死//@someone:在臺灣 😭😭"}, {"content": "好好好 http://t.cn/xyzq"}]
    (tmp_path / "posts.txt").write_text(json.dumps(posts, ensure_ascii=False), encoding="utf-8")
    path = tmp_path / "text.yaml"
    path.write_text(RECIPE.replace("DATA", str(tmp_path)), encoding="utf-8")
    return path


def test_of_a_recipe_what_its_tasks_read(recipe: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    out = tmp_path / "out"
    ended = command("vocab", recipe, "--size", 150, "--chinese", "--min-frequency", 1, "--out", out)
    assert ended.status == 0, ended
    # The texts of TEXTS once, though two tasks read them, and the posts as they are cleaned.
    cleaned = ["笑死 在台湾 😭😭", "好好好"]
    assert f"{sum(len(''.join(text.split())) for text in [*TEXTS, *cleaned]):,} characters" in ended.out
    assert "1 broken documents were left out" in ended.err
    vocabulary = (out / "vocab.txt").read_text(encoding="utf-8").split("\n")
    assert {"笑", "台", "😭"} <= set(vocabulary)
    assert not {"臺", "@", "q"} & set(vocabulary)


def test_what_is_held_out_is_not_read(tmp_path: Path, command: Callable[..., Any]) -> None:
    rows = [f"{'abcdefghijklmnopqrstuvwxyz'[number]}{number % 7}" for number in range(26)]
    (tmp_path / "a.txt").write_text("\n".join(rows), encoding="utf-8")
    path = tmp_path / "text.yaml"
    task = "{kind: mlm, files: {train: [a.txt]}, boundary: line, hold_out: {dev: 0.3, test: 0.2}}"
    path.write_text(
        f"name: text\nencoder: {{size: tiny, vocab: nowhere}}\ndata: {tmp_path}\ntasks: {{words: {task}}}\n",
        encoding="utf-8",
    )
    options = ("--size", 120, "--min-frequency", 1, "--out", tmp_path / "out")
    assert command("vocab", path, *options).status == 0
    shares = {"dev": 0.3, "test": 0.2}
    kept = {row[0] for row in rows if part_of([row], shares) == "train"}
    found = set((tmp_path / "out" / "vocab.txt").read_text(encoding="utf-8").split("\n"))
    assert found & set("abcdefghijklmnopqrstuvwxyz") == kept
    assert 5 < len(kept) < 22


def test_each_file_is_read_once_whichever_tasks_name_it(tmp_path: Path, command: Callable[..., Any]) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name * 5, encoding="utf-8")
    path = tmp_path / "text.yaml"
    path.write_text(
        f"name: text\nencoder: {{size: tiny, vocab: nowhere}}\ndata: {tmp_path}\ntasks:\n"
        "  one: {kind: mlm, files: {train: [a.txt, b.txt]}}\n  two: {kind: mlm, files: {train: [b.txt]}}\n",
        encoding="utf-8",
    )
    ended = command("vocab", path, "--size", 110, "--min-frequency", 1, "--out", tmp_path / "out")
    assert "from 10 characters" in ended.out


@pytest.mark.parametrize(
    ("more", "changed", "message"),
    [
        (("{corpus}",), {}, "expected either files and folders of documents or one recipe"),
        (("--text", "body"), {}, "--text: a recipe says itself which column has the text"),
        (("--strict",), {}, "row 4 (line 4): not JSON"),
        ((), {"posts.txt": "gone.txt"}, "no such file"),
        ((), {"kind: mlm": "kind: mml"}, "did you mean"),
    ],
)
def test_a_recipe_that_does_not_fit(
    recipe: Path,
    corpus: Path,
    tmp_path: Path,
    command: Any,
    more: tuple[str, ...],
    changed: dict[str, str],
    message: str,
) -> None:
    text = recipe.read_text(encoding="utf-8")
    for old, new in changed.items():
        text = text.replace(old, new)
    recipe.write_text(text, encoding="utf-8")
    given = [one.format(corpus=corpus) for one in more]
    assert message in command.refused("vocab", recipe, *given, "--size", 150, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_recipe_without_documents(tmp_path: Path, command: Any) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text(
        "name: plain\nencoder: {from: minilm}\n"
        "tasks: {mood: {kind: classification, files: {train: [a.csv]}, text: text}}\n",
        encoding="utf-8",
    )
    told = command.refused("vocab", path, "--out", tmp_path / "out")
    assert "has no task of kind mlm or nsp with files for training" in told
