"""Splits that are read otherwise than the task's others, and those whose labels are kept back."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from manyheads.data.encode import TokenCache
from manyheads.data.read import Row
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError
from manyheads.recipe import Recipe
from manyheads.training import splits
from manyheads.training.splits import TaskData, load_task

if TYPE_CHECKING:
    from tests.conftest import Tiny

BARE = {"header": False, "columns": ["source", "label", "mark", "sentence"]}


@pytest.fixture
def tokenizer(tiny: "Tiny") -> Tokenizer:
    return Tokenizer.from_pretrained(tiny.folder / "bert")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As CoLA: no header in train and dev, one in test, which has other columns."""
    (tmp_path / "train.tsv").write_text('a\t1\t\ta good film\nb\t0\t*\ta "bad film\nc\t1\t\tfine\n')
    (tmp_path / "dev.tsv").write_text("a\t0\t*\tdull\n")
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\tthe plot was good\n1\tpoor\n")
    return tmp_path


def loaded(folder: Path, tokenizer: Tokenizer, cache: TokenCache | None = None, **settings: Any) -> TaskData:
    task = {
        "kind": "classification",
        "files": {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"},
        "text": "sentence",
        "read": BARE,
        **settings,
    }
    recipe = Recipe.parse({"name": "x", "data": str(folder), "tasks": {"t": task}})
    return load_task("t", recipe, tokenizer, positions=64, max_length=32, cache=cache)


def texts(data: TaskData, split: str) -> list[list[int]]:
    layout = data.splits[split].rows.layout
    ends = layout.lengths.cumsum()
    return [layout.ids[end - length : end].tolist() for end, length in zip(ends, layout.lengths, strict=True)]


def encoded(tokenizer: Tokenizer, *given: str) -> list[list[int]]:
    return [tokenizer.encode_batch([one], max_length=32).ids.tolist() for one in given]


def test_a_test_file_with_a_header_beside_training_files_without(folder: Path, tokenizer: Tokenizer) -> None:
    data = loaded(folder, tokenizer, read_split={"test": {}})
    assert texts(data, "train") == encoded(tokenizer, "a good film", 'a "bad film', "fine")
    assert texts(data, "test") == encoded(tokenizer, "the plot was good", "poor")
    train, dev, test = (data.splits[split].targets for split in ("train", "dev", "test"))
    assert train is not None
    assert dev is not None
    assert (train.tolist(), dev.tolist(), test) == ([1.0, 0.0, 1.0], [0.0], None)
    # Row numbers begin after the header, where there is one.
    assert [(one.row, one.line) for one in data.splits["test"].rows.places] == [(1, 2), (2, 3)]
    assert [(one.row, one.line) for one in data.splits["dev"].rows.places] == [(1, 1)]


def test_without_it_the_same_file_is_refused(folder: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"test\.tsv, row 1 \(line 1\): found 2 fields, expected 4"):
        loaded(folder, tokenizer)


def test_another_way_of_reading_is_another_entry_of_the_cache(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    cache = TokenCache(tmp_path / "cache")
    (folder / "test.tsv").write_text("index;sentence\tx\n0;good\ty\n")
    first = loaded(
        folder, tokenizer, cache, read_split={"test": {"columns": ["sentence", "rest"], "header": False}}
    )
    entries = len(list(cache.folder.iterdir()))
    second = loaded(
        folder,
        tokenizer,
        cache,
        read_split={"test": {"delimiter": ";", "columns": ["index", "sentence"], "header": False}},
    )
    assert len(list(cache.folder.iterdir())) == entries + 1  # train and dev are found again
    assert texts(first, "test") == encoded(tokenizer, "index;sentence", "0;good")
    assert texts(second, "test") == encoded(tokenizer, "sentence\tx", "good\ty")


def test_a_held_out_split_is_read_as_the_training_rows_it_is_cut_from(
    folder: Path, tokenizer: Tokenizer
) -> None:
    rows = "".join(f"s\t{number % 2}\t\tthe film {number}\n" for number in range(40))
    (folder / "train.tsv").write_text("index;label;mark;sentence\n" + rows.replace("\t", ";"))
    data = loaded(
        folder,
        tokenizer,
        files={"train": "train.tsv", "test": "test.tsv"},
        hold_out={"dev": 0.25},
        read={},
        read_split={"train": {"delimiter": ";"}},
    )
    held = texts(data, "dev")
    assert 0 < len(held) < 40
    together = held + texts(data, "train")
    assert sorted(together) == sorted(encoded(tokenizer, *(f"the film {number}" for number in range(40))))


# ---- the hub, whose test rows have the label −1 ----

HUB: dict[str, list[tuple[str, Any]]] = {
    "train": [("good", "fine"), ("bad", "poor")],
    "validation": [("dull", "poor")],
}


def read(path: str, *, split: str, name: str | None = None, need: Any = (), rows: Any = HUB) -> Iterator[Row]:
    assert (path, name) == ("glue", "cola")
    assert set(need) <= {"sentence", "label"}
    for number, (sentence, label) in enumerate(rows[split], start=1):
        yield Row(number, None, {"sentence": sentence, "label": label, "idx": number - 1})


@pytest.mark.parametrize(
    ("kind", "train", "kept_back"),
    [
        ({"kind": "classification"}, HUB["train"], None),
        ({"kind": "regression", "range": [0, 5]}, [("good", 4.5), ("bad", 0.0)], -1.0),
    ],
)
def test_a_hub_split_whose_labels_are_kept_back_has_none(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any], train: Any, kept_back: Any
) -> None:
    rows = {"train": train, "validation": train[:1], "test": [("a film", kept_back), ("cold", kept_back)]}
    monkeypatch.setattr(splits, "read_hub", partial(read, rows=rows))
    hub = {"path": "glue", "name": "cola", "splits": {"train": "train", "dev": "validation", "test": "test"}}
    data = loaded(Path(), tokenizer, **kind, files=None, read={}, hub=hub)
    assert data.splits["test"].targets is None
    assert texts(data, "test") == encoded(tokenizer, "a film", "cold")
    assert data.splits["dev"].targets is not None
    # One label is enough to be a labelled split, whose other rows then lack theirs.
    rows["test"].append(train[0])
    with pytest.raises(InputError, match=r"glue:test, row 1.*no label|found -1"):
        loaded(Path(), tokenizer, **kind, files=None, read={}, hub=hub)
