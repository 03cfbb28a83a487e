"""What stands before every request: its id and log line, the security headers, the token, and the last net.

Knows HTTP headers and statuses. Must not know tasks, models or the texts that pass through.
"""

import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from traceback import extract_tb
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manyheads.serve.metrics import Metrics
from manyheads.serve.problems import Problem, problem_response

__all__ = ["HEADERS", "Guard", "Watch"]

HEADERS = 16_384
"""Bytes of a request's line and headers."""

_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"content-security-policy": _POLICY.encode(),
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Watch:
    """The outermost layer: what goes wrong below it is one problem document, and one line in the log without texts.

    `routes` are the paths that are named in log and metrics; every other is `other`. `log` is given a line, None is
    silence.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, routes: frozenset[str], log: Callable[[str], None] | None
    ) -> None:
        self.app, self.metrics, self.routes, self.log = app, metrics, routes, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin = time.perf_counter()
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id = uuid.uuid4().hex
        status, failed = 0, None

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name.lower() for name, _ in message.get("headers", ())}
                missing = [(name, value) for name, value in _HEADERS.items() if name not in given]
                own = (b"x-request-id", request_id.encode())
                message = {**message, "headers": [*message.get("headers", ()), *missing, own]}
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except Exception as error:
            failed = error
            if not status:
                problem = Problem("failed", "the request was understood, but answering it failed")
                await problem_response(problem, request_id)(scope, receive, answer)
        finally:
            self._note(scope, status, time.perf_counter() - begin, failed or state.get("failure"))

    def _note(self, scope: Scope, status: int, seconds: float, failed: BaseException | None) -> None:
        route = scope["path"] if scope["path"] in self.routes else "other"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.metrics.request(route, method, status, seconds)
        if self.log is None:
            return
        line: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "method": method,
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 1),
            "tokens": scope["state"].get("tokens", 0),
            "id": scope["state"]["request_id"],
        }
        if failed is not None:  # the message may hold a text; where it was raised does not
            last = extract_tb(failed.__traceback__)[-1:]
            line["failed"] = type(failed).__name__
            line["at"] = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in last]
        self.log(json.dumps(line))


class Guard:
    """Refuses what must not come further: a wrong token, headers that are too long or say two things.

    `free` are the paths that need no token.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, free: frozenset[str]) -> None:
        self.app, self.free = app, free
        self._digest = None if token is None else hashlib.sha256(token.encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self._problem(scope)) is not None:
            await problem_response(problem, scope["state"]["request_id"])(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _problem(self, scope: Scope) -> Problem | None:
        names = [name for name, _ in scope["headers"]]
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADERS:
            return Problem("headers", f"the headers have more than {HEADERS:,} bytes", close=True)
        if b"transfer-encoding" in names and b"content-length" in names:
            return Problem("malformed", "both Transfer-Encoding and Content-Length are given", close=True)
        if names.count(b"host") > 1:
            return Problem("malformed", "several Host headers are given", close=True)
        if self._digest is None or scope["path"] in self.free:
            return None
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        # Digests have one length: the comparison takes as long whatever is sent.
        found = hashlib.sha256(token.strip()).digest()
        if hmac.compare_digest(found, self._digest) and scheme.lower() == b"bearer":
            return None
        what = "the token is not the service's" if given else "no Authorization header is given"
        return Problem("unauthorized", what, close=True)
