"""The command `manyheads`: a file a command, one table.

Knows people: arguments, tables on screen, exit statuses. Must not know how anything works.
"""

import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from manyheads.cli.ask import ask
from manyheads.cli.compare import compare
from manyheads.cli.evaluate import evaluate
from manyheads.cli.export import export
from manyheads.cli.predict import predict
from manyheads.cli.quickstart import quickstart
from manyheads.cli.report import report
from manyheads.cli.schema import schema
from manyheads.cli.serve import serve
from manyheads.cli.study import study
from manyheads.cli.train import train
from manyheads.cli.vocab import vocab
from manyheads.errors import InputError, ManyheadsError, WorkError

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "ask": ask,
    "study": study,
    "compare": compare,
    "vocab": vocab,
    "serve": serve,
    "report": report,
    "export": export,
    "quickstart": quickstart,
    "schema": schema,
}

EPILOG = "Exit status: 0 done · 1 failed while working · 2 the input was wrong · 130 stopped by Ctrl-C."


# Read by libgomp and by torch when they are loaded, so they are set before any command imports torch. What the
# caller has set stays.
ENVIRONMENT = {
    # A thread that waits for another one spins only briefly: with libgomp's default, one more busy process on
    # a small machine makes a training step many times slower.
    "GOMP_SPINCOUNT": "2000",
    # Large tensors on huge pages: fewer page faults for gradients of the size of a vocabulary.
    "THP_MEM_ALLOC_ENABLE": "1",
}


def main() -> None:
    """Run the command line and leave with its exit status."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    app = typer.Typer(
        name="manyheads",
        help="One BERT encoder, many language-understanding heads.",
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", help="Print the version and leave.", is_eager=True, callback=_version
        ),
    ) -> None:
        pass

    for name, command in COMMANDS.items():
        app.command(name)(_guarded(command))
    app()


def _version(asked: bool) -> None:
    if asked:
        from manyheads import __version__

        typer.echo(__version__)
        raise typer.Exit


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command with every expected failure told in one line, and the exit status that belongs to it."""

    @functools.wraps(command)
    def run(*args: Any, **named: Any) -> None:
        try:
            command(*args, **named)
        except ManyheadsError as error:
            _leave(str(error), error.exit_status)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:
            sys.stderr.close()  # the reader of our output has gone: not an error of ours
            raise typer.Exit(0) from None
        except PermissionError as error:
            _leave(str(InputError(f"no permission ({error.strerror})", file=error.filename)), 2)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            what = "the disk is full" if full else str(error.strerror or error)
            _leave(str(WorkError(f"{error.filename}: {what}" if error.filename else what)), 1)
        except MemoryError:
            _leave("out of memory; a smaller schedule.batch_size, or schedule.accumulate, needs less", 1)
        except RuntimeError as error:
            if "not enough memory" not in str(error) and "out of memory" not in str(error):
                raise
            _leave("out of memory; a smaller schedule.batch_size, or schedule.accumulate, needs less", 1)

    return run


def _leave(text: str, status: int) -> None:
    typer.echo(f"error: {text}", err=True)
    raise typer.Exit(status)
