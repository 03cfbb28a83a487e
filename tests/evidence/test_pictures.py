"""The pictures: what they say stands in them, the same numbers give the same bytes, no size is too large or small."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from manyheads.evidence.pictures import draw_classes, draw_confusion, draw_lengths


def words(path: Path) -> list[str]:
    """The texts of a picture, which must be well-formed."""
    found = ElementTree.fromstring(path.read_text(encoding="utf-8")).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(one.itertext()).strip() for one in found]


def test_a_matrix_shows_every_number_and_the_recall(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "confusion.svg"
    draw_confusion(
        path, ("happy", "愤怒", "<b>"), np.array([[1200, 3, 0], [5, 15, 20], [0, 0, 0]]), "mood · dev"
    )
    told = words(path)
    assert {"happy", "愤怒", "<b>", "mood · dev", "said", "gold", "1,200", "3", "5", "15", "20"} <= set(told)
    assert told.count("happy") == 2  # down and across
    assert "0" not in told
    assert {"100%", "38%", "none"} <= set(told)  # 1200 / 1203, 15 / 40, no row
    again = tmp_path / "again.svg"
    draw_confusion(
        again, ("happy", "愤怒", "<b>"), np.array([[1200, 3, 0], [5, 15, 20], [0, 0, 0]]), "mood · dev"
    )
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("size", [2, 60])
def test_a_matrix_grows_with_its_labels(size: int, tmp_path: Path) -> None:
    draw_confusion(
        tmp_path / "x.svg", tuple(f"label {i}" for i in range(size)), np.eye(size, dtype=np.int64), "x"
    )
    said = re.search(r'width="([\d.]+)pt"', (tmp_path / "x.svg").read_text(encoding="utf-8"))
    assert said
    assert float(said[1]) > 72 * max(3.2, 0.3 * size)
    assert f"label {size - 1}" in words(tmp_path / "x.svg")


def test_labels_stand_beside_each_other_as_shares_with_numbers(tmp_path: Path) -> None:
    splits = {"train": {"fear": 1000, "happy": 3000}, "dev": {"fear": 1, "happy": 0}}
    draw_classes(tmp_path / "classes.svg", splits, "mood")
    told = words(tmp_path / "classes.svg")
    assert {"fear", "happy", "train (4,000)", "dev (1)", "1,000", "3,000", "mood"} <= set(told)
    assert told.count("fear") == 1


def test_lengths_say_what_is_cut_and_where(tmp_path: Path) -> None:
    lengths = {"train": np.array([5, 6, 7, 130, 9000]), "dev": np.array([128, 128])}
    draw_lengths(tmp_path / "lengths.svg", lengths, 128, "mood")
    told = words(tmp_path / "lengths.svg")
    assert {"train (5): 40.0% cut", "dev (2): 0.0% cut", "max_length 128"} <= set(told)
    assert any(one.endswith("256 or more in the last bar") for one in told)


def test_nothing_to_draw_is_drawn_too(tmp_path: Path) -> None:
    draw_lengths(tmp_path / "a.svg", {"train": np.array([2, 2])}, 128, "empty texts")
    draw_lengths(tmp_path / "b.svg", {"train": np.array([], dtype=np.int64)}, 128, "no texts")
    draw_classes(tmp_path / "c.svg", {"train": {"a": 0, "b": 0}}, "no rows")
    draw_confusion(tmp_path / "d.svg", ("a", "b"), np.zeros((2, 2), dtype=np.int64), "no rows")
    assert len(words(tmp_path / "d.svg")) > 4
