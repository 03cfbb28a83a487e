"""Files that are labelled over HTTP: the columns of `manyheads predict`, and a word about the first wrong row."""

import csv
import io
import json
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from manyheads.encoder.bert import Encoder

if TYPE_CHECKING:
    from tests.conftest import Command
    from tests.serve.conftest import Served

    from manyheads.model import Model

GOOD = 'a,b\na good film,one\n"ugly, and\nvery cold",two\n'


def label(served: "Served", body: bytes | str, kind: str = "text/csv", query: str = "task=mood") -> Any:
    content = body.encode() if isinstance(body, str) else body
    return served.client.post(f"/v1/label?{query}", content=content, headers={"Content-Type": kind})


def refused(answer: Any, status: int, sort: str) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == f"/docs#{sort}"
    detail: str = body["detail"]
    assert "/tmp" not in detail
    return detail


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


# ---- what comes back ----

FILES: dict[str, tuple[str, str]] = {
    "mood": ("", 'a,id\n"a good, warm film",1\nugly,2\n"x\ny",3\n,4\n日本 🙂,5\n'),
    "short": ("", "a\nthe film was good and very warm\nugly\n"),
    "pairs": ("", "a;b;score\na good film;a bad film;9\nx;x;8\n"),
    "packed": ("", "label\ta\tb\nold\ta film\ta story\n"),
    "names": ("", "words,truncated\nada was in rome,no\n,yes\n"),
    "answer": ("", "question,context\nwhere was ada,ada was in rome and the film was good\nwhere,🙂\n"),
    "mood-by-column": ("column=note", "a,note\nnothing,a good film\nnothing,ugly\n"),
    "pairs-by-column": ("column=y&column=x", "x,y\na good film,a bad film\n"),
    "order": ("", "a,b\na good film,ugly\na good film,warm\na good film,film\nx,only\n"),
}


