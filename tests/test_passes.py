"""One pass for inputs of different tasks: the answers are those of each alone, every sequence goes through once."""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from manyheads.encoder.bert import Encoder, States
from manyheads.encoder.grouped import Grouped
from manyheads.passes import Part, Reader, read_together, tokens_of_inputs
from manyheads.tasks.head import plain

if TYPE_CHECKING:
    from manyheads.model import Model

WORDS = ("film", "good", "bad", "story", "ugly", "warm", "zebra", "the", "日本", "café", "🙂")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(sequences, tokens) of every call of the encoder."""
    seen: list[tuple[int, int]] = []
    plain_encode = Encoder.encode

    def counted(self: Encoder, ragged: Any, **settings: Any) -> Any:
        seen.append((len(ragged), ragged.tokens))
        return plain_encode(self, ragged, **settings)

    monkeypatch.setattr(Encoder, "encode", counted)
    return seen


def text(chance: random.Random, most: int = 14) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(0, most)))


def example(name: str, chance: random.Random) -> Any:
    """An input that the task reads."""
    match name:
        case "mood" | "short" | "deep" | "names":
            return text(chance)
        case "pairs" | "packed":
            return [text(chance), text(chance)]
        case "answer":
            return [text(chance, 4), text(chance, 40)]
    return [f"the {text(chance)}", [f"a {text(chance)}" for _ in range(chance.randint(2, 4))]]


def laid(model: "Model", name: str, inputs: list[Any]) -> Part:
    task = model.task(name)
    read = [task.kind.input(task.kind.given(one)) for one in inputs]
    return Part(
        Reader.of_head(model.network.head(name)), task.kind.lay(read, model.tokenizer, task.max_length)
    )


def same(found: Any, wanted: Any) -> None:
    torch.testing.assert_close(plain(found), plain(wanted), atol=1e-5, rtol=1e-5)
    if isinstance(wanted, Grouped):
        assert found.sizes.tolist() == wanted.sizes.tolist()
        assert len(found) == len(wanted)


def test_every_kind_of_task_in_one_pass_answers_as_alone(
    every_kind: "Callable[[], Model]", passes: list[tuple[int, int]]
) -> None:
    model, chance = every_kind(), random.Random(1)
    names = [*model.tasks, *model.tasks]  # each task twice, as from two requests
    chance.shuffle(names)
    asked = [(name, [example(name, chance) for _ in range(chance.randint(1, 3))]) for name in names]
    parts = [laid(model, name, inputs) for name, inputs in asked]
    found = read_together(model.network.encoder, parts, 100_000)
    assert len(passes) == 1
    for outputs, (name, inputs) in zip(found, asked, strict=True):
        task = model.task(name)
        wanted, _ = model.outputs(name, [task.kind.input(task.kind.given(one)) for one in inputs])
        same(outputs, wanted)


def test_a_sequence_that_several_ask_for_goes_through_once(
    every_kind: "Callable[[], Model]", passes: list[tuple[int, int]]
) -> None:
    model = every_kind()
    texts = ["a good film", "ugly"]
    parts = [laid(model, name, texts) for name in ("mood", "deep", "mood")]
    found = read_together(model.network.encoder, parts, 100_000)
    assert [sequences for sequences, _ in passes] == [2]
    assert torch.equal(plain(found[0]), plain(found[2]))
    others = [
        laid(model, "mood", ["warm", "ugly", "a good film"]),
        parts[1],
    ]  # one asks for more than the other
    again = read_together(model.network.encoder, others, 100_000)
    assert [sequences for sequences, _ in passes] == [2, 3]
    torch.testing.assert_close(plain(again[0])[[2, 1]], plain(found[0]), atol=1e-5, rtol=1e-5)
    tokens = tokens_of_inputs(parts[:2])
    assert tokens.tolist() == parts[0].layout.lengths_of_examples.tolist()  # both read the same


def test_tokens_of_inputs_count_what_is_read_apart(every_kind: "Callable[[], Model]") -> None:
    model = every_kind()
    texts = ["a good film", "the film was very good and the story was warm"]
    parts = [laid(model, name, texts) for name in ("mood", "short")]
    own = [part.layout.lengths_of_examples.tolist() for part in parts]
    assert tokens_of_inputs(parts).tolist() == [own[0][0], own[0][1] + own[1][1]]  # `short` cuts the second


def test_a_long_input_goes_in_pieces(
    every_kind: "Callable[[], Model]", passes: list[tuple[int, int]]
) -> None:
    model = every_kind()
    chance = random.Random(6)  # windows that repeat each other would go through once
    question, context = "the film", " ".join(chance.choices(WORDS[:8], k=160))
    part = laid(model, "answer", [[question, context]])
    (found,) = read_together(model.network.encoder, [part], 100)
    assert max(tokens for _, tokens in passes) <= 100
    assert len(passes) > 5
    kind = model.task("answer").kind
    wanted, _ = model.outputs("answer", [kind.input(kind.given([question, context]))])
    same(found, wanted)


def test_rows_of_a_part_are_those_inputs(every_kind: "Callable[[], Model]") -> None:
    model, chance = every_kind(), random.Random(2)
    for name in model.tasks:
        part = laid(model, name, [example(name, chance) for _ in range(4)])
        (whole,) = read_together(model.network.encoder, [part], 100_000)
        some = read_together(model.network.encoder, [part.rows(0, 1), part.rows(1, 4)], 100_000)
        torch.testing.assert_close(
            torch.cat([plain(one) for one in some]), plain(whole), atol=1e-5, rtol=1e-5
        )


def test_vectors_are_those_of_embed(every_kind: "Callable[[], Model]") -> None:
    model = every_kind()
    texts = ["a good film", "ugly", ""]
    part = Part(Reader(States.mean), laid(model, "packed", [[one, "x"] for one in texts]).layout)
    part = Part(part.reader, model.task("mood").kind.lay([(one,) for one in texts], model.tokenizer, 32))
    (found,) = read_together(model.network.encoder, [part], 1000)
    np.testing.assert_allclose(plain(found).numpy(), model.embed(texts), atol=1e-6)
