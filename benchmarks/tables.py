"""What the benchmarks have measured, as the last section of docs/performance.md: their tables, each under its name.

Nothing is measured here. `make bench` calls it last, and a test holds that the page has what the results say.

    python benchmarks/tables.py
"""

import re
from pathlib import Path

from side_by_side import record

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"
NAMES = (
    "finetune_speed",
    "finetune_speed_base",
    "inference_speed",
    "inference_speed_base",
    "latency_speed",
    "latency_speed_base",
    "heads_speed",
    "multitask_speed_cpu_minilm",
    "multitask_speed_cuda_base",
    "pretrain_speed",
    "smart_speed",
    "scaling_speed",
    "step_profile",
    "predict_memory",
    "serve_load",
    "serve_overload",
    "corpus_memory",
)


def main() -> None:
    """Put the tables into the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    record.write_text(PAGE, f"{before}{BEGIN}\n\n{section()}\n{END}{after}")


def section() -> str:
    """Every result there is, its headings two steps lower."""
    found = [path for name in NAMES if (path := record.RESULTS / f"{name}.md").is_file()]
    texts = (path.read_text(encoding="utf-8").strip() for path in found)
    return "\n\n".join(re.sub(r"^#", "###", text, flags=re.MULTILINE) for text in texts) + "\n"


if __name__ == "__main__":
    main()
