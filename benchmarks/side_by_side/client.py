"""A client that costs little: requests over loopback from one process without threads, a line of bytes each.

Knows sockets and HTTP/1.1 as far as it needs. Must not know servers, models or what an answer means; it imports
nothing but the standard library, and parses no answer while the clock runs.

Called as `python client.py JOB ANSWER`, both JSON files (`Job`, and what `run` returns). It waits for readiness in
the kernel (epoll), so that on a machine of few cores nearly all of the processor is left to the server; what it took
itself is part of the answer.
"""

import json
import select
import socket
import sys
import time
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

__all__ = ["Job", "run"]

_PATIENCE = 120.0  # seconds without any answer at all: something hangs
_CHUNK = 1 << 18


class Job(TypedDict):
    """What is to be asked, and how."""

    port: int
    """Of 127.0.0.1."""
    requests: list[list[tuple[str, str]]]
    """What a client asks one after the other before it draws again: (path, body as JSON)."""
    clients: int
    """Connections at the same time; with a rate, at most so many."""
    seconds: float
    """Of the measurement; what is under way then is waited for, and not counted."""
    warm: float
    """Seconds before it, of the same kind, which are not counted."""
    rate: float
    """Requests offered a second whatever is answered; 0: each client asks again when it was answered."""


class _Connection:
    """One connection and the request that is under way on it."""

    __slots__ = ("buffer", "known", "left", "number", "resent", "socket", "step", "turn")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()
        self.known = self.socket.fileno()
        self.number = self.step = self.resent = 0
        self.turn = 0.0
        self.left = -1

    def ask(self, request: bytes) -> None:
        """Send a request; the buffers of loopback take more than the largest has."""
        self.left = -1
        self.buffer.clear()
        with suppress(OSError):  # the other side has hung up: that is seen when it is read
            self.socket.sendall(request)

    def read(self) -> bool | None:
        """Take what has come: True when the answer is whole, None where the other side has hung up."""
        try:
            part = self.socket.recv(_CHUNK)
        except ConnectionError:
            part = b""
        if not part:
            return None
        self.buffer += part
        if self.left < 0:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return False
            head = bytes(self.buffer[:end]).lower()
            at = head.find(b"content-length:")
            self.left = end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])
        return len(self.buffer) >= self.left


def run(job: Job) -> dict[str, Any]:
    """Ask for `warm + seconds` seconds.

    Returns `seconds` and `cpu` (of this process) of the measurement; `turns`, how many lists of requests were
    answered in it, with `latencies` of each in seconds; `statuses` of requests by number; `answers`, {number of the
    list: bodies of the last time it was answered}; `retry_after`, the least that a 429 said (null: some had none);
    `broken`, connections that ended without an answer; `resent`, requests on connections that had just been closed for
    being idle, which were sent again; `unsent`, requests that found no free connection.
    """
    turns = [[_bytes(path, body) for path, body in one] for one in job["requests"]]
    poll = select.epoll()
    lines: dict[int, _Connection] = {}
    idle: deque[_Connection] = deque()
    statuses: Counter[int] = Counter()
    latencies: list[float] = []
    answers: dict[int, list[str]] = {}
    said: dict[int, list[str]] = {}
    waits: list[int | None] = []
    drawn = broken = resent = unsent = offered = 0

    def connected() -> _Connection:
        line = _Connection(job["port"])
        lines[line.known] = line
        poll.register(line.known, select.EPOLLIN)
        return line

    def gone(line: _Connection) -> None:
        poll.unregister(line.known)
        del lines[line.known]
        line.socket.close()

    def begin(line: _Connection) -> None:
        nonlocal drawn
        line.number, line.step, line.resent = drawn % len(turns), 0, 0
        drawn += 1
        said[line.known] = []
        line.turn = time.perf_counter()
        line.ask(turns[line.number][0])

    def again(old: _Connection) -> None:
        line = connected()
        line.number, line.step, line.turn, line.resent = old.number, old.step, old.turn, old.resent + 1
        said[line.socket.fileno()] = said.get(old.known, [])
        line.ask(turns[line.number][line.step])

    start = time.perf_counter()
    first, last = start + job["warm"], start + job["warm"] + job["seconds"]
    cpu = 0.0
    measuring = over = False
    if not job["rate"]:
        for _ in range(job["clients"]):
            begin(connected())
    busy = len(lines)
    heard = start
    while True:
        now = time.perf_counter()
        if not measuring and now >= first:
            measuring, cpu = True, time.process_time()
        if not over and now >= last:
            over, cpu, ended = True, time.process_time() - cpu, now
        if over and not busy:
            break
        if job["rate"] and not over:
            due = int((now - start) * job["rate"])
            while offered < due:
                offered += 1
                if idle:
                    line = idle.popleft()
                elif len(lines) < job["clients"]:
                    line = connected()
                else:
                    unsent += 1
                    continue
                busy += 1
                begin(line)
        wait = 0.002 if job["rate"] and not over else 0.05
        events = poll.poll(wait)
        if events:
            heard = now
        elif busy and now - heard > _PATIENCE:
            raise SystemExit(f"error: no answer in {_PATIENCE:.0f} s, after {dict(statuses)}, {busy} wait")
        for number, _ in events:
            line = lines[number]
            whole = line.read()
            if whole is None:
                gone(line)
                if line in idle:
                    idle.remove(line)
                elif not line.buffer and line.resent < 2:
                    # It was closed for having been idle, at the moment when it was used again: every client of HTTP
                    # knows that race, and asks once more.
                    resent += 1
                    again(line)
                else:
                    busy -= 1
                    broken += 1
                continue
            if not whole:
                continue
            now = time.perf_counter()
            head, _, body = bytes(line.buffer).partition(b"\r\n\r\n")
            status = int(head[9:12])
            statuses[status] += 1
            if status == 429:
                waits.append(_retry_after(head))
            said[number].append(body.decode())
            line.step += 1
            closes = b"connection: close" in head.lower()
            if status == 200 and line.step < len(turns[line.number]) and not closes:
                line.ask(turns[line.number][line.step])
                continue
            if status == 200:
                answers[line.number] = said[number]
                if measuring and not over:
                    latencies.append(now - line.turn)
            if closes:
                gone(line)
                line = connected() if not job["rate"] and not over else line
            if over:
                busy -= 1
            elif job["rate"]:
                busy -= 1
                if not closes:
                    idle.append(line)
            else:
                begin(line)
    for line in list(lines.values()):
        gone(line)
    return {
        "seconds": ended - max(first, start),
        "cpu": cpu,
        "turns": len(latencies),
        "latencies": latencies,
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "answers": {str(number): bodies for number, bodies in sorted(answers.items())},
        "retry_after": None if any(one is None for one in waits) else min(waits, default=0),  # type: ignore[type-var]
        "broken": broken,
        "resent": resent,
        "unsent": unsent,
        "offered": offered,
    }


def _bytes(path: str, body: str) -> bytes:
    content = body.encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def _retry_after(head: bytes) -> int | None:
    at = head.lower().find(b"\r\nretry-after:")
    return None if at < 0 else int(head[at + 14 :].split(b"\r\n", 1)[0])


if __name__ == "__main__":
    found = run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")
