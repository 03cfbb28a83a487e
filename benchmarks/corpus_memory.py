"""Claim: building a corpus's token ids takes no more memory for 2 GB of text than for 100 MB.

The books of pretrain_en are repeated, each copy with its number in front so that no two documents are equal, into
shards of JSON lines in a temporary folder, until they have so many bytes of text. Each size is built in a process of
its own, from the files to what a training asks before its first step and ten batches of pairs; recorded is the peak of
its resident memory. Pages of memory-mapped files count as resident as long as they stay, and reading few batches keeps
few of them.

    python benchmarks/corpus_memory.py --megabytes 100 2000
"""

import argparse
import gzip
import itertools
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from side_by_side import record
from side_by_side.machine import describe, machine
from side_by_side.rows import data_folder

SOURCE = "pretrain_en/classic_books.jsonl.gz"
MEGABYTE = 10**6
SHARD = 100 * MEGABYTE
# Of the text: the shards themselves, two bytes a token, eight a sentence, and what is packed of them.
DISK = 2.5
WANTED = 0.8  # of the memory of the largest size, the smallest one needs at least this share


def main() -> None:
    """Build each size, and write benchmarks/results/corpus_memory.{json,md}."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the folder of the data sets")
    parser.add_argument("--tokenizer", default="minilm", help="whose vocabulary: a folder or a hub name")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 2000], help="sizes of the text")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--keep", action="store_true", help="write the record; otherwise it is printed only")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(built(options.one, options.tokenizer)))
        return
    told = machine()
    print(describe(told))
    rows = []
    for megabytes in sorted(options.megabytes):
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            needed = int(DISK * megabytes * MEGABYTE)
            if (free := shutil.disk_usage(folder).free) < needed:
                sys.exit(f"{folder}: {free / 1e9:.1f} GB are free, {needed / 1e9:.1f} GB are needed")
            write(folder / "text", data_folder(options.data) / SOURCE, megabytes * MEGABYTE)
            command = [sys.executable, __file__, "--one", str(folder), "--tokenizer", options.tokenizer]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            rows.append({"megabytes": megabytes, **found})
            print(json.dumps(rows[-1]), flush=True)
    first, last = rows[0], rows[-1]
    says = f"peak memory at {first['megabytes']:,} MB of text, of that at {last['megabytes']:,} MB"
    claims = [record.claim(says, first["peak_mib"] / last["peak_mib"], WANTED)]
    head = [
        "text, MB",
        "documents",
        "sentences",
        "tokens",
        "chunks",
        "digest",
        "seconds",
        "before, MiB",
        "peak, MiB",
    ]
    cells = [[value if isinstance(value, str) else f"{value:,}" for value in row.values()] for row in rows]
    text = f"# Memory of building a corpus\n\n{describe(told)}\n\n{record.table(head, cells)}\n{record.told(claims)}"
    if not options.keep:
        print(text)
        return
    record.write_json(
        record.RESULTS / "corpus_memory.json", {"machine": told, "rows": rows, "claims": claims}
    )
    record.write_text(record.RESULTS / "corpus_memory.md", text)


def write(folder: Path, source: Path, size: int) -> None:
    """Shards with `size` bytes of text, the source's documents over and over."""
    folder.mkdir()
    written = 0
    shard = None
    for copy in itertools.count():
        with gzip.open(source, "rt", encoding="utf-8") as lines:
            for line in lines:
                if shard is None or shard.tell() > SHARD:
                    if shard is not None:
                        shard.close()
                    shard = (folder / f"{written // MEGABYTE:06}.jsonl").open("w", encoding="utf-8")
                text = f"Copy {copy}.\n\n{json.loads(line)['text']}"
                shard.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                written += len(text.encode())
                if written >= size:
                    shard.close()
                    return


def built(folder: Path, tokenizer: str) -> dict[str, Any]:
    """Build the corpus of a folder and read a little of it."""
    import numpy as np

    from manyheads.data.corpus import build_corpus
    from manyheads.data.encode import TokenCache
    from manyheads.encoder.tokenizer import Tokenizer

    wordpiece = Tokenizer.from_pretrained(tokenizer)
    before = peak()
    began = time.perf_counter()
    corpus = build_corpus([folder / "text"], wordpiece, cache=TokenCache(folder / "cache"))
    seconds = time.perf_counter() - began
    chunks = corpus.chunks(125)
    generator, places, name = np.random.default_rng(0), chunks.pairable(), chunks.digest
    for _ in range(10):
        chunks.pair(places.at(generator.integers(0, len(places), 256)), 125, generator)
    return {
        "documents": corpus.documents,
        "sentences": corpus.sentences,
        "tokens": corpus.tokens,
        "chunks": len(places),
        "digest": name[:8],
        "seconds": round(seconds, 1),
        "before_mib": round(before, 1),
        "peak_mib": round(peak(), 1),
    }


def peak() -> float:
    """The most resident memory of this process so far, in MiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
