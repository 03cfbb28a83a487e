"""Every kind of task in the one loop: together, with SMART, taught, frozen, resumed, and as an ensemble."""

import csv
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import manyheads as mh
from manyheads.encoder.checkpoint import load_file
from manyheads.evidence.answered import evaluate_runs
from manyheads.evidence.ensemble import Ensemble
from manyheads.run import Run
from manyheads.tasks import KINDS
from manyheads.training.journal import Journal

if TYPE_CHECKING:
    from tests.conftest import Tiny

NAMES = ("ada", "bob", "eve", "tom")
PLACES = ("rome", "oslo", "lima", "bern")
SMART = {"smart": {"weight": 1, "share": 1}}


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def sections(tiny: "Tiny", tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """A section of each kind over small files: who went where."""
    folder = tmp_path_factory.mktemp("kinds")
    chance = random.Random(5)

    def files(name: str, make: Any, train: int = 24, dev: int = 10) -> dict[str, str]:
        return {
            split: written(folder / f"{name}-{split}.jsonl", [one for _ in range(count) for one in make()])
            for split, count in (("train", train), ("dev", dev))
        }

    def said() -> tuple[str, str, list[str]]:
        name, place = chance.choice(NAMES), chance.choice(PLACES)
        return name, place, [name, "was", "in", place, *chance.choices(("and", "very", "film"), k=2)]

    def tagged() -> list[dict[str, Any]]:
        _, _, words = said()
        tags = ["B-PER", "O", "O", "B-LOC", "O", "O"]
        return [{"words": words, "tags": tags}]

    def asked() -> list[dict[str, Any]]:
        name, place, words = said()
        context = " ".join(words)
        answer = {"text": place, "answer_start": context.index(place)}
        number = str(chance.random())
        return [{"id": number, "question": f"where was {name}", "context": context, "answers": [answer]}]

    def chosen() -> list[dict[str, Any]]:
        name, place, _ = said()
        others = [one for one in PLACES if one != place][:2]
        at = chance.randrange(3)
        return [{"text": f"{name} in {place}", "endings": [*others[:at], place, *others[at:]], "label": at}]

    def ranked() -> list[dict[str, Any]]:
        name, place, words = said()
        rows = [(" ".join(words), 1)] + [(f"the film {chance.choice(NAMES)}", 0)] * chance.randint(1, 3)
        chance.shuffle(rows)
        query = f"where {name} {place} {chance.random()}"
        return [{"query": query, "candidate": text, "relevance": value} for text, value in rows]

    return {
        "mood": tiny.mood(),
        "pairs": tiny.pairs(),
        "names": {"kind": "tagging", "files": files("names", tagged), "max_length": 40},
        "where": {
            "kind": "span",
            "files": files("where", asked),
            "max_length": 48,
            "question_length": 16,
            "stride": 8,
        },
        "ends": {
            "kind": "choice",
            "files": files("ends", chosen),
            "text": "text",
            "choices": "endings",
            "max_length": 40,
        },
        "best": {
            "kind": "ranking",
            "files": files("best", ranked, train=12, dev=6),
            "query": "query",
            "candidate": "candidate",
            "relevance": "relevance",
            "max_length": 60,
        },
    }


def train(tiny: "Tiny", out: Path, tasks: dict[str, Any], resume: bool = False, **more: Any) -> Run:
    settings = {"mixing": {"schedule": "round_robin", "combine": True}, **more}
    settings.setdefault("schedule", {"steps": 3, "batch_size": 6, "evaluate_every": 2})
    return mh.train(mh.Recipe.parse(tiny.recipe(tasks=tasks, **settings)), out, quiet=True, resume=resume)


@pytest.fixture(scope="module")
def together(tiny: "Tiny", sections: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tiny, tmp_path_factory.mktemp("together") / "run", sections)


def weights(run: Run) -> dict[str, torch.Tensor]:
    heads = load_file(run.model_folder / "heads.safetensors")
    return load_file(run.model_folder / "model.safetensors") | heads


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_sections_cover_every_kind(sections: dict[str, Any]) -> None:
    assert {section["kind"] for section in sections.values()} >= set(KINDS) - {"mlm", "nsp"}


def test_one_model_has_a_head_of_every_kind(together: Run, sections: dict[str, Any]) -> None:
    assert list(together.scores) == list(sections)
    for name in sections:
        tallies = np.load(together.folder / "predictions" / f"{name}-dev.npy")
        kind = together.model().task(name).kind
        first = next(iter(together.scores[name].values()))
        assert kind.measure_of(tallies.sum(0)) == pytest.approx(first, abs=1e-9)
    again = evaluate_runs([together])["dev"]
    for name, scores in together.scores.items():
        assert again[name] == pytest.approx(scores, abs=1e-6, nan_ok=True)


def test_a_run_s_recipe_says_everything_and_loads_again(together: Run) -> None:
    recipe = together.recipe
    assert mh.Recipe.parse(json.loads(recipe.model_dump_json(by_alias=True))) == recipe


def test_the_loaded_model_says_what_the_predictions_file_says(
    together: Run, sections: dict[str, Any]
) -> None:
    model = mh.load(together.folder)
    rows = {
        name: [json.loads(line) for line in Path(sections[name]["files"]["dev"]).read_text().splitlines()]
        for name in ("names", "where", "ends")
    }
    found = model.predict("names", [row["words"] for row in rows["names"]])
    told = table(together.folder / "predictions" / "names-dev.csv")
    assert [" ".join(word.label for word in one.tokens) for one in found] == [row["tags"] for row in told]
    answers = model.predict("where", [(row["question"], row["context"]) for row in rows["where"]])
    official = json.loads((together.folder / "predictions" / "where-dev.json").read_text(encoding="utf-8"))
    assert [one.label for one in answers] == [official[row["id"]] for row in rows["where"]]
    for one, row in zip(answers, rows["where"], strict=True):
        assert all(span.text == row["context"][span.start : span.end] for span in one.spans)
    chosen = model.predict("ends", [(row["text"], row["endings"]) for row in rows["ends"]])
    assert [one.label for one in chosen] == [
        row["label"] for row in table(together.folder / "predictions" / "ends-dev.csv")
    ]


def test_a_text_goes_through_every_head_that_reads_one(together: Run) -> None:
    model = mh.load(together.folder)
    text = "ada was in rome"
    (found,) = model.analyze([text])
    assert list(found) == ["mood", "names"]
    for name, one in found.items():
        (alone,) = model.predict(name, [text])
        assert one.label == alone.label
        assert [word.label for word in one.tokens] == [word.label for word in alone.tokens]
    (pair,) = model.analyze_pairs([("where was ada", text)])
    assert list(pair) == ["pairs", "where"]
    (alone,) = model.predict("where", [("where was ada", text)])
    assert pair["where"].label == alone.label
    assert pair["where"].score == pytest.approx(alone.score, abs=1e-6)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"regularize": SMART},
        {"mixing": {"schedule": "proportional", "in_batch": True}},
        {"gradients": {"surgery": "pcgrad", "weighting": "uncertainty", "affinity_every": 2}},
        {"encoder": "frozen"},
    ],
    ids=["plain", "smart", "in batch", "gradients", "frozen"],
)
def test_stopped_and_resumed_it_ends_with_the_same_bits(
    tiny: "Tiny",
    sections: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: dict[str, Any],
) -> None:
    if more.get("encoder") == "frozen":
        more = {"encoder": {"from": str(tiny.folder / "bert"), "freeze": True}}
    whole = train(tiny, tmp_path / "whole", sections, **more)
    plain = Journal.step

    class PowerCutError(Exception):
        pass

    def cut(self: Journal, step: int, *given: Any, **named: Any) -> None:
        if step == 3:
            raise PowerCutError
        plain(self, step, *given, **named)

    monkeypatch.setattr(Journal, "step", cut)
    with pytest.raises(PowerCutError):
        train(tiny, tmp_path / "cut", sections, **more)
    monkeypatch.undo()
    again = weights(train(tiny, tmp_path / "cut", sections, resume=True, **more))
    assert all(torch.equal(one, again[name]) for name, one in weights(whole).items())


