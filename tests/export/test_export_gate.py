"""What int8 may cost a head: points of its first measure, whatever scale that has."""

import math

import numpy as np
import pytest

from manyheads.errors import InputError
from manyheads.export.gate import Int8, judged
from manyheads.recipe import Recipe
from manyheads.tasks import KINDS, Kind


def kind(name: str, **settings: object) -> Kind:
    return KINDS[name](KINDS[name].Settings.model_validate({"kind": name, **settings}))


ACCURACY = {"text": "a", "labels": ["x", "y"]}


@pytest.mark.parametrize(
    ("one", "before", "after", "gate", "passes"),
    [
        (kind("classification", **ACCURACY), 0.80, 0.796, 0.5, True),
        (kind("classification", **ACCURACY), 0.80, 0.795, 0.5, True),  # exactly at the gate
        (kind("classification", **ACCURACY), 0.80, 0.794, 0.5, False),
        (kind("classification", **ACCURACY), 0.80, 0.794, 0.7, True),
        (kind("classification", **ACCURACY), 0.80, 0.81, 0.0, True),
        (kind("classification", **ACCURACY), 0.80, 0.80, 0.0, True),
        # A correlation loses as many points as it falls hundredths, though it runs from −1.
        (kind("classification", measure="matthews", **ACCURACY), 0.50, 0.492, 0.5, False),
        (kind("regression", pair=["a", "b"]), 0.880, 0.874, 0.5, False),
        (kind("regression", pair=["a", "b"]), 0.880, 0.876, 0.5, True),
        (kind("tagging"), 0.90, 0.80, 0.5, False),
        # SQuAD's F1 is in percent already.
        (kind("span"), 80.0, 79.6, 0.5, True),
        (kind("span"), 80.0, 79.4, 0.5, False),
        (kind("regression", pair=["a", "b"]), 0.88, math.nan, 0.5, False),
        (kind("regression", pair=["a", "b"]), math.nan, 0.88, 0.5, False),
    ],
)
def test_the_gate_is_in_points(one: Kind, before: float, after: float, gate: float, passes: bool) -> None:
    found = judged(one, "measure", before, after, gate)
    assert found.passes is passes
    assert found.told.startswith("int8: " if passes else "float32: ")
    assert np.array_equal([found.before, found.after], [before, after], equal_nan=True) or math.isnan(before)


def test_it_tells_what_was_lost() -> None:
    told = judged(kind("classification", **ACCURACY), "accuracy", 0.8, 0.75, 0.5).told
    assert told == "float32: int8 would lose 5.00 points, more than 0.5 (accuracy 0.7500, float32 0.8000)"
    assert judged(kind("span"), "f1", 80.0, 81.0, 0.5).told == "int8: f1 81.00, float32 80.00"


@pytest.mark.parametrize("settings", [{"gate": -0.1}, {"gate": math.nan}, {"gate": math.inf}, {"texts": 0}])
def test_a_gate_that_is_none_is_refused(settings: dict[str, float]) -> None:
    recipe = Recipe.parse(
        {"name": "x", "tasks": {"a": {"kind": "classification", "text": "a", "files": {"train": "a.csv"}}}}
    )
    with pytest.raises(InputError, match=r"points|training text"):
        Int8(recipe, **settings)  # type: ignore[arg-type]
