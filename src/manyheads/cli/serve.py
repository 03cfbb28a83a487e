"""`manyheads serve RUN [RUN…]`"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from manyheads.cli.options import Device, PrecisionOption, Quiet

_NEEDS = ("fastapi", "uvicorn", "prometheus_client")


def serve(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.", show_default=False)],
    host: Annotated[str, typer.Option("--host", help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="The port; 0 is any, and printed.")
    ] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="MANYHEADS_TOKEN",
            help="What clients must send as bearer token; default: none is asked for.",
            show_default=False,
            show_envvar=True,
        ),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            "--cors", help="An origin whose pages may read answers; default: none.", show_default=False
        ),
    ] = None,
    max_body: Annotated[int, typer.Option("--max-body", help="Bytes of a request's body.")] = 1_048_576,
    max_inputs: Annotated[int, typer.Option("--max-inputs", help="Inputs in one request.")] = 256,
    max_texts: Annotated[
        int, typer.Option("--max-texts", help="Texts in one request, candidates and words counted each.")
    ] = 4096,
    max_characters: Annotated[int, typer.Option("--max-characters", help="Characters of one text.")] = 20_000,
    queue_tokens: Annotated[
        int, typer.Option("--queue-tokens", help="Tokens that wait for an encoder; beyond them it is 429.")
    ] = 65_536,
    queue_requests: Annotated[
        int, typer.Option("--queue-requests", help="Requests that wait for an encoder.")
    ] = 512,
    batch_tokens: Annotated[
        int, typer.Option("--batch-tokens", help="Tokens of one pass of an encoder, of all requests in it.")
    ] = 2048,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds from a request's first byte until its answer.")
    ] = 30.0,
    concurrency: Annotated[
        int, typer.Option("--concurrency", help="Requests that are read or worked on at the same time.")
    ] = 256,
    max_file: Annotated[
        int, typer.Option("--max-file", help="Bytes of a file that is to be labelled.")
    ] = 67_108_864,
    max_files: Annotated[
        int, typer.Option("--max-files", help="Files that are labelled at the same time.")
    ] = 4,
    max_explanations: Annotated[
        int,
        typer.Option("--max-explanations", help="Explanations that are asked for at the same time."),
    ] = 8,
    max_connections: Annotated[
        int, typer.Option("--max-connections", help="Connections at the same time, idle ones among them.")
    ] = 900,
    patience: Annotated[
        float, typer.Option("--patience", help="Seconds that a request's line and headers may take.")
    ] = 10.0,
    device: Device = "cpu",
    precision: PrecisionOption = None,
    quiet: Quiet = False,
) -> None:
    """Answer over HTTP, and on a page, with every head of one or more runs; SIGTERM or Ctrl-C ends it."""
    from manyheads.errors import InputError

    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        raise InputError(f"serve needs {', '.join(missing)}: pip install 'manyheads[serve]'")
    if token is not None and (not token.isascii() or not token.isprintable() or not token.strip()):
        raise InputError("--token: expected printable ASCII characters")
    # Before torch is imported: torch and its products' library keep something for each shape of a batch that they have
    # met, and a service meets a new one at almost every pass.
    for kept in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(kept, "64")
    from manyheads.serve import server
    from manyheads.serve.app import create_app
    from manyheads.serve.limits import Limits
    from manyheads.serve.metrics import Metrics
    from manyheads.serve.offer import Offer, load_models

    limits = Limits(
        body=max_body,
        inputs=max_inputs,
        texts=max_texts,
        characters=max_characters,
        queue_tokens=queue_tokens,
        queue_requests=queue_requests,
        batch_tokens=batch_tokens,
        timeout=timeout,
        concurrency=concurrency,
        file=max_file,
        files=max_files,
        explanations=max_explanations,
        connections=max_connections,
        patience=patience,
    )
    metrics = Metrics()
    with server.listen(
        host, port
    ) as taken:  # before the models are loaded: a port that is taken is told at once
        offer = Offer(load_models(runs, device, precision), limits, metrics)
        app = create_app(
            offer, metrics=metrics, token=token, cors=cors or (), log=None if quiet else server.log_line
        )

        def started(address: str) -> None:
            typer.echo(f"serving {', '.join(offer.tasks)} at {address}")

        server.run(app, taken, started)
