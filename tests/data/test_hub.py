"""Data sets of the hub's library, from folders on this machine: no network."""

import sys
from pathlib import Path
from typing import Any

import pytest

from manyheads.data.hub import read_hub
from manyheads.data.read import Row
from manyheads.errors import InputError, WorkError

datasets = pytest.importorskip("datasets", reason="the extra `hub` is not installed")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set with two splits, whose features have names for the classes."""
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["bad", "good"]),
            "tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER"])),
            "plain": datasets.Value("int64"),
        }
    )
    rows: dict[str, Any] = {
        "text": ["fine", "awful", "?"],
        "label": [1, 0, -1],
        "tags": [[0, 1], [], [0]],
        "plain": [1, 0, 7],
    }
    root = tmp_path / "set"
    for split in ("train", "test"):
        (root / "data").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows, features).to_parquet(root / "data" / f"{split}.parquet")
    return root


def test_class_numbers_become_their_names(folder: Path) -> None:
    assert list(read_hub(str(folder), split="train", need=["text", "label"])) == [
        Row(1, None, {"text": "fine", "label": "good", "tags": ["O", "B-PER"], "plain": 1}),
        Row(2, None, {"text": "awful", "label": "bad", "tags": [], "plain": 0}),
        Row(3, None, {"text": "?", "label": None, "tags": ["O"], "plain": 7}),
    ]


def test_a_folder_of_csv_files(tmp_path: Path) -> None:
    root = tmp_path / "csv"
    root.mkdir()
    (root / "train.csv").write_text('text,label\n"a\nb",1\nc,0\n')
    (root / "test.csv").write_text("text,label\nd,1\n")
    assert [row.values for row in read_hub(str(root), split="train")] == [
        {"text": "a\nb", "label": 1},
        {"text": "c", "label": 0},
    ]
    assert [row.values["text"] for row in read_hub(str(root), split="test")] == ["d"]


def test_a_slice_of_a_split(folder: Path) -> None:
    assert [row.number for row in read_hub(str(folder), split="train[1:]")] == [1, 2]


def test_a_missing_column_is_named_at_once(folder: Path) -> None:
    with pytest.raises(
        InputError, match=r"split 'train': no column 'txt'; found 'text', .*; did you mean 'text'\?"
    ):
        read_hub(str(folder), split="train", need=["txt"])


def test_a_missing_split(folder: Path) -> None:
    with pytest.raises(InputError, match=r"split 'dev': cannot be loaded: Unknown split \"dev\"") as caught:
        read_hub(str(folder), split="dev")
    assert "\n" not in str(caught.value)


def test_no_rows(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be loaded: .* no data"):
        read_hub(str(folder), split="train[:0]")
    nothing = datasets.Dataset.from_dict({"text": []}, datasets.Features({"text": datasets.Value("string")}))
    (tmp_path / "bare").mkdir()
    nothing.to_parquet(tmp_path / "bare" / "train.parquet")
    with pytest.raises(InputError, match=r"cannot be loaded: .* no data"):
        read_hub(str(tmp_path / "bare"), split="train")


def test_an_unknown_configuration(folder: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be loaded: .*sst"):
        read_hub(str(folder), split="train", name="sst")


def test_a_folder_without_data(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="cannot be loaded"):
        read_hub(str(tmp_path / "empty"), split="train")


def test_no_network_is_no_fault_of_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'some/set'\nmore")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(WorkError, match=r"some/set.*the hub cannot be reached: Couldn't reach 'some/set'$"):
        read_hub("some/set", split="train")


def test_the_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r'pip install "manyheads\[hub\]"'):
        read_hub("some/set", split="train")
