"""Rows of the data sets as the peers get them: read with Python's csv, no contender's reader is trusted.

Knows file formats and where the data lies. Must not know models or what is measured.
"""

import csv
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

__all__ = ["data_folder", "drawn", "read_table", "write_table"]

ROOT = Path(__file__).resolve().parents[2]


def data_folder(said: Path | None = None) -> Path:
    """Where the data sets are: what was said, else MANYHEADS_DATA, else `shared/data` beside the checkout.

    Raises SystemExit with one line where SST-5, which every benchmark reads, is not there.
    """
    folder = said or Path(os.environ.get("MANYHEADS_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "sst5" / "sst5-train.tsv").is_file():
        raise SystemExit(f"error: no data sets at {folder}; name their folder with --data or MANYHEADS_DATA")
    return folder.resolve()


def read_table(path: Path, columns: Sequence[str], label: str | None = None) -> list[dict[str, str]]:
    """The rows of a tab-separated file with a header, only `columns` and `label` of each.

    `.csv` has csv quoting, `.tsv` none. Rows whose label is empty are left out. Raises SystemExit where a
    column is missing.
    """
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if path.suffix == ".csv" else csv.QUOTE_NONE
    wanted = [*columns, *([label] if label else [])]
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=quoting)
        missing = [name for name in wanted if name not in (reader.fieldnames or ())]
        if missing:
            raise SystemExit(f"error: {path}: no column {missing[0]!r}, found {reader.fieldnames}")
        return [{name: row[name] for name in wanted} for row in reader if label is None or row[label]]


def drawn(rows: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    """At most `count` rows, a fixed random draw: the files are often sorted by label or source."""
    return random.Random(0).sample(rows, min(count, len(rows)))


def write_table(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    """Write rows as a `.tsv` without quoting (no cell has a tab or a line end); returns the path."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, list(rows[0]), delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
    return path
