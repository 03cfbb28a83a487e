"""Which tokens moved the answer: against a path integral written out here, closed forms, and captum's promises."""

import numpy as np
import pytest
import torch

from manyheads.encoder.bert import Encoder, Shape
from manyheads.encoder.clean import weibo
from manyheads.encoder.layout import Layout
from manyheads.encoder.ragged import Ragged
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError
from manyheads.model import Model, Network, Task
from manyheads.tasks import KINDS
from manyheads.tasks.kind import Kind

pytest.importorskip("captum", reason="captum is not installed (manyheads[explain])")

from manyheads.evidence.explain import Explanation, explain

PIECES = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "fine",
    "film",
    "bad",
    "##ly",
    "好",
    "坏",
    "电",
    "影",
)
SECTIONS: dict[str, dict[str, object]] = {
    "mood": {"kind": "classification", "text": "text", "labels": ["bad", "good", "so-so"]},
    "binary": {
        "kind": "classification",
        "text": "text",
        "labels": ["bad", "good"],
        "loss": "binary_cross_entropy",
    },
    "post": {"kind": "classification", "text": "text", "labels": ["sad", "happy"], "clean": "weibo"},
    "same": {"kind": "classification", "pair": ["a", "b"], "labels": ["no", "yes"]},
    "apart": {"kind": "classification", "pair": ["a", "b"], "labels": ["no", "yes"], "encode": "siamese"},
    "stars": {"kind": "regression", "text": "text", "range": [0, 5], "output": "sigmoid"},
    "alike": {
        "kind": "regression",
        "pair": ["a", "b"],
        "encode": "siamese",
        "head": "cosine",
        "range": [0, 5],
    },
    "next": {"kind": "nsp", "pair": ["a", "b"], "files": {"train": "x.txt"}},
    "entities": {"kind": "tagging", "words": "words", "tags": "tags"},
}


def kind_of(name: str) -> Kind:
    section = {key: value for key, value in SECTIONS[name].items() if key != "files"}
    kind = KINDS[str(section["kind"])]
    facts = {"labels": ["O", "B-PER", "I-PER"], "scheme": "iob2"} if name == "entities" else None
    return kind(kind.Settings.model_validate(section), facts)


