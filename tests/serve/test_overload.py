"""Ten times what the service can take, as a process: it lives, loses nothing, says no in words, and does not grow."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from manyheads.model import Model

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

QUEUE = 8  # requests that wait for the encoder
CLIENTS = 10 * QUEUE  # that never wait between two requests
EACH = 6
GROWTH = 24 * 2**20  # bytes: what a process may take and give back between two moments
INPUTS = 8


class Service(NamedTuple):
    """A service in a process of its own."""

    process: "subprocess.Popen[str]"
    port: int

    @property
    def memory(self) -> int:
        """Bytes in use that are its own."""
        try:
            text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        except OSError:
            return 0
        said = re.search(r"^RssAnon:\s+(\d+) kB", text, re.MULTILINE)
        return int(said[1]) * 1024 if said else 0


@pytest.fixture
def service(every_kind: "Callable[[], Model]", tmp_path: Path) -> Iterator[Service]:
    every_kind().save(tmp_path)
    command = [sys.executable, "-m", "manyheads", "serve", str(tmp_path), "--port", "0", "--quiet"]
    command += ["--queue-requests", str(QUEUE), "--concurrency", str(CLIENTS // 2)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        said = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert said, process.communicate(timeout=30)
        yield Service(process, int(said[1]))
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)


class Seen:
    """What all clients were told."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.answers: set[str] = set()
        self.wrong: list[object] = []
        self.memory: list[int] = []
        self._lock = threading.Lock()

    def note(self, status: int, body: bytes, wait: str | None, memory: int | None) -> None:
        """One answer."""
        with self._lock:
            self.statuses[status] += 1
            if memory is not None:
                self.memory.append(memory)
            if status == 200:
                self.answers.add(json.dumps(json.loads(body)["predictions"][0]["label"]))
                if len(json.loads(body)["predictions"]) != INPUTS:
                    self.wrong.append(body)
            elif status != 429 or not (wait or "").isdigit() or json.loads(body)["status"] != 429:
                self.wrong.append((status, wait, body))


def ask(service: Service, seen: Seen, number: int) -> None:
    """One client after the other request, on a connection that is opened again where it was closed."""
    body = json.dumps(
        {"task": "mood", "inputs": [f"a good film {number} " * (1 + i % 3) for i in range(INPUTS)]}
    )
    line = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    try:
        for turn in range(EACH):
            line.request("POST", "/v1/predict", body, {"Content-Type": "application/json"})
            answer = line.getresponse()
            content = answer.read()
            memory = service.memory if number == 0 or turn % 3 == 0 else None
            seen.note(answer.status, content, answer.headers["Retry-After"], memory)
    except Exception as error:
        seen.wrong.append(repr(error))
    finally:
        line.close()


def test_ten_times_too_much(service: Service) -> None:
    warm, seen = Seen(), Seen()
    ask(service, warm, 0)
    assert (warm.statuses, warm.wrong) == ({200: EACH}, [])
    clients = [threading.Thread(target=ask, args=(service, seen, i), daemon=True) for i in range(CLIENTS)]
    for one in clients:
        one.start()
    for one in clients:
        one.join(100)
    assert not any(one.is_alive() for one in clients)
    assert seen.wrong == []
    assert set(seen.statuses) == {200, 429}
    assert seen.statuses.total() == CLIENTS * EACH  # nobody was left without an answer
    assert seen.statuses[200] >= QUEUE
    if any(seen.memory):
        third = len(seen.memory) // 3
        assert max(seen.memory[-third:]) - max(seen.memory[third:-third]) < GROWTH
    after = Seen()
    ask(service, after, 1)
    assert (after.statuses, after.wrong) == ({200: EACH}, [])
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(30) == 0
