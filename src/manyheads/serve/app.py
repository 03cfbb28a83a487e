"""The HTTP interface: paths, what each takes and answers, and how much of it at once.

Knows requests, answers and the offer. Must not know how a model works or how a process is run.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, Response

from manyheads.errors import InputError, nearest, shown
from manyheads.serve import description, messages
from manyheads.serve.batcher import Closed, Full, TooMuch
from manyheads.serve.limits import Limits
from manyheads.serve.messages import AnalyzeRequest, EmbedRequest, PredictRequest, checked, told
from manyheads.serve.metrics import Metrics
from manyheads.serve.offer import Embedder, Laid, Offer, Offered
from manyheads.serve.page import front
from manyheads.serve.problems import MEDIA_TYPE, PROBLEMS, Problem, problem_response
from manyheads.serve.reading import read_body, read_object
from manyheads.serve.watch import Guard, Watch
from manyheads.tasks.head import Rows, plain

__all__ = ["Service", "create_app"]

_SMALL = 4096  # bytes of a body whose work beside the encoder is too little to be handed to another thread
_ABOUT = (
    "Heads of trained models over HTTP. Requests of different tasks share passes of their encoder; answers do not "
    "depend on what else is asked."
)

T = TypeVar("T")


class Service:
    """The answers to requests, and how many are worked on."""

    def __init__(self, offer: Offer, limits: Limits, metrics: Metrics) -> None:
        self.offer, self.limits, self.metrics = offer, limits, metrics
        self.stopping = False
        self.at_work = 0
        metrics.watch("requests_at_work", "Requests that are read or worked on.", lambda: float(self.at_work))

    # ---- the paths ----

    async def predict(self, request: Request) -> Response:
        """One task's predictions for texts, pairs, or whatever the task reads."""
        return await self._turn(request, self._predict)

    async def analyze(self, request: Request) -> Response:
        """What every head says of each text, or of each pair of texts, from one pass of the encoder."""
        return await self._turn(request, self._analyze)

    async def embed(self, request: Request) -> Response:
        """A vector for each text."""
        return await self._turn(request, self._embed)

    async def tasks(self, request: Request) -> Response:
        """The tasks that are served, what each reads and says, and the limits of this service."""
        found = []
        for name, offered in self.offer.tasks.items():
            kind = offered.task.kind
            labels = kind.facts().get("labels")
            found.append(
                {
                    "name": name,
                    "kind": kind.settings.kind,
                    **({"labels": list(labels)} if labels else {}),
                    "inputs": {1: "text", 2: "pair"}.get(kind.reads, "text and candidates"),
                    "max_length": offered.task.max_length,
                    "model": offered.run,
                }
            )
        limits = self.limits
        bounds = {
            "body": limits.body,
            "inputs": limits.inputs,
            "texts": limits.texts,
            "characters": limits.characters,
            "tokens": limits.queue_tokens,
            "timeout": limits.timeout,
        }
        return _json({"tasks": found, "models": list(self.offer.embedders), "limits": bounds})

    async def health(self, request: Request) -> Response:
        """Whether the process lives."""
        return _json({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        """Whether it takes requests: 503 while it is being stopped."""
        if self.stopping or not self.offer.alive:
            raise _stopping()
        return _json({"status": "ready"})

    async def numbers(self, request: Request) -> Response:
        """Counters for Prometheus."""
        return Response(self.metrics.text(), headers={"Content-Type": self.metrics.content_type})

    # ---- a request from its bytes to its answer ----

    async def _turn(
        self, request: Request, answer: Callable[[Request, Mapping[str, Any], int], Awaitable[Any]]
    ) -> Response:
        if self.stopping:
            raise _stopping()
        if self.at_work >= self.limits.concurrency:
            detail = f"{self.at_work} requests are worked on already"
            raise Problem("queue-full", detail, retry_after=1, close=True)
        self.at_work += 1
        begin = time.monotonic()
        try:
            try:
                async with asyncio.timeout(self.limits.timeout):
                    body = await read_body(request, self.limits.body)
            except TimeoutError:
                detail = f"the body had not come after {self.limits.timeout:g} s"
                raise Problem("slow", detail, close=True) from None
            rest = self.limits.timeout - (time.monotonic() - begin)
            try:
                async with asyncio.timeout(rest):
                    size = len(body)
                    asked = await _aside(size, read_object, body)
                    return await _aside(size, _json, await answer(request, asked, size))
            except TimeoutError:
                detail = f"there was no answer after {self.limits.timeout:g} s"
                raise Problem("timeout", detail, retry_after=self.limits.timeout) from None
            except Full as full:
                raise Problem("queue-full", "too much waits already", retry_after=full.seconds) from None
            except TooMuch as much:
                detail = (
                    f"the inputs have {much.tokens:,} tokens, at most {much.most:,} are taken in one request"
                )
                raise Problem("too-large", detail) from None
            except Closed:
                raise _stopping() from None
        finally:
            self.at_work -= 1

    async def _predict(self, request: Request, body: Mapping[str, Any], size: int) -> dict[str, Any]:
        asked = checked(PredictRequest, body)
        offered = self._offered(asked.task)
        self._check(asked.inputs, "inputs")
        if not asked.inputs:
            return {"task": asked.task, "predictions": [], "model": offered.run}
        offered.queue.check()
        laid = await _aside(size, self._laid, [offered], asked.inputs)
        found = await self._answered(request, laid)
        predictions = await _aside(size, self._told, [offered], laid, found)
        return {"task": asked.task, "predictions": predictions[asked.task], "model": offered.run}

    async def _analyze(self, request: Request, body: Mapping[str, Any], size: int) -> dict[str, Any]:
        asked = checked(AnalyzeRequest, body)
        self._check(asked.texts, "texts")
        texts = 1 if not asked.texts or isinstance(asked.texts[0], str) else 2
        what = "a single text" if texts == 1 else "a pair of texts"
        tasks = self.offer.tasks
        chosen = (
            list(tasks.values())
            if asked.tasks is None
            else list(map(self._offered, dict.fromkeys(asked.tasks)))
        )
        fitting = [one for one in chosen if one.task.kind.reads == texts]
        wrong = [one.name for one in chosen if one.task.kind.reads != texts]
        if asked.tasks is not None and wrong:
            raise Problem("invalid", f"tasks: the task {wrong[0]!r} does not read {what}")
        if not asked.texts or not chosen:
            return {"results": [{} for _ in asked.texts]}
        if not fitting:
            raise Problem("invalid", f"no task here reads {what}; there are {', '.join(tasks)}")
        for queue in {one.queue for one in fitting}:
            queue.check()
        laid = await _aside(size, self._laid, fitting, asked.texts, "text")
        found = await self._answered(request, laid)
        predictions = await _aside(size, self._told, fitting, laid, found)
        names = [one.name for one in fitting]
        return {"results": [{name: predictions[name][i] for name in names} for i in range(len(asked.texts))]}

    async def _embed(self, request: Request, body: Mapping[str, Any], size: int) -> dict[str, Any]:
        asked = checked(EmbedRequest, body)
        self._check(asked.texts, "texts")
        embedder = self._embedder(asked.model)
        if asked.pooling == "cls" and embedder.model.network.encoder.shape.causal:
            raise Problem(
                "invalid", "pooling: the first token of this model has seen nothing; expected 'mean'"
            )
        told = {
            "embeddings": [],
            "dimension": embedder.dimension,
            "tokens_dropped": [],
            "model": embedder.run,
        }
        if not asked.texts:
            return told
        embedder.queue.check()
        laid = await _aside(size, embedder.lay, asked.texts, asked.pooling)
        ((vectors,),) = await self._answered(request, [laid])
        return told | {
            "embeddings": plain(vectors).tolist(),
            "tokens_dropped": laid.parts[0].layout.dropped.tolist(),
        }

    # ---- its pieces ----

    def _offered(self, name: str) -> Offered:
        tasks = self.offer.tasks
        if name not in tasks:
            known = ", ".join(tasks)
            raise Problem(
                "unknown-task", f"no task {shown(name)} here; there are {known}{nearest(name[:200], tasks)}"
            )
        return tasks[name]

    def _embedder(self, name: str | None) -> Embedder:
        known = self.offer.embedders
        if name is not None and name not in known:
            raise Problem("invalid", f"model: found {shown(name)}, expected one of {', '.join(known)}")
        return next(iter(known.values())) if name is None else known[name]

    def _check(self, inputs: Sequence[Any], name: str) -> None:
        """Refuse more inputs or texts, or longer ones, than are taken."""
        limits = self.limits
        if len(inputs) > limits.inputs:
            raise Problem(
                "too-large",
                f"{name}: found {len(inputs):,}, at most {limits.inputs:,} are taken in one request",
            )
        texts = 0
        for number, one in enumerate(inputs, start=1):
            level = [one]
            while level:
                value = level.pop()
                if isinstance(value, list):
                    level += value
                elif isinstance(value, str):
                    texts += 1
                    if len(value) > limits.characters:
                        raise Problem(
                            "too-large",
                            f"{name}: number {number} has a text of {len(value):,} characters, "
                            f"at most {limits.characters:,} are taken",
                        )
        if texts > limits.texts:
            raise Problem(
                "too-large",
                f"{name}: found {texts:,} texts, at most {limits.texts:,} are taken in one request",
            )

    def _laid(self, tasks: Sequence[Offered], inputs: Sequence[Any], what: str = "input") -> list[Laid]:
        """The inputs as they wait for the tasks' encoders; a Problem says which one is none."""
        given: list[list[Any]] = []
        for offered in tasks:
            given.append([])
            for number, one in enumerate(inputs, start=1):
                try:
                    given[-1].append(offered.input(one))
                except ValueError as error:
                    raise Problem("invalid", f"{offered.name}: {what} {number}: {error}") from None
        try:
            return list(self.offer.lay(tasks, given))
        except InputError as error:
            if error.file is not None:
                raise
            raise Problem("invalid", str(error)) from None

    async def _answered(self, request: Request, laid: Sequence[Laid]) -> list[list[Rows]]:
        """The outputs for what was laid out; nothing is worked on any more once nobody waits for it."""
        request.state.tokens = sum(int(one.tokens.sum()) for one in laid)
        queued: list[Future[list[Rows]]] = []
        try:
            for one in laid:
                queued.append(one.submit())
            waiting = asyncio.gather(*map(asyncio.wrap_future, queued))
            gone = asyncio.ensure_future(_disconnected(request))
            try:
                await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    raise ClientDisconnect
                found: list[list[Rows]] = waiting.result()
                return found
            finally:
                gone.cancel()
                waiting.cancel()
        finally:
            for one_future in queued:
                one_future.cancel()

    def _told(
        self, tasks: Sequence[Offered], laid: Sequence[Laid], found: Sequence[list[Rows]]
    ) -> dict[str, list[dict[str, Any]]]:
        """{task: its predictions as JSON}."""
        answers = {}
        for one, outputs in zip(laid, found, strict=True):
            for offered in tasks:
                if offered.queue is not one.queue:
                    continue
                own = outputs[one.readers.index(offered.reader)]
                predictions = offered.predictions(one, own)
                cut = sum(prediction.truncated for prediction in predictions)
                self.metrics.answered(offered.name, len(predictions), cut)
                answers[offered.name] = list(map(told, predictions))
        return answers


def create_app(
    offer: Offer,
    *,
    limits: Limits | None = None,
    metrics: Metrics | None = None,
    token: str | None = None,
    cors: Sequence[str] = (),
    log: Callable[[str], None] | None = None,
) -> FastAPI:
    """The service as an ASGI application; its `Service` is `app.state.service`.

    With `token` every path but /healthz and /readyz needs it; pages of the origins `cors` may read answers in a
    browser; `log` is given one line of JSON for each request.
    """
    limits, metrics = limits or offer.limits, metrics or Metrics()
    service = Service(offer, limits, metrics)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.service = service
    problems = {str(PROBLEMS[name].status): _told_problem(PROBLEMS[name].status) for name in PROBLEMS}
    examples = _examples(offer)
    routes: list[tuple[str, str, Callable[..., Any], str | None]] = [
        ("POST", "/v1/predict", service.predict, "Predict"),
        ("POST", "/v1/analyze", service.analyze, "Analyze"),
        ("POST", "/v1/embed", service.embed, "Embed"),
        ("GET", "/v1/tasks", service.tasks, "Tasks"),
        ("GET", "/healthz", service.health, None),
        ("GET", "/readyz", service.ready, None),
        ("GET", "/metrics", service.numbers, None),
    ]
    for method, path, endpoint, message in routes:
        extra: dict[str, Any] = {"responses": _responses(path, method, message, problems)}
        if method == "POST":
            schema = {"$ref": f"#/components/schemas/{message}Request"}
            content = {"application/json": {"schema": schema, "examples": examples[path]}}
            extra["requestBody"] = {"required": True, "content": content}
        app.add_api_route(
            path,
            endpoint,
            methods=[method],
            response_class=Response,
            operation_id=path.strip("/").replace("/", "_"),
            openapi_extra=extra,
        )
    document = _document(app, token is not None)
    page = description.described(document)

    async def openapi(request: Request) -> Response:
        return _json(document)

    async def docs(request: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": description.POLICY})

    app.add_api_route("/openapi.json", openapi, include_in_schema=False)
    app.add_api_route("/docs", docs, include_in_schema=False)
    app.add_api_route("/", front, include_in_schema=False)

    app.add_exception_handler(Problem, _tell_problem)
    app.add_exception_handler(HTTPException, _tell_http)
    app.add_exception_handler(ClientDisconnect, _tell_nobody)
    paths = frozenset([*(path for _, path, _, _ in routes), "/openapi.json", "/docs", "/"])
    app.add_middleware(Guard, token=token)
    if cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )
    app.add_middleware(Watch, metrics=metrics, routes=paths, log=log)
    return app


async def _tell_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error, request.state.request_id)


async def _tell_http(request: Request, error: Exception) -> Response:
    """Problems that the router finds."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        problem = Problem("method", f"expected {headers.get('Allow', 'another method')}", headers=headers)
    else:
        problem = Problem("not-found", "no such path")
    return problem_response(problem, request.state.request_id)


async def _tell_nobody(request: Request, error: Exception) -> Response:
    """The client has gone; the status stands in the log only."""
    return Response(status_code=499)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _aside(size: int, function: Callable[..., T], *arguments: Any) -> T:
    """The function's result: of a large request from another thread, so that others are not kept waiting."""
    if size <= _SMALL:
        return function(*arguments)
    found: T = await run_in_threadpool(function, *arguments)
    return found


def _json(value: Any) -> Response:
    body = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(body.encode(), media_type="application/json")


def _stopping() -> Problem:
    return Problem("stopping", "the service is being stopped", retry_after=5, close=True)


# ---- the OpenAPI document ----


def _told_problem(status: int) -> dict[str, Any]:
    titles = [sort.title for sort in PROBLEMS.values() if sort.status == status]
    schema = {"$ref": "#/components/schemas/ProblemAnswer"}
    return {"description": " · ".join(titles), "content": {MEDIA_TYPE: {"schema": schema}}}


def _responses(path: str, method: str, message: str | None, problems: Mapping[str, Any]) -> dict[str, Any]:
    if method == "POST":
        others = [status for status in problems if status not in ("404", "405")]
    else:
        others = ["401", "500", "503"] if path == "/readyz" else ["401", "500"]
    found: dict[str, Any] = {"200": {"description": "The answer"}}
    if message is not None:
        schema = {"$ref": f"#/components/schemas/{message}Answer"}
        found["200"]["content"] = {"application/json": {"schema": schema}}
    elif path == "/metrics":
        found["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    else:
        found["200"]["content"] = {"application/json": {"schema": {"type": "object"}}}
    return found | {status: problems[status] for status in others}


def _examples(offer: Offer) -> dict[str, dict[str, Any]]:
    """Requests that this service answers, by path."""
    by_reads: dict[int, Any] = {
        1: ["A fine film.", "The pump broke after one day."],
        2: [["How old are you?", "What is your age?"]],
        0: [["How do I boil an egg?", ["In water, for six minutes.", "The film was long."]]],
    }
    predict = {
        name: {
            "summary": f"The task {name}",
            "value": {"task": name, "inputs": by_reads[offered.task.kind.reads]},
        }
        for name, offered in offer.tasks.items()
    }
    reads = {offered.task.kind.reads for offered in offer.tasks.values()}
    analyze = {}
    if 1 in reads:
        analyze["texts"] = {"summary": "Every head on a text", "value": {"texts": by_reads[1][:1]}}
    if 2 in reads:
        analyze["pairs"] = {"summary": "Every head on a pair", "value": {"texts": by_reads[2]}}
    embed = {"texts": {"summary": "Vectors", "value": {"texts": by_reads[1]}}}
    return {"/v1/predict": predict, "/v1/analyze": analyze, "/v1/embed": embed}


def _document(app: FastAPI, token: bool) -> dict[str, Any]:
    from manyheads import __version__

    found: dict[str, Any] = get_openapi(
        title="manyheads", version=__version__, description=_ABOUT, routes=app.routes
    )
    found.setdefault("components", {})["schemas"] = messages.schemas()
    if token:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
    return found
