"""The page at the root of the service: its files as they lie here, with the headers that let it load nothing else.

Knows files, media types and HTTP headers. Must not know models, queues or what the page does.
"""

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["POLICY", "files"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
)
"""The page's content security policy: its own files, and no script or style within the page."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def files() -> dict[str, Callable[[Request], Awaitable[Response]]]:
    """{path: what answers it}: the page at `/`, what it loads under `/page/`."""
    found = {}
    for file in sorted(Path(__file__).parent.iterdir()):
        if file.suffix in _TYPES:
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            found[path] = _answering(file.read_bytes(), _TYPES[file.suffix])
    return found


def _answering(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    headers = {
        "Content-Security-Policy": POLICY,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        # The browser may keep it, and asks whether it is still the same: a newer service brings a newer page.
        "Cache-Control": "no-cache",
        "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
    }

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, headers={**headers, "Content-Type": kind})

    return answer
