"""What the service takes and how long it works on it: one place for every bound, with its meaning.

Knows numbers. Must not know HTTP or models.
"""

from dataclasses import dataclass, fields

from manyheads.errors import InputError

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """The bounds of a service; each is an option of `manyheads serve`."""

    body: int = 1_048_576
    """Bytes of a request's body."""
    inputs: int = 256
    """Inputs in one request."""
    texts: int = 4096
    """Texts in one request, the two of a pair, candidates and words counted each."""
    characters: int = 20_000
    """Characters (code points) of one text."""
    queue_tokens: int = 65_536
    """Tokens that wait for an encoder, of all requests together."""
    queue_requests: int = 512
    """Requests that were taken for an encoder and are not answered."""
    batch_tokens: int = 2048
    """Tokens of one pass of the encoder, of all requests in it; one input that has more goes alone."""
    timeout: float = 30.0
    """Seconds from the first byte of a request until its answer."""
    concurrency: int = 256
    """Requests that are read or worked on at the same time."""
    file: int = 67_108_864
    """Bytes of a file that is to be labelled."""
    files: int = 4
    """Files that are labelled at the same time."""
    explanations: int = 8
    """Explanations that are asked for at the same time; one of them is worked on."""
    connections: int = 900
    """Connections at the same time, idle ones among them."""
    patience: float = 10.0
    """Seconds that a connection may take over the line and headers of a request."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not 0 < value < float("inf"):
                raise InputError(f"{each.name.replace('_', '-')}: expected a number above 0, found {value}")
