"""The process: a socket, the signals that stop it, and an end that leaves no accepted request without its answer.

Knows uvicorn and the operating system. Must not know what is asked or answered.
"""

import logging
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from manyheads.errors import InputError
from manyheads.serve.connection import patient
from manyheads.serve.watch import HEADERS

__all__ = ["address_of", "listen", "log_line", "run", "served"]

_WAITING = 1024  # connections that the system holds until they are taken
_IDLE = 5  # seconds that a connection may say nothing between requests


def listen(host: str, port: int) -> socket.socket:
    """A socket of its own address; port 0 is any free one."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise InputError(f"--host {host!r}: no such address") from None
    # With its protocol, by which asyncio tells connections that are to send at once (TCP_NODELAY): without it the
    # second part of an answer waited for the client's acknowledgement of the first, 40 ms.
    taken = socket.socket(family, kind, protocol)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        raise InputError(f"cannot listen at {host}, port {port}: {error.strerror}") from None
    return taken


def run(app: FastAPI, taken: socket.socket, started: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; what was accepted then is answered first, a second signal ends it at once.

    `started` is called with the service's address.
    """
    service = app.state.service
    server = served(app)

    def stop(number: int, frame: FrameType | None) -> None:
        service.stopping = True
        server.force_exit = server.should_exit
        server.should_exit = True

    # uvicorn raises a signal that it has handled once more when it ends, and the process would die of it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    vars(server)["handle_exit"] = stop
    taken.listen(_WAITING)  # whoever reads the address may connect at once
    started(address_of(taken))
    server.run(sockets=[taken])
    service.close()


def served(app: FastAPI) -> uvicorn.Server:
    """The service in uvicorn, not yet running: what a connection may take and how long."""
    limits = app.state.service.limits
    logging.getLogger("uvicorn").setLevel(
        logging.CRITICAL
    )  # the access log is ours, and texts stay out of it
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=patient(limits.patience, limits.timeout),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_WAITING,
            timeout_keep_alive=_IDLE,
            timeout_graceful_shutdown=int(limits.timeout) + 2,
            limit_concurrency=limits.connections,
            h11_max_incomplete_event_size=HEADERS,
        )
    )


def log_line(line: str) -> None:
    """One line of the access log, on standard error."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def address_of(taken: socket.socket) -> str:
    """Where a socket listens, as a URL."""
    host, port = taken.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
