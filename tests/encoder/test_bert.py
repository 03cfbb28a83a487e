# ruff: noqa: RUF001 - look-alike characters are what is tested here
"""Our encoder against transformers' BertModel: outputs, gradients, real sentences, and the folder that both load."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from manyheads.encoder.bert import Encoder, Shape, States
from manyheads.encoder.precision import bfloat16_is_fast
from manyheads.encoder.ragged import Ragged
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError

SHAPES: dict[str, dict[str, Any]] = {
    "one head": {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 16},
    "plain": {},
    "deep": {"num_hidden_layers": 5, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 20},
    "wide": {"hidden_size": 96, "num_attention_heads": 12, "intermediate_size": 384, "layer_norm_eps": 1e-5},
    "three segments": {"type_vocab_size": 3, "num_hidden_layers": 1},
}
EXACT = [pytest.param(torch.float32, 1e-5, id="float32"), pytest.param(torch.float64, 1e-10, id="float64")]


def ids(size: int, length: int, seed: int = 1) -> Tensor:
    """Random token ids without 0: transformers holds back the gradient of [PAD]'s vector (`padding_idx`)."""
    return torch.randint(1, 90, (size, length), generator=torch.Generator().manual_seed(seed))


def right(*lengths: int) -> Tensor:
    """[B, L] mask of rows that are filled up at the right."""
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


HOLES = torch.tensor([[1, 1, 0, 1, 0, 1, 1], [0, 1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0, 1], [1] * 7])

BATCHES: dict[str, dict[str, Tensor]] = {
    "no mask": {"input_ids": ids(3, 9)},
    "one token": {"input_ids": ids(2, 1)},
    "right padding": {"input_ids": ids(5, 17), "attention_mask": right(3, 17, 1, 9, 16)},
    "left padding": {"input_ids": ids(4, 12), "attention_mask": right(5, 12, 2, 11).flip(1)},
    "holes": {"input_ids": ids(4, 7), "attention_mask": HOLES},
    "holes as floats": {"input_ids": ids(4, 7), "attention_mask": HOLES.float()},
    "positions, one row": {"input_ids": ids(3, 6), "position_ids": torch.tensor([[5, 0, 39, 7, 7, 1]])},
    "positions, each": {
        "input_ids": ids(2, 4),
        "position_ids": torch.tensor([[3, 2, 1, 0], [10, 11, 30, 31]]),
        "attention_mask": right(4, 3),
    },
    "token types": {
        "input_ids": ids(3, 8),
        "token_type_ids": (ids(3, 8, seed=2) % 2),
        "attention_mask": right(8, 5, 2),
    },
    "as long as it gets": {"input_ids": ids(2, 40), "attention_mask": right(40, 2)},
}


@pytest.mark.parametrize(("dtype", "atol"), EXACT)
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_equal_transformers(
    make_twins: Callable[..., Any], shape: str, dtype: torch.dtype, atol: float
) -> None:
    twins = make_twins(**SHAPES[shape])
    twins = twins if dtype is torch.float32 else twins.double()
    for batch in BATCHES.values():
        twins.agree(batch, atol)


@pytest.mark.parametrize("batch", ["no mask", "right padding", "left padding", "holes"])
def test_word_vectors_instead_of_ids_equal_transformers(make_twins: Callable[..., Any], batch: str) -> None:
    twins = make_twins().double()
    vectors = torch.randn(*BATCHES[batch]["input_ids"].shape, 32, dtype=torch.float64)
    rest = {name: value for name, value in BATCHES[batch].items() if name != "input_ids"}
    twins.agree({"inputs_embeds": vectors, **rest}, 1e-10)


@pytest.mark.parametrize("batch", BATCHES)
def test_gradients_equal_transformers(make_twins: Callable[..., Any], batch: str) -> None:
    make_twins(**SHAPES["deep"]).double().gradients_agree(BATCHES[batch], 1e-10)


def test_gradients_of_word_vectors_equal_transformers(make_twins: Callable[..., Any]) -> None:
    twins = make_twins().double()
    mask = right(7, 3, 5)
    found = []
    for model in (twins.ours, twins.theirs):
        vectors = torch.linspace(-1, 1, 3 * 7 * 32, dtype=torch.float64).view(3, 7, 32).requires_grad_()
        states = model(inputs_embeds=vectors, attention_mask=mask).last_hidden_state
        (states[mask == 1] ** 3).sum().backward()
        found.append(vectors.grad)
    torch.testing.assert_close(found[0], found[1], atol=1e-10, rtol=0)


