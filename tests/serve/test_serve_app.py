"""The HTTP interface: what it answers, what it refuses, and what it never tells."""

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from manyheads.encoder.bert import Encoder

if TYPE_CHECKING:
    from tests.serve.conftest import Served

    from manyheads.model import Model
    from manyheads.tasks import Prediction

INPUTS: dict[str, list[Any]] = {
    "mood": ["a good film", "ugly", "", "日本 🙂"],
    "short": ["a good film and a very warm story"],
    "deep": ["a good film"],
    "pairs": [["a good film", "a bad film"], ["x", "x"]],
    "packed": [["a good film", "a bad film"]],
    "names": ["ada was in rome", ["ada", "was", "in", "rome"], ""],
    "answer": [["where was ada", "ada was in rome and the film was good"], ["where", "🙂"]],
    "ending": [["a good", ["film", "story", "end"]]],
    "order": [["a good film", ["ugly", "warm", "film"]], ["x", ["only"]]],
}


def close(found: dict[str, Any], wanted: "Prediction") -> None:
    """That a prediction as JSON says what `Model.predict` says."""
    for name in ("label", "truncated", "tokens_dropped"):
        assert found.get(name) == getattr(wanted, name), name
    for name in ("score", "value"):
        value = getattr(wanted, name)
        assert (name in found) == (value is not None)
        assert value is None or found[name] == pytest.approx(value, abs=1e-5)
    assert list(found.get("probabilities", {})) == list(wanted.probabilities or {})
    assert list(found.get("probabilities", {}).values()) == pytest.approx(
        list((wanted.probabilities or {}).values()), abs=1e-5
    )
    for name in ("spans", "tokens"):
        given = found.get(name, [])
        assert [(one["start"], one["end"], one["text"], one["label"]) for one in given] == [
            (one.start, one.end, one.text, one.label) for one in getattr(wanted, name)
        ]
        assert [one["score"] for one in given] == pytest.approx(
            [one.score for one in getattr(wanted, name)], abs=1e-5
        )
    assert tuple(found.get("ranking", ())) == wanted.ranking
    assert found.get("shares", []) == pytest.approx(list(wanted.shares), abs=1e-5)
    assert None not in found.values()


# ---- what it answers ----


@pytest.mark.parametrize("task", INPUTS)
def test_predict_says_what_the_model_says(served: "Served", task: str) -> None:
    answer = served.post("/v1/predict", {"task": task, "inputs": INPUTS[task]})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert list(body) == ["task", "predictions", "model"]
    assert (body["task"], body["model"]) == (task, "kinds")
    for found, wanted in zip(
        body["predictions"], served.model.predict(task, [_given(one) for one in INPUTS[task]]), strict=True
    ):
        close(found, wanted)


def _given(one: Any) -> Any:
    return tuple(one) if isinstance(one, list) and len(one) == 2 else one


def test_what_has_no_meaning_for_a_kind_is_left_out(served: "Served") -> None:
    def keys(task: str) -> set[str]:
        (found,) = served.post("/v1/predict", {"task": task, "inputs": INPUTS[task][:1]}).json()[
            "predictions"
        ]
        return set(found) - {"truncated", "tokens_dropped"}

    assert keys("mood") == {"label", "score", "probabilities"}
    assert keys("pairs") == {"value"}
    assert keys("names") == {"spans", "tokens"}
    assert keys("answer") == {"label", "score", "value", "spans"}
    assert keys("ending") == {"label", "score", "probabilities", "shares"}
    assert keys("order") == {"label", "score", "ranking", "shares"}


def test_what_is_cut_is_told(served: "Served") -> None:
    texts = ["a film", "the film was good " * 20]
    found = served.post("/v1/predict", {"task": "mood", "inputs": texts}).json()["predictions"]
    assert [one["truncated"] for one in found] == [False, True]
    assert found[1]["tokens_dropped"] == 80 + 2 - 16


