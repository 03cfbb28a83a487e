"""Rounds: every contender once, in a process of its own, in turn (A B C A B C …).

Knows processes and answers. Must not know what a contender does.

In turn, because a machine's speed drifts over minutes: what is compared was run next to each other, and a
ratio is taken within its round. In processes of their own, because allocators, thread pools and primitive
caches of one contender would otherwise serve, or hinder, the next.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["ENVIRONMENT", "QUIET", "Ratio", "interleaved", "median", "ratio"]

# The same for all contenders: torch takes large blocks of memory in huge pages.
ENVIRONMENT = {"THP_MEM_ALLOC_ENABLE": "1"}
# Outside what is timed: the peers look for files on the network, and tell of weights they do not find.
QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}

Answer = dict[str, Any]


def interleaved(
    script: Path, contenders: Sequence[str], rounds: int, arguments: Sequence[str], shown: str
) -> list[dict[str, Answer]]:
    """Run `script ARGUMENTS --contender NAME --answer FILE` for all names, `rounds` times.

    Returns each round's answers by contender: the JSON object that the process left in FILE. `shown` is the
    answer's number that is printed on the way. Raises SystemExit where a contender fails.
    """
    found: list[dict[str, Answer]] = []
    with tempfile.TemporaryDirectory(prefix="answers-") as folder:
        for number in range(1, rounds + 1):
            answers: dict[str, Answer] = {}
            for name in contenders:
                file = Path(folder) / f"{name}-{number}.json"
                command = [sys.executable, str(script), *arguments]
                command += ["--contender", name, "--answer", str(file)]
                ended = subprocess.run(command, env={**os.environ, **ENVIRONMENT, **QUIET}, check=False)
                if ended.returncode or not file.is_file():
                    raise SystemExit(f"error: {name} failed in round {number} (status {ended.returncode})")
                answers[name] = json.loads(file.read_text(encoding="utf-8"))
                print(f"round {number}/{rounds} · {name}: {answers[name][shown]:.1f} {shown}", flush=True)
            found.append(answers)
    return found


def median(rounds: Sequence[dict[str, Answer]], contender: str, number: str) -> float:
    """The median over the rounds of one of a contender's numbers."""
    return statistics.median(float(answers[contender][number]) for answers in rounds)


class Ratio(NamedTuple):
    """How many times as fast: the median over rounds of the ratio within a round, and all of them."""

    of: str
    to: str
    median: float
    least: float
    greatest: float
    each: list[float]

    def __str__(self) -> str:
        return f"{self.median:.2f} × ({self.least:.2f}–{self.greatest:.2f})"


def ratio(rounds: Sequence[dict[str, Answer]], of: str, to: str, number: str) -> Ratio:
    """`number` of the contender `of` over that of `to`, round by round."""
    each = [float(answers[of][number]) / float(answers[to][number]) for answers in rounds]
    return Ratio(of, to, statistics.median(each), min(each), max(each), each)