def test_a_ragged_batch_is_the_padded_one(make_twins: Callable[..., Any]) -> None:
    ours = make_twins().double().ours
    rows = [[2, 5, 3], [2, 7, 8, 9, 3], [2]]
    segments = [[0, 0, 0], [0, 0, 1, 1, 1], [0]]
    mask = right(3, 5, 1)
    padded = ours(
        torch.tensor([row + [0] * (5 - len(row)) for row in rows]),
        mask,
        torch.tensor([row + [0] * (5 - len(row)) for row in segments]),
        output_hidden_states=True,
    )
    states = ours.encode(Ragged.of(rows, segments), all_layers=True)
    keep = mask == 1
    torch.testing.assert_close(states.tokens, padded.last_hidden_state[keep])
    torch.testing.assert_close(states.pooled(), padded.pooler_output)
    torch.testing.assert_close(states.first(), padded.last_hidden_state[:, 0])
    mean = torch.stack(
        [row[: len(one)].mean(0) for row, one in zip(padded.last_hidden_state, rows, strict=True)]
    )
    torch.testing.assert_close(states.mean(), mean)
    assert len(states.layers) == 3
    for layer, other in zip(states.layers, padded.hidden_states, strict=True):
        torch.testing.assert_close(layer, other[keep])


def test_what_stands_beside_a_sequence_does_not_matter(make_twins: Callable[..., Any]) -> None:
    ours = make_twins().double().ours
    rows = [[2, 5, 3], list(range(2, 22)), [2, 9, 9, 9, 3], [2, 3]]
    together = ours.encode(Ragged.of(rows)).pooled()
    alone = torch.cat([ours.encode(Ragged.of([row])).pooled() for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=0)


def test_given_word_vectors_stand_in_for_the_ids(make_twins: Callable[..., Any]) -> None:
    ours = make_twins().ours
    ragged = Ragged.of([[2, 5, 3], [2, 3]])
    words = ours.embeddings.word(ragged.token_ids)
    torch.testing.assert_close(ours.encode(ragged, words=words).tokens, ours.encode(ragged).tokens)
    assert not torch.allclose(ours.encode(ragged, words=words.flip(0)).tokens, ours.encode(ragged).tokens)


def test_some_sequences_of_the_states(make_twins: Callable[..., Any]) -> None:
    ours = make_twins().double().ours
    rows = [[2, 5, 3], [2, 7, 8, 9, 3], [2], [2, 4]]
    segments = [[0, 0, 1], [0, 0, 1, 1, 1], [0], [0, 1]]
    states = ours.encode(Ragged.of(rows, segments), all_layers=True)
    assert states.of_sequences(0, 4) is states
    for begin, end in ((0, 1), (1, 3), (3, 4), (0, 2), (2, 4)):
        part = states.of_sequences(begin, end)
        whole: States = ours.encode(Ragged.of(rows[begin:end], segments[begin:end]), all_layers=True)
        assert len(part.ragged) == end - begin
        for mine, other in (
            (part.tokens, whole.tokens),
            (part.pooled(), whole.pooled()),
            (part.mean(), whole.mean()),
            (part.ragged.token_ids, whole.ragged.token_ids),
            (part.ragged.segment_ids, whole.ragged.segment_ids),
            (part.ragged.positions, whole.ragged.positions),
            *zip(part.layers, whole.layers, strict=True),
        ):
            torch.testing.assert_close(mine, other, atol=1e-12, rtol=0)


def test_outputs_that_were_not_asked_for_are_none(make_twins: Callable[..., Any]) -> None:
    out = make_twins().ours(ids(1, 3))
    assert out.hidden_states is None
    assert out.attentions is None


def test_dropout_in_training_only_and_by_the_seed(make_twins: Callable[..., Any]) -> None:
    ours = make_twins().ours
    assert not ours.training
    calm = ours(ids(2, 30)).last_hidden_state
    torch.testing.assert_close(ours(ids(2, 30)).last_hidden_state, calm, atol=0, rtol=0)
    ours.train()
    drawn = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        drawn.append(ours(ids(2, 30)).last_hidden_state)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2])
    assert not torch.allclose(drawn[0], calm)


