"""Explanations over HTTP: the numbers of `evidence.explain`, one at a time, and nothing of others disturbed."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from manyheads.encoder.bert import Encoder

if TYPE_CHECKING:
    from tests.serve.conftest import Served

    from manyheads.model import Model

EXPLAIN = "/v1/explain"


def detail(answer: Any, status: int, sort: str) -> str:
    assert answer.status_code == status, answer.text
    assert answer.json()["type"] == f"/docs#{sort}"
    told: str = answer.json()["detail"]
    return told


@pytest.mark.parametrize(
    ("task", "one", "target"),
    [
        ("mood", "a good film", None),
        ("mood", "a good film", "bad"),
        ("pairs", ["a good film", "a bad story"], None),
        ("packed", ["a good film", "a bad story"], "yes"),
    ],
)
def test_it_tells_what_explain_tells(served: "Served", task: str, one: Any, target: str | None) -> None:
    pytest.importorskip("captum", reason="the extra `explain` is not installed")
    from manyheads.evidence.explain import explain

    body = {"task": task, "input": one, **({} if target is None else {"target": target})}
    answer = served.post(EXPLAIN, body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    (wanted,) = explain(served.model, task, [one], target=target, tolerance=0.05)
    assert (found["task"], found["target"], found["model"]) == (task, wanted.target, "kinds")
    assert found["score"] == pytest.approx(wanted.score, abs=1e-4)
    assert [(each["which"], each["start"], each["end"], each["text"]) for each in found["tokens"]] == [
        (each.which, each.start, each.end, each.text) for each in wanted.tokens
    ]
    values = [each["value"] for each in found["tokens"]]
    assert values == pytest.approx([each.value for each in wanted.tokens], abs=1e-3)
    assert sum(values) == pytest.approx(found["score"] - found["baseline"] + found["gap"], abs=1e-3)
    asked = served.post("/v1/predict", {"task": task, "inputs": [one]}).json()["predictions"][0]
    assert found["prediction"].keys() == asked.keys()


def test_what_cannot_be_explained_is_refused(served: "Served") -> None:
    pytest.importorskip("captum", reason="the extra `explain` is not installed")

    def refused(status: int, sort: str, **body: Any) -> str:
        return detail(served.post(EXPLAIN, body), status, sort)

    assert "not a single score" in refused(422, "invalid", task="names", input="ada was")
    assert "reads something else" in refused(422, "invalid", task="order", input=["a", ["b", "c"]])
    assert "no label 'goof'" in refused(422, "invalid", task="mood", input="x", target="goof")
    assert "has no labels" in refused(422, "invalid", task="pairs", input=["x", "y"], target="good")
    assert "expected a text" in refused(422, "invalid", task="mood", input=["x", "y"])
    assert "no task" in refused(422, "unknown-task", task="../x", input="x")
    assert "input: expected this key" in refused(422, "invalid", task="mood")


def test_without_captum_it_says_so(
    serving: "Callable[..., Served]", every_kind: "Callable[[], Model]", monkeypatch: pytest.MonkeyPatch
) -> None:
    from manyheads.serve import explaining

    monkeypatch.setattr(explaining, "find_spec", lambda name: None)
    served = serving({"kinds": every_kind()})
    assert served.client.get("/v1/tasks").json()["explains"] is False
    answer = served.post(EXPLAIN, {"task": "mood", "input": "a film"})
    assert "captum" in detail(answer, 501, "not-offered")


def test_more_than_are_taken_are_told_to_wait(
    serving: "Callable[..., Served]", every_kind: "Callable[[], Model]"
) -> None:
    served = serving({"kinds": every_kind()}, limits={"explanations": 1})
    if not served.service.explainer.possible:
        pytest.skip("the extra `explain` is not installed")
    served.service.explainer._waiting = 1
    answer = served.post(EXPLAIN, {"task": "mood", "input": "a film"})
    detail(answer, 429, "queue-full")
    assert int(answer.headers["retry-after"]) >= 1
    served.service.explainer._waiting = 0


def test_one_that_takes_too_long_is_given_up(
    serving: "Callable[..., Served]", every_kind: "Callable[[], Model]", monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("captum", reason="the extra `explain` is not installed")
    served = serving({"kinds": every_kind()}, limits={"timeout": 0.5})
    passes = 0
    go = threading.Event()
    plain = Encoder.encode

    def slow(self: Encoder, *arguments: Any, **settings: Any) -> Any:
        nonlocal passes
        passes += 1
        assert go.wait(20)
        return plain(self, *arguments, **settings)

    monkeypatch.setattr(Encoder, "encode", slow)
    detail(served.post(EXPLAIN, {"task": "mood", "input": "a good film"}), 503, "timeout")
    go.set()
    served.service.explainer.close()  # waits for the thread, which has nothing more to do
    assert passes <= 2  # the prediction, and the first of many points


def test_the_passes_of_others_are_not_touched(served: "Served") -> None:
    pytest.importorskip("captum", reason="the extra `explain` is not installed")
    from manyheads.encoder.layers import Linear

    before = {
        name: one.compute for name, one in served.model.network.named_modules() if isinstance(one, Linear)
    }
    assert served.post(EXPLAIN, {"task": "mood", "input": "a good film"}).status_code == 200
    (twin,) = served.service.explainer._twins.values()
    theirs = dict(twin.network.named_parameters())
    assert theirs.keys() == dict(served.model.network.named_parameters()).keys()
    for name, parameter in served.model.network.named_parameters():
        assert theirs[name] is parameter  # no second copy in memory
        assert parameter.grad is None
    assert all(
        twin.network.get_submodule(name) is not served.model.network.get_submodule(name) for name in before
    )
