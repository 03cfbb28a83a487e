"""The command line of a script whose contenders run in rounds: the script calls itself, once for each contender.

Knows argparse. Must not know what is measured.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from side_by_side import record

__all__ = ["arguments", "partial", "run"]


def arguments(about: str | None, *, rounds: int | None, hidden: Sequence[str]) -> argparse.ArgumentParser:
    """What such scripts have in common; a script adds its own, and `--contender`.

    `rounds` is how many there are by default, None where that is not for the caller to say; `hidden` are paths that
    the script hands on to itself.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the data sets (default MANYHEADS_DATA)")
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds)
        parser.set_defaults(rounds_of_a_result=rounds)
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the records")
    for name in (*hidden, "--answer"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    return parser


def partial(chosen: argparse.Namespace, contenders: Sequence[str] = ()) -> bool:
    """Whether it is a try and no result: some rows, fewer rounds, other threads, or not all of `contenders`."""
    return bool(
        chosen.rows
        or chosen.rounds < chosen.rounds_of_a_result
        or getattr(chosen, "threads", 0)
        or set(contenders) - set(getattr(chosen, "contenders", contenders))
    )


def run(
    chosen: argparse.Namespace,
    contend: Callable[[argparse.Namespace], None],
    compare: Callable[[argparse.Namespace], None],
) -> None:
    """What the process of one contender does, or all of it."""
    (contend if chosen.contender else compare)(chosen)
