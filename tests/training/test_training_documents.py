"""Pre-training in the one loop: masks and pairs drawn anew, both losses in one pass, resumed, saved, measured."""

import json
import math
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import manyheads as mh
from manyheads.data.encode import TokenCache
from manyheads.encoder.checkpoint import load_file
from manyheads.encoder.ragged import Ragged
from manyheads.errors import InputError
from manyheads.evidence.answered import evaluate_runs
from manyheads.model import Model
from manyheads.recipe import Recipe
from manyheads.run import Run
from manyheads.tasks.documents import DocumentKind
from manyheads.training.journal import Journal
from manyheads.training.splits import load_tasks

if TYPE_CHECKING:
    from tests.conftest import Command, Tiny
    from tests.training.conftest import Watched

WORDS = ("the", "film", "was", "a", "very", "good", "bad", "and", "dull", "fine")
SPECIAL = 5  # ids below are special tokens


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two shards, 30 documents each; a document repeats its own two words, so that pairs can be told."""
    folder = tmp_path_factory.mktemp("corpus")
    chance = random.Random(3)
    for shard in range(2):
        rows = []
        for number in range(30):
            own = chance.sample(WORDS, 2)
            lines = [" ".join(chance.choices(own, k=chance.randint(2, 9))) for _ in range(6)]
            rows.append({"text": "\n".join([f"{' '.join(own)} {'film ' * (number % 4)}", *lines])})
        path = folder / f"shard-{shard}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def masked(corpus: Path, **settings: Any) -> dict[str, Any]:
    plain = {
        "kind": "mlm",
        "files": {"train": str(corpus)},
        "hold_out": {"dev": 0.2},
        "language": "lines",
        "max_length": 24,
        "rate": 0.3,
    }
    return {**plain, **settings}


def both(corpus: Path, **settings: Any) -> dict[str, Any]:
    return {"mlm": masked(corpus, **settings), "nsp": {"kind": "nsp", "pairs_of": "mlm"}}


def recipe(tiny: "Tiny", tasks: dict[str, Any], **settings: Any) -> Recipe:
    plain = {"mixing": {"schedule": "proportional"}, "schedule": {"steps": 4, "batch_size": 8}}
    return mh.Recipe.parse(tiny.recipe(tasks=tasks, **{**plain, **settings}))


def train(tiny: "Tiny", out: Path, tasks: dict[str, Any], resume: bool = False, **settings: Any) -> Run:
    return mh.train(recipe(tiny, tasks, **settings), out, quiet=True, resume=resume)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.model_folder / "model.safetensors") | load_file(
        run.model_folder / "heads.safetensors"
    )


def log(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def pretrained(tiny: "Tiny", corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tiny, tmp_path_factory.mktemp("runs") / "both", both(corpus))


# ---- one pass, drawn anew ----


def test_both_losses_come_from_one_pass(
    tiny: "Tiny", corpus: Path, tmp_path: Path, watched: "Watched"
) -> None:
    train(tiny, tmp_path / "run", both(corpus))
    assert len(watched.passes) == 4
    for seen in watched.passes:
        mlm, nsp = seen.parts
        assert (mlm.task, nsp.task) == ("mlm", "nsp")
        assert (mlm.begin, mlm.end) == (nsp.begin, nsp.end) == (0, len(seen.ragged))
        assert seen.ragged.marks is not None
        assert len(mlm.targets) == int(seen.ragged.marks.sum()) > 0
        assert len(nsp.targets) == len(seen.ragged)
        assert set(seen.ragged.segment_ids.tolist()) == {0, 1}
        ends = np.cumsum(seen.ragged.lengths)
        separators = (seen.ragged.token_ids == 3).numpy()
        assert [int(part.sum()) for part in np.split(separators, ends[:-1])] == [2] * len(ends)
        assert seen.ragged.lengths.max() <= 24
        assert seen.total == pytest.approx(seen.losses["mlm"] + seen.losses["nsp"], rel=1e-6)
        assert (mlm.targets >= SPECIAL).all()


def test_the_loss_is_bert_s_own(tiny: "Tiny", corpus: Path, tmp_path: Path, watched: "Watched") -> None:
    """Against transformers' BertForPreTraining, with the labels written out as it takes them."""
    from transformers import BertForPreTraining

    torch.manual_seed(0)
    encoder = {"from": str(tiny.folder / "bert"), "dropout": 0.0}
    run = train(tiny, tmp_path / "run", both(corpus), encoder=encoder, schedule={"steps": 1, "batch_size": 8})
    seen = watched.passes[0]
    begin = Model(seen.network, run.model().tokenizer, list(run.model().tasks.values()), "float32")
    begin.save(tmp_path / "begin")
    theirs: Any = BertForPreTraining.from_pretrained(tmp_path / "begin")
    theirs.eval()
    ragged, total, count = seen.ragged, 0.0, 0
    ends = np.cumsum(ragged.lengths)
    answers = iter(seen.parts[0].targets.tolist())
    assert ragged.marks is not None
    pairs = 0.0
    for number, (first, last) in enumerate(zip(ends - ragged.lengths, ends, strict=True)):
        ids, marks = ragged.token_ids[first:last], ragged.marks[first:last]
        labels = torch.full_like(ids, -100)
        labels[marks] = torch.tensor([int(next(answers)) for _ in range(int(marks.sum()))], dtype=ids.dtype)
        with torch.no_grad():
            said = theirs(
                input_ids=ids[None].long(), token_type_ids=ragged.segment_ids[first:last][None].long()
            )
        total += float(
            F.cross_entropy(said.prediction_logits[0], labels.long(), ignore_index=-100, reduction="sum")
        )
        pairs += float(
            F.cross_entropy(said.seq_relationship_logits, seen.parts[1].targets[number : number + 1].long())
        )
        count += int(marks.sum())
    assert seen.losses["mlm"] == pytest.approx(total / count, rel=1e-4)
    assert seen.losses["nsp"] == pytest.approx(pairs / len(ends), rel=1e-4)


