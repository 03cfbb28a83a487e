"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is absent."""
    root = Path(os.environ.get("MANYHEADS_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (root / "sst5" / "sst5-train.tsv").is_file():
        pytest.skip(f"the real data sets are not at {root} (set MANYHEADS_DATA)")
    return root
