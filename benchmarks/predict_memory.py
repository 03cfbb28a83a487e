"""Claim: `manyheads predict` labels a file of any length in constant memory.

The command on files of 50,000 and 1,000,000 rows (SST-5 sentences over and over), with a tiny model, in a
process of its own each: the greatest resident size, and the rows a second.

    python benchmarks/predict_memory.py
    python benchmarks/predict_memory.py --rows 2000 20000        # does it run at all?
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from side_by_side import record
from side_by_side.machine import describe, machine
from side_by_side.models import model_folder
from side_by_side.rows import data_folder, read_table

ROWS = (50_000, 1_000_000)
MORE = 1.1  # what the long file may take of the short one's memory
# Prints what the command's process took at most, in KiB: the resident size of a child that has ended.
RUN = (
    "import json,resource,subprocess,sys;"
    "subprocess.run(sys.argv[1:],check=True,stdout=subprocess.DEVNULL);"
    "print(json.dumps(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))"
)


def run_folder(model: Path, texts: list[str], folder: Path) -> Path:
    """A run of one step: what it answers is of no interest here."""
    import manyheads as mh

    table = folder / "train.tsv"
    with open(table, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
        writer.writerow(["sentence", "label"])
        writer.writerows([text, str(number % 2)] for number, text in enumerate(texts[:64]))
    recipe = mh.Recipe.parse(
        {
            "name": "predict-memory",
            "encoder": {"from": str(model)},
            "tasks": {
                "sst": {
                    "kind": "classification",
                    "files": {"train": [str(table)]},
                    "text": "sentence",
                    "label": "label",
                }
            },
            "optimizer": {"lr": 1e-4},
            "schedule": {"epochs": 1, "batch_size": 64},
        }
    )
    return mh.train(recipe, out=folder / "run", quiet=True).folder


def main() -> None:
    """Both files, the record and the table."""
    said = options()
    about = machine()
    texts = [
        row["sentence"] for row in read_table(data_folder(said.data) / "sst5/sst5-train.tsv", ["sentence"])
    ]
    found = []
    with tempfile.TemporaryDirectory(prefix="predict-") as name:
        folder = Path(name)
        run = run_folder(model_folder("tiny", folder / "tiny"), texts, folder)
        for count in said.rows:
            source, out = folder / "texts.csv", folder / "labelled.csv"
            with open(source, "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["sentence"])
                writer.writerows([text] for text in islice(cycle(texts), count))
            command = [sys.executable, "-m", "manyheads", "predict", str(run), str(source)]
            command += ["--task", "sst", "--out", str(out), "--quiet"]
            began = time.perf_counter()
            ended = subprocess.run(
                [sys.executable, "-c", RUN, *command], capture_output=True, text=True, check=False
            )
            if ended.returncode:
                raise SystemExit(f"error: predict failed: {ended.stderr.strip()[-300:]}")
            seconds = time.perf_counter() - began
            with open(out, encoding="utf-8", newline="") as file:
                written = sum(1 for _ in csv.reader(file)) - 1
            if written != count:
                raise SystemExit(f"error: {written} rows written, expected {count}")
            found.append(
                {
                    "rows": count,
                    "peak_mib": json.loads(ended.stdout) / 1024,
                    "rows/s": count / seconds,
                    "file_mib": os.path.getsize(source) / 2**20,
                }
            )
            print(found[-1], flush=True)
    claims = [
        record.claim(
            f"peak memory with {found[0]['rows']:,} rows, of that with {found[-1]['rows']:,}",
            found[0]["peak_mib"] / found[-1]["peak_mib"],
            1 / MORE,
        )
    ]
    name = "predict_memory" + ("" if tuple(said.rows) == ROWS else "-partial")
    record.write_json(
        said.results / f"{name}.json",
        {"benchmark": "predict_memory", "machine": about, "runs": found, "claims": claims},
    )
    rows = [
        [f"{one['rows']:,}", f"{one['file_mib']:.1f}", f"{one['peak_mib']:.0f}", f"{one['rows/s']:.0f}"]
        for one in found
    ]
    record.write_text(
        said.results / f"{name}.md",
        "# `manyheads predict` on files of any length\n\nA model of 2 layers of width 128; start-up is in the rows a "
        f"second.\n\n{record.table(['rows', 'file, MiB', 'peak, MiB', 'rows/s'], rows)}\n{record.told(claims)}\n"
        f"{describe(about)}.\n",
    )


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the data sets (default MANYHEADS_DATA)")
    parser.add_argument("--rows", type=int, nargs=2, default=list(ROWS))
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the records")
    return parser.parse_args()


if __name__ == "__main__":
    main()