@pytest.fixture(scope="module")
def folder(every_kind: "Callable[[], Model]", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with every kind of task as a folder; its ranking task reads a candidate a row."""
    from manyheads.tasks import KINDS

    model = every_kind()
    ranking = KINDS["ranking"]
    told = {"kind": "ranking", "query": "a", "candidate": "b"}
    order = model.tasks["order"]
    model.tasks["order"] = type(order)(
        "order", ranking(ranking.Settings.model_validate(told)), order.max_length
    )
    place = tmp_path_factory.mktemp("label") / "model"
    model.save(place)
    return place


@pytest.mark.parametrize("probabilities", [False, True])
def test_a_file_comes_back_as_predict_writes_it(
    folder: Path,
    serving: "Callable[..., Served]",
    command: "Command",
    tmp_path: Path,
    probabilities: bool,
) -> None:
    from manyheads.run import load

    served = serving({"kinds": load(folder)})
    for name, (columns, text) in FILES.items():
        task = name.partition("-")[0]
        source = tmp_path / f"{name}.csv"
        source.write_text(text, encoding="utf-8")
        options: list[str] = ["--probabilities"] if probabilities else []
        named = [one.partition("=")[2] for one in columns.split("&") if one]
        options += {0: [], 1: ["--text", *named], 2: ["--pair", *named]}[len(named)]
        ended = command("predict", folder, "--task", task, source, "--quiet", *options)
        assert ended.status == 0, ended.err
        query = f"task={task}&{columns}" + ("&probabilities=true" if probabilities else "")
        answer = label(served, text, query=query)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        found, wanted = rows_of(answer.content.decode()), rows_of(ended.out)
        assert (
            answer.headers["x-rows"]
            == str(len(wanted))
            == str(len(rows_of(text.replace(";", ",").replace("\t", ","))))
        )
        assert [list(row) for row in found] == [list(row) for row in wanted]
        for ours, theirs in zip(found, wanted, strict=True):
            same(ours, theirs)


def same(ours: dict[str, str], theirs: dict[str, str]) -> None:
    """That two rows say the same, but for rounding."""
    for key, value in theirs.items():
        try:
            number = float(value)
        except ValueError:
            if value.startswith("["):
                one, other = json.loads(ours[key]), json.loads(value)
                assert [{**span, "score": 0} for span in one] == [{**span, "score": 0} for span in other]
            else:
                assert ours[key] == value, key
        else:
            assert float(ours[key]) == pytest.approx(number, abs=1e-5), key


def test_many_rows_go_in_pieces_and_in_order(served: "Served", monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    plain = Encoder.encode

    def counted(self: Encoder, ragged: Any, **settings: Any) -> Any:
        passes.append(ragged.tokens)
        return plain(self, ragged, **settings)

    monkeypatch.setattr(Encoder, "encode", counted)
    count = 1500
    text = "a,id\n" + "".join(f"the film {'was good ' * (i % 4)},{i}\n" for i in range(count))
    answer = label(served, text)
    assert len(passes) > 4  # never all at once
    assert max(passes) <= served.offer.limits.batch_tokens
    assert [row["id"] for row in rows_of(answer.text)] == [str(i) for i in range(count)]
    wanted = served.model.predict("mood", [row["a"] for row in rows_of(text)])
    for row, told in zip(rows_of(answer.text), wanted, strict=True):
        assert told.score is not None
        assert row["label"] == told.label
        assert float(row["score"]) == pytest.approx(told.score, abs=1e-5)
    metrics = served.client.get("/metrics").text
    assert f'manyheads_inputs_total{{task="mood"}} {count}.0' in metrics
    assert "manyheads_files_at_work 0.0" in metrics


def test_the_log_has_its_tokens_and_nothing_of_it(served: "Served") -> None:
    label(served, "a\nthe zebra secret\n")
    line = json.loads(served.log[-1])
    assert (line["route"], line["status"]) == ("/v1/label", 200)
    assert line["tokens"] > 4
    assert "secret" not in "".join(served.log)


def test_a_file_does_not_keep_others_waiting(
    serving: "Callable[..., Served]", every_kind: "Callable[[], Model]", monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serving({"kinds": every_kind()}, limits={"batch_tokens": 64})
    plain = Encoder.encode
    begun = threading.Event()

    def slow(self: Encoder, ragged: Any, **settings: Any) -> Any:
        begun.set()
        threading.Event().wait(0.01)
        return plain(self, ragged, **settings)

    monkeypatch.setattr(Encoder, "encode", slow)
    text = "a\n" + "the film was good\n" * 1200
    answers: list[Any] = []
    labelling = threading.Thread(target=lambda: answers.append(label(served, text)))
    labelling.start()
    assert begun.wait(30)
    for _ in range(3):
        asked = served.post("/v1/predict", {"task": "mood", "inputs": ["a film"]})
        assert asked.status_code == 200
    assert not answers  # the file is still worked on
    labelling.join(60)
    assert answers[0].status_code == 200
    assert len(rows_of(answers[0].text)) == 1200


# ---- what is wrong with a file ----


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the file is empty"),
        ("a\n", "no rows"),
        ("b\nx\n", "no column 'a'; found 'b'"),
        ("a,b\nx\n", "row 1 (line 2): found 1 field, expected 2"),
        ("a,b\nx,y\nx,y,z\n", "row 2 (line 3): found 3 fields, expected 2 ('a', 'b')"),
        ("a,a\nx,y\n", "the header names column 'a' twice"),
        ('a\n"never closed\n', "row 1 (line 2): the quote that opens in line 2 is never closed"),
        ('a\nx\n"y"z\n', "row 2 (line 3)"),
        ("a\nx\n" + "y" * 60 + "\n", "row 2 (line 3): found a text of 60 characters, at most 50 are taken"),
    ],
)
def test_the_first_wrong_row_is_told(
    serving: "Callable[..., Served]", every_kind: "Callable[[], Model]", text: str, told: str
) -> None:
    served = serving({"kinds": every_kind()}, limits={"characters": 50})
    detail = refused(label(served, text), 422, "invalid")
    assert detail.startswith("the file")
    assert told in detail
    assert "`" not in detail  # no hint at a recipe, which nobody has here
    assert served.service.labelling == 0


def test_a_wrong_cell_is_told_with_its_column(served: "Served") -> None:
    text = "a,b\nwho,one\n" + "q,x\n" * 3000 + "q, \n"
    detail = refused(label(served, text, query="task=answer&column=a&column=b"), 422, "invalid")
    assert "row 3002 (line 3003), column 'b'" in detail


def test_nothing_is_answered_before_all_rows_were_read(served: "Served") -> None:
    text = "a\n" + "the film was good\n" * 3000 + '"\n'
    assert "row 3001" in refused(label(served, text), 422, "invalid")
    assert served.client.get("/metrics").text.count('manyheads_inputs_total{task="mood"}') == 0


@pytest.mark.parametrize(
    ("query", "status", "sort", "told"),
    [
        ("", 422, "invalid", "task: expected this parameter"),
        ("task=moud", 422, "unknown-task", "did you mean 'mood'"),
        ("task=" + quote("../../etc/passwd", safe=""), 422, "unknown-task", "no task"),
        ("task=mood%00", 422, "invalid", "expected a name"),
        ("task=mood&task=deep", 422, "invalid", "task: found several"),
        ("task=mood&tusk=x", 422, "invalid", "'tusk': no such parameter"),
        ("task=mood&probabilities=1", 422, "invalid", "expected true or false"),
        ("task=mood&column=nope", 422, "invalid", "no column 'nope'; found 'a', 'b'"),
        ("task=mood&column=a&column=b", 422, "invalid", "column: found 2, expected 1"),
        ("task=packed&column=a", 422, "invalid", "column: found 1, expected 2"),
    ],
)
def test_what_is_asked_wrongly_is_refused(
    served: "Served", query: str, status: int, sort: str, told: str
) -> None:
    assert told in refused(label(served, GOOD, query=query), status, sort)
    assert served.service.labelling == 0


def packed() -> bytes:
    """Ten million zeros in ten thousand bytes."""
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.csv", b"a\n" + b"0" * 10_000_000)
    return found.getvalue()


@pytest.mark.parametrize(
    ("body", "kind", "status", "sort"),
    [
        (packed(), "text/csv", 415, "media-type"),
        (b"\x1f\x8b\x08\x00" + b"\x00" * 100, "text/csv", 415, "media-type"),
        (b"BZh91AY", "text/csv", 415, "media-type"),
        (GOOD.encode(), "application/json", 415, "media-type"),
        (GOOD.encode(), "multipart/form-data; boundary=x", 415, "media-type"),
        (GOOD.encode(), "application/zip", 415, "media-type"),
        (GOOD.encode("utf-16"), "text/csv", 400, "malformed"),
        (GOOD.encode(), "text/csv; charset=latin-1", 415, "media-type"),
        ("a\ncafé\n".encode("latin-1"), "text/csv", 400, "malformed"),
        (b"a\n" + "日".encode()[:2], "text/csv", 400, "malformed"),
        (b"a\nx\x00y\n", "text/csv", 400, "malformed"),
        (b"a\n\xed\xa0\x80\n", "text/csv", 400, "malformed"),  # half a surrogate pair
        (b"PAR1" + b"\x00" * 50, "text/csv", 400, "malformed"),
    ],
)
def test_what_is_no_csv_is_refused(served: "Served", body: bytes, kind: str, status: int, sort: str) -> None:
    refused(label(served, body, kind), status, sort)
    assert label(served, GOOD).status_code == 200


def test_the_place_of_what_is_no_utf8_is_told(served: "Served") -> None:
    def parts() -> Any:  # a character that two parts share is one
        yield "a\n日".encode()[:3]
        yield "a\n日".encode()[3:]
        yield b"\xff"

    answer = served.client.post("/v1/label?task=mood", content=parts(), headers={"Content-Type": "text/csv"})
    assert "byte 5 fits nowhere" in refused(answer, 400, "malformed")


def test_a_file_has_limits_of_its_own(
    serving: "Callable[..., Served]", every_kind: "Callable[[], Model]"
) -> None:
    limits = {"body": 100, "file": 3000, "files": 1, "queue_tokens": 40, "batch_tokens": 40}
    served = serving({"kinds": every_kind()}, limits=limits)
    text = "a\n" + "the film was good\n" * 100  # more than a body of JSON may have, and than the queue holds
    assert label(served, text).status_code == 200
    assert "3,000 bytes" in refused(label(served, text * 2), 413, "too-large")
    # One row whose candidates are more than the queue ever holds.
    long = "question,context\nwho," + "a b c d e " * 20 + "\n"
    assert "found" in refused(label(served, long, query="task=answer"), 422, "invalid")
    served.service.labelling = 1
    answer = label(served, text)
    refused(answer, 429, "queue-full")
    assert answer.headers["retry-after"] == "10"
    served.service.labelling = 0
    served.service.stopping = True
    refused(label(served, text), 503, "stopping")


def test_a_file_goes_on_where_the_queue_was_full(served: "Served", monkeypatch: pytest.MonkeyPatch) -> None:
    from manyheads.serve.batcher import Batcher, Full

    plain = Batcher.submit
    asked = 0

    def crowded(self: Batcher, *arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked % 2:
            raise Full(0.01)
        return plain(self, *arguments)

    monkeypatch.setattr(Batcher, "submit", crowded)
    answer = label(served, "a\n" + "the film was good\n" * 1000)
    assert len(rows_of(answer.text)) == 1000
    assert asked > 4