def test_masks_and_pairs_are_drawn_anew_in_each_epoch(
    tiny: "Tiny", corpus: Path, tmp_path: Path, watched: "Watched"
) -> None:
    tasks = both(corpus, sample={"train": 4})
    train(tiny, tmp_path / "a", tasks, schedule={"steps": 6, "batch_size": 4})
    seen = [
        (one.ragged.token_ids.tolist(), one.parts[0].targets.tolist(), one.parts[1].targets.tolist())
        for one in watched.passes
    ]
    assert len({str(sorted(ids)) for ids, _, _ in seen}) == 6  # other tokens, not another order of the same
    assert len({str(sorted(targets)) for _, targets, _ in seen}) > 1
    assert len({sum(follows) for _, _, follows in seen}) > 1
    watched.clear()
    train(tiny, tmp_path / "b", tasks, schedule={"steps": 6, "batch_size": 4})
    assert [one.ragged.token_ids.tolist() for one in watched.passes] == [ids for ids, _, _ in seen]


def test_nothing_of_held_out_documents_is_trained_on(tiny: "Tiny", tmp_path: Path) -> None:
    """Each document of one word of its own: no word stands on both sides, random second spans included."""
    words = [*WORDS, "in", "by", "it", "to", "of", "on"]
    tokenizer = mh.Tokenizer.from_pretrained(tiny.folder / "bert")
    known = [word for word in words if len(tokenizer.encode_batch([word]).ids) == 3]
    file = tmp_path / "words.txt"
    file.write_text("\n\n".join(f"{word} {word}\n{word} {word} {word}" for word in known), encoding="utf-8")
    found = recipe(tiny, both(file, hold_out={"dev": 0.4}))
    (mlm, _) = load_tasks(found, tokenizer, positions=64)
    sides = []
    for split in ("train", "dev"):
        spans, seen = mlm.spans[split], set[int]()
        for seed in range(20):
            drawn = spans.chunks.pair(spans.rows(np.arange(len(spans))), 10, np.random.default_rng(seed))
            seen |= set(drawn.layout.ids.tolist()) - set(range(SPECIAL))
        sides.append(seen)
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == len(known)


