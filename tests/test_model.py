"""A trained model in the hand: shapes, order, cuts, batches, passes."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import manyheads as mh
from manyheads.encoder.bert import Encoder
from manyheads.model import Model
from manyheads.passes import ragged_batches

if TYPE_CHECKING:
    from tests.conftest import Tiny

LONG = "the film was good and the story was warm but the music was very dull " * 4


@pytest.fixture
def model(tiny_run: Path) -> Model:
    return mh.load(tiny_run, "float32")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of sequences of every call of the encoder."""
    seen: list[int] = []
    plain = Encoder.encode

    def counted(self: Encoder, ragged: Any, **settings: Any) -> Any:
        seen.append(len(ragged))
        return plain(self, ragged, **settings)

    monkeypatch.setattr(Encoder, "encode", counted)
    return seen


def texts(count: int, seed: int = 1) -> list[str]:
    chance = random.Random(seed)
    words = ["film", "good", "bad", "story", "ugly", "warm", "zebra", "the", "日本", "café", "🙂"]
    return [" ".join(chance.choices(words, k=chance.randint(0, 12))) for _ in range(count)]


def test_predictions_come_in_the_order_of_the_inputs_whatever_the_batch(model: Model) -> None:
    given = texts(200)
    together = model.predict("mood", given)
    for text, answer in zip(given, together, strict=True):
        (alone,) = model.predict("mood", [text])
        assert answer.label in ("bad", "good")
        assert answer.probabilities is not None
        assert alone.probabilities is not None
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-12)
        assert answer.score == max(answer.probabilities.values())
        for label, share in answer.probabilities.items():
            assert share == pytest.approx(alone.probabilities[label], abs=1e-6)
        assert answer.truncated == alone.truncated == (answer.tokens_dropped > 0)
    assert len({answer.score for answer in together}) > 100  # the answers do differ


def test_a_regression_answers_with_a_value_in_its_range(model: Model) -> None:
    same, other = model.predict("pairs", [("a good film", "a good film"), ["a good film", "ugly zebra"]])
    assert same.label is None
    assert same.value == pytest.approx(5, abs=1e-5)
    assert other.value is not None
    assert 0 <= other.value < 5


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_it_may_be_loaded_in_inference_mode(tiny_run: Path, precision: str) -> None:
    texts = ["good film", "dull"]
    with torch.inference_mode():
        found = mh.load(tiny_run, precision).predict("mood", texts)
    assert found == mh.load(tiny_run, precision).predict("mood", texts)


def test_no_inputs_give_no_answers(model: Model) -> None:
    assert model.predict("mood", []) == []
    assert model.analyze([]) == []
    assert model.embed([]).shape == (0, 32)


def test_what_is_cut_is_counted(model: Model) -> None:
    tokens = len(model.tokenizer([LONG])["input_ids"][0])
    short, long = model.predict("mood", ["a film", LONG])
    assert (short.truncated, short.tokens_dropped) == (False, 0)
    assert (long.truncated, long.tokens_dropped) == (True, tokens - 16)  # the task's max_length is 16
    (pair,) = model.predict("pairs", [("a film", LONG)])
    assert (pair.truncated, pair.tokens_dropped) == (True, tokens - 24)


def test_streaming_is_lazy_and_equals_predict(model: Model) -> None:
    given = texts(5000)
    taken = 0

    def source() -> Iterator[str]:
        nonlocal taken
        for text in given:
            taken += 1
            yield text

    stream = model.stream("mood", source())
    first = next(stream)
    assert taken < len(given)
    assert [first.score, *(one.score for one in stream)] == [
        pytest.approx(one.score, abs=1e-6) for one in model.predict("mood", given)
    ]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_embeddings_are_those_of_the_padded_call(model: Model, pooling: Any) -> None:
    given = texts(40)
    found = model.embed(given, pooling)
    assert found.shape == (40, 32)
    assert found.dtype == np.float32
    for text, vector in zip(given, found, strict=True):
        ids = torch.tensor([model.tokenizer([text], max_length=24)["input_ids"][0]])
        with torch.no_grad():
            states = model.network.encoder(ids).last_hidden_state[0]
        wanted = states.mean(0) if pooling == "mean" else states[0]
        np.testing.assert_allclose(vector, wanted.numpy(), atol=1e-6)


