"""`compare`: two runs, or two folders of runs, made by hand and trained."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.stats

from manyheads import cli
from manyheads.cli.compare import compare as compare_command
from manyheads.errors import InputError
from manyheads.evidence.compare import compare

if TYPE_CHECKING:
    from tests.conftest import Command
    from tests.evidence.conftest import Answers, MakeRun


def answers(*wrong: int, count: int = 100) -> "Answers":
    """Labels of `count` examples, of which those named are wrong."""
    gold = np.arange(count) % 2
    said = gold.copy()
    said[list(wrong)] ^= 1
    return said.tolist(), gold.tolist()


def near(noise: float, seed: int) -> "Answers":
    gold = np.linspace(0, 5, 80)
    return (gold + noise * np.random.default_rng(seed).normal(size=80)).tolist(), gold.tolist()


@pytest.fixture(autouse=True)
def _wired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "compare", compare_command)


def test_two_runs_on_two_tasks(make_run: "MakeRun") -> None:
    a = make_run("a", {"mood": answers(*range(5)), "pairs": near(0.5, 1)})
    b = make_run("b", {"mood": answers(*range(3, 23)), "pairs": near(0.5, 2)})
    found = compare(a, b)
    assert [(one.task, one.measure) for one in found.judgements] == [
        ("mood", "accuracy"),
        ("pairs", "pearson"),
    ]
    mood, pairs = found.judgements
    assert mood.means == pytest.approx((0.95, 0.80))
    assert mood.verdict == "better"
    assert mood.mcnemar is not None
    # Right in a alone: 5 … 22; in b alone: 0, 1, 2.
    assert mood.mcnemar.p == pytest.approx(2 * scipy.stats.binom.cdf(3, 21, 0.5))
    assert mood.bootstrap is not None
    assert mood.bootstrap.comparisons == 2
    assert mood.bootstrap.difference == pytest.approx(0.15)
    assert pairs.mcnemar is None
    assert pairs.verdict == "undecided"


def test_swapping_the_runs_turns_everything_round(make_run: "MakeRun") -> None:
    a = make_run("a", {"mood": answers(*range(5))})
    b = make_run("b", {"mood": answers(*range(3, 23))})
    (there,), (back,) = compare(a, b).judgements, compare(b, a).judgements
    assert (there.verdict, back.verdict) == ("better", "worse")
    assert there.bootstrap is not None
    assert back.bootstrap is not None
    assert there.bootstrap.p == back.bootstrap.p
    assert there.bootstrap.interval == pytest.approx([-end for end in reversed(back.bootstrap.interval)])


def test_a_run_against_itself_is_undecided(make_run: "MakeRun") -> None:
    run = make_run("a", {"mood": answers(*range(5))})
    (found,) = compare(run, run).judgements
    assert found.verdict == "undecided"
    assert found.bootstrap is not None
    assert (found.bootstrap.p, found.bootstrap.interval) == (1.0, (0.0, 0.0))


def test_folders_of_runs_are_compared_over_their_seeds(make_run: "MakeRun", tmp_path: Path) -> None:
    for seed in range(5):
        make_run(f"smart/seed-{seed}", {"mood": answers(*range(10 + seed))})
        make_run(f"plain/seed-{seed}", {"mood": answers(*range(20 + seed))})
    (tmp_path / "smart" / "notes").mkdir()
    unfinished = make_run("smart/seed-9", {"mood": answers()})
    (unfinished / "scores.json").unlink()
    (found,) = compare(tmp_path / "smart", tmp_path / "plain").judgements
    assert found.seeds == (5, 5)
    assert (found.verdict, found.decided_by) == ("better", "seeds")
    assert found.mann_whitney is not None
    assert found.mann_whitney.p == pytest.approx(2 / 252)
    assert found.permutation is not None
    assert found.mcnemar is None
    assert found.sentence.startswith(
        f"{tmp_path / 'smart'} is better than {tmp_path / 'plain'} on mood (accuracy 0.880"
    )


def test_another_split(make_run: "MakeRun") -> None:
    a = make_run("a", {"mood": answers(1, 2)}, split="test")
    b = make_run("b", {"mood": answers(3)}, split="test")
    assert compare(a, b, split="test").judgements[0].means == pytest.approx((0.98, 0.99))
    with pytest.raises(InputError, match="no scores on 'dev', there are test"):
        compare(a, b)


def test_what_cannot_be_compared_is_one_line(make_run: "MakeRun", tmp_path: Path, command: "Command") -> None:
    a = make_run("a", {"mood": answers(1)})
    b = make_run("b", {"pairs": near(1, 0)})
    assert "no common task: " in command.refused("compare", a, b)
    assert "no such run folder" in command.refused("compare", a, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no run folder, and it holds none" in command.refused("compare", tmp_path / "empty", a)
    other = make_run("other", {"mood": answers(1)}, rows=range(2, 102))
    told = command.refused("compare", a, other)
    assert "task 'mood'" in told
    assert "example 1 is row 1 (gold '0') and row 2 (gold '0')" in told
    bare = make_run("bare", {"mood": answers(1)})
    (bare / "predictions" / "mood-dev.csv").unlink()
    assert "bare/predictions/mood-dev.csv: no such file" in command.refused("compare", a, bare)
    (bare / "scores.json").unlink()
    assert "the run has no scores yet" in command.refused("compare", a, bare)


def test_the_command_prints_a_table_and_the_sentences(make_run: "MakeRun", command: "Command") -> None:
    a = make_run("a", {"mood": answers(*range(5)), "pairs": near(0.5, 1)})
    b = make_run("b", {"mood": answers(*range(3, 23)), "pairs": near(0.5, 2)})
    ended = command("compare", a, b)
    assert (ended.status, ended.err) == (0, "")
    assert "mood accuracy 0.950 0.800" in " ".join(ended.out.split())
    assert "cannot decide between the methods" in ended.out
    ended = command("compare", a, b, "--json")
    told = json.loads(ended.out)
    assert [one["verdict"] for one in told["comparisons"]] == ["better", "undecided"]
    assert told["comparisons"][1]["mcnemar"] is None
    assert told["comparisons"][0]["mann_whitney"]["interval"] == [None, None]


def test_a_trained_run_is_evidence_without_its_model(tiny_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_run, copy)
    shutil.rmtree(copy / "model")
    found = compare(tiny_run, copy)
    assert [one.task for one in found.judgements] == ["mood", "pairs"]
    for one in found.judgements:
        assert one.bootstrap is not None
        assert one.bootstrap.p == 1.0
        assert one.means[0] == one.means[1]
