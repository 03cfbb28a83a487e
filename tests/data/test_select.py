"""Which rows are held out and which are used: shares, order, nesting, and both as a recipe asks for them."""

import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import manyheads as mh
from manyheads.data.encode import TokenCache
from manyheads.data.read import Row
from manyheads.data.select import part_of, rows_of_part, sampled
from manyheads.evidence.answered import evaluate_runs
from manyheads.training.splits import TaskData, load_task

if TYPE_CHECKING:
    from tests.conftest import Command, Tiny

SHARES = {"dev": 0.2, "test": 0.1}


# ---- parts by value ----


def test_each_part_has_about_its_share() -> None:
    count = 20_000
    found = Counter(part_of([f"text {number}"], SHARES) for number in range(count))
    for part, share in {**SHARES, "train": 0.7}.items():
        spread = (share * (1 - share) / count) ** 0.5
        assert found[part] / count == pytest.approx(share, abs=4 * spread)


def test_only_the_values_decide() -> None:
    assert part_of(["a", "b"], SHARES) == part_of(("a", "b"), SHARES)
    # Where two texts meet matters, and which is first.
    places = {texts: part_of(texts, {"dev": 0.5}) for texts in [("ab", "c"), ("a", "bc"), ("c", "ab")]}
    assert set(places.values()) == {"dev", "train"}
    assert part_of([1], SHARES) == part_of(["1"], SHARES)  # a number is the text it writes
    assert part_of([""], SHARES) in {"dev", "test", "train"}
    assert part_of(["\ud800"], SHARES) in {"dev", "test", "train"}  # half a surrogate, as JSON may hold it
    assert part_of([None], SHARES) in {"dev", "test", "train"}


def test_a_part_grows_with_its_share() -> None:
    texts = [f"text {number}" for number in range(300)]
    small, large = (
        {text for text in texts if part_of([text], {"dev": share}) == "dev"} for share in (0.1, 0.3)
    )
    assert 0 < len(small) < len(large)
    assert small < large


def rows(*values: tuple[str, str]) -> list[Row]:
    return [Row(number, None, {"a": a, "b": b}) for number, (a, b) in enumerate(values, start=1)]


@settings(max_examples=30, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("klmnop")), max_size=20),
    seed=st.integers(0, 5),
)
def test_every_row_is_in_one_part_in_any_order(pairs: list[tuple[str, str]], seed: int) -> None:
    given_rows = rows(*pairs)
    mixed = random.Random(seed).sample(given_rows, len(given_rows))
    parts = {
        part: [row.number for row in rows_of_part(iter(given_rows), part, SHARES, ["a"])]
        for part in ("train", "dev", "test")
    }
    assert sorted(number for some in parts.values() for number in some) == [row.number for row in given_rows]
    for part, numbers in parts.items():
        assert sorted(row.number for row in rows_of_part(iter(mixed), part, SHARES, ["a"])) == numbers
    owners = {pairs[number - 1][0]: part for part, numbers in parts.items() for number in numbers}
    for part, numbers in parts.items():
        assert all(owners[pairs[number - 1][0]] == part for number in numbers)


# ---- samples ----


@pytest.mark.parametrize(
    ("wanted", "count"),
    [(1, 1), (7, 7), (100, 100), (1000, 100), (0.25, 25), (0.001, 1), (1.0, 100), (0.999, 100), (0.5, 50)],
)
def test_how_many(wanted: float, count: int) -> None:
    found = sampled(100, wanted, 0, "x")
    assert len(found) == count
    assert found.dtype == np.int64
    assert (np.diff(found) > 0).all()
    assert found.min(initial=100) >= 0
    assert found.max(initial=0) < 100


def test_a_smaller_sample_is_part_of_a_larger_one() -> None:
    before: set[int] = set()
    for wanted in (0.001, 3, 17, 0.1, 80, 0.5, 1.0):
        found = set(sampled(200, wanted, 4, "x").tolist())
        assert before <= found
        before = found
    assert before == set(range(200))


def test_seed_and_purpose_decide() -> None:
    plain = sampled(500, 20, 0, "x").tolist()
    assert sampled(500, 20, 0, "x").tolist() == plain
    assert sampled(500, 20, 1, "x").tolist() != plain
    assert sampled(500, 20, 0, "y").tolist() != plain
    # No row is favoured: each comes in about 20 of 500 draws.
    found = np.bincount(np.concatenate([sampled(25, 1, seed, "x") for seed in range(2000)]), minlength=25)
    assert found.min() > 40
    assert found.max() < 130


