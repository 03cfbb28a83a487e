"""Fixtures of the service's tests: a model with every kind of task, and clients of services in this process."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from manyheads.model import Model


class Served:
    """A service in this process, with a client, its log, and the models behind it."""

    def __init__(self, models: dict[str, "Model"], limits: dict[str, Any], settings: dict[str, Any]) -> None:
        from starlette.testclient import TestClient

        from manyheads.serve.app import create_app
        from manyheads.serve.limits import Limits
        from manyheads.serve.metrics import Metrics
        from manyheads.serve.offer import Offer

        self.models = models
        self.log: list[str] = []
        metrics = Metrics()
        self.offer = Offer(models, Limits(**limits), metrics)
        self.app = create_app(self.offer, metrics=metrics, log=self.log.append, **settings)
        self.service = self.app.state.service
        self.client = TestClient(self.app)

    @property
    def model(self) -> "Model":
        """The first model."""
        return next(iter(self.models.values()))

    def post(self, path: str, body: Any, **settings: Any) -> Any:
        """The answer to a request of JSON."""
        return self.client.post(path, json=body, **settings)

    def raw(self, path: str, body: bytes, kind: str | None = "application/json", **headers: str) -> Any:
        """The answer to a request of bytes."""
        given = {} if kind is None else {"Content-Type": kind}
        return self.client.post(path, content=body, headers={**given, **headers})


@pytest.fixture
def serving() -> Iterator[Callable[..., Served]]:
    """Serves models: `serving({"run": model}, token="…", limits={"inputs": 3})`."""
    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
    pytest.importorskip("httpx", reason="httpx is not installed")
    made: list[Served] = []

    def serve(models: dict[str, "Model"], *, limits: dict[str, Any] | None = None, **settings: Any) -> Served:
        served = Served(models, limits or {}, settings)
        made.append(served)
        return served

    yield serve
    for served in made:
        served.client.close()
        assert served.service.close()


@pytest.fixture
def served(serving: Callable[..., Served], every_kind: Callable[[], "Model"]) -> Served:
    """A service of the model with every kind of task."""
    return serving({"kinds": every_kind()})


@pytest.fixture
def two_runs(tiny_run: Path, serving: Callable[..., Served], every_kind: Callable[[], "Model"]) -> Served:
    """A service of two runs that both have tasks `mood` and `pairs`, on different encoders."""
    from manyheads.run import load

    return serving({"kinds": every_kind(), "tiny": load(tiny_run)})


class Live:
    """A service on a port of this machine, in a thread of this process."""

    def __init__(self, models: dict[str, "Model"], limits: dict[str, Any], settings: dict[str, Any]) -> None:
        from manyheads.serve import server

        served = Served(models, limits, settings)
        self.served, self.service, self.log = served, served.service, served.log
        self.socket = server.listen("127.0.0.1", 0)
        self.socket.listen(64)
        self.url = server.address_of(self.socket)
        self.port = int(self.socket.getsockname()[1])
        self.server = server.served(served.app)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],), daemon=True)
        self.thread.start()

    @property
    def model(self) -> "Model":
        """The first model."""
        return self.served.model

    def get(self, path: str) -> tuple[int, bytes]:
        """(status, body)"""
        return self._ask("GET", path, None, {})

    def post(self, path: str, body: bytes, kind: str = "application/json") -> tuple[int, bytes]:
        """(status, body)"""
        return self._ask("POST", path, body, {"Content-Type": kind})

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            line.request(method, path, body, headers)
            answer = line.getresponse()
            return answer.status, answer.read()
        finally:
            line.close()

    def idle(self, seconds: float = 15) -> None:
        """Wait until nothing is worked on, and nothing waits."""
        end = time.monotonic() + seconds
        queues = self.served.offer.queues
        while self.service.labelling or self.service.at_work or any(one.waiting_requests for one in queues):
            assert time.monotonic() < end, "it still works"
            time.sleep(0.02)

    def close(self) -> None:
        """End it."""
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.socket.close()
        self.served.client.close()
        assert self.service.close()


def _lives() -> Iterator[Callable[..., Live]]:
    pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    pytest.importorskip("httpx", reason="httpx is not installed")
    made: list[Live] = []

    def serve(models: dict[str, "Model"], *, limits: dict[str, Any] | None = None, **settings: Any) -> Live:
        made.append(Live(models, limits or {}, settings))
        return made[-1]

    yield serve
    for one in made:
        one.close()


@pytest.fixture
def live() -> Iterator[Callable[..., Live]]:
    """Starts services: `live({"run": model}, token="…", limits={"inputs": 3})`."""
    yield from _lives()


@pytest.fixture(scope="module")
def lasting() -> Iterator[Callable[..., Live]]:
    """As `live`, for all tests of a file."""
    yield from _lives()
