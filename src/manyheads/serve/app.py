"""The HTTP interface: paths, what each takes and answers, and how much of it at once.

Knows requests, answers and the offer. Must not know how a model works or how a process is run.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing, contextmanager
from dataclasses import asdict
from typing import Any, TypeVar, cast

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from manyheads.errors import InputError, nearest, shown
from manyheads.evidence.explain import Explanation
from manyheads.serve import description, messages, page
from manyheads.serve.batcher import Closed, Full, TooMuch
from manyheads.serve.explaining import Explainer
from manyheads.serve.labelling import FILE, Labelling
from manyheads.serve.limits import Limits
from manyheads.serve.messages import (
    AnalyzeRequest,
    EmbedRequest,
    ExplainRequest,
    PredictRequest,
    checked,
    told,
)
from manyheads.serve.metrics import Metrics
from manyheads.serve.offer import Embedder, Laid, Offer, Offered
from manyheads.serve.problems import MEDIA_TYPE, PROBLEMS, Problem, problem_response
from manyheads.serve.reading import pass_over, read_body, read_file, read_object
from manyheads.serve.watch import Guard, Watch
from manyheads.tasks.head import Rows, plain

__all__ = ["Service", "create_app"]

_SMALL = 4096  # bytes of a body whose work beside the encoder is too little to be handed to another thread
_AHEAD = 2  # pieces of a file in the queue: one is worked on while the next is read
_MOST_WAIT = 1.0  # seconds, after which a file that found the queue full tries again
_ABOUT = (
    "Heads of trained models over HTTP. Requests of different tasks share passes of their encoder; answers do not "
    "depend on what else is asked."
)

T = TypeVar("T")


class Service:
    """The answers to requests, and how many are worked on."""

    def __init__(self, offer: Offer, limits: Limits, metrics: Metrics) -> None:
        self.offer, self.limits, self.metrics = offer, limits, metrics
        self.explainer = Explainer(limits.explanations)
        self.stopping = False
        self.at_work = self.labelling = 0
        metrics.watch("files_at_work", "Files that are read or labelled.", lambda: float(self.labelling))
        metrics.watch("requests_at_work", "Requests that are read or worked on.", lambda: float(self.at_work))

    def close(self) -> bool:
        """Answer what was taken and end; False where that took longer than a request may."""
        self.explainer.close()
        return self.offer.close(self.limits.timeout)

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

    async def explain(self, request: Request) -> Response:
        """Which tokens moved a task's answer to one input, where the answer is one label or one value."""
        return await self._turn(request, self._explain)

    async def label(self, request: Request) -> Response:
        """A csv file with the columns of a task's answers behind each row's own."""
        try:
            self._refuse()
            if self.labelling >= self.limits.files:
                detail = f"{self.labelling} files are labelled already"
                raise Problem("queue-full", detail, retry_after=10, close=True)
            offered, columns, probabilities = self._asked_to_label(request)
        except Problem:
            await pass_over(request, self.limits.file, self.limits.timeout)
            raise
        self.labelling += 1
        labelling = None
        try:
            with _refusals():
                offered.queue.check()
            file = await read_file(request, self.limits.file, self.limits.timeout)
            with _mistakes():
                try:
                    labelling = Labelling(
                        offered,
                        cast(Any, file),
                        columns,
                        probabilities=probabilities,
                        limits=self.limits,
                    )
                    rows = await run_in_threadpool(labelling.check)
                except BaseException:
                    file.close()
                    raise
            return _Labelled(self._labelled(request, labelling, offered), rows, self._file_done)
        except BaseException:
            self._file_done()
            raise

    async def tasks(self, request: Request) -> Response:
        """The tasks that are served, what each reads and says, and the limits of this service."""
        found = []
        for name, offered in self.offer.tasks.items():
            kind = offered.task.kind
            labels = kind.facts().get("labels")
            ends = kind.settings.model_dump(mode="json").get("range")
            found.append(
                {
                    "name": name,
                    "kind": kind.settings.kind,
                    **({"labels": list(labels)} if labels else {}),
                    "inputs": {1: "text", 2: "pair"}.get(kind.reads, "text and candidates"),
                    "columns": list(kind.columns),
                    **({"range": ends} if ends else {}),
                    "cleans": offered.cleans,
                    "calibrated": kind.temperature != 1.0,
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
            "file": limits.file,
        }
        return _json(
            {
                "tasks": found,
                "models": list(self.offer.embedders),
                "explains": self.explainer.possible,
                "limits": bounds,
            }
        )

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
        self._refuse()
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
                    with _refusals():
                        size = len(body)
                        asked = await _aside(size, read_object, body)
                        return await _aside(size, _json, await answer(request, asked, size))
            except TimeoutError:
                detail = f"there was no answer after {self.limits.timeout:g} s"
                raise Problem("timeout", detail, retry_after=self.limits.timeout) from None
        finally:
            self.at_work -= 1

    def _refuse(self) -> None:
        """Refuse a request before it is read."""
        if self.stopping:
            raise _stopping()
        if self.at_work + self.labelling >= self.limits.concurrency:
            detail = f"{self.at_work + self.labelling} requests are worked on already"
            raise Problem("queue-full", detail, retry_after=1, close=True)

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

    async def _explain(self, request: Request, body: Mapping[str, Any], size: int) -> dict[str, Any]:
        asked = checked(ExplainRequest, body)
        offered = self._offered(asked.task)
        if not self.explainer.possible:
            raise Problem("not-offered", "explanations need the library captum, which is not installed here")
        self._check([asked.input], "input")
        try:
            offered.input(asked.input)
        except ValueError as error:
            raise Problem("invalid", f"{offered.name}: input: {error}") from None
        with _mistakes():
            (found,) = await self._awaited(
                request, [lambda: self.explainer.submit(offered, asked.input, asked.target)]
            )
        return {"task": asked.task, **_explained(found), "model": offered.run}

    # ---- a file ----

    def _asked_to_label(self, request: Request) -> tuple[Offered, list[str], bool]:
        """Task, columns, and whether every label's probability is wanted, as the query says."""
        query = request.query_params
        known = ("task", "column", "probabilities")
        for name in query:
            if name not in known:
                detail = (
                    f"{shown(name)}: no such parameter, expected {', '.join(known)}{nearest(name, known)}"
                )
                raise Problem("invalid", detail, close=True)
            for value in query.getlist(name):
                if "\x00" in value or len(value) > self.limits.characters:
                    raise Problem("invalid", f"{name}: found {shown(value)}, expected a name", close=True)
        for name in ("task", "probabilities"):
            if len(query.getlist(name)) > 1:
                raise Problem("invalid", f"{name}: found several, expected one", close=True)
        if "task" not in query:
            raise Problem("invalid", "task: expected this parameter, found none", close=True)
        said = query.get("probabilities", "false")
        if said not in ("true", "false"):
            detail = f"probabilities: found {shown(said)}, expected true or false"
            raise Problem("invalid", detail, close=True)
        return self._offered(query["task"]), query.getlist("column"), said == "true"

    async def _labelled(
        self, request: Request, labelling: Labelling, offered: Offered
    ) -> AsyncIterator[bytes]:
        """The labelled rows. What was queued is taken back when nobody reads on."""
        waiting: deque[tuple[Laid, Future[list[Rows]]]] = deque()
        more = True
        request.state.tokens = 0
        try:
            while more or waiting:
                if more and len(waiting) < _AHEAD:
                    laid = await run_in_threadpool(labelling.next)
                    more = laid is not None
                    if laid is not None:
                        waiting.append((laid, await self._queued(laid)))
                    continue
                laid, future = waiting[0]
                outputs = await asyncio.wrap_future(future)
                waiting.popleft()
                request.state.tokens += int(laid.tokens.sum())
                yield await run_in_threadpool(self._rows_of, labelling, offered, laid, outputs)
        finally:
            for _, future in waiting:
                future.cancel()
            labelling.close()

    async def _queued(self, laid: Laid) -> "Future[list[Rows]]":
        """A piece of a file in the queue, as soon as it has room: others are not made to wait for a file."""
        while True:
            try:
                return laid.submit()
            except Full as full:
                await asyncio.sleep(min(_MOST_WAIT, max(0.05, full.seconds / 2)))

    def _rows_of(self, labelling: Labelling, offered: Offered, laid: Laid, outputs: Sequence[Rows]) -> bytes:
        predictions = offered.predictions(laid, outputs[0])
        cut = sum(prediction.truncated for prediction in predictions)
        self.metrics.answered(offered.name, len(predictions), cut)
        return labelling.written(predictions)

    def _file_done(self) -> None:
        self.labelling -= 1

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
        with _mistakes():
            return list(self.offer.lay(tasks, given))

    async def _answered(self, request: Request, laid: Sequence[Laid]) -> list[list[Rows]]:
        """The outputs for what was laid out."""
        request.state.tokens = sum(int(one.tokens.sum()) for one in laid)
        return await self._awaited(request, [one.submit for one in laid])

    async def _awaited(self, request: Request, asked: Sequence[Callable[[], Future[T]]]) -> list[T]:
        """What futures give; nothing is worked on any more once nobody waits for it."""
        queued: list[Future[T]] = []
        try:
            for submit in asked:
                queued.append(submit())
            waiting = asyncio.gather(*map(asyncio.wrap_future, queued))
            gone = asyncio.ensure_future(_disconnected(request))
            try:
                await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    raise ClientDisconnect
                found: list[T] = waiting.result()
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
                answers[offered.name] = list(map(told, predictions, offered.read(one)))
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

    With `token` every path but /healthz, /readyz and the page's own files needs it; pages of the origins `cors` may
    read answers in a browser; `log` is given one line of JSON for each request.
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
        ("POST", "/v1/explain", service.explain, "Explain"),
        ("POST", "/v1/label", service.label, "Label"),
        ("GET", "/v1/tasks", service.tasks, "Tasks"),
        ("GET", "/healthz", service.health, None),
        ("GET", "/readyz", service.ready, None),
        ("GET", "/metrics", service.numbers, None),
    ]
    for method, path, endpoint, message in routes:
        extra: dict[str, Any] = {"responses": _responses(path, method, message, problems)}
        if path == "/v1/label":
            extra["parameters"] = _PARAMETERS
            extra["requestBody"] = {"required": True, "content": {"text/csv": _TEXT}}
        elif method == "POST":
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
    described = description.described(document)
    own = page.files()

    async def openapi(request: Request) -> Response:
        return _json(document)

    async def docs(request: Request) -> Response:
        return HTMLResponse(described, headers={"Content-Security-Policy": description.POLICY})

    app.add_api_route("/openapi.json", openapi, include_in_schema=False)
    app.add_api_route("/docs", docs, include_in_schema=False)
    for path, answer in own.items():
        app.add_api_route(path, answer, include_in_schema=False)

    app.add_exception_handler(Problem, _tell_problem)
    app.add_exception_handler(HTTPException, _tell_http)
    app.add_exception_handler(ClientDisconnect, _tell_nobody)
    paths = frozenset([*(path for _, path, _, _ in routes), "/openapi.json", "/docs", *own])
    app.add_middleware(Guard, token=token, free=frozenset(["/healthz", "/readyz", *own]))
    if cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After", "X-Request-Id", "X-Rows"],
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