# ---- as a recipe asks for them ----


def load(tiny: "Tiny", section: dict[str, Any], cache: TokenCache | None = None) -> TaskData:
    recipe = mh.Recipe.parse(tiny.recipe(tasks={"t": section}))
    tokenizer = mh.Tokenizer.from_pretrained(tiny.folder / "bert")
    return load_task("t", recipe, tokenizer, positions=64, cache=cache)


def numbers(task: TaskData, split: str) -> list[int]:
    return [place.row for place in task.splits[split].rows.places]


@pytest.fixture
def premises(tiny: "Tiny", tmp_path: Path) -> Path:
    """60 pairs of 15 premises, and a test file that has no column `premise`."""
    told = [(f"the story {i % 15}", f"a film {i}", ("yes", "no")[i // 2 % 2]) for i in range(60)]
    tiny.csv(tmp_path / "all.csv", ["premise", "claim", "label"], told)
    tiny.csv(tmp_path / "other.csv", ["claim", "label"], [(claim, label) for _, claim, label in told[:9]])
    return tmp_path


def claims(premises: Path, **more: Any) -> dict[str, Any]:
    return {
        "kind": "classification",
        "files": {"train": str(premises / "all.csv")},
        "text": "claim",
        "max_length": 16,
        **more,
    }


def test_rows_of_one_value_stay_together(tiny: "Tiny", premises: Path) -> None:
    held = {"dev": 0.3, "test": 0.2, "by": "premise"}
    task = load(tiny, claims(premises, hold_out=held))
    assert list(task.splits) == ["train", "dev", "test"]
    found = {split: numbers(task, split) for split in task.splits}
    assert sorted(row for some in found.values() for row in some) == list(range(1, 61))
    owners = {split: {(row - 1) % 15 for row in some} for split, some in found.items()}
    assert all(len(found[split]) == 4 * len(owners[split]) for split in found)
    assert not owners["train"] & owners["dev"]
    assert not owners["train"] & owners["test"]
    assert not owners["dev"] & owners["test"]

    # The order of the file does not matter, and other rows beside them do not.
    lines = (premises / "all.csv").read_text().splitlines()
    mixed = [lines[0], *random.Random(3).sample(lines[1:], 60), "a new premise,a new claim,yes"]
    (premises / "mixed.csv").write_text("\n".join(mixed) + "\n")
    again = load(tiny, claims(premises, files={"train": str(premises / "mixed.csv")}, hold_out=held))
    chosen = {split: {mixed[row] for row in numbers(again, split)} for split in again.splits}
    for split in ("dev", "test"):
        assert {lines[row] for row in found[split]} == chosen[split] - {mixed[-1]}


def test_a_file_beside_them_needs_no_such_column(tiny: "Tiny", premises: Path) -> None:
    files = {"train": str(premises / "all.csv"), "test": str(premises / "other.csv")}
    task = load(tiny, claims(premises, files=files, hold_out={"dev": 0.4, "by": "premise"}))
    assert len(task.splits["test"]) == 9
    assert len(task.splits["train"]) + len(task.splits["dev"]) == 60


def test_by_default_equal_texts_stay_together(tiny: "Tiny", premises: Path) -> None:
    twice = [(f"the film {i}", ("yes", "no")[i % 2]) for i in range(12)] * 3
    path = tiny.csv(premises / "twice.csv", ["claim", "label"], twice)
    task = load(tiny, claims(premises, files={"train": str(path)}, hold_out={"dev": 0.5}))
    found = {split: {(row - 1) % 12 for row in numbers(task, split)} for split in ("train", "dev")}
    assert found["train"] | found["dev"] == set(range(12))
    assert not found["train"] & found["dev"]


def test_the_cache_tells_parts_and_samples_apart(tiny: "Tiny", premises: Path, tmp_path: Path) -> None:
    cache = TokenCache(tmp_path / "cache")
    asked: list[dict[str, Any]] = [
        {"hold_out": {"dev": 0.3}},
        {"hold_out": {"dev": 0.5}},
        {"hold_out": {"dev": 0.3, "by": "premise"}},
        {},
        {"sample": {"train": 20}},
        {"sample": {"train": 20}, "sample_seed": 1},
        {"hold_out": {"dev": 0.3}, "sample": {"train": 20, "dev": 0.5}},
    ]
    fresh = [load(tiny, claims(premises, **one)) for one in asked]
    for _ in range(2):
        for one, wanted in zip(asked, fresh, strict=True):
            found = load(tiny, claims(premises, **one), cache)
            assert list(found.splits) == list(wanted.splits)
            for split in wanted.splits:
                assert numbers(found, split) == numbers(wanted, split)
                assert found.splits[split].digest == wanted.splits[split].digest
    assert len({tuple(numbers(one, "train")) for one in fresh}) == len(asked)
    assert len(fresh[-1].splits["dev"]) == round(0.5 * len(fresh[0].splits["dev"]))


def test_samples_of_a_task_are_nested_and_in_the_file_s_order(tiny: "Tiny") -> None:
    found = [numbers(load(tiny, tiny.mood(sample={"train": n})), "train") for n in (0.02, 5, 0.25, 48, 1.0)]
    assert [len(one) for one in found] == [1, 5, 12, 48, 48]
    for less, more in itertools.pairwise(found):
        assert set(less) <= set(more)
        assert more == sorted(more)
    dev = load(tiny, tiny.mood(sample={"train": 5}))
    assert len(dev.splits["dev"]) == 20


def test_a_label_that_a_sample_misses_is_known(tiny: "Tiny") -> None:
    task = load(tiny, tiny.mood(sample={"train": 1, "dev": 3}))
    assert task.kind.facts() == {"labels": ["bad", "good"]}
    targets = task.splits["train"].targets
    assert targets is not None
    assert len(targets) == 1


def test_a_run_on_held_out_rows_is_scored_on_them_again(tiny: "Tiny", tmp_path: Path) -> None:
    section = tiny.mood(
        files={"train": "mood-train.csv"}, hold_out={"dev": 0.3, "test": 0.2}, sample={"train": 12, "dev": 10}
    )
    recipe = tiny.recipe(tasks={"mood": section}, schedule={"steps": 2, "batch_size": 8})
    run = mh.train(mh.Recipe.parse(recipe), tmp_path / "run", quiet=True)
    assert sorted(run.all_scores) == ["dev", "test"]
    again = evaluate_runs([run])
    for split, scores in again.items():
        assert scores["mood"] == pytest.approx(run.all_scores[split]["mood"], abs=1e-6)
    lines = (run.folder / "predictions" / "mood-dev.csv").read_text().splitlines()
    assert len(lines) == 1 + 10
    (start,) = (
        record
        for record in map(json.loads, (run.folder / "log.jsonl").read_text().splitlines())
        if record["event"] == "start"
    )
    assert start["rows"]["mood"]["train"] == 12
    assert mh.Recipe.load(run.folder / "recipe.yaml") == run.recipe


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"sample": {"trian": 3}}, "tasks.t.sample.trian: there is no such split; did you mean 'train'?"),
        ({"sample": {"test": 3}}, "tasks.t.sample.test: there is no such split"),
        (
            {"hold_out": {"dev": 0.2, "by": "premis"}},
            "all.csv, line 1: no column 'premis'; found 'premise', 'claim', 'label'; did you mean 'premise'?",
        ),
        ({"hold_out": {"dev": 0.2, "train": 0.1}}, "tasks.t.hold_out.train: unknown key"),
    ],
)
def test_an_unknown_split_or_column(
    tiny: "Tiny",
    premises: Path,
    tmp_path: Path,
    command: "Command",
    section: dict[str, Any],
    told: str,
) -> None:
    path = tiny.write(tmp_path / "r.yaml", tasks={"t": claims(premises, **section)})
    found = command.refused("train", path, "--out", tmp_path / "out", "--quiet")
    assert told in found, found
    assert not (tmp_path / "out").exists()


def test_a_part_that_gets_no_row_is_named(tiny: "Tiny", premises: Path) -> None:
    with pytest.raises(
        mh.InputError, match=r"none of the training rows falls into the part 'dev'; see 'hold_out'"
    ):
        load(tiny, claims(premises, hold_out={"dev": 1e-9, "by": "premise"}))