def test_every_kind_is_taught(tiny: "Tiny", sections: dict[str, Any], together: Run, tmp_path: Path) -> None:
    """Taught by the teacher alone, every head becomes another than from its labels (the cosine has no parameters)."""
    teachers = dict.fromkeys(sections, str(together.folder))
    distill = {"teachers": teachers, "anneal": "none"}
    student = train(tiny, tmp_path / "student", sections, distill=distill)
    assert list(student.scores) == list(sections)
    own = train(tiny, tmp_path / "own", sections)
    ours, theirs = weights(own), weights(student)
    for name in sections:
        assert (
            not all(torch.equal(ours[key], theirs[key]) for key in ours if key.startswith(f"{name}."))
            or name == "pairs"
        )


def test_the_loss_against_its_own_answers_has_no_gradient(together: Run, sections: dict[str, Any]) -> None:
    model = together.model()
    inputs: dict[str, Any] = {
        "mood": "a fine film",
        "names": ["ada", "was", "in", "rome"],
        "where": ("where was ada", "ada was in rome"),
        "ends": ("ada in rome", ["rome", "oslo"]),
        "best": ("where ada", ["ada was in rome", "the film", "oslo"]),
    }
    for name, one in inputs.items():
        kind = model.task(name).kind
        outputs, _ = model.outputs(name, [kind.input(kind.given(one))] * 2)
        numbers = (outputs if isinstance(outputs, torch.Tensor) else outputs.rows).clone().requires_grad_()
        regrouped = numbers if isinstance(outputs, torch.Tensor) else outputs.with_rows(numbers)
        answers = kind.answers(regrouped).detach()
        (gradient,) = torch.autograd.grad(kind.loss(regrouped, answers), numbers)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-6, rtol=0)
        back = kind.answers(kind.from_answers(answers, regrouped))
        torch.testing.assert_close(back, answers, atol=1e-6, rtol=0)
        assert float(kind.distance(regrouped, regrouped).detach()) == pytest.approx(0, abs=1e-7)
        softer = kind.answers(kind.tempered(regrouped, 2.0))
        roots = answers.sqrt()
        if isinstance(outputs, torch.Tensor) or name == "names":
            wanted = roots / roots.sum(1, keepdim=True)
        else:
            wanted = roots / outputs.total(roots)[outputs.owners]
        torch.testing.assert_close(softer, wanted, atol=1e-6, rtol=0)