@contextmanager
def _refusals() -> Iterator[None]:
    """What a queue refuses, as problems."""
    try:
        yield
    except Full as full:
        raise Problem("queue-full", "too much waits already", retry_after=full.seconds) from None
    except TooMuch as much:
        detail = f"the inputs have {much.tokens:,} tokens, at most {much.most:,} are taken in one request"
        raise Problem("too-large", detail) from None
    except Closed:
        raise _stopping() from None


@contextmanager
def _mistakes() -> Iterator[None]:
    """What is wrong with an input, as a problem; an error about a file of this machine is none of the caller's."""
    try:
        yield
    except InputError as error:
        if error.file is not None and error.file != FILE:
            raise
        raise Problem("invalid", str(error)) from None


def _explained(found: Explanation) -> dict[str, Any]:
    return {
        "target": found.target,
        "score": found.score,
        "baseline": found.baseline,
        "tokens": [asdict(token) for token in found.tokens],
        "gap": found.gap,
        "complete": found.complete,
        "prediction": told(found.prediction),
    }


class _Labelled(StreamingResponse):
    """A labelled file as it is made; `done` is called when it has ended, however."""

    def __init__(self, parts: AsyncIterator[bytes], rows: int, done: Callable[[], None]) -> None:
        super().__init__(
            parts,
            media_type="text/csv; charset=utf-8",
            headers={"X-Rows": str(rows), "Content-Disposition": 'attachment; filename="labelled.csv"'},
        )
        self.parts, self.done = parts, done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(cast(Any, self.parts)):
                await super().__call__(scope, receive, send)
        finally:
            self.done()


