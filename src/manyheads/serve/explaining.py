"""Explanations beside the queues: one at a time in a thread of their own, given up where nobody waits for them.

Knows models as they are served and how their answers are explained. Must not know HTTP or JSON.
"""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from manyheads.evidence.explain import Explanation, explain
from manyheads.model import Model
from manyheads.serve.batcher import Closed, Full
from manyheads.serve.offer import Offered

__all__ = ["Explainer"]

_TOLERANCE = 0.05  # of the sum of the attributions: finer would take many times as long, and nobody sees it
_SECONDS = 2.0  # that a refused client is told to wait for each explanation before it


class _Dropped(Exception):
    """Nobody waits for the explanation any more."""


class Explainer:
    """Explains answers of the tasks that are served, at most `most` asked for at the same time."""

    def __init__(self, most: int) -> None:
        self.possible = find_spec("captum") is not None
        """Whether captum is installed, without which nothing is explained."""
        self._most = most
        self._waiting = 0
        self._counting = threading.Lock()
        self._twins: dict[int, Model] = {}
        self._now: Future[Explanation] | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(1, "manyheads-explainer")

    def submit(self, offered: Offered, one: Any, target: str | None) -> "Future[Explanation]":
        """Queue an input of a task; the future gives the explanation, or the InputError that says why there is none.

        Cancelling the future ends the work on it. Raises Full or Closed.
        """
        if self._closed:
            raise Closed
        with self._counting:
            if self._waiting >= self._most:
                raise Full(_SECONDS * self._waiting)
            self._waiting += 1
        asked: Future[Explanation] = Future()
        asked.add_done_callback(self._gone)
        self._thread.submit(self._work, asked, offered, one, target)
        return asked

    def close(self) -> None:
        """Take nothing more, and end what is worked on."""
        self._closed = True
        if (now := self._now) is not None:
            now.cancel()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _gone(self, asked: "Future[Explanation]") -> None:
        with self._counting:
            self._waiting -= 1

    def _work(self, asked: "Future[Explanation]", offered: Offered, one: Any, target: str | None) -> None:
        if asked.done() or self._closed:
            return
        self._now = asked
        try:
            twin = self._twin(offered.model)
            (found,) = explain(twin, offered.task.name, [one], target=target, tolerance=_TOLERANCE)
        except _Dropped:
            pass
        except Exception as error:
            with suppress(InvalidStateError):
                asked.set_exception(error)
        else:
            with suppress(InvalidStateError):
                asked.set_result(found)
        finally:
            self._now = None

    def _twin(self, model: Model) -> Model:
        """The model with modules of its own over the same parameters: an explanation changes how products are made,
        and the passes of others must not be touched by it."""
        if id(model) not in self._twins:
            shared: dict[int, Any] = {id(one): one for one in model.network.parameters()}
            shared |= {id(one): one for one in model.network.buffers()}
            twin = copy.copy(model)
            twin.network = copy.deepcopy(model.network, shared)
            twin.network.register_forward_pre_hook(self._checked(lambda: self._now))
            self._twins[id(model)] = twin
        return self._twins[id(model)]

    @staticmethod
    def _checked(now: Callable[[], "Future[Explanation] | None"]) -> Callable[..., None]:
        def check(*_: object) -> None:
            if (asked := now()) is not None and asked.done():
                raise _Dropped

        return check