def test_embed_cuts_at_the_longest_task_and_counts(model: Model) -> None:
    tokens = len(model.tokenizer([LONG])["input_ids"][0])
    dropped: list[int] = []
    model.embed(["a film", LONG], dropped=dropped)
    assert dropped == [0, tokens - 24]
    with pytest.raises(mh.InputError, match="expected 'mean' or 'cls'"):
        model.embed(["x"], "max")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def many(tiny: "Tiny", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three tasks on single texts with different lengths, and two on pairs."""
    recipe = tiny.recipe(
        tasks={
            "mood": tiny.mood(max_length=16),
            "short": tiny.mood(max_length=6, pooling="mean"),
            "again": tiny.mood(max_length=16, loss="binary_cross_entropy"),
            "pairs": tiny.pairs(),
            "packed": tiny.pairs(encode="cross", head="linear", range=None, max_length=32),
        },
        schedule={"steps": 5, "batch_size": 8},
    )
    out = tmp_path_factory.mktemp("many") / "run"
    return mh.train(mh.Recipe.parse(recipe), out, quiet=True).folder


def same(found: mh.Prediction, wanted: mh.Prediction) -> None:
    assert found.label == wanted.label
    assert found.truncated == wanted.truncated
    assert found.tokens_dropped == wanted.tokens_dropped
    if wanted.value is None:
        assert found.score == pytest.approx(wanted.score, abs=1e-6)
    else:
        assert found.value == pytest.approx(wanted.value, abs=1e-5)


def test_every_head_answers_from_one_encoder_pass(many: Path, passes: list[int]) -> None:
    model = mh.load(many, "float32")
    given = ["a good film", "ugly", "the end"]
    found = model.analyze(given)
    assert passes == [3]
    assert [list(one) for one in found] == [["mood", "short", "again"]] * 3
    for name in ("mood", "short", "again"):
        for i, wanted in enumerate(model.predict(name, given)):
            same(found[i][name], wanted)


def test_a_text_that_a_task_must_cut_stands_twice_in_the_one_pass(many: Path, passes: list[int]) -> None:
    model = mh.load(many, "float32")
    given = ["a good film", LONG, "ugly", "the plot was sad but very funny and warm"]
    found = model.analyze(given)
    assert passes == [6]
    for name in ("mood", "short", "again"):
        for i, wanted in enumerate(model.predict(name, given)):
            same(found[i][name], wanted)
    assert [one["short"].truncated for one in found] == [False, True, False, True]
    assert [one["mood"].truncated for one in found] == [False, True, False, False]


def test_pairs_go_through_every_head_that_reads_pairs(many: Path, passes: list[int]) -> None:
    model = mh.load(many, "float32")
    given = [("a good film", "a bad film"), (LONG, "ugly")]
    found = model.analyze_pairs(given)
    assert [list(one) for one in found] == [["pairs", "packed"]] * 2
    for name in ("pairs", "packed"):
        for i, wanted in enumerate(model.predict(name, given)):
            same(found[i][name], wanted)
    only = model.analyze_pairs(given, ["packed"])
    assert [list(one) for one in only] == [["packed"]] * 2


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda model: model.predict("moud", ["x"]), "no task 'moud'.*mood, pairs; did you mean 'mood'"),
        (lambda model: model.predict("mood", "a text"), "expected a list of inputs"),
        (lambda model: model.predict("mood", ["x", None]), "input 2: expected a text, found None"),
        (lambda model: model.predict("mood", [("a", "b")]), "input 1: expected a text"),
        (lambda model: model.predict("pairs", ["x"]), "input 1: expected a pair of texts"),
        (lambda model: model.predict("pairs", [("a", 1)]), "input 1: expected a pair of texts"),
        (lambda model: model.analyze(["x"], ["pairs"]), "'pairs' does not read a single text"),
        (lambda model: model.analyze_pairs([("x", "y")], ["mood"]), "'mood' does not read a pair"),
    ],
)
def test_what_is_no_input_is_refused(model: Model, call: Any, told: str) -> None:
    with pytest.raises(mh.InputError, match=told):
        call(model)


def test_a_saved_model_answers_alike(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path)
    again = mh.load(tmp_path, "float32")
    given = texts(20)
    assert again.predict("mood", given) == model.predict("mood", given)
    assert (tmp_path / "heads.json").read_bytes()[-1:] == b"\n"


def spoilt(folder: Path, change: Any) -> None:
    path = folder / "heads.json"
    described = json.loads(path.read_text())
    change(described)
    path.write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d.update(format=99), "format 99"),
        (lambda d: d.pop("tasks"), "expected an object with 'tasks'"),
        (lambda d: d.pop("tokenizer"), "tokenizer"),
        (lambda d: d.update(tokenizer="other"), "tokenizer"),
        (lambda d: d["tasks"]["mood"].pop("max_length"), "'mood' is not described"),
        (lambda d: d["tasks"]["mood"]["kind"].update(kind="clasification"), "'mood' is not described"),
        (lambda d: d["tasks"]["mood"]["facts"].update(labels=["a", "b", "c"]), "mood.*expected shape"),
        (lambda d: d["tasks"].update(new=d["tasks"]["mood"]), "new.*found nothing"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(
    model: Model, tmp_path: Path, change: Any, told: str
) -> None:
    model.save(tmp_path)
    spoilt(tmp_path, change)
    with pytest.raises(mh.InputError, match=told) as caught:
        mh.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "heads.safetensors"])
def test_truncated_weights_are_refused(model: Model, tmp_path: Path, name: str) -> None:
    model.save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(mh.InputError, match=f"{name}: not a whole safetensors file"):
        mh.load(tmp_path)


def test_batches_hold_every_example_once_and_few_tokens() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 500)
    order, batches = ragged_batches(lengths, 128)
    assert sorted(order.tolist()) == list(range(500))
    assert [begin for begin, _ in batches] == [0, *(end for _, end in batches[:-1])]
    assert batches[-1][1] == 500
    assert all(lengths[order[begin:end]].sum() <= 128 for begin, end in batches)
    assert ragged_batches(np.array([500, 2]), 128)[1] == [(0, 1), (1, 2)]
