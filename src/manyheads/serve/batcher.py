"""The queue before an encoder: what waits is merged into passes by tokens, and one thread works them off.

Knows parts of requests, tokens and time. Must not know HTTP, tasks or what an answer looks like.

A request is due at the time it came plus the time that its own tokens take, and what is due first is served first: a
short request waits behind a long one only if that has waited its own length already, and nobody waits for ever, as
what comes later is due later and later. A request of many inputs is served in several passes, others between.
"""

import heapq
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numpy.typing import NDArray

from manyheads.passes import Part
from manyheads.tasks.head import Rows, joined

__all__ = ["Batcher", "Closed", "Full", "TooMuch"]

_OLD = 0.8  # what a measured speed keeps of its weight with each newer one
_HICCUP = 4.0  # times as long as expected: more of a single pass is not believed
_STARTING_SPEED = 1000.0  # tokens a second, until the first pass is measured


class Full(Exception):
    """The queue takes no more; `seconds` until it likely does."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the queue is full for about {seconds:.0f} s")
        self.seconds = seconds


class TooMuch(Exception):
    """One request has more tokens than the queue holds."""

    def __init__(self, tokens: int, most: int) -> None:
        super().__init__(f"{tokens} tokens in one request, at most {most} are taken")
        self.tokens, self.most = tokens, most


class Closed(Exception):
    """The queue takes nothing more: the service is being stopped."""


@dataclass(eq=False)
class _Work:
    parts: Sequence[Part]
    tokens: NDArray[np.int64]
    """[n] of each input."""
    future: "Future[list[Rows]]" = field(default_factory=Future)
    served: int = 0
    """Inputs that have been given to a pass."""
    answered: list[list[Rows]] = field(default_factory=list)
    """What each pass said, a list with an entry a part."""

    @property
    def left(self) -> int:
        """Tokens that no pass has been given yet."""
        return int(self.tokens[self.served :].sum())


@dataclass(frozen=True)
class _Share:
    """The inputs of a request that go through one pass."""

    work: _Work
    begin: int
    end: int

    def parts(self) -> list[Part]:
        return [part.rows(self.begin, self.end) for part in self.work.parts]


class Batcher:
    """Takes parts from any thread and answers each with a future of its readers' outputs.

    `read` makes one pass over parts. `batch_tokens` bounds a pass (but for one input that is longer); the queue holds
    at most `tokens` tokens and `requests` requests, and no more than likely can be answered within half of `patience`
    seconds: what was taken can then be answered in time whatever comes after it. `passed` is told of each pass:
    (tokens, requests, seconds).
    """

    def __init__(
        self,
        read: Callable[[Sequence[Part]], list[Rows]],
        *,
        batch_tokens: int,
        tokens: int,
        requests: int,
        patience: float = math.inf,
        passed: Callable[[int, int, float], None] | None = None,
    ) -> None:
        self._read = read
        self.batch_tokens, self.most_tokens, self.most_requests = batch_tokens, tokens, requests
        self._patience = patience
        self._passed = passed
        self._numbers = count()
        self._heap: list[tuple[float, int, _Work]] = []
        self._tokens = self._requests = 0
        self._measured = (0.0, 0.0)  # tokens and seconds of passes, old ones fading
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="manyheads-batcher", daemon=True)
        self._thread.start()

    @property
    def waiting_tokens(self) -> int:
        """Tokens that are in no pass yet."""
        return self._tokens

    @property
    def waiting_requests(self) -> int:
        """Requests that were taken and are not answered yet."""
        return self._requests

    @property
    def alive(self) -> bool:
        """Whether it still takes and answers requests."""
        return self._thread.is_alive() and not self._closing

    @property
    def speed(self) -> float:
        """Tokens a second, as measured of late."""
        tokens, seconds = self._measured
        return tokens / seconds if seconds > 0 else _STARTING_SPEED

    def check(self) -> None:
        """Raise Full or Closed where any request would be refused, before anything is done for it."""
        with self._changed:
            self._check(1)

    def submit(self, parts: Sequence[Part], tokens: NDArray[np.int64]) -> "Future[list[Rows]]":
        """Queue n inputs of at least one, which all parts read; `tokens` [n] are theirs.

        The future gives the outputs of each part; cancelling it takes out of the queue what is still there. Raises
        Full, TooMuch or Closed.
        """
        total = int(tokens.sum())
        if total > self.most_tokens:
            raise TooMuch(total, self.most_tokens)
        work = _Work(parts, tokens)
        with self._changed:
            self._check(total)
            due = time.monotonic() + total / self.speed
            heapq.heappush(self._heap, (due, next(self._numbers), work))
            self._tokens += total
            self._requests += 1
            self._changed.notify()
        work.future.add_done_callback(lambda _: self._gone(work))
        return work.future

    def measure(self, parts: Sequence[Part]) -> None:
        """Work on parts as if they had been asked, to warm up and to learn the speed; before anything is queued."""
        self._read(parts)
        begin = time.perf_counter()
        self._read(parts)
        seconds = time.perf_counter() - begin
        self._measured = (float(sum(len(part.layout.ids) for part in parts)), seconds)

    def close(self, seconds: float | None = None) -> bool:
        """Take nothing more, answer what was taken, and end the thread; False where that took longer than `seconds`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _check(self, tokens: int) -> None:
        if self._closing:
            raise Closed
        wait = self._tokens / self.speed
        if (
            self._requests >= self.most_requests
            or self._tokens + tokens > self.most_tokens
            or wait > self._patience / 2
        ):
            raise Full(wait)

    def _gone(self, work: _Work) -> None:
        """A request was answered, has failed, or nobody waits for it any more."""
        with self._changed:
            self._requests -= 1
            self._tokens -= work.left
            work.served = len(work.tokens)
            work.parts, work.answered = (), []

    # ---- the thread ----

    def _work(self) -> None:
        while shares := self._next():
            begin = time.perf_counter()
            try:
                found = self._pass(shares)
            except Exception:
                found = None
            seconds = time.perf_counter() - begin
            if found is not None:
                tokens = sum(int(one.work.tokens[one.begin : one.end].sum()) for one in shares)
                self._note(tokens, len(shares), seconds)
                for share, outputs in zip(shares, found, strict=True):
                    self._answer(share, outputs)
            else:  # what breaks a pass may be one request: each goes alone, and only that one fails
                for share in shares:
                    self._alone(share)

    def _next(self) -> list[_Share]:
        """What goes through the next pass; empty where there is nothing more to come."""
        with self._changed:
            while True:
                while not self._heap and not self._closing:
                    self._changed.wait()
                if shares := self._taken():
                    return shares
                if self._closing and not self._heap:
                    return []

    def _taken(self) -> list[_Share]:
        """The next inputs by their dues, as many as fill a pass; empty where all that was queued has gone away."""
        shares: list[_Share] = []
        room = self.batch_tokens
        while self._heap and room > 0:
            work = self._heap[0][2]
            if work.future.done():
                heapq.heappop(self._heap)
                continue
            ends = np.cumsum(work.tokens[work.served :])
            taken = int(np.searchsorted(ends, room, side="right"))
            if not taken:
                if shares:
                    break
                taken = 1  # an input longer than a pass
            used = int(ends[taken - 1])
            shares.append(_Share(work, work.served, work.served + taken))
            room -= used
            self._tokens -= used
            work.served += taken
            if work.served == len(work.tokens):
                heapq.heappop(self._heap)
        return shares

    def _pass(self, shares: Sequence[_Share]) -> list[list[Rows]]:
        """The outputs of each share's parts."""
        parts = [share.parts() for share in shares]
        found = iter(self._read([part for some in parts for part in some]))
        return [[next(found) for _ in some] for some in parts]

    def _alone(self, share: _Share) -> None:
        try:
            (outputs,) = self._pass([share])
        except Exception as error:
            with suppress(InvalidStateError):
                share.work.future.set_exception(error)
        else:
            self._answer(share, outputs)

    def _answer(self, share: _Share, outputs: list[Rows]) -> None:
        work = share.work
        if work.future.done():
            return
        work.answered.append(outputs)
        if share.end == len(work.tokens):
            whole = [joined(some) for some in zip(*work.answered, strict=True)]
            with suppress(InvalidStateError):  # cancelled at this moment
                work.future.set_result(whole)

    def _note(self, tokens: int, requests: int, seconds: float) -> None:
        if self._passed is not None:
            self._passed(tokens, requests, seconds)
        # A pass of few tokens takes as long as one of some more: it says little about the speed under load.
        if tokens >= self.batch_tokens / 4:
            before, took = self._measured
            # One pass that was held up, by whatever, is not the speed from now on; if all are slow, it is soon learnt.
            seconds = min(seconds, _HICCUP * tokens / self.speed)
            self._measured = (before * _OLD + tokens, took * _OLD + seconds)