def test_analyze_is_every_head_in_one_pass(served: "Served", monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watched(monkeypatch)
    texts = ["a good film", "ugly"]
    answer = served.post("/v1/analyze", {"texts": texts})
    assert answer.status_code == 200, answer.text
    assert [sequences for sequences, _ in seen] == [2]  # all tasks read the two texts alike
    results = answer.json()["results"]
    wanted = served.model.analyze(texts)
    assert [list(one) for one in results] == [list(one) for one in wanted]
    assert list(results[0]) == ["mood", "short", "deep", "names"]
    for found, told in zip(results, wanted, strict=True):
        for name in told:
            close(found[name], told[name])


def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(sequences, tokens) of each pass of any encoder from now on."""
    seen: list[tuple[int, int]] = []
    plain = Encoder.encode

    def counted(self: Encoder, ragged: Any, **settings: Any) -> Any:
        seen.append((len(ragged), ragged.tokens))
        return plain(self, ragged, **settings)

    monkeypatch.setattr(Encoder, "encode", counted)
    return seen


def test_analyze_takes_pairs_and_names_of_tasks(served: "Served") -> None:
    pairs = [["a good film", "a bad film"], ["x", "y"]]
    results = served.post("/v1/analyze", {"texts": pairs}).json()["results"]
    wanted = served.model.analyze_pairs(pairs)
    for found, told in zip(results, wanted, strict=True):
        assert list(found) == list(told) == ["pairs", "packed", "answer"]
        for name in told:
            close(found[name], told[name])
    some = served.post("/v1/analyze", {"texts": ["a film"], "tasks": ["deep", "mood"]}).json()["results"]
    assert [list(one) for one in some] == [["deep", "mood"]]
    assert served.post("/v1/analyze", {"texts": []}).json() == {"results": []}


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_embed_gives_the_models_vectors(served: "Served", pooling: Any) -> None:
    texts = ["a good film", "ugly", "", "the film was good " * 20]
    body = served.post("/v1/embed", {"texts": texts, "pooling": pooling}).json()
    dropped: list[int] = []
    wanted = served.model.embed(texts, pooling, dropped=dropped)
    np.testing.assert_allclose(np.array(body["embeddings"]), wanted, atol=1e-5)
    assert (body["dimension"], body["tokens_dropped"], body["model"]) == (32, dropped, "kinds")


def test_probabilities_are_calibrated(
    serving: "Callable[..., Served]", every_kind: "Callable[[], Model]"
) -> None:
    model = every_kind()
    model.task("mood").kind.temperature = 3.0
    served = serving({"kinds": model})
    told = {one["name"]: one["calibrated"] for one in served.client.get("/v1/tasks").json()["tasks"]}
    assert (told["mood"], told["short"]) == (True, False)
    (found,) = served.post(PREDICT, {"task": "mood", "inputs": ["a good film"]}).json()["predictions"]
    (calm,), (raw,) = (model.predict("mood", ["a good film"], raw=raw) for raw in (False, True))
    close(found, calm)
    assert raw.score is not None
    assert found["score"] < raw.score


def test_what_was_cleaned_is_told(
    serving: "Callable[..., Served]", every_kind: "Callable[[], Model]"
) -> None:
    pytest.importorskip("opencc", reason="opencc is not installed")
    from manyheads.encoder.clean import weibo

    model = every_kind()
    for name in ("mood", "packed"):
        kind = model.task(name).kind
        kind.settings = kind.settings.model_copy(update={"clean": "weibo"})
    served = serving({"kinds": model})
    raw, other = "轉發 @小林 ABC http://t.cn/abc", "a film"
    (result,) = served.post("/v1/analyze", {"texts": [raw]}).json()["results"]
    assert result["mood"]["cleaned"] == [weibo(raw)] == ["转发 abc"]
    assert "cleaned" not in result["deep"]
    body = {"task": "packed", "inputs": [[raw, other]]}
    assert served.post(PREDICT, body).json()["predictions"][0]["cleaned"] == [weibo(raw), other]
    told = {one["name"]: one["cleans"] for one in served.client.get("/v1/tasks").json()["tasks"]}
    assert [name for name, cleans in told.items() if cleans] == ["mood", "packed"]


def test_no_inputs_give_no_answers(served: "Served") -> None:
    assert served.post("/v1/predict", {"task": "mood", "inputs": []}).json()["predictions"] == []
    assert served.post("/v1/embed", {"texts": []}).json()["embeddings"] == []


def test_tasks_are_listed_with_what_they_read(served: "Served") -> None:
    body = served.client.get("/v1/tasks").json()
    found = {one.pop("name"): one for one in body["tasks"]}
    assert list(found) == list(INPUTS)
    assert found["mood"] == {
        "kind": "classification",
        "labels": ["bad", "good"],
        "inputs": "text",
        "columns": ["a"],
        "cleans": False,
        "calibrated": False,
        "max_length": 16,
        "model": "kinds",
    }
    assert found["pairs"] == {
        "kind": "regression",
        "inputs": "pair",
        "columns": ["a", "b"],
        "range": [0, 5],
        "cleans": False,
        "calibrated": False,
        "max_length": 24,
        "model": "kinds",
    }
    assert found["names"]["labels"] == ["O", "B-PER", "I-PER"]
    assert found["order"]["inputs"] == "text and candidates"
    assert body["models"] == ["kinds"]
    assert body["limits"]["inputs"] == 256


def test_tasks_of_two_runs_have_names_of_their_own(two_runs: "Served") -> None:
    names = [one["name"] for one in two_runs.client.get("/v1/tasks").json()["tasks"]]
    assert {"kinds/mood", "kinds/pairs", "tiny/mood", "tiny/pairs", "short", "deep"} <= set(names)
    assert "mood" not in names
    for run, model in two_runs.models.items():
        body = two_runs.post("/v1/predict", {"task": f"{run}/mood", "inputs": ["a good film"]}).json()
        assert (body["task"], body["model"]) == (f"{run}/mood", run)
        (wanted,) = model.predict("mood", ["a good film"])
        close(body["predictions"][0], wanted)
    refused = two_runs.post("/v1/predict", {"task": "mood", "inputs": ["x"]})
    assert problem(refused, 422, "unknown-task").endswith("; did you mean 'tiny/mood'?")
    (both,) = two_runs.post("/v1/analyze", {"texts": ["a film"]}).json()["results"]
    assert {"kinds/mood", "tiny/mood", "short"} <= set(both)
    embedded = two_runs.post("/v1/embed", {"texts": ["a film"], "model": "tiny"}).json()
    assert embedded["embeddings"][0] == pytest.approx(
        two_runs.models["tiny"].embed(["a film"])[0].tolist(), abs=1e-5
    )
    assert "expected one of kinds, tiny" in problem(
        two_runs.post("/v1/embed", {"texts": [], "model": "x"}), 422
    )


def test_runs_with_one_encoder_share_a_queue(
    serving: "Callable[..., Served]", every_kind: "Callable[[], Model]", monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serving({"one": every_kind(), "two": every_kind()})
    assert len(served.offer.queues) == 1
    seen = watched(monkeypatch)
    (found,) = served.post("/v1/analyze", {"texts": ["a film"], "tasks": ["one/mood", "two/mood"]}).json()[
        "results"
    ]
    assert seen == [(1, 4)]
    assert found["one/mood"] == found["two/mood"]


def test_runs_with_other_weights_do_not(two_runs: "Served") -> None:
    assert len(two_runs.offer.queues) == 2


# ---- what it refuses ----


def problem(answer: Any, status: int, sort: str | None = None) -> str:
    """The detail of a problem document, which is checked to be one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert set(body) == {"type", "title", "status", "detail", "instance"}
    assert body["status"] == status
    assert sort is None or body["type"] == f"/docs#{sort}"
    assert body["instance"] == f"urn:uuid:{answer.headers['x-request-id']}"
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text
    assert str(Path.cwd()) not in answer.text
    detail: str = body["detail"]
    return detail


PREDICT = "/v1/predict"


@pytest.mark.parametrize(
    ("path", "body", "sort", "told"),
    [
        (PREDICT, {"task": "moud", "inputs": ["x"]}, "unknown-task", "there are mood, .*did you mean 'mood'"),
        (PREDICT, {"task": "../../etc/passwd", "inputs": ["x"]}, "unknown-task", "no task"),
        (PREDICT, {"task": "mood", "inputs": ["x", 5]}, "invalid", "mood: input 2: expected a text, found 5"),
        (PREDICT, {"task": "mood", "inputs": [["a", "b"]]}, "invalid", "input 1: expected a text, found"),
        (PREDICT, {"task": "mood", "inputs": [None]}, "invalid", "input 1: expected a text, found None"),
        (PREDICT, {"task": "pairs", "inputs": ["x"]}, "invalid", "input 1: expected a pair of texts"),
        (PREDICT, {"task": "order", "inputs": [["q", "c"]]}, "invalid", "input 1: expected a query"),
        (PREDICT, {"task": "ending", "inputs": [["q", ["c"]]]}, "invalid", "input 1: found 1 choices"),
        (
            PREDICT,
            {"task": "names", "inputs": [{"words": []}]},
            "invalid",
            "expected a text or a list of words",
        ),
        (PREDICT, {"task": "mood", "inputs": "a text"}, "invalid", "inputs: .*list.*found 'a text'"),
        (PREDICT, {"task": "mood"}, "invalid", "inputs: expected this key, found none"),
        (PREDICT, {"task": 1, "inputs": []}, "invalid", "task: .*string, found 1"),
        (PREDICT, {"task": "mood", "input": ["x"]}, "invalid", "inputs: expected this key"),
        (PREDICT, {"task": "mood", "inputs": [], "inptus": []}, "invalid", "'inptus': no such key.*'inputs'"),
        ("/v1/analyze", {"texts": ["x", ["a", "b"]]}, "invalid", "text 2: expected a text"),
        (
            "/v1/analyze",
            {"texts": ["x"], "tasks": ["pairs"]},
            "invalid",
            "'pairs' does not read a single text",
        ),
        ("/v1/analyze", {"texts": ["x"], "tasks": ["moud"]}, "unknown-task", "did you mean 'mood'"),
        ("/v1/analyze", {"texts": [1]}, "invalid", "text 1: expected"),
        ("/v1/embed", {"texts": ["x", 1]}, "invalid", "texts.2: .*string, found 1"),
        ("/v1/embed", {"texts": ["x"], "pooling": "max"}, "invalid", "pooling: .*'mean' or 'cls'"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    served: "Served", path: str, body: Any, sort: str, told: str
) -> None:
    assert re.search(told, problem(served.post(path, body), 422, sort))


def test_more_than_is_taken_is_refused(
    serving: "Callable[..., Served]", every_kind: "Callable[[], Model]"
) -> None:
    limits = {"body": 2000, "inputs": 3, "texts": 5, "characters": 50, "queue_tokens": 60}
    served = serving({"kinds": every_kind()}, limits=limits)

    def refused(body: Any, path: str = PREDICT) -> str:
        return problem(served.post(path, body), 413, "too-large")

    assert served.post(PREDICT, {"task": "mood", "inputs": ["x", "y", "z"]}).status_code == 200
    assert "inputs: found 4, at most 3" in refused({"task": "mood", "inputs": ["x"] * 4})
    assert "texts: found 4, at most 3" in refused({"texts": ["x"] * 4}, "/v1/embed")
    assert "found 6 texts, at most 5" in refused({"task": "order", "inputs": [["q", ["c"] * 5]]})
    assert "number 2 has a text of 51 characters, at most 50" in refused(
        {"task": "mood", "inputs": ["x", "x" * 51]}
    )
    assert "more than 2,000 bytes" in refused({"task": "mood", "inputs": ["x" * 2000]})
    assert "at most 60" in refused({"task": "pairs", "inputs": [["z" * 40, "y" * 40]] * 2})


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON: .* at line 1, column 2"),
        (b"[]", "expected a JSON object, found a list"),
        (b"null", "found null"),
        (b'"text"', "found a text"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8: byte 0"),
        (b'{"task": "mood", "inputs": ["caf\xe9"]}', "not UTF-8: byte 32"),
        (b'{"task": "mood", "inputs": ["a\\u0000b"]}', "NUL at place 1"),
        (b'{"task": "mood", "inputs": ["a\x00b"]}', "not JSON"),
        (b'{"task": "mood", "inputs": ["\\ud83d"]}', "half of a surrogate pair at place 0"),
        (b'{"task": "mood", "inputs": ["\xed\xa0\xbd"]}', "not UTF-8"),
        (b'{"task": "mood", "inputs": [NaN]}', "NaN is no number"),
        (b'{"task": "mood", "inputs": [' + b"9" * 5000 + b"]}", "too many digits"),
        (b'{"task": "mood", "task": "deep", "inputs": []}', "'task' stands in an object twice"),
        (b"[" * 100_000, "deep|not JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "more than 8 deep"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "more than 8 deep"),
        (b'{"task": "mood", "inputs": [' + b"[" * 20 + b"]" * 20 + b"]}", "more than 8 deep"),
        (b'\xef\xbb\xbf{"task": "mood", "inputs": []}', "not JSON"),
    ],
)
def test_what_is_no_json_object_is_refused(served: "Served", body: bytes, told: str) -> None:
    assert re.search(told, problem(served.raw(PREDICT, body), 400, "malformed"))


@pytest.mark.parametrize(
    ("kind", "headers"),
    [
        (None, {}),
        ("text/plain", {}),
        ("application/x-www-form-urlencoded", {}),
        ("multipart/form-data; boundary=x", {}),
        ("application/json; charset=latin-1", {}),
        ("application/jsonx", {}),
        ("application/json", {"Content-Encoding": "gzip"}),
    ],
)
def test_another_media_type_is_refused(served: "Served", kind: str | None, headers: dict[str, str]) -> None:
    problem(served.raw(PREDICT, b'{"task": "mood", "inputs": ["x"]}', kind, **headers), 415, "media-type")


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", 'application/json;charset="UTF-8"']
)
def test_json_by_its_other_names_is_read(served: "Served", kind: str) -> None:
    assert served.raw(PREDICT, b'{"task": "mood", "inputs": ["x"]}', kind).status_code == 200


def test_paths_and_methods_that_are_not_there(served: "Served") -> None:
    for path in ("/nope", "/v1", "/v1/predict/", "/v1/../etc/passwd", "/%2e%2e/x", "/v1/tasks/mood"):
        problem(served.client.get(path), 404, "not-found")
    answer = served.client.get(PREDICT)
    assert "POST" in problem(answer, 405, "method")
    assert answer.headers["allow"] == "POST"
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        problem(served.client.request(method, PREDICT), 405, "method")
    problem(served.post("/v1/tasks", {}), 405, "method")


def test_a_failure_is_told_without_its_reason(served: "Served", monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"{__file__}: the secret text")

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "encode", broken)
        answer = served.post(PREDICT, {"task": "mood", "inputs": ["a film"]})
    detail = problem(answer, 500, "failed")
    assert "secret" not in detail
    line = json.loads(served.log[-1])
    assert (line["status"], line["failed"]) == (500, "RuntimeError")
    assert "secret" not in served.log[-1]
    assert served.post(PREDICT, {"task": "mood", "inputs": ["a film"]}).status_code == 200


def test_what_takes_too_long_is_refused_and_dropped(
    serving: "Callable[..., Served]", every_kind: "Callable[[], Model]", monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serving({"kinds": every_kind()}, limits={"timeout": 0.3})
    go = threading.Event()
    plain = Encoder.encode

    def slow(self: Encoder, *arguments: Any, **settings: Any) -> Any:
        assert go.wait(20)
        return plain(self, *arguments, **settings)

    monkeypatch.setattr(Encoder, "encode", slow)
    answer = served.post(PREDICT, {"task": "mood", "inputs": ["a film"]})
    assert "0.3 s" in problem(answer, 503, "timeout")
    assert int(answer.headers["retry-after"]) >= 1
    (queue,) = served.offer.queues
    assert (queue.waiting_tokens, queue.waiting_requests) == (0, 0)
    go.set()
    assert served.post(PREDICT, {"task": "mood", "inputs": ["a film"]}).status_code == 200


def test_a_service_that_is_being_stopped_refuses(served: "Served") -> None:
    assert served.client.get("/readyz").json() == {"status": "ready"}
    served.service.stopping = True
    assert served.client.get("/healthz").status_code == 200
    for answer in (served.client.get("/readyz"), served.post(PREDICT, {"task": "mood", "inputs": ["x"]})):
        problem(answer, 503, "stopping")
        assert answer.headers["connection"] == "close"
        assert answer.headers["retry-after"] == "5"


def test_more_than_are_worked_on_at_once_wait_outside(served: "Served") -> None:
    served.service.at_work = served.service.limits.concurrency
    answer = served.post(PREDICT, {"task": "mood", "inputs": ["x"]})
    problem(answer, 429, "queue-full")
    assert answer.headers["retry-after"] == "1"
    assert served.client.get("/healthz").status_code == 200
    served.service.at_work = 0


# ---- who may ask, and what a browser is told ----


def test_a_token_is_asked_for(serving: "Callable[..., Served]", every_kind: "Callable[[], Model]") -> None:
    served = serving({"kinds": every_kind()}, token="a b secret")
    body = {"task": "mood", "inputs": ["x"]}
    wrong = ["", "Bearer", "Bearer ", "Bearer wrong", "Bearer a b secre", "Basic a b secret", "a b secret"]
    for header in (None, *wrong):
        given = {} if header is None else {"Authorization": header}
        answer = served.post(PREDICT, body, headers=given)
        problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/v1/tasks", "/metrics", "/docs", "/openapi.json", "/page", "/page/", "/nope"):
        problem(served.client.get(path), 401)
    for path in ("/healthz", "/readyz", "/", "/page/app.js"):
        assert served.client.get(path).status_code == 200
    for scheme in ("Bearer", "bearer"):
        headers = {"Authorization": f"{scheme} a b secret"}
        assert served.post(PREDICT, body, headers=headers).status_code == 200
        assert served.client.get("/docs", headers=headers).status_code == 200
    twice = [("Authorization", "Bearer a b secret"), ("Authorization", "Bearer other")]
    problem(served.client.get("/v1/tasks", headers=twice), 401)
    assert "secret" not in "".join(served.log)


def test_every_answer_has_the_security_headers(served: "Served") -> None:
    answers = [
        served.client.get("/v1/tasks"),
        served.client.get("/docs"),
        served.client.get("/nope"),
        served.raw(PREDICT, b"{"),
        served.client.get("/metrics"),
    ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def test_other_origins_may_ask_where_they_are_named(
    serving: "Callable[..., Served]", every_kind: "Callable[[], Model]"
) -> None:
    served = serving({"kinds": every_kind()}, cors=["https://shop.example"], token="t")
    asks = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    for origin, allowed in (("https://shop.example", True), ("https://evil.example", False)):
        before = served.client.options(PREDICT, headers={"Origin": origin, **asks})
        assert (before.headers.get("access-control-allow-origin") == origin) is allowed
        given = {"Origin": origin, "Authorization": "Bearer t"}
        answer = served.post(PREDICT, {"task": "mood", "inputs": ["x"]}, headers=given)
        assert answer.status_code == 200
        assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
        assert "access-control-allow-credentials" not in answer.headers


# ---- log, metrics, documentation ----


def test_the_log_is_json_without_texts(served: "Served") -> None:
    served.post(PREDICT, {"task": "mood", "inputs": ["the zebra secret"]})
    served.client.get("/the/secret/path?secret=1")
    served.client.request("SECRET", "/healthz")
    lines = [json.loads(line) for line in served.log[-3:]]
    assert "secret" not in "".join(served.log).lower()
    first = lines[0]
    assert set(first) == {"time", "method", "route", "status", "ms", "tokens", "id"}
    assert (first["method"], first["route"], first["status"]) == ("POST", PREDICT, 200)
    assert first["tokens"] > 4
    assert [(one["method"], one["route"], one["status"]) for one in lines[1:]] == [
        ("GET", "other", 404),
        ("other", "/healthz", 405),
    ]


def test_metrics_count_requests_inputs_and_passes(served: "Served") -> None:
    served.post(PREDICT, {"task": "mood", "inputs": ["a film", "the film was good " * 20]})
    served.post(PREDICT, {"task": "moud", "inputs": []})
    text = served.client.get("/metrics").text
    for line in (
        'manyheads_requests_total{method="POST",route="/v1/predict",status="200"} 1.0',
        'manyheads_requests_total{method="POST",route="/v1/predict",status="422"} 1.0',
        'manyheads_inputs_total{task="mood"} 2.0',
        'manyheads_truncated_inputs_total{task="mood"} 1.0',
        "manyheads_pass_tokens_count 1.0",
        "manyheads_pass_tokens_sum 20.0",
        "manyheads_queue_tokens 0.0",
        "manyheads_requests_at_work 0.0",
    ):
        assert line in text.splitlines(), line


def test_the_documentation_is_a_page_of_its_own(served: "Served") -> None:
    page = served.client.get("/docs").text
    assert "http" not in re.sub(r"http://HOST:PORT|http-equiv", "", page)  # nothing of another host
    assert "<script" not in page
    assert "javascript" not in page
    for path in (
        "/v1/predict",
        "/v1/analyze",
        "/v1/embed",
        "/v1/explain",
        "/v1/label",
        "/v1/tasks",
        "/healthz",
        "/metrics",
    ):
        assert path in page
    from manyheads.serve.problems import PROBLEMS

    assert all(f"id='{name}'" in page for name in PROBLEMS)  # where the problems' types lead


def test_the_examples_of_the_documentation_are_answered(served: "Served") -> None:
    document = served.client.get("/openapi.json").json()
    asked = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method != "post":
                continue
            for example in (
                operation["requestBody"]["content"].get("application/json", {}).get("examples", {}).values()
            ):
                assert served.post(path, example["value"]).status_code == 200
                asked += 1
    assert asked == len(INPUTS) + 2 + 1 + 5


# ---- the hostile ----

HOSTILE: list[tuple[str, str, bytes, dict[str, str]]] = [
    ("POST", PREDICT, b'{"task": "' + b"x" * 500_000 + b'", "inputs": []}', {}),
    ("POST", PREDICT, b'{"task": "../../../etc/passwd", "inputs": ["x"]}', {}),
    ("POST", PREDICT, b'{"task": "mood\\u0000", "inputs": ["x"]}', {}),
    ("POST", PREDICT, b'{"task": "__class__", "inputs": ["x"]}', {}),
    ("POST", PREDICT, b'{"task": "task mood", "inputs": ["x"]}', {}),
    ("POST", PREDICT, b'{"task": "", "inputs": ["x"]}', {}),
    ("POST", PREDICT, b'{"task": {"$ref": "x"}, "inputs": ["x"]}', {}),
    ("POST", PREDICT, b'{"task": "mood", "inputs": [' + b'"x",' * 300 + b'"x"]}', {}),
    ("POST", PREDICT, b'{"task": "mood", "inputs": ["' + b"x " * 20_000 + b'"]}', {}),
    ("POST", PREDICT, b'{"task": "mood", "inputs": ["' + b"x" * 2_000_000 + b'"]}', {}),
    ("POST", PREDICT, b'{"task": "order", "inputs": [["q", [' + b'"",' * 100_000 + b'""]]]}', {}),
    ("POST", PREDICT, b'{"task": "order", "inputs": [["q", []]]}', {}),
    ("POST", PREDICT, b'{"task": "names", "inputs": [[["a"]]]}', {}),
    ("POST", PREDICT, b'{"task": "mood", "inputs": {"0": "x"}}', {}),
    ("POST", PREDICT, b'{"task": "mood", "inputs": [true]}', {}),
    ("POST", PREDICT, b'{"task": "mood", "inputs": [1e999]}', {}),
    ("POST", PREDICT, b'{"task": "mood", "inputs": ["\\udc80\\ud800"]}', {}),
    ("POST", PREDICT, b'{"__proto__": {}, "task": "mood", "inputs": []}', {}),
    ("POST", PREDICT, b"[" * 500_000, {}),
    ("POST", PREDICT, b'{"a":' * 100_000, {}),
    ("POST", PREDICT, b"\x1f\x8b\x08\x00" + b"\x00" * 1000, {"Content-Encoding": "gzip"}),
    ("POST", PREDICT, b"\x1f\x8b\x08\x00" + b"\x00" * 1000, {}),
    ("POST", PREDICT, b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'b'>]>", {}),
    ("POST", PREDICT, b"task=mood", {"Content-Type": "application/x-www-form-urlencoded"}),
    ("POST", "/v1/analyze", b'{"texts": ["x"], "tasks": []' + b" " * 900_000 + b',"tasks": []}', {}),
    ("POST", "/v1/analyze", b'{"texts": [[]]}', {}),
    ("POST", "/v1/embed", b'{"texts": [["x"]]}', {}),
    ("POST", "/v1/embed", b'{"texts": ["x"], "pooling": null}', {}),
    ("GET", "/v1/predict?task=mood", b"", {}),
    ("GET", "/..%2f..%2fetc%2fpasswd", b"", {}),
    ("GET", "/v1/tasks%00", b"", {}),
    ("DELETE", "/v1/tasks", b"", {}),
    ("POST", "/metrics", b"{}", {}),
]


def test_hostile_requests_are_refused_and_the_service_lives(served: "Served") -> None:
    assert len(HOSTILE) >= 30
    for method, path, body, headers in HOSTILE:
        given = {"Content-Type": "application/json", **headers}
        answer = served.client.request(method, path, content=body, headers=given)
        assert 400 <= answer.status_code < 500, (method, path, body[:60], answer.text[:200])
        problem(answer, answer.status_code)
        assert len(answer.text) < 1000
    assert served.post(PREDICT, {"task": "mood", "inputs": ["a good film"]}).status_code == 200
    (queue,) = served.offer.queues
    assert (queue.waiting_tokens, queue.waiting_requests) == (0, 0)