def _stopping() -> Problem:
    return Problem("stopping", "the service is being stopped", retry_after=5, close=True)


# ---- the OpenAPI document ----


_TEXT = {"schema": {"type": "string"}}
_PARAMETERS = [
    {
        "name": "task",
        "in": "query",
        "required": True,
        "description": "A task's name, as `GET /v1/tasks` lists it.",
        "schema": {"type": "string"},
    },
    {
        "name": "column",
        "in": "query",
        "required": False,
        "description": "The columns of the file that make an input, in order; default: the task's `columns`.",
        "schema": {"type": "array", "items": {"type": "string"}},
    },
    {
        "name": "probabilities",
        "in": "query",
        "required": False,
        "description": "Whether a column `p:LABEL` is added for each label.",
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
]


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
    if message == "Label":
        rows = {"description": "How many rows there are", "schema": {"type": "integer"}}
        found["200"] |= {"content": {"text/csv": _TEXT}, "headers": {"X-Rows": rows}}
    elif message is not None:
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
    explain = {
        name: {
            "summary": f"The task {name}",
            "value": {"task": name, "input": by_reads[offered.task.kind.reads][0]},
        }
        for name, offered in offer.tasks.items()
        if offered.explainable
    }
    return {"/v1/predict": predict, "/v1/analyze": analyze, "/v1/embed": embed, "/v1/explain": explain}


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
