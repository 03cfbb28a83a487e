"""Connections of clients that are slow, on purpose or not: they are given up, and what works is not."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from manyheads.encoder.bert import Encoder

if TYPE_CHECKING:
    from tests.serve.conftest import Live

    from manyheads.model import Model

PATIENCE = 0.4
HEAD = b"GET /healthz HTTP/1.1\r\nHost: here\r\n"


@pytest.fixture
def live_one(live: "Callable[..., Live]", every_kind: "Callable[[], Model]") -> "Live":
    """A service with little patience."""
    return live({"kinds": every_kind()}, limits={"patience": PATIENCE, "timeout": 2.0, "connections": 6})


def ended(line: socket.socket) -> bytes:
    """What still came until the other side ended the connection, which must be within ten seconds."""
    line.settimeout(10)
    found = b""
    try:
        while part := line.recv(65536):
            found += part
    except ConnectionError:
        pass
    return found


def drip(line: socket.socket, drop: bytes) -> None:
    """Send again and again until the other side has ended the connection, which must be within twenty seconds."""
    end = time.monotonic() + 20
    with suppress(OSError):
        while time.monotonic() < end:
            line.sendall(drop)
            time.sleep(0.05)
    assert time.monotonic() < end, "it was never given up"


@pytest.mark.parametrize("sent", [b"", HEAD, b"GET", HEAD + b"X-A: " + b"b" * 5000])
def test_a_head_that_does_not_come_is_given_up(live_one: "Live", sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", live_one.port), timeout=10) as line:
        line.sendall(sent)
        assert ended(line) == b""
    assert live_one.get("/healthz")[0] == 200


def test_a_head_that_comes_drop_by_drop_is_given_up(live_one: "Live") -> None:
    with socket.create_connection(("127.0.0.1", live_one.port), timeout=10) as line:
        line.sendall(HEAD)
        drip(line, b"X: y\r\n")
    assert live_one.get("/healthz")[0] == 200


def test_a_second_request_has_its_own_time(live_one: "Live") -> None:
    with socket.create_connection(("127.0.0.1", live_one.port), timeout=10) as line:
        for _ in range(3):
            line.sendall(HEAD + b"\r\n")
            found = b""
            while b"alive" not in found:  # head and body may come one by one
                found += line.recv(65536)
            assert found.startswith(b"HTTP/1.1 200")
            time.sleep(PATIENCE / 2)
        line.sendall(HEAD)
        assert ended(line) == b""


def test_a_request_that_is_answered_before_its_end_is_given_up(live_one: "Live") -> None:
    with socket.create_connection(("127.0.0.1", live_one.port), timeout=10) as line:
        line.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n")
        assert b"200 OK" in line.recv(65536)
        drip(line, b"x")


def test_a_slow_answer_is_no_slow_client(live_one: "Live", monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Encoder.encode

    def slow(self: Encoder, *arguments: Any, **settings: Any) -> Any:
        time.sleep(3 * PATIENCE)
        return plain(self, *arguments, **settings)

    monkeypatch.setattr(Encoder, "encode", slow)
    assert live_one.post("/v1/predict", b'{"task": "mood", "inputs": ["a film"]}')[0] == 200


def test_a_file_that_does_not_come_is_given_up(live_one: "Live") -> None:
    head = b"POST /v1/label?task=mood HTTP/1.1\r\nHost: here\r\nContent-Type: text/csv\r\nContent-Length: 900\r\n\r\n"
    with socket.create_connection(("127.0.0.1", live_one.port), timeout=10) as line:
        line.sendall(head + b"a\nx\n")
        answer = ended(line)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"4 bytes had come" in answer
    live_one.idle()


def test_an_answer_that_is_not_taken_is_given_up(live_one: "Live") -> None:
    body = b"a,note\n" + (b"the film was good," + b"x" * 100_000 + b"\n") * 200
    head = b"POST /v1/label?task=mood HTTP/1.1\r\nHost: here\r\nContent-Type: text/csv\r\nContent-Length: %d\r\n\r\n"
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        line.settimeout(30)
        line.connect(("127.0.0.1", live_one.port))
        line.sendall(head % len(body) + body)
        live_one.idle(seconds=20)  # although nobody has read a byte
    assert live_one.get("/healthz")[0] == 200


def test_who_hangs_up_is_no_longer_worked_for(live_one: "Live", monkeypatch: pytest.MonkeyPatch) -> None:
    passes = 0
    begun = threading.Event()
    plain = Encoder.encode

    def slow(self: Encoder, *arguments: Any, **settings: Any) -> Any:
        nonlocal passes
        passes += 1
        begun.set()
        time.sleep(0.02)
        return plain(self, *arguments, **settings)

    monkeypatch.setattr(Encoder, "encode", slow)
    body = b"a\n" + b"the film was good\n" * 50_000  # some hundred passes
    head = b"POST /v1/label?task=mood HTTP/1.1\r\nHost: here\r\nContent-Type: text/csv\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", live_one.port), timeout=10) as line:
        line.sendall(head % len(body) + body)
        assert begun.wait(30)
    live_one.idle()
    done = passes
    time.sleep(0.2)
    assert passes <= done + 1
    assert passes < 50


def test_answers_are_sent_at_once(live_one: "Live") -> None:
    assert live_one.socket.proto == socket.IPPROTO_TCP  # what asyncio goes by
    with socket.create_connection(("127.0.0.1", live_one.port), timeout=10) as line:
        line.sendall(HEAD + b"\r\n")
        assert line.recv(65536)
        (taken,) = live_one.server.server_state.connections
        ours = taken.transport.get_extra_info("socket")
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_more_connections_than_are_taken_are_refused(live_one: "Live") -> None:
    lines = [socket.create_connection(("127.0.0.1", live_one.port), timeout=10) for _ in range(6)]
    try:
        taken = live_one.server.server_state.connections
        end = time.monotonic() + 10
        while len(taken) < len(lines):  # a connection is one for the kernel before it is one for the service
            assert time.monotonic() < end
            time.sleep(0.01)
        lines[0].sendall(HEAD + b"\r\n")
        assert b"503" in lines[0].recv(65536)
    finally:
        for line in lines:
            line.close()
    end = time.monotonic() + 10
    while live_one.get("/healthz")[0] != 200:
        assert time.monotonic() < end


@pytest.fixture(autouse=True)
def _still_lives(live_one: "Live") -> Iterator[None]:
    yield
    assert live_one.post("/v1/predict", b'{"task": "mood", "inputs": ["a film"]}')[0] == 200