# ---- ensembles ----


def test_a_run_with_itself_is_that_run(together: Run) -> None:
    one, two = evaluate_runs([together])["dev"], evaluate_runs([together, together])["dev"]
    for name, scores in one.items():
        for measure, value in scores.items():
            assert two[name][measure] == pytest.approx(value, abs=1e-5, nan_ok=True), (name, measure)


def test_two_runs_answer_with_their_mean(
    tiny: "Tiny", sections: dict[str, Any], together: Run, tmp_path: Path
) -> None:
    other = train(tiny, tmp_path / "other", {**sections, "mood": tiny.mood(labels=["good", "bad"])}, seed=3)
    models = [together.model(), other.model()]
    both = Ensemble(models, ["one", "other"])
    (mean,) = both.answer("mood", [("a fine film",)])
    each = [model.predict("mood", ["a fine film"], raw=True)[0].probabilities or {} for model in models]
    for label in ("bad", "good"):
        assert (mean.probabilities or {})[label] == pytest.approx(
            (each[0][label] + each[1][label]) / 2, abs=1e-6
        )
    (value,) = both.answer("pairs", [("a fine film", "the film")])
    values = [model.predict("pairs", [("a fine film", "the film")])[0].value or 0.0 for model in models]
    if all(0 < one < 5 for one in values):
        assert value.value == pytest.approx(sum(values) / 2, abs=1e-5)
    asked = ("ada in rome", ["rome", "oslo"])
    kind = models[0].task("ends").kind
    (choice,) = both.answer("ends", [kind.input(kind.given(asked))])
    shares = [model.predict("ends", [asked], raw=True)[0].shares for model in models]
    assert choice.shares == pytest.approx([(a + b) / 2 for a, b in zip(*shares, strict=True)], abs=1e-6)
    scores = evaluate_runs([together, other])["dev"]
    assert list(scores) == list(sections)