@pytest.fixture(scope="module")
def model() -> Model:
    """Random weights, large enough to matter, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        shape = Shape(layers=2, hidden=16, heads=2, intermediate=32, vocabulary=len(PIECES), positions=32)
        encoder = Encoder(shape)
        kinds = {name: kind_of(name) for name in SECTIONS}
        heads = {name: kind.build_head(16, 0.0, None, encoder) for name, kind in kinds.items()}
        network = Network(encoder, heads)
        for parameter in network.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.25)
    tasks = [Task(name, kind, 16) for name, kind in kinds.items()]
    return Model(network, Tokenizer(list(PIECES)), tasks, "float64")


GIVEN: dict[str, object] = {
    "mood": "a fine badly film",
    "binary": "a bad film",
    "post": "好電影",
    "same": ("a fine film", "bad"),
    "apart": ("a fine film", "bad"),
    "stars": "fine film",
    "alike": ("a fine film", "bad film"),
    "next": ("a film", "fine"),
}


def by_hand(model: Model, found: Explanation, given: object, points: int = 400) -> np.ndarray:
    """The path integral by the midpoint rule, one point after the other."""
    task = model.task(found.task)
    read = task.kind.input(task.kind.given(given))
    layout = task.kind.lay([read], model.tokenizer, task.max_length)
    ragged = Ragged.of_layout(layout)
    table = model.network.encoder.embeddings.word.weight.detach()
    words = table[torch.from_numpy(layout.ids.astype(np.int64))]
    start = words.clone()
    start[[i not in (2, 3) for i in layout.ids.tolist()]] = table[0]
    total = torch.zeros_like(words)
    for point in range(points):
        here = (start + (point + 0.5) / points * (words - start)).requires_grad_()
        (outputs,) = model.network(ragged, [(found.task, 0, len(ragged))], here)
        assert isinstance(outputs, torch.Tensor)
        if found.target == "value":
            score = task.kind.answers(outputs)[0]
        elif outputs.shape[1] == 1:
            score = outputs[0, 0] * (1 if found.target == "good" else -1)
        else:
            score = outputs[0, list(found.prediction.probabilities or {}).index(found.target)]
        total += torch.autograd.grad(score, here)[0]
    return ((words - start) * total / points).sum(1).numpy()


@pytest.mark.parametrize("task", list(GIVEN))
def test_attributions_are_the_path_integral_and_add_up(model: Model, task: str) -> None:
    (found,) = explain(model, task, [GIVEN[task]])  # type: ignore[list-item]
    values = np.array([one.value for one in found.tokens])
    assert values == pytest.approx(by_hand(model, found, GIVEN[task]), abs=2e-3, rel=2e-2)
    assert found.complete
    assert abs(found.gap) <= max(0.02 * abs(found.score - found.baseline), 2e-5)
    assert values.sum() == pytest.approx(found.score - found.baseline + found.gap)
    assert [one.value for one in found.tokens if one.token in ("[CLS]", "[SEP]")] == [0.0] * sum(
        one.token in ("[CLS]", "[SEP]") for one in found.tokens
    )
    assert np.abs(values).max() > 1e-3
    assert found.prediction == model.predict(task, [GIVEN[task]])[0]  # type: ignore[list-item]
    if found.target != "value":
        assert found.target == found.prediction.label


def test_one_word_has_all_of_the_difference(model: Model) -> None:
    """[CLS] and [SEP] stay, so that nothing else differs from the baseline."""
    found = explain(model, "mood", ["fine"])[0]
    (word,) = [one for one in found.tokens if one.token == "fine"]
    assert word.value == pytest.approx(found.score - found.baseline, rel=0.02)
    assert (word.start, word.end, word.text, word.which) == (0, 4, "fine", 0)


def test_tokens_have_their_places_in_the_texts_as_they_were_given(model: Model) -> None:
    (found,) = explain(model, "mood", ["a  FINE, badly"])
    told = [(one.token, one.which, one.start, one.end, one.text) for one in found.tokens]
    assert told == [
        ("[CLS]", 0, 0, 0, ""),
        ("a", 0, 0, 1, "a"),
        ("fine", 0, 3, 7, "FINE"),
        ("[UNK]", 0, 7, 8, ","),
        ("bad", 0, 9, 12, "bad"),
        ("##ly", 0, 12, 14, "ly"),
        ("[SEP]", 0, 0, 0, ""),
    ]
    for task in ("same", "apart", "alike", "next"):
        (found,) = explain(model, task, [("a fine", "bad film")])
        words = [(one.token, one.which, one.text) for one in found.tokens if one.start < one.end]
        assert words == [("a", 0, "a"), ("fine", 0, "fine"), ("bad", 1, "bad"), ("film", 1, "film")], task


def test_what_was_cleaned_away_leaves_the_places_of_the_raw_text(model: Model) -> None:
    post = "@someone　電影 好。http://t.cn/abc 壞"
    assert weibo(post) != post
    (found,) = explain(model, "post", [post])
    told = {one.token: one for one in found.tokens if one.start < one.end}
    for token, sign in (("电", "電"), ("影", "影"), ("好", "好"), ("坏", "壞")):
        assert told[token].text == sign
        assert post[told[token].start : told[token].end] == sign


def test_another_label_and_another_baseline_can_be_asked(model: Model) -> None:
    (plain,) = explain(model, "mood", ["a fine film"])
    other = next(label for label in ("bad", "good", "so-so") if label != plain.target)
    (asked,) = explain(model, "mood", ["a fine film"], target=other)
    assert asked.target == other
    assert asked.score < plain.score  # the label that is answered has the highest logit
    (zero,) = explain(model, "mood", ["a fine film"], baseline="zero")
    assert zero.score == plain.score
    assert zero.baseline != plain.baseline
    negative, positive = (explain(model, "binary", ["a film"], target=one)[0] for one in ("bad", "good"))
    assert [one.value for one in negative.tokens] == pytest.approx([-one.value for one in positive.tokens])


def test_a_cut_text_is_explained_as_far_as_it_is_read(model: Model) -> None:
    (found,) = explain(model, "mood", ["fine " * 40])
    assert len(found.tokens) == 16
    assert found.prediction.truncated


def test_the_model_is_left_as_it_was(model: Model) -> None:
    rounded = Model(model.network, model.tokenizer, list(model.tasks.values()), "bf16")
    try:
        before = [module.compute for module in rounded.network.modules() if hasattr(module, "compute")]
        assert torch.bfloat16 in before
        (found,) = explain(rounded, "mood", ["a fine film"])
        assert found.complete
        assert [
            module.compute for module in rounded.network.modules() if hasattr(module, "compute")
        ] == before
        assert all(parameter.grad is None for parameter in rounded.network.parameters())
    finally:
        model.use("float64")


def test_what_cannot_be_explained_is_said(model: Model) -> None:
    with pytest.raises(InputError, match="'entities' is of kind tagging, whose answer is not a single score"):
        explain(model, "entities", ["a fine film"])
    with pytest.raises(InputError, match="no label 'god'; it has bad, good, so-so; did you mean 'good'"):
        explain(model, "mood", ["a film"], target="god")
    with pytest.raises(InputError, match="has no labels, found 'good' to explain"):
        explain(model, "stars", ["a film"], target="good")
    with pytest.raises(InputError, match="no task 'moods'"):
        explain(model, "moods", ["a film"])
    with pytest.raises(InputError, match="input 1: expected a pair of texts"):
        explain(model, "same", ["a film"])
    with pytest.raises(InputError, match="expected 'pad' or 'zero'"):
        explain(model, "mood", ["a film"], baseline="mean")  # type: ignore[arg-type]
    assert explain(model, "mood", []) == []


def test_without_captum_it_is_said_what_to_install(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "captum.attr", None)
    with pytest.raises(InputError, match=r"pip install 'manyheads\[explain\]'"):
        explain(model, "mood", ["a film"])


def test_layouts_of_copies_are_examples_of_their_own(model: Model) -> None:
    """What one copy of an example says is what the example says alone: the tokens of a batch do not see each other."""
    kind = model.task("mood").kind
    layout = kind.lay([kind.input({"text": "a fine film"})], model.tokenizer, 16)
    both = Ragged.of_layout(Layout.joined([layout] * 3))
    (outputs,) = model.network(both, [("mood", 0, 3)])
    assert isinstance(outputs, torch.Tensor)
    assert torch.allclose(outputs[0], outputs[2], atol=1e-12)
