"""`manyheads serve` as a process on loopback: its port, its signals, and what comes in over a raw socket."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from tests.conftest import Command

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

BODY = json.dumps({"task": "mood", "inputs": ["a good film"]}).encode()


class Running(NamedTuple):
    """A service in a process of its own."""

    process: "subprocess.Popen[str]"
    port: int

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any]:
        """(status, body) of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        finally:
            connection.close()

    def raw(self, request: bytes, seconds: float = 10) -> bytes:
        """All that comes back for bytes, until the other side closes the connection or says nothing more."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as line:
            found = b""
            with suppress(OSError):  # closed before all was sent; the answer can be there
                line.sendall(request)
            try:
                while part := line.recv(65536):
                    found += part
                    if b"\r\n\r\n" in found and b"onnection: close" not in found:
                        line.settimeout(1)
            except OSError:
                pass
            return found

    def lives(self) -> None:
        """That it still answers."""
        assert self.ask("POST", "/v1/predict", BODY)[0] == 200

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """(exit status, standard error) after a signal."""
        self.process.send_signal(number)
        _, told = self.process.communicate(timeout=60)
        return self.process.returncode, told


Start = Callable[..., Running]


@pytest.fixture(scope="module")
def start(tiny_run: Path) -> Iterator[Start]:
    """Starts services; what still runs at the end is ended by its id."""
    processes: list[subprocess.Popen[str]] = []

    def run(*options: object) -> Running:
        process = subprocess.Popen(
            [sys.executable, "-m", "manyheads", "serve", str(tiny_run), "--port", "0", *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        said = re.fullmatch(r"serving mood, pairs at http://127\.0\.0\.1:(\d+)\n", line)
        assert said, (line, process.stderr.read() if process.stderr and process.poll() is not None else "")
        return Running(process, int(said[1]))

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait(30)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture(scope="module")
def running(start: Start) -> Running:
    """One service for all tests that leave it running."""
    return start("--quiet", "--max-body", 10_000, "--timeout", 3)


def test_it_answers_and_ends_with_status_0(start: Start) -> None:
    one = start()
    assert one.ask("GET", "/readyz") == (200, {"status": "ready"})
    status, body = one.ask("POST", "/v1/predict", BODY)
    assert (status, body["task"]) == (200, "mood")
    left, told = one.end(signal.SIGINT)
    assert left == 0
    lines = [json.loads(line) for line in told.splitlines()]
    assert [(line["route"], line["status"]) for line in lines] == [("/readyz", 200), ("/v1/predict", 200)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_accepted_is_answered_before_it_ends(start: Start, number: int) -> None:
    one = start("--batch-tokens", 48, "--quiet")
    body = json.dumps(
        {"task": "mood", "inputs": [f"the film was good and {i} warm" for i in range(250)]}
    ).encode()
    answers: list[tuple[int, Any]] = []
    asking = threading.Thread(target=lambda: answers.append(one.ask("POST", "/v1/predict", body)))
    asking.start()
    waited = time.monotonic() + 20
    while time.monotonic() < waited:
        connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=30)
        connection.request("GET", "/metrics")
        if b"manyheads_queue_requests 1.0" in connection.getresponse().read():
            connection.close()
            break
        connection.close()
    left, told = one.end(number)
    asking.join(30)
    assert (left, told) == (0, "")
    assert answers, "the request was not answered"
    assert answers[0][0] == 200
    assert len(answers[0][1]["predictions"]) == 250
    with pytest.raises(OSError):  # noqa: PT011 (refused, by whatever name)
        socket.create_connection(("127.0.0.1", one.port), timeout=5).close()


def head(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


POST = "POST /v1/predict HTTP/1.1"
HOST = "Host: here"
JSON = "Content-Type: application/json"


def status(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    assert found, answer[:200]
    return int(found[1])


def test_a_body_in_chunks_is_read_and_one_that_is_too_long_is_not(running: Running) -> None:
    chunked = head(POST, HOST, JSON, "Transfer-Encoding: chunked")
    good = running.raw(chunked + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))
    assert status(good) == 200
    endless = running.raw(
        chunked + b"1000\r\n" + b" " * 4096 + b"\r\n" + (b"1000\r\n" + b" " * 4096 + b"\r\n") * 500
    )
    assert status(endless) == 413
    assert b"application/problem+json" in endless
    assert endless.count(b"HTTP/1.1 ") == 1
    told = running.raw(head(POST, HOST, JSON, "Content-Length: 99999999999"))
    assert status(told) == 413  # at once, without waiting for the body
    running.lives()


SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        head(
            POST, HOST, JSON, "Content-Length: 4", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED
        ),
        head(POST, HOST, JSON, "Content-Length: 4", "Content-Length: 40", body=b"{}  " + SMUGGLED),
        head(POST, HOST, JSON, "Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + SMUGGLED),
        head(POST, HOST, JSON, "Transfer-Encoding : chunked", body=b"0\r\n\r\n" + SMUGGLED),
        head(POST, HOST, JSON, "Content-Length: -1", body=SMUGGLED),
        head(POST, HOST, JSON, "Content-Length: 0x10", body=SMUGGLED),
        head(POST, HOST, "Host: there", JSON, "Content-Length: 2", body=b"{}"),
        head("GET /v1/tasks HTTP/1.1", HOST, "X: a\x00b"),
        head("GET /v1/tasks HTTP/1.1", HOST, "X: " + "a" * 100_000),
        head("GET /" + "a" * 100_000 + " HTTP/1.1", HOST),
        head("GET /v1/tasks HTTP/1.1"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200 + b"\r\n\r\n",
        b"GET /v1/tasks\r\n\r\n",
    ],
)
def test_what_is_no_clean_http_is_refused_once(running: Running, request_: bytes) -> None:
    answer = running.raw(request_)
    assert 400 <= status(answer) < 502
    assert answer.count(b"HTTP/1.1 ") == 1  # nothing was smuggled behind it
    assert b"manyheads_requests" not in answer
    assert b"Traceback" not in answer
    running.lives()


def test_a_body_that_does_not_come_is_given_up(running: Running) -> None:
    answer = running.raw(head(POST, HOST, JSON, "Content-Length: 50", body=b'{"task"'), seconds=20)
    assert status(answer) == 408
    assert b"application/problem+json" in answer
    running.lives()


def test_no_answer_says_what_serves_it(running: Running) -> None:
    answer = running.raw(head("GET /healthz HTTP/1.1", HOST, "Connection: close"))
    assert status(answer) == 200
    assert b"server:" not in answer.lower()
    assert b"uvicorn" not in answer.lower()


def test_the_token_may_come_from_the_environment(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANYHEADS_TOKEN", "quite-secret")
    one = start("--quiet")
    assert one.ask("GET", "/v1/tasks")[0] == 401
    assert one.ask("GET", "/v1/tasks", Authorization="Bearer quite-secret")[0] == 200
    assert one.end()[0] == 0


def test_a_port_that_is_taken_and_other_mistakes_are_one_line(
    running: Running, command: "Command", tiny_run: Path
) -> None:
    assert f"port {running.port}: Address already in use" in command.refused(
        "serve", tiny_run, "--port", running.port
    )
    assert "no such address" in command.refused(
        "serve", tiny_run, "--host", "no.such.host.invalid", "--port", 0
    )
    assert "no such run folder" in command.refused("serve", "no-such-run", "--port", 0)
    assert "--token" in command.refused("serve", tiny_run, "--port", 0, "--token", "")
    assert "inputs: expected a number above 0" in command.refused("serve", tiny_run, "--max-inputs", 0)
    assert "timeout: expected" in command.refused("serve", tiny_run, "--timeout", "nan")


def test_without_the_extra_the_command_says_what_to_install(
    command: "Command", tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = import_module("manyheads.cli.serve")  # as an attribute of the package it is the command
    monkeypatch.setattr(source, "find_spec", lambda name: None if name == "uvicorn" else object())
    assert (
        command.refused("serve", tiny_run) == "error: serve needs uvicorn: pip install 'manyheads[serve]'\n"
    )


def test_help_does_not_load_the_extra() -> None:
    code = (
        "import sys; sys.argv = ['manyheads', '--help']\n"
        "from manyheads.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'fastapi', 'uvicorn', 'prometheus_client', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
