"""What can be wrong with a request, as problem documents (RFC 9457); nothing of the inside is told.

Knows HTTP statuses and words for people. Must not know models or queues.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

__all__ = ["MEDIA_TYPE", "PROBLEMS", "Problem", "problem_response"]

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True)
class Sort:
    """A sort of problem: its status, its title, and what to do about it."""

    status: int
    title: str
    advice: str


PROBLEMS: dict[str, Sort] = {
    "malformed": Sort(
        400,
        "The request cannot be read",
        "Send UTF-8 without NUL: one JSON object, or for `/v1/label` rows of csv.",
    ),
    "unauthorized": Sort(
        401, "A token is needed", "Send the header `Authorization: Bearer TOKEN` with the service's token."
    ),
    "not-found": Sort(404, "There is nothing here", "The paths are listed on this page."),
    "method": Sort(405, "Not with this method", "The header `Allow` names the methods."),
    "slow": Sort(408, "The request came too slowly", "Send the whole body at once."),
    "too-large": Sort(413, "More than this service takes at once", "Send it in smaller requests."),
    "media-type": Sort(
        415,
        "Not the media type that is taken here",
        "Send `Content-Type: application/json`, for `/v1/label` `text/csv`, and no `Content-Encoding`.",
    ),
    "invalid": Sort(422, "Not what is expected here", "The detail says what was found and expected."),
    "unknown-task": Sort(422, "No such task", "`GET /v1/tasks` lists the tasks."),
    "queue-full": Sort(429, "Too much waits already", "Try again after the seconds that `Retry-After` says."),
    "headers": Sort(431, "The headers are too long", "Send fewer or shorter headers."),
    "failed": Sort(500, "It failed while working", "The request id leads to the reason in the log."),
    "not-offered": Sort(
        501,
        "This service cannot do that",
        "For explanations start it where captum is installed: `pip install 'manyheads[explain]'`.",
    ),
    "stopping": Sort(
        503, "The service is being stopped", "Another instance, or this one later, will answer."
    ),
    "timeout": Sort(503, "It took too long", "Send less in one request, or try again later."),
}


class Problem(Exception):
    """A request that is answered with a problem document."""

    def __init__(
        self,
        sort: str,
        detail: str,
        *,
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(detail)
        self.sort, self.detail = sort, detail
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
        if close:  # what is left of the request is not read
            self.headers["Connection"] = "close"
        if sort == "unauthorized":
            self.headers["WWW-Authenticate"] = "Bearer"

    def document(self, request_id: str) -> dict[str, Any]:
        """The document; its `type` is a place on the service's own page of documentation."""
        sort = PROBLEMS[self.sort]
        return {
            "type": f"/docs#{self.sort}",
            "title": sort.title,
            "status": sort.status,
            "detail": self.detail,
            "instance": f"urn:uuid:{request_id}",
        }


def problem_response(problem: Problem, request_id: str) -> Response:
    """The answer that tells of a problem."""
    return Response(
        json.dumps(problem.document(request_id)),  # ASCII: whatever stood in the request can be shown
        PROBLEMS[problem.sort].status,
        problem.headers,
        MEDIA_TYPE,
    )