def test_the_questions_of_a_dev_split_stay_the_same(tiny: "Tiny", corpus: Path) -> None:
    tokenizer = mh.Tokenizer.from_pretrained(tiny.folder / "bert")
    (mlm, _) = load_tasks(recipe(tiny, both(corpus)), tokenizer, positions=64)
    once, again = list(mlm.spans["dev"].blocks()), list(mlm.spans["dev"].blocks())
    for one, other in zip(once, again, strict=True):
        assert np.array_equal(one.layout.ids, other.layout.ids)
        assert np.array_equal(one.answers[1].targets, other.answers[1].targets)


def test_a_step_in_parts_is_the_same_step(
    tiny: "Tiny", corpus: Path, tmp_path: Path, watched: "Watched"
) -> None:
    encoder = {"from": str(tiny.folder / "bert"), "dropout": 0.0}
    schedule = {"steps": 1, "batch_size": 8}
    gradients = []
    for parts in (1, 3):
        run = train(
            tiny,
            tmp_path / str(parts),
            both(corpus),
            encoder=encoder,
            precision="float64",
            schedule={**schedule, "accumulate": parts},
        )
        assert len(watched.passes) == parts
        gradients.append(watched.gradients[0])
        watched.clear()
        assert log(run)[1]["losses" if "losses" in log(run)[1] else "loss"]["mlm"] > 0
    for name, one in gradients[0].items():
        other = gradients[1][name]
        assert (one is None) == (other is None), name
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9, msg=name)


# ---- resumed ----


