"""`predict` into parquet: lists and structs, of the types that the kind says, whatever the first rows have."""

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]
import pytest
import torch

from manyheads.encoder.bert import Encoder
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.model import Model, Network, Task
from manyheads.tasks import KINDS, Kind

if TYPE_CHECKING:
    from tests.conftest import Command, Tiny

TASKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "names": ({"kind": "tagging"}, {"labels": ["O", "B-X", "I-X"], "scheme": "iob2"}),
    "where": ({"kind": "span", "max_length": 24, "question_length": 8}, {"no_answer": True, "threshold": 0}),
    "ends": ({"kind": "choice", "text": "text", "choices": "endings"}, {}),
    "best": ({"kind": "ranking", "query": "text", "candidates": "endings"}, {}),
    "each": ({"kind": "ranking", "query": "text", "candidate": "ending"}, {}),
    "mood": ({"kind": "classification", "text": "text"}, {"labels": ["bad", "good"]}),
    "much": ({"kind": "regression", "text": "text"}, {}),
}
TEXTS = ["the film", "a good film was fine", "bad", "the end was dull and cold", "great", "a warm film"]
ROWS: dict[str, list[dict[str, Any]]] = {
    "names": [*({"words": text.split()} for text in TEXTS), {"words": []}],
    "where": [{"question": "the film", "context": text} for text in TEXTS],
    "ends": [{"text": text, "endings": TEXTS[: 2 + place]} for place, text in enumerate(TEXTS[:4])],
    "each": [{"text": "the", "ending": text} for text in TEXTS],
    "mood": [{"text": text} for text in TEXTS],
}
ROWS |= {"best": ROWS["ends"], "much": ROWS["mood"]}
LISTS = {"spans", "ranking", "shares"}


def kind_of(name: str) -> Kind:
    settings, facts = TASKS[name]
    made = KINDS[settings["kind"]]
    return made(made.Settings(**settings), facts)


@pytest.fixture(scope="module")
def folder(tiny: "Tiny", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random heads; of `where` half of the answers are none."""
    encoder = Encoder.from_pretrained(tiny.folder / "bert")
    tasks = [Task(name, kind_of(name), 24) for name in TASKS]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        heads = {task.name: task.kind.build_head(32, 0.0) for task in tasks}
    model = Model(Network(encoder, heads), Tokenizer.from_pretrained(tiny.folder / "bert"), tasks, "float32")
    odds = sorted(
        one.value or 0.0 for one in model.predict("where", [tuple(r.values()) for r in ROWS["where"]])
    )
    tasks[1].kind.threshold = odds[2]  # type: ignore[attr-defined]
    path = tmp_path_factory.mktemp("parquet") / "model"
    path.mkdir()
    model.save(path)
    return path


@pytest.mark.parametrize("group", [1, 100])
@pytest.mark.parametrize("task", TASKS)
def test_lists_are_lists(
    folder: Path, tmp_path: Path, command: "Command", monkeypatch: pytest.MonkeyPatch, task: str, group: int
) -> None:
    """The same as csv and jsonl have as text; the columns' types do not hang on the first rows."""
    monkeypatch.setattr("manyheads.data.write._ROW_GROUP", group)
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS[task]))
    for ending in ("csv", "jsonl", "parquet"):
        ended = command("predict", folder, source, "--task", task, "--out", tmp_path / f"out.{ending}")
        assert (ended.status, ended.err) == (0, "")
    table = pq.read_table(tmp_path / "out.parquet")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    cells = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    added = set(lines[0]) - set(ROWS[task][0])
    for row, line, cell in zip(table.to_pylist(), lines, cells, strict=True):
        for name in added & LISTS:
            assert line[name] == cell[name]  # JSON, as it was before
            assert row.pop(name) == json.loads(line.pop(name))
        assert row == line
    wanted = {"ranking": pa.list_(pa.int64()), "shares": pa.list_(pa.float64()), "start": pa.int64()}
    for name, type in wanted.items():
        if name in added:
            assert table.schema.field(name).type.equals(type), name
    if task == "names":
        assert pa.types.is_list(table.schema.field("spans").type)
        fields = table.schema.field("spans").type.value_type
        assert [field.name for field in fields] == ["start", "end", "text", "label", "score"]
    if task == "where":
        starts = table["start"].to_pylist()
        assert None in starts
        assert any(start is not None for start in starts)
        assert {cell["start"] for cell in cells} >= {""}
