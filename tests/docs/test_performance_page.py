"""The page on speed has what the benchmarks have measured."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_ends_with_the_results_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    for name in [name for name in sys.modules if name.partition(".")[0] == "side_by_side"]:
        monkeypatch.delitem(sys.modules, name)
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert page.count(tables.BEGIN) == page.count(tables.END) == 1
    assert page.partition(tables.BEGIN)[2].partition(tables.END)[0].strip() == tables.section().strip(), (
        "benchmarks/tables.py puts the results into the page"
    )