def test_dropout_of_zero_changes_nothing_in_training(make_twins: Callable[..., Any]) -> None:
    folder = make_twins().folder
    ours = Encoder.from_pretrained(folder, dropout=0.0)
    calm = ours(ids(2, 30)).last_hidden_state
    assert torch.equal(ours.train()(ids(2, 30)).last_hidden_state, calm)
    only_attention = Encoder.from_pretrained(folder, dropout=0.0, attention_dropout=0.5).train()
    assert not torch.allclose(only_attention(ids(2, 30)).last_hidden_state, calm)


# Written for this test: plain, odd, accented, in other scripts, with emoji, empty, and longer than BERT reads.
SENTENCES = [
    "",
    " ",
    ".",
    "a",
    "Yes!",
    "The kettle was still warm when we got back.",
    "Our neighbour's dog barks at the postman, but never at the milkman.",
    "I have never seen a film that tries so hard and gets so little for it.",
    "An unhurried, tender and quietly funny portrait of two sisters.",
    "How do I get red wine out of a linen shirt?",
    "What is the fastest way to learn the Greek alphabet?",
    "Two boys are kicking a ball against a garage door.",
    "A woman slices an onion on a wooden board.",
    "Shares fell 3.4% on Tuesday, to $18.72, after the bank cut its forecast.",
    "Don't you think it's odd that they've all left?",
    "He said: “I’ll be there at five — or not at all…”",
    "Crème brûlée, façade, naïve, jalapeño, Ångström, smørrebrød",
    "El niño pequeño comió una manzana en el jardín de su abuela.",
    "Où est la bibliothèque? Elle est à côté de l'hôtel.",
    "Die Straße führt über den Fluß, schöne Grüße aus München!",
    "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Zażółć gęślą jaźń.",
    "Ταχίστη αλώπηξ βαφής ψημένη γη, δρασκελίζει υπέρ νωθρού κυνός",
    "Съешь ещё этих мягких французских булок, да выпей же чаю.",
    "我们昨天在公园里看见了一只白色的鸟。",
    "这部电影太好看了，我想再看一遍！",
    "東京の天気は今日も晴れです。",
    "오늘은 날씨가 참 좋네요.",
    "السلام عليكم، كيف حالك اليوم؟",
    "שלום עולם, מה שלומך?",
    "आज मौसम बहुत अच्छा है।",
    "วันนี้อากาศดีมาก",
    "So happy today 😀😀😀",
    "🎉🎊 party at 8 🕗 bring 🍕 and 🍷!!!",
    "👩\u200d👩\u200d👧 and 🇩🇪 and 👍🏽 in one line",
    "cafe\u0301 with a combining accent, and e\u0323\u0301 with two",
    "ALL CAPS FOR NO REASON AT ALL",
    "camelCaseWords and snake_case_words and kebab-case-words",
    "https://example.org/a/b?c=d&e=f#g is not a sentence",
    "jane.doe+news@mail.example.org wrote at 07:45 on 2024-02-29",
    "a\tb\nc\r\nd  e   f",
    "[MASK] [CLS] [SEP] typed by a person",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "0123456789 1,000,000 3.14159 ½ ² Ⅷ",
    "if (x < 3 && y != 'z') { return a[i] * 2; }",
    "½ cup of sugar, ¾ tsp. of salt & 2 eggs",
    "“Nothing,” she said, “nothing at all.” And then, after a while: “Everything.”",
    "the the the the the the the the the the the the",
    "It rained all night. " * 130,
    "夜里下了一场大雨，" * 90,
]


@pytest.fixture(scope="module")
def read(minilm: Any) -> list[list[int]]:
    """The sentences' token ids, at most 512 each."""
    assert len(set(SENTENCES)) == 50
    tokens = Tokenizer.from_pretrained(minilm.folder)(SENTENCES, max_length=512)
    assert sum(dropped > 0 for dropped in tokens["dropped"]) == 2
    assert max(map(len, tokens["input_ids"])) == 512
    assert min(map(len, tokens["input_ids"])) == 2
    rows: list[list[int]] = tokens["input_ids"]
    return rows