@pytest.mark.parametrize(
    "more", [{}, {"regularize": {"smart": {"weight": 1, "share": 1}}}], ids=["plain", "smart"]
)
def test_stopped_and_resumed_it_ends_with_the_same_bits(
    tiny: "Tiny", corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    more = {"schedule": {"steps": 5, "batch_size": 8, "checkpoint_every": 1}, **more}
    whole = train(tiny, tmp_path / "whole", both(corpus), **more)
    plain = Journal.step

    class PowerCutError(Exception):
        pass

    def cut(self: Journal, step: int, *given: Any, **named: Any) -> None:
        if step == 3:
            raise PowerCutError
        plain(self, step, *given, **named)

    monkeypatch.setattr(Journal, "step", cut)
    with pytest.raises(PowerCutError):
        train(tiny, tmp_path / "cut", both(corpus), **more)
    monkeypatch.undo()
    again = train(tiny, tmp_path / "cut", both(corpus), resume=True, **more)
    assert all(torch.equal(one, weights(again)[name]) for name, one in weights(whole).items())
    assert whole.scores == again.scores


def test_another_corpus_is_not_resumed_with(tiny: "Tiny", corpus: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    rows = [json.dumps({"text": f"{word} was good\nthe {word}"}) for word in WORDS * 3]
    file.write_text("\n".join(rows), encoding="utf-8")
    tasks = both(file)
    train(tiny, tmp_path / "run", tasks)
    (tmp_path / "run" / "model" / "heads.json").unlink()
    file.write_text("\n".join([*rows, json.dumps({"text": "a dull film\nand dull"})]), encoding="utf-8")
    with pytest.raises(InputError, match="another recipe, other data or other labels"):
        train(tiny, tmp_path / "run", tasks, resume=True)


# ---- saved and loaded ----


def test_transformers_loads_the_folder_with_equal_logits(pretrained: Run) -> None:
    from transformers import BertForPreTraining

    loaded: Any = BertForPreTraining.from_pretrained(pretrained.model_folder, output_loading_info=True)
    theirs, report = loaded
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    theirs.eval()
    ours = pretrained.model("float32")
    texts = [("the [MASK] was good", "a [MASK] film and [MASK]"), ("bad", "[MASK]")]
    flat = ours.tokenizer([a for a, _ in texts], [b for _, b in texts])
    for ids, segments in zip(flat.input_ids, flat.token_type_ids, strict=True):
        tokens = torch.tensor(ids)
        ragged = Ragged(
            tokens.int(),
            torch.tensor(segments).int(),
            torch.arange(len(ids)).int(),
            np.array([len(ids)]),
            tokens == ours.tokenizer.mask_id,
        )
        with torch.no_grad():
            wanted = theirs(input_ids=tokens[None], token_type_ids=torch.tensor(segments)[None])
            mlm, nsp = ours.network(ragged, [("mlm", 0, 1), ("nsp", 0, 1)])
        torch.testing.assert_close(nsp, wanted.seq_relationship_logits, atol=1e-5, rtol=1e-5)
        assert not isinstance(mlm, torch.Tensor)
        torch.testing.assert_close(
            mlm.rows, wanted.prediction_logits[0, tokens == ours.tokenizer.mask_id], atol=1e-5, rtol=1e-5
        )


def test_going_on_from_a_pre_trained_folder_keeps_its_heads(
    tiny: "Tiny", corpus: Path, pretrained: Run, tmp_path: Path, watched: "Watched"
) -> None:
    train(
        tiny,
        tmp_path / "on",
        both(corpus),
        encoder={"from": str(pretrained.model_folder), "dropout": 0.1},
        schedule={"steps": 1, "batch_size": 8},
    )
    begun = dict(watched.passes[0].network.named_head_parameters())
    before = load_file(pretrained.model_folder / "heads.safetensors")
    assert set(begun) == set(before)
    assert all(torch.equal(begun[name], one) for name, one in before.items())


def test_a_head_that_is_wider_than_the_folder_s_begins_afresh(
    tiny: "Tiny", corpus: Path, pretrained: Run, tmp_path: Path
) -> None:
    encoder = {"from": str(pretrained.model_folder), "hidden": 16}
    found = train(tiny, tmp_path / "narrow", both(corpus), encoder=encoder)
    assert found.scores["mlm"]["perplexity"] > 0


def test_the_loaded_model_fills_masks(pretrained: Run, command: "Command") -> None:
    (one,) = pretrained.model().predict("mlm", ["the [MASK] was [MASK]"])
    assert [(word.start, word.end) for word in one.tokens] == [(4, 10), (15, 21)]
    assert len(one.spans) == 10
    asked = command("ask", pretrained.folder, "--task", "mlm", "the [MASK]")
    assert asked.status == 0


# ---- measured ----


def test_the_scores_are_those_of_all_questions_at_once(tiny: "Tiny", corpus: Path, pretrained: Run) -> None:
    model = pretrained.model("float32")
    (mlm, _) = load_tasks(recipe(tiny, both(corpus)), model.tokenizer, positions=64)
    likely, right, pairs = [], [], []
    for block in mlm.spans["dev"].blocks():
        ragged = Ragged.of_layout(block.layout)
        with torch.no_grad():
            said, follows = model.network(ragged, [("mlm", 0, len(ragged)), ("nsp", 0, len(ragged))])
        assert not isinstance(said, torch.Tensor)
        assert isinstance(follows, torch.Tensor)
        gold = torch.from_numpy(block.answers[0].targets).long()
        likely += F.cross_entropy(said.rows.double(), gold, reduction="none").tolist()
        right += (said.rows.argmax(1) == gold).tolist()
        pairs += (follows.argmax(1) == torch.from_numpy(block.answers[1].targets)).tolist()
    scores = pretrained.scores
    assert scores["mlm"]["loss"] == pytest.approx(np.mean(likely), rel=1e-5)
    assert scores["mlm"]["perplexity"] == pytest.approx(math.exp(np.mean(likely)), rel=1e-5)
    assert scores["mlm"]["accuracy"] == pytest.approx(np.mean(right), abs=2 / len(right))
    assert scores["nsp"]["accuracy"] == pytest.approx(np.mean(pairs), abs=2 / len(pairs))
    assert len(pairs) == len(np.load(pretrained.folder / "predictions" / "nsp-dev.npy"))


def test_evaluate_says_what_the_run_said(pretrained: Run, command: "Command") -> None:
    found = evaluate_runs([pretrained], models=[pretrained.model("float32")])
    for task in ("mlm", "nsp"):
        assert found["dev"][task] == pytest.approx(pretrained.scores[task], rel=1e-6)
    said = command("evaluate", pretrained.folder, "--split", "train", "--json")
    assert said.status == 0
    assert json.loads(said.out)["train"]["mlm"]["perplexity"] > 1
    with pytest.raises(InputError, match="one run at a time"):
        evaluate_runs([pretrained, pretrained])


def test_it_learns(tiny: "Tiny", corpus: Path, tmp_path: Path) -> None:
    """Every document has two words of its own: masked words and true pairs can be told, and are."""
    run = train(
        tiny,
        tmp_path / "run",
        both(corpus, rate=0.15),
        optimizer={"lr": 3e-3},
        schedule={"steps": 600, "batch_size": 16, "evaluate_every": 100, "keep": "last"},
    )
    perplexities = [one["scores"]["mlm"]["perplexity"] for one in log(run) if one["event"] == "evaluation"]
    assert perplexities[-1] < perplexities[0]
    assert perplexities[-1] < 8  # ten words, all as frequent; two are the document's own
    end = log(run)[-1]
    assert (end["event"], end["best_step"]) == ("end", 600)


# ---- in the house ----


def test_two_lengths_share_their_heads(tiny: "Tiny", corpus: Path, tmp_path: Path) -> None:
    tasks = {
        **both(corpus),
        "mlm_long": masked(corpus, max_length=48, head_of="mlm", batch_size=4),
        "nsp_long": {"kind": "nsp", "pairs_of": "mlm_long", "head_of": "nsp"},
    }
    stages = [{"tasks": ["mlm"], "steps": 3}, {"tasks": ["mlm_long"], "steps": 2}]
    mixing = {"schedule": "sequential", "stages": stages}
    run = train(tiny, tmp_path / "run", tasks, mixing=mixing, schedule={"epochs": 1, "batch_size": 8})
    assert [list(one["loss"]) for one in log(run) if one["event"] == "step"] == [["mlm", "nsp"]] * 3 + [
        ["mlm_long", "nsp_long"]
    ] * 2
    assert {name.split(".")[0] for name in load_file(run.model_folder / "heads.safetensors")} == {
        "mlm",
        "nsp",
    }
    model = run.model("float32")
    assert model.network.head("mlm_long") is model.network.head("mlm")
    assert model.tasks["nsp_long"].max_length == 48
    found = evaluate_runs([run], models=[model])
    for task, scores in run.scores.items():
        assert found["dev"][task] == pytest.approx(scores, rel=1e-6)


def test_a_head_of_another_task_has_its_labels(tiny: "Tiny", tmp_path: Path) -> None:
    other = tmp_path / "one-label.csv"
    other.write_text("sentence,label\n" + "the film was good,good\n" * 8, encoding="utf-8")
    tasks = {
        "extra": {**tiny.mood(), "files": {"train": str(other)}, "head_of": "mood"},
        "mood": tiny.mood(),
    }
    run = train(tiny, tmp_path / "run", tasks, mixing={"schedule": "round_robin"})
    model = run.model()
    assert model.network.head("extra") is model.network.head("mood")
    assert model.predict("extra", ["bad"])[0] == model.predict("mood", ["bad"])[0]
    tasks["extra"] = {**tasks["extra"], "head": "bilstm", "width": 8}
    with pytest.raises(InputError, match=r"tasks\.extra\.head_of: .* other parameters than that of 'mood'"):
        train(tiny, tmp_path / "other", tasks)


def test_unlabelled_text_is_one_more_task_of_a_mix(
    tiny: "Tiny", corpus: Path, tmp_path: Path, watched: "Watched"
) -> None:
    tasks = {"mood": tiny.mood(), "text": masked(corpus, weight=0.5)}
    mixing = {"schedule": "power", "in_batch": True}
    run = train(tiny, tmp_path / "run", tasks, mixing=mixing)
    for seen in watched.passes:
        mood, text = seen.parts
        assert seen.total == pytest.approx(
            mood.weight * seen.losses["mood"] + text.weight * seen.losses["text"], rel=1e-5
        )
        assert seen.ragged.marks is not None
        first = int(seen.ragged.lengths[: mood.end].sum())
        assert not seen.ragged.marks[:first].any()  # nothing of the labelled rows is hidden
        assert (seen.ragged.token_ids[:first] != 4).all()
    assert set(run.scores) == {"mood", "text"}
    assert set(run.all_scores["test"]) == {"mood"}
    assert run.model().predict("mood", ["good"])[0].label in ("good", "bad")


def test_gradients_of_both_losses_are_compared_and_combined(
    tiny: "Tiny", corpus: Path, tmp_path: Path, watched: "Watched"
) -> None:
    gradients = {"surgery": "pcgrad", "affinity_every": 2}
    mixing = {"schedule": "power", "in_batch": True}
    run = train(tiny, tmp_path / "run", both(corpus), gradients=gradients, mixing=mixing)
    assert [[part.task for part in seen.parts] for seen in watched.passes] == [["mlm"], ["nsp"]] * 4
    measured = [one for one in log(run) if one["event"] == "affinity"]
    assert [one["tasks"] for one in measured] == [["mlm", "nsp"]] * 2
    assert (run.folder / "affinity.svg").is_file()


def test_pairs_alone(tiny: "Tiny", corpus: Path, tmp_path: Path, watched: "Watched") -> None:
    section = {key: value for key, value in masked(corpus).items() if key != "rate"}
    run = train(tiny, tmp_path / "run", {"nsp": {**section, "kind": "nsp"}})
    assert all(seen.ragged.marks is None for seen in watched.passes)
    assert all((seen.ragged.token_ids != 4).all() for seen in watched.passes)
    (one,) = run.model().predict("nsp", [("the film", "was good")])
    assert one.label in ("next", "not_next")


def test_what_is_broken_is_left_out_and_told(tiny: "Tiny", corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for shard in corpus.iterdir():
        (folder / shard.name).write_bytes(shard.read_bytes())
    with (folder / "shard-1.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": \n')
    (folder / "shard-2.jsonl").touch()
    (folder / "shard-3.jsonl").symlink_to("nowhere")
    run = train(tiny, tmp_path / "run", both(folder))
    assert log(run)[0]["skipped"] == {"mlm": {"train": 3, "dev": 3}}
    told = log(run)[0]["left_out"]["mlm"]
    assert len(told) == 3  # once, although two splits are made of these files
    assert any("shard-1.jsonl, row 31 (line 31): not JSON" in one for one in told)
    assert any("shard-2.jsonl: the file is empty" in one for one in told)
    assert any("shard-3.jsonl: cannot be read: it has vanished" in one for one in told)
    with pytest.raises(InputError, match=r"shard-1\.jsonl, row 31 \(line 31\): not JSON"):
        train(tiny, tmp_path / "strict", both(folder, strict=True))
    assert not (tmp_path / "strict").exists()


def test_the_smallest_model_s_heads_are_what_the_settings_say(pretrained: Run) -> None:
    described = json.loads((pretrained.model_folder / "heads.json").read_text(encoding="utf-8"))
    assert described["tasks"]["nsp"]["kind"]["pairs_of"] == "mlm"
    model = pretrained.model()
    assert all(isinstance(task.kind, DocumentKind) for task in model.tasks.values())


# ---- what is refused ----


@pytest.mark.parametrize(
    ("tasks", "more", "message"),
    [
        ({"mlm": {}, "nsp": {"pairs_of": "mlm2"}}, {}, "pairs_of: expected one of the tasks mlm, nsp"),
        ({"mlm": {}, "nsp": {"pairs_of": "nsp"}}, {}, "expected another task of kind mlm, found itself"),
        ({"mlm": {}, "nsp": {"pairs_of": "mlm", "files": {"train": "x"}}}, {}, "exclude each other"),
        ({"mlm": {}, "nsp": {"pairs_of": "mlm", "batch_size": 4}}, {}, "batch_size: belongs to 'mlm'"),
        ({"mlm": {"read": {"format": "csv"}}}, {}, "read: has no meaning for 'kind: mlm'"),
        ({"mlm": {"hold_out": {"dev": 0.1, "by": "text"}}}, {}, "documents are held out whole"),
        ({"mlm": {"mix": [0.5, 0.5, 0.5]}}, {}, "three shares that add up to 1"),
        ({"mlm": {"rate": 1.5}}, {}, "rate"),
        ({"mlm": {"rate": 0}}, {}, "rate"),
        ({"mlm": {}, "nsp": {"pairs_of": "mlm", "text": "body"}}, {}, "text: belongs to 'mlm'"),
        ({"mlm": {}, "nsp": {}}, {}, "expected 'files' or 'pairs_of'"),
        ({"mlm": {"head_of": "nobody"}}, {}, "head_of: expected one of the tasks mlm"),
        ({"mlm": {}}, {"distill": {"teachers": {"mlm": "runs/x"}}}, "draws its questions anew"),
        ({"mlm": {}}, {"encoder": {"from": "minilm", "freeze": True}}, "draws its questions anew"),
        (
            {"mlm": {}, "nsp": {"pairs_of": "mlm"}},
            {"mixing": {"schedule": "sequential", "stages": [{"tasks": ["nsp"]}]}},
            "'nsp' comes whenever 'mlm' does",
        ),
        (
            {"mlm": {}},
            {
                "mixing": {
                    "schedule": "sequential",
                    "stages": [{"tasks": ["mlm"], "steps": 2, "epochs": 1}],
                }
            },
            "'epochs' and 'steps' exclude each other",
        ),
    ],
)
def test_a_recipe_that_says_what_cannot_be(
    tiny: "Tiny", corpus: Path, tasks: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    made = {
        name: {"kind": name, **section} if name == "nsp" else masked(corpus, **section)
        for name, section in tasks.items()
    }
    with pytest.raises(InputError, match=message):
        recipe(tiny, made, **more)


def test_too_little_for_pairs_or_for_any_text(tiny: "Tiny", tmp_path: Path) -> None:
    one = tmp_path / "one.txt"
    one.write_text("the film was good\nand fine\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"one\.txt: found one document, expected two or more"):
        train(tiny, tmp_path / "a", both(one, hold_out=None))
    with pytest.raises(InputError, match=r"tasks\.mlm\.max_length: expected 5 or more, found 4"):
        train(tiny, tmp_path / "b", both(one, hold_out=None, max_length=4))
    with pytest.raises(InputError, match="no documents with any text in the part 'dev'"):
        train(tiny, tmp_path / "c", {"mlm": masked(one, hold_out={"dev": 1e-9})})
    with pytest.raises(InputError, match=r"gone: no such file or folder"):
        train(tiny, tmp_path / "d", {"mlm": masked(tmp_path / "gone")})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.txt"]


# ---- what a reader from outside found ----


def test_two_pre_trainings_can_be_compared(
    tiny: "Tiny", corpus: Path, pretrained: Run, tmp_path: Path, command: "Command"
) -> None:
    longer = train(tiny, tmp_path / "longer", both(corpus), schedule={"steps": 30, "batch_size": 8})
    for task in ("mlm", "nsp"):
        header, *rows = (longer.folder / "predictions" / f"{task}-dev.csv").read_text().splitlines()
        assert header == "row,span,tokens"
        assert len(rows) == len(np.load(longer.folder / "predictions" / f"{task}-dev.npy"))
    said = command("compare", longer.folder, pretrained.folder)
    assert (said.status, said.err) == (0, "")
    assert "mlm" in said.out
    other = train(tiny, tmp_path / "other", {"mlm": masked(corpus)})  # single spans, no pairs
    refused = command("compare", other.folder, pretrained.folder)
    assert refused.status == 2
    assert "only answers to the same examples can be compared" in refused.err


def test_the_last_weights_are_kept_and_patience_still_runs_out(
    tiny: "Tiny", corpus: Path, tmp_path: Path
) -> None:
    schedule = {"steps": 40, "batch_size": 8, "evaluate_every": 2, "keep": "last", "patience": 2}
    run = train(tiny, tmp_path / "run", both(corpus), optimizer={"lr": 0.5}, schedule=schedule)
    told = [one for one in log(run) if one["event"] == "evaluation"]
    assert [one["best"] for one in told[-2:]] == [False, False]
    end = log(run)[-1]
    assert end["step"] == end["best_step"] == told[-1]["step"] < 40
    assert run.scores["mlm"]["perplexity"] == pytest.approx(told[-1]["scores"]["mlm"]["perplexity"], rel=1e-3)


def test_the_same_bytes_under_another_name_are_read_anew(tiny: "Tiny", tmp_path: Path) -> None:
    rows = "".join(json.dumps({"text": f"the {word} film was {word}"}) + "\n" for word in WORDS)
    text, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    text.write_text(rows, encoding="utf-8")
    lines.write_text(rows, encoding="utf-8")
    tokenizer = mh.Tokenizer.from_pretrained(tiny.folder / "bert")
    counts = []
    for file in (text, lines):
        section = masked(file, hold_out=None)
        (task,) = load_tasks(recipe(tiny, {"mlm": section}), tokenizer, positions=64, cache=TokenCache())
        counts.append(task.spans["train"].chunks.corpus.documents)
    assert counts == [1, len(WORDS)]


def test_documents_that_differ_in_what_does_not_count_are_on_one_side(tiny: "Tiny", tmp_path: Path) -> None:
    texts = [" ".join(random.Random(number).choices(WORDS, k=9)) for number in range(60)]
    rows = [one for text in texts for one in (text, text + "\n", f"  {text} ", f"@somebody {text}")]
    file = tmp_path / "posts.jsonl"
    file.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    tokenizer = mh.Tokenizer.from_pretrained(tiny.folder / "bert")
    section = masked(file, hold_out={"dev": 0.3}, clean="weibo")
    (task,) = load_tasks(recipe(tiny, {"mlm": section}), tokenizer, positions=64)
    sides = [
        {tuple(corpus.document(number)[0].tolist()) for number in range(corpus.documents)}
        for corpus in (task.spans[split].chunks.corpus for split in ("train", "dev"))
    ]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]


def test_a_causal_encoder_and_heads_that_read_the_first_token(
    tiny: "Tiny", corpus: Path, tmp_path: Path
) -> None:
    encoder = {"from": str(tiny.folder / "bert"), "causal": True}
    with pytest.raises(InputError, match=r"tasks\.nsp: reads the first token"):
        train(tiny, tmp_path / "a", both(corpus), encoder=encoder)
    with pytest.raises(InputError, match=r"tasks\.mood: reads the first token.*'pooling: last' or 'mean'"):
        train(tiny, tmp_path / "b", {"mood": tiny.mood()}, encoder=encoder)
    assert list(tmp_path.iterdir()) == []
    run = train(
        tiny, tmp_path / "c", {"mood": tiny.mood(pooling="last"), "mlm": masked(corpus)}, encoder=encoder
    )
    assert run.scores["mlm"]["perplexity"] > 1


def test_epochs_are_counted_through_stages(tiny: "Tiny", corpus: Path, tmp_path: Path) -> None:
    tasks = {
        "a": masked(corpus, sample={"train": 24}),
        "b": masked(corpus, sample={"train": 16}, head_of="a"),
    }
    stages = [{"tasks": ["a"], "epochs": 1}, {"tasks": ["b"], "epochs": 2}]
    run = train(
        tiny,
        tmp_path / "run",
        tasks,
        mixing={"schedule": "sequential", "stages": stages},
        schedule={"batch_size": 8, "keep_every": 1},
    )
    steps = [one["epoch"] for one in log(run) if one["event"] == "step"]
    assert steps == pytest.approx([1 / 3, 2 / 3, 1, 1.5, 2, 2.5, 3], abs=1e-4)
    assert sorted(path.name for path in (run.folder / "epochs").iterdir()) == ["1", "2", "3"]


def test_a_dev_split_of_which_nothing_is_asked(tiny: "Tiny", corpus: Path, tmp_path: Path) -> None:
    dev = tmp_path / "dev.txt"
    dev.write_text("good\n", encoding="utf-8")
    section = masked(corpus, files={"train": str(corpus), "dev": str(dev)}, hold_out=None, rate=0.001)
    with pytest.raises(InputError, match=r"dev\.txt: nothing of the dev split is asked"):
        train(tiny, tmp_path / "run", {"mlm": section})


def test_folders_that_are_links_are_gone_into_once(tmp_path: Path) -> None:
    from manyheads.data.documents import shards

    (tmp_path / "corpus").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.txt").write_text("good", encoding="utf-8")
    (tmp_path / "corpus" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "corpus")
    assert [path.name for path in shards([tmp_path / "corpus"])] == ["a.txt"]


@pytest.mark.parametrize("other", ["nsp", "mood", 3])
def test_a_model_whose_head_is_of_no_other_task(pretrained: Run, tmp_path: Path, other: Any) -> None:
    folder = shutil.copytree(pretrained.model_folder, tmp_path / "model")
    told = json.loads((folder / "heads.json").read_text(encoding="utf-8"))
    told["tasks"]["nsp"]["head_of"] = other
    (folder / "heads.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(InputError, match=r"heads\.json: task 'nsp': no other task of its kind is called"):
        Model.load(folder)
