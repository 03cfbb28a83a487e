"""Many at once: the same answers as alone, passes that are filled by tokens, and what is too much is refused."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from manyheads.encoder.bert import Encoder

if TYPE_CHECKING:
    from tests.serve.conftest import Served

    from manyheads.model import Model

WORDS = ("film", "good", "bad", "story", "ugly", "warm", "zebra", "the", "日本", "café", "🙂")


def text(chance: random.Random, most: int = 12) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(1, most)))


def asked(chance: random.Random) -> tuple[str, dict[str, Any]]:
    """(path, body) of some request."""
    task = chance.choice(
        ("mood", "short", "deep", "pairs", "packed", "names", "answer", "ending", "order", "", " ")
    )
    count = chance.randint(1, 4)
    if task == "":
        return "/v1/analyze", {"texts": [text(chance) for _ in range(count)]}
    if task == " ":
        return "/v1/embed", {"texts": [text(chance) for _ in range(count)]}
    one: Callable[[], Any]
    if task in ("mood", "short", "deep", "names"):
        one = lambda: text(chance)  # noqa: E731
    elif task in ("pairs", "packed", "answer"):
        one = lambda: [text(chance), text(chance, 30)]  # noqa: E731
    else:
        one = lambda: [text(chance), [text(chance) for _ in range(chance.randint(2, 4))]]  # noqa: E731
    return "/v1/predict", {"task": task, "inputs": [one() for _ in range(count)]}


def numbers(value: Any) -> Any:
    """An answer with its numbers as pytest compares them."""
    if isinstance(value, float):
        return pytest.approx(value, abs=1e-4)
    if isinstance(value, dict):
        return {key: numbers(one) for key, one in value.items()}
    return [numbers(one) for one in value] if isinstance(value, list) else value


def together(served: "Served", requests: list[tuple[str, dict[str, Any]]]) -> list[Any]:
    """The answers to requests that are all sent at once."""
    import httpx

    async def send() -> list[Any]:
        transport = httpx.ASGITransport(app=served.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here", timeout=60) as client:
            return list(await asyncio.gather(*(client.post(path, json=body) for path, body in requests)))

    return asyncio.run(send())


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens of each pass of an encoder."""
    seen: list[int] = []
    plain = Encoder.encode

    def counted(self: Encoder, ragged: Any, **settings: Any) -> Any:
        seen.append(ragged.tokens)
        return plain(self, ragged, **settings)

    monkeypatch.setattr(Encoder, "encode", counted)
    return seen


@contextmanager
def held(queue: Any, patch: pytest.MonkeyPatch, until: int) -> Iterator[None]:
    """Holds the encoder's passes until so many requests wait."""
    plain = Encoder.encode

    def late(self: Encoder, *arguments: Any, **settings: Any) -> Any:
        waited = time.monotonic() + 60
        while queue.waiting_requests < until and not enough.is_set():
            assert time.monotonic() < waited
            time.sleep(0.005)
        enough.set()
        return plain(self, *arguments, **settings)

    enough = threading.Event()
    with patch.context() as own:
        own.setattr(Encoder, "encode", late)
        yield


def test_mixed_requests_at_once_answer_as_alone_in_passes_of_tokens(
    serving: "Callable[..., Served]",
    every_kind: "Callable[[], Model]",
    passes: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served = serving({"kinds": every_kind()}, limits={"batch_tokens": 1024})
    chance = random.Random(11)
    requests = [asked(chance) for _ in range(120)]
    alone = [served.post(path, body) for path, body in requests]
    assert {answer.status_code for answer in alone} == {200}
    single = len(passes)
    passes.clear()
    (queue,) = served.offer.queues
    with held(queue, monkeypatch, until=100):
        found = together(served, requests)
    assert {answer.status_code for answer in found} == {200}
    for one, other in zip(found, alone, strict=True):
        body = other.json()
        assert one.json() == numbers(body)
    assert single >= 120
    assert len(passes) < single / 4  # requests of different tasks share passes
    assert max(passes) <= 1024
    assert max(passes) > 512


def test_ten_times_too_much_is_refused_and_what_was_taken_is_answered(
    serving: "Callable[..., Served]", every_kind: "Callable[[], Model]"
) -> None:
    served = serving(
        {"kinds": every_kind()}, limits={"queue_requests": 20, "concurrency": 40, "batch_tokens": 128}
    )
    chance = random.Random(12)
    requests = [("/v1/predict", {"task": "mood", "inputs": [text(chance)] * 2}) for _ in range(400)]
    answers = together(served, requests)
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 20
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["type"] == "/docs#queue-full"
    (queue,) = served.offer.queues
    assert (queue.waiting_tokens, queue.waiting_requests, served.service.at_work) == (0, 0, 0)
    (again,) = together(served, requests[:1])
    assert again.status_code == 200


def test_a_client_that_leaves_is_not_worked_for(served: "Served", monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection ends while the request waits."""
    go, entered = threading.Event(), threading.Event()
    plain = Encoder.encode

    def slow(self: Encoder, *arguments: Any, **settings: Any) -> Any:
        entered.set()
        assert go.wait(20)
        return plain(self, *arguments, **settings)

    monkeypatch.setattr(Encoder, "encode", slow)
    body = b'{"task": "mood", "inputs": ["a film"]}'
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/predict",
        "raw_path": b"/v1/predict",
        "query_string": b"",
        "headers": headers,
    }
    messages = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        if len(messages) == 1:
            while not entered.is_set():
                await asyncio.sleep(0.001)
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    async def talk() -> None:
        await served.app(scope, receive, send)

    asyncio.run(talk())
    assert sent[0]["status"] == 499
    (queue,) = served.offer.queues
    assert queue.waiting_requests == 0
    go.set()