def test_minilm_reads_real_sentences_as_transformers_does(minilm: Any, read: list[list[int]]) -> None:
    with torch.no_grad():
        states = minilm.ours.encode(Ragged.of(read), all_layers=True)  # all 50 in one batch
        for number, row in enumerate(read):
            theirs = minilm.theirs(torch.tensor([row]), output_hidden_states=True)
            ours = states.of_sequences(number, number + 1)
            torch.testing.assert_close(ours.tokens, theirs.last_hidden_state[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(ours.pooled(), theirs.pooler_output, atol=1e-5, rtol=0)
            for layer, other in zip(ours.layers, theirs.hidden_states, strict=True):
                torch.testing.assert_close(layer, other[0], atol=5e-5, rtol=0)


def test_minilm_reads_padded_sentences_as_transformers_does(minilm: Any, read: list[list[int]]) -> None:
    short = [row for row in read if len(row) < 40]
    length = max(map(len, short))
    batch = {
        "input_ids": torch.tensor([row + [0] * (length - len(row)) for row in short]),
        "attention_mask": right(*map(len, short)),
    }
    with torch.no_grad():
        ours, theirs = minilm.ours(**batch), minilm.theirs(**batch)
    keep = batch["attention_mask"] == 1
    torch.testing.assert_close(
        ours.last_hidden_state[keep], theirs.last_hidden_state[keep], atol=1e-5, rtol=0
    )


@pytest.mark.skipif(not bfloat16_is_fast(), reason="this processor has no bfloat16 arithmetic")
def test_minilm_in_bfloat16_stays_close(minilm: Any, read: list[list[int]]) -> None:
    ragged = Ragged.of(read)
    with torch.no_grad():
        exact = minilm.ours.encode(ragged).mean()
        try:
            low = minilm.ours.use(compute=torch.bfloat16).encode(ragged)
        finally:
            minilm.ours.use()
    assert low.tokens.dtype is torch.float32
    assert not torch.equal(low.mean(), exact)
    assert torch.cosine_similarity(exact, low.mean()).min() >= 0.999


def test_transformers_loads_what_we_save_and_back(make_twins: Callable[..., Any], tmp_path: Any) -> None:
    twins = make_twins(**SHAPES["wide"])
    twins.ours.save_pretrained(tmp_path / "ours")
    theirs, report = AutoModel.from_pretrained(
        tmp_path / "ours", attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values())
    assert type(theirs).__name__ == "BertModel"
    twins._replace(theirs=theirs.eval()).agree(BATCHES["right padding"], 1e-5)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, twins.theirs.state_dict()[name]), name
    theirs.save_pretrained(tmp_path / "back")
    back = Encoder.from_pretrained(tmp_path / "back")
    assert back.shape == twins.ours.shape
    assert all(
        torch.equal(tensor, twins.ours.state_dict()[name]) for name, tensor in back.state_dict().items()
    )


def test_the_loaded_encoder_is_an_ordinary_module(make_twins: Callable[..., Any]) -> None:
    ours = make_twins().ours
    assert not ours.training
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in ours.parameters())
    other = Encoder(ours.shape)
    other.load_state_dict(ours.state_dict())
    torch.testing.assert_close(other.eval()(ids(2, 5)).pooler_output, ours(ids(2, 5)).pooler_output)
    assert ours.double()(ids(2, 5)).last_hidden_state.dtype is torch.float64


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"input_ids": torch.tensor([[2, 90]])}, "token id 90: the encoder has 0 to 89"),
        ({"input_ids": torch.tensor([[2, -1]])}, "token id -1: the encoder has 0 to 89"),
        ({"input_ids": ids(1, 41)}, "position 40: the encoder has 0 to 39"),
        (
            {"input_ids": ids(1, 2), "token_type_ids": torch.tensor([[0, 2]])},
            "segment id 2: the encoder has 0 to 1",
        ),
    ],
)
def test_ids_outside_the_tables_are_refused(
    make_twins: Callable[..., Any], batch: dict[str, Tensor], said: str
) -> None:
    with pytest.raises(InputError) as error:
        make_twins().ours(**batch)
    assert str(error.value) == said


@pytest.mark.parametrize(
    "batch", [{}, {"input_ids": ids(1, 2), "inputs_embeds": torch.zeros(1, 2, 32)}], ids=["neither", "both"]
)
def test_ids_or_vectors_but_not_both(make_twins: Callable[..., Any], batch: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        make_twins().ours(**batch)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"layers": 0}, "layers must be above 0, found 0"),
        ({"eps": -1.0}, "eps must be above 0, found -1.0"),
        ({"hidden": 30, "heads": 4}, r"hidden \(30\) must be a multiple of heads \(4\)"),
    ],
)
def test_sizes_that_make_no_encoder(sizes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Shape(**sizes)