def test_runs_that_do_not_belong_together(tiny: "Tiny", together: Run, tmp_path: Path) -> None:
    files = {"train": "mood-train.csv", "dev": "mood-dev.csv"}
    more = train(tiny, tmp_path / "more", {"mood": tiny.mood(labels=["bad", "good", "odd"], files=files)})
    with pytest.raises(mh.InputError, match=r"more: has the labels bad, good, odd, expected bad, good"):
        evaluate_runs([Run.open(train(tiny, tmp_path / "a", {"mood": tiny.mood()}).folder), more])
    with pytest.raises(mh.InputError, match=r"more: no task 'pairs' in this model"):
        Ensemble([together.model(), more.model()], ["one", "more"]).task("pairs")


def test_an_encoder_with_too_few_layers_for_a_head_is_refused_before_training(
    tiny: "Tiny", tmp_path: Path
) -> None:
    section = tiny.mood(head="bilstm", layers="concat_last_four", width=4)
    with pytest.raises(
        mh.InputError, match=r"tasks.mood.layers: expected an encoder of 4 or more layers, found 2"
    ):
        train(tiny, tmp_path / "run", {"mood": section})
    assert not (tmp_path / "run").exists()


def test_a_step_in_parts_is_the_same_step(tiny: "Tiny", sections: dict[str, Any], tmp_path: Path) -> None:
    """Also where a loss is a mean over words or windows, of which examples have different numbers."""
    more: dict[str, Any] = {
        "encoder": {"from": str(tiny.folder / "bert"), "dropout": 0.0},
        "precision": "float64",
    }
    found = []
    for accumulate in (1, 3):
        schedule = {"steps": 1, "batch_size": 7, "evaluate_every": 5, "accumulate": accumulate}
        run = train(tiny, tmp_path / str(accumulate), sections, schedule=schedule, **more)
        lines = (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
        (step,) = (one for one in map(json.loads, lines) if one["event"] == "step")
        found.append(step)
    assert found[1]["loss"] == pytest.approx(found[0]["loss"], rel=1e-9)
    assert found[1]["norm"] == pytest.approx(found[0]["norm"], rel=1e-9)


def test_the_predictions_file_of_a_ranking_names_the_rows(
    tiny: "Tiny", sections: dict[str, Any], together: Run, tmp_path: Path
) -> None:
    """A row without a relevance is left out, and those after it keep their numbers; what is cut is told of each."""
    rows: list[dict[str, Any]] = [
        {"query": "a", "candidate": "the film", "relevance": 1},
        {"query": "a", "candidate": "rome", "relevance": ""},
        {"query": "a", "candidate": "the " * 90, "relevance": 0},
        {"query": "b", "candidate": "oslo", "relevance": 1},
    ]
    path = written(tmp_path / "dev.jsonl", rows)
    section = {**sections["best"], "files": {**sections["best"]["files"], "dev": path}, "blank_labels": 0.5}
    run = train(tiny, tmp_path / "run", {"best": section}, mixing={"schedule": "proportional"})
    told = table(run.folder / "predictions" / "best-dev.csv")
    assert [row["row"] for row in told] == ["1", "3", "4"]
    assert [row["truncated"] for row in told] == ["false", "true", "false"]
    (found,) = mh.load(run.folder).predict("best", [("a", ["the film", "the " * 90])])
    assert found.truncated
    assert found.dropped[0] == 0 < found.dropped[1] == found.tokens_dropped


def test_a_dev_set_that_nothing_can_be_measured_by(
    tiny: "Tiny", sections: dict[str, Any], tmp_path: Path
) -> None:
    path = written(tmp_path / "dev.jsonl", [{"query": "a", "candidate": "the film", "relevance": 0}])
    section = {**sections["best"], "files": {**sections["best"]["files"], "dev": path}}
    with pytest.raises(
        mh.InputError, match=r"dev.jsonl, column 'relevance': no row of the dev split can be measured by"
    ):
        train(tiny, tmp_path / "run", {"best": section}, mixing={"schedule": "proportional"})


def test_queries_that_come_back_are_told(
    tiny: "Tiny", sections: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"query": name, "candidate": "the film", "relevance": 1} for name in "abab"]
    files = {"train": written(tmp_path / "train.jsonl", rows)}
    recipe = mh.Recipe.parse(
        tiny.recipe(tasks={"best": {**sections["best"], "files": files}}, mixing={}, schedule={"steps": 1})
    )
    mh.train(recipe, tmp_path / "run")
    said = capsys.readouterr()
    assert "2 queries come back after others" in " ".join((said.out + said.err).split())
