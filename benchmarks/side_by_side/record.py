"""The record: a result as JSON for machines and as a short table for people.

Knows files and text. Must not know what was measured.
"""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "claim", "table", "told", "write_json", "write_text"]

RESULTS = Path(__file__).resolve().parents[1] / "results"


def claim(says: str, measured: float, wanted: float) -> dict[str, Any]:
    """A claim that holds when `measured` is at least `wanted`."""
    return {"says": says, "wanted": wanted, "measured": round(measured, 4), "holds": bool(measured >= wanted)}


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; floats should come as text."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def told(claims: Sequence[dict[str, Any]]) -> str:
    """The claims as a list, with what was measured."""
    return "".join(
        f"- {one['says']}: **{one['measured']:.4g}**, wanted ≥ {one['wanted']:g}: "
        f"{'holds' if one['holds'] else 'DOES NOT HOLD'}\n"
        for one in claims
    )


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record with the day it was measured."""
    dated = {"measured_on": datetime.date.today().isoformat(), **record}
    _put(path, json.dumps(dated, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write the table for people, and print it."""
    _put(path, text)
    print(f"\n{text}\n{path}")


def _put(path: Path, text: str) -> None:
    """Beside its place, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
