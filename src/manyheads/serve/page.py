"""What a browser sees at the root of the service.

Knows paths of the service. Must not know models or queues.
"""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

__all__ = ["front"]


async def front(request: Request) -> Response:
    """On to the description of the API."""
    return RedirectResponse("/docs", 307)
