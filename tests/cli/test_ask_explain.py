"""`ask --explain`: the words of the text with what they did, for people and for machines."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("captum", reason="captum is not installed (manyheads[explain])")

if TYPE_CHECKING:
    from tests.conftest import Command


def test_each_word_is_told_with_what_it_did(tiny_run: Path, command: "Command") -> None:
    ended = command("ask", tiny_run, "a fine film", "--explain")
    assert ended.status == 0, ended
    assert "without the words" in ended.out
    for word in ("a ", "fine", "film"):
        assert word in ended.out
    assert "[CLS]" not in ended.out
    plain = command("ask", tiny_run, "a fine film")
    assert "without the words" not in plain.out


def test_machines_get_places_and_sums(tiny_run: Path, command: "Command") -> None:
    ended = command("ask", tiny_run, "a fine film", "--explain", "--json")
    found = json.loads(ended.out)["mood"]
    told = found["explanation"]
    assert told["target"] == found["label"]
    assert "prediction" not in told
    words = [one for one in told["tokens"] if one["start"] < one["end"]]
    assert [one["text"] for one in words] == ["a", "fine", "film"]
    assert sum(one["value"] for one in words) == pytest.approx(
        told["score"] - told["baseline"] + told["gap"], abs=1e-6
    )
    pair = command("ask", tiny_run, "a fine film", "a bad end", "--explain", "--json")
    told = json.loads(pair.out)["pairs"]["explanation"]
    assert told["target"] == "value"
    assert [one["which"] for one in told["tokens"] if one["start"] < one["end"]] == [0, 0, 0, 1, 1, 1]
