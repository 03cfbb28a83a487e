"""A connection that is given up where the other side lets it wait: with the head of a request, or with an answer.

Knows uvicorn's connections and time. Must not know what is asked or answered.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["patient"]


def patient(head: float, taking: float) -> type[H11Protocol]:
    """Connections that are closed where the line and headers of a request take longer than `head` seconds, or where
    nothing of an answer is taken for `taking` seconds.

    uvicorn itself bounds only the silence between requests; a body is bounded where it is read.
    """

    class Patient(H11Protocol):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            self._head: asyncio.TimerHandle | None = None
            self._taking: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._look()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._look()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._look()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_head()
            self._stop_taking()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stop_taking()
            self._taking = self.loop.call_later(taking, self.transport.abort)

        def resume_writing(self) -> None:
            self._stop_taking()
            super().resume_writing()

        def _look(self) -> None:
            """Measure the time while it is the other side's turn: to ask, or to end a request that is answered."""
            theirs = self.conn.their_state
            waits = theirs is h11.IDLE or (theirs is h11.SEND_BODY and self.conn.our_state is h11.DONE)
            if not waits or self.transport.is_closing():
                self._stop_head()
            elif self._head is None:
                self._head = self.loop.call_later(head, self._give_up)

        def _give_up(self) -> None:
            self._head = None
            if not self.transport.is_closing():
                self.transport.abort()

        def _stop_head(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

        def _stop_taking(self) -> None:
            if self._taking is not None:
                self._taking.cancel()
                self._taking = None

    return Patient
