"""What the service counts of itself, for Prometheus; a registry of its own for each service.

Knows numbers and their names. Must not know HTTP, models or texts.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_TOKENS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384)


class Metrics:
    """Requests, passes of the encoder, and what waits."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        self._requests = Counter(
            "manyheads_requests", "Requests that were answered.", ["route", "method", "status"], registry=own
        )
        self._seconds = Histogram(
            "manyheads_request_seconds",
            "From a request's first byte to its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=own,
        )
        self._inputs = Counter("manyheads_inputs", "Inputs that a task has answered.", ["task"], registry=own)
        self._truncated = Counter(
            "manyheads_truncated_inputs", "Those of them that were cut.", ["task"], registry=own
        )
        self._pass_tokens = Histogram(
            "manyheads_pass_tokens", "Tokens of a pass of an encoder.", buckets=_TOKENS, registry=own
        )
        self._pass_requests = Histogram(
            "manyheads_pass_requests",
            "Requests that share a pass.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=own,
        )
        self._pass_seconds = Histogram(
            "manyheads_pass_seconds", "Duration of a pass.", buckets=_SECONDS, registry=own
        )

    def watch(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """A number that is asked for whenever the metrics are read."""
        Gauge(f"manyheads_{name}", meaning, registry=self.registry).set_function(value)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def passed(self, tokens: int, requests: int, seconds: float) -> None:
        """An encoder has made a pass."""
        self._pass_tokens.observe(tokens)
        self._pass_requests.observe(requests)
        self._pass_seconds.observe(seconds)

    def answered(self, task: str, inputs: int, truncated: int) -> None:
        """A task has answered."""
        self._inputs.labels(task).inc(inputs)
        self._truncated.labels(task).inc(truncated)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        found: bytes = generate_latest(self.registry)
        return found
