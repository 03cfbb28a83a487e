"""A server in a process of its own: started, measured from outside, ended by its process id.

Knows processes and what Linux tells of them. Must not know what is served.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from side_by_side.client import Job
from side_by_side.rounds import ENVIRONMENT, QUIET

__all__ = ["Served", "asked"]

_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")
_START, _STOP = 180.0, 40.0  # seconds
_TICKS = os.sysconf("SC_CLK_TCK")


class Served:
    """Runs a command that prints its address on loopback; within `with` it serves."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = command
        self.port = 0
        self.samples: list[int] = []
        """Bytes of memory, one each half a second since it was ready."""

    def __enter__(self) -> Self:
        # Huge pages, which the speed benchmarks ask for, would show in the memory.
        environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, text=True, env={**environment, **QUIET}
        )
        watchdog = threading.Timer(_START, self.process.kill)
        watchdog.start()
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if said := _ADDRESS.search(line):
                self.port = int(said[1])
                break
        watchdog.cancel()
        if not self.port:
            self.process.wait()
            raise SystemExit(f"error: {' '.join(self.command)} did not start")
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._sampler.join()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @property
    def lives(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    @property
    def memory(self) -> int:
        """Bytes that the process and its children hold, shared pages counted by their shares (PSS)."""
        return sum(map(_memory, _tree(self.process.pid)))

    @property
    def cpu(self) -> float:
        """Seconds of processors that they have used."""
        return sum(map(_cpu, _tree(self.process.pid)))

    def _sample(self) -> None:
        while not self._ended.wait(0.5):
            self.samples.append(self.memory)


def asked(served: Served, job: dict[str, Any]) -> dict[str, Any]:
    """What `client.run` measures, in a process of its own, with `server_cpu`: seconds of the server meanwhile."""
    whole: Job = {"warm": 0.0, "rate": 0.0, **job, "port": served.port}  # type: ignore[typeddict-item]
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        given, answer = Path(folder) / "job.json", Path(folder) / "answer.json"
        given.write_text(json.dumps(whole), encoding="utf-8")
        before = served.cpu
        ended = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("client.py")), str(given), str(answer)],
            check=False,
            timeout=whole["warm"] + whole["seconds"] + 300,
        )
        used = served.cpu - before
        if ended.returncode or not served.lives:
            raise SystemExit(
                f"error: the client ended with {ended.returncode}, the server lives: {served.lives}"
            )
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return {**found, "server_cpu": used}


def _tree(process: int) -> list[int]:
    """The process and all below it."""
    below: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            below.setdefault(int(_fields(path)[1]), []).append(int(path.parent.name))
        except OSError:  # it has ended meanwhile
            continue
    found = [process]
    for one in found:
        found += below.get(one, [])
    return found


def _memory(process: int) -> int:
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    said = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(said[1]) * 1024 if said else 0


def _cpu(process: int) -> float:
    try:
        fields = _fields(Path(f"/proc/{process}/stat"))
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _fields(path: Path) -> list[str]:
    """What stands in a process's `stat` behind its name, from its state on."""
    return path.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
