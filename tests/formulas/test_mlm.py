"""Masking inside the binomial limits, special tokens out of it, whole words together; the loss equal to torch's."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom, chisquare
from torch import Tensor
from torch.nn import functional as F

from manyheads.encoder.tokenizer import Tokenizer
from manyheads.formulas import mlm
from manyheads.formulas.mlm import Pieces, cross_entropy, mask, masked

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = tuple(f"w{number}" for number in range(60))
REST = tuple(f"##p{number}" for number in range(20))
TOKENIZER = Tokenizer((*SPECIAL, *WORDS, *REST))
PIECES = Pieces.of(TOKENIZER)
FIRST, FIRST_REST, SIZE = 5, 65, 85


def text(count: int, seed: int = 0, *, pieces: float = 0.3) -> NDArray[np.int32]:
    """Ordinary ids, a share of them continuing the word before."""
    chance = np.random.default_rng(seed)
    words, rest = chance.integers(FIRST, FIRST_REST, count), chance.integers(FIRST_REST, SIZE, count)
    return np.where(chance.random(count) < pieces, rest, words).astype(np.int32)


def inside(found: int, count: int, probability: float) -> bool:
    """Whether a binomial count is one that is missed once in a million times."""
    low, high = binom.interval(1 - 1e-6, count, probability)
    return bool(low <= found <= high)


# ---- the statistics ----


@pytest.mark.parametrize("whole_word", [False, True])
@pytest.mark.parametrize(
    ("rate", "mix"), [(0.15, (0.8, 0.1, 0.1)), (0.4, (0.0, 0.2, 0.8)), (0.15, (1.0, 0.0, 0.0))]
)
def test_shares_of_100_000_tokens(rate: float, mix: tuple[float, float, float], whole_word: bool) -> None:
    ids = text(100_000)
    inputs, asked = masked(
        ids, PIECES, rate=rate, mix=mix, generator=np.random.default_rng(1), whole_word=whole_word
    )
    count = int(asked.sum())
    if not whole_word:
        assert inside(count, len(ids), rate)
    hidden = int((inputs[asked] == PIECES.mask_id).sum())
    swapped = int(((inputs != ids) & (inputs != PIECES.mask_id)).sum())
    assert inside(hidden, count, mix[0])
    # A random token is the true one once in 80 times, and then cannot be told from a kept one.
    assert inside(swapped, count, mix[1] * 79 / 80)
    assert np.array_equal(inputs[~asked], ids[~asked])


def test_random_tokens_come_evenly_from_all_that_are_not_special() -> None:
    inputs, asked = masked(
        np.full(100_000, 7), PIECES, rate=1, mix=(0, 1, 0), generator=np.random.default_rng(0)
    )
    assert asked.all()
    counts = np.bincount(inputs, minlength=SIZE)
    assert counts[:FIRST].sum() == 0
    assert chisquare(counts[FIRST:]).pvalue > 1e-6


def test_tokens_are_asked_independently() -> None:
    """Neighbours, and what stands in for them, say nothing of each other."""
    _, asked = masked(text(200_000), PIECES, rate=0.3, generator=np.random.default_rng(2))
    both = int((asked[:-1:2] & asked[1::2]).sum())
    assert inside(both, 100_000, 0.09)


def test_special_tokens_are_never_asked() -> None:
    ids = np.array([2, 7, 1, 66, 3, 4, 9, 3, 0, 0] * 300)
    inputs, asked = masked(ids, PIECES, rate=1.0, generator=np.random.default_rng(0))
    assert np.array_equal(asked, ids >= FIRST)
    assert np.array_equal(inputs[~asked], ids[~asked])
    _, asked = masked(ids, PIECES, rate=1.0, generator=np.random.default_rng(0), whole_word=True)
    assert np.array_equal(asked, ids >= FIRST)


def test_each_draw_is_another_and_a_seed_says_which() -> None:
    ids = text(500)
    chance = np.random.default_rng(5)
    first, second = (masked(ids, PIECES, generator=chance)[1] for _ in range(2))
    assert not np.array_equal(first, second)
    again = masked(ids, PIECES, generator=np.random.default_rng(5))[1]
    assert np.array_equal(first, again)


def test_the_ids_that_were_given_are_left_alone() -> None:
    ids = text(500)
    before = ids.copy()
    inputs, _ = masked(ids, PIECES, rate=1.0, generator=np.random.default_rng(0))
    assert np.array_equal(ids, before)
    assert inputs.dtype == ids.dtype


# ---- whole words ----


def words_of(ids: NDArray[Any], lengths: NDArray[Any]) -> list[list[int]]:
    """The places of each word's pieces, one token after the other."""
    starts = {0, *np.cumsum(lengths).tolist()}
    found: list[list[int]] = []
    for place, one in enumerate(ids.tolist()):
        token = TOKENIZER.id_to_token(one) or ""
        goes_on = token.startswith("##") and place not in starts and ids[place - 1] >= FIRST
        if goes_on:
            found[-1].append(place)
        else:
            found.append([place])
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=12), min_size=1, max_size=6), st.data()
)
def test_the_pieces_of_a_word_are_asked_together(rows: list[list[int]], data: st.DataObject) -> None:
    ids = np.array(list(itertools.chain(*rows)))
    lengths = np.array([len(row) for row in rows])
    seed = data.draw(st.integers(0, 1000))
    _, asked = masked(
        ids, PIECES, rate=0.5, generator=np.random.default_rng(seed), whole_word=True, lengths=lengths
    )
    for word in words_of(ids, lengths):
        assert len(set(asked[word].tolist())) == 1


def test_words_are_asked_at_the_rate_and_so_are_tokens() -> None:
    ids = text(100_000)
    words = words_of(ids, np.array([len(ids)]))
    asked = masked(ids, PIECES, rate=0.15, generator=np.random.default_rng(3), whole_word=True)[1]
    assert inside(sum(bool(asked[word[0]]) for word in words), len(words), 0.15)
    # The variance of a sum over words of n_w pieces is 0.15 · 0.85 · Σ n_w².
    spread = np.sqrt(0.15 * 0.85 * sum(len(word) ** 2 for word in words))
    assert abs(int(asked.sum()) - 0.15 * len(ids)) < 5 * spread


def test_chinese_characters_are_words_unless_words_are_told() -> None:
    tokenizer = Tokenizer((*SPECIAL, *"我们喜欢北京天安门"))
    ids = np.array(tokenizer(["我们喜欢北京天安门"]).input_ids[0][1:-1] * 2000)
    pieces = Pieces.of(tokenizer)
    alone = masked(ids, pieces, rate=0.5, generator=np.random.default_rng(0), whole_word=True)[1]
    assert inside(int((alone[0::9] & alone[1::9]).sum()), 2000, 0.25)
    begins = np.array([True, False, True, False, True, False, True, False, False] * 2000)
    asked = masked(ids, pieces, rate=0.5, generator=np.random.default_rng(0), whole_word=True, begins=begins)[
        1
    ]
    assert np.array_equal(asked[~begins], asked[np.flatnonzero(~begins) - 1])
    assert inside(int(asked[begins].sum()), 8000, 0.5)


# ---- the public face: every form of ids ----


def test_a_tensor_comes_back_as_tensors() -> None:
    ids = torch.from_numpy(text(6000).reshape(60, 100))
    ids[:, 0], ids[:, 90:] = TOKENIZER.cls_id, TOKENIZER.pad_id
    inputs, labels = mask(ids, TOKENIZER, generator=torch.Generator().manual_seed(0))
    assert inputs.shape == labels.shape == ids.shape
    assert inputs.dtype == labels.dtype == ids.dtype
    asked = labels != mlm.IGNORED
    assert torch.equal(labels[asked], ids[asked])
    assert torch.equal(inputs[~asked], ids[~asked])
    assert not asked[:, 0].any()
    assert not asked[:, 90:].any()
    assert inside(int(asked.sum()), 60 * 89, 0.15)


def test_all_forms_say_the_same() -> None:
    ids = text(40).reshape(4, 10)
    forms: list[Any] = [torch.from_numpy(ids).long(), ids, ids.tolist()]
    found = [mask(one, TOKENIZER, generator=torch.Generator().manual_seed(3)) for one in forms]
    for inputs, labels in found:
        assert np.array_equal(np.asarray(inputs), np.asarray(found[0][0]))
        assert np.array_equal(np.asarray(labels), np.asarray(found[0][1]))
    assert isinstance(found[2][0], list)
    assert all(type(one) is int for one in found[2][1][0])


def test_lists_of_any_lengths_and_one_list() -> None:
    rows = [[2, 7, 8, 3], [2, 3], [2, 9, 3]]
    inputs, labels = mask(rows, TOKENIZER, rate=1.0, mix=(1, 0, 0))
    assert inputs == [[2, 4, 4, 3], [2, 3], [2, 4, 3]]
    assert labels == [[-100, 7, 8, -100], [-100, -100], [-100, 9, -100]]
    assert mask(rows[0], TOKENIZER, rate=1.0, mix=(1, 0, 0)) == ([2, 4, 4, 3], [-100, 7, 8, -100])
    assert mask([], TOKENIZER) == ([], [])
    flat = mask(torch.tensor(rows[0]), TOKENIZER, rate=1.0, mix=(1, 0, 0))[0]
    assert flat.tolist() == [2, 4, 4, 3]


def test_rows_of_lists_do_not_share_words() -> None:
    """A row that begins with a continuing piece begins a word."""
    rows = [[7], [66]] * 3000
    _, labels = mask(rows, TOKENIZER, rate=0.5, whole_word=True, generator=torch.Generator().manual_seed(0))
    asked = np.array(labels)[:, 0] >= 0
    assert inside(int((asked[0::2] & asked[1::2]).sum()), 3000, 0.25)


def test_without_a_generator_torch_s_own_is_used() -> None:
    ids = text(300).tolist()
    torch.manual_seed(4)
    first, second = mask(ids, TOKENIZER), mask(ids, TOKENIZER)
    assert first != second
    torch.manual_seed(4)
    assert mask(ids, TOKENIZER) == first


# ---- what is refused ----


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rate": 1.5}, "'rate' expects a share from 0 to 1, found 1.5"),
        ({"rate": -0.1}, "'rate' expects a share"),
        ({"mix": (0.8, 0.1)}, "'mix' expects three shares that add up to 1"),
        ({"mix": (0.8, 0.1, 0.2)}, "'mix' expects three shares that add up to 1"),
        ({"mix": (1.2, -0.1, -0.1)}, "'mix' expects three shares that add up to 1"),
    ],
)
def test_shares_that_are_none(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        mask([2, 7, 3], TOKENIZER, **given)


@pytest.mark.parametrize("wrong", [SIZE, -1])
def test_an_id_beyond_the_vocabulary(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"found the token id {wrong}, expected 0 to {SIZE - 1}"):
        mask([2, wrong, 3], TOKENIZER)


@pytest.mark.parametrize("wrong", [torch.zeros(3), np.zeros((2, 2, 2), int), [[0.5, 1.5]], [[[1]]]])
def test_what_are_no_ids(wrong: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        mask(wrong, TOKENIZER)


def test_a_vocabulary_of_special_tokens_alone() -> None:
    with pytest.raises(ValueError, match="expected a vocabulary with tokens that are not special"):
        Pieces.of(Tokenizer(SPECIAL))


def test_lengths_and_begins_that_do_not_fit() -> None:
    chance = np.random.default_rng(0)
    with pytest.raises(ValueError, match="'lengths' expects numbers that add up to 4, found 3"):
        masked(text(4), PIECES, generator=chance, whole_word=True, lengths=np.array([3]))
    with pytest.raises(ValueError, match="'begins' expects a value for each of 4 tokens"):
        masked(text(4), PIECES, generator=chance, whole_word=True, begins=np.ones(3, np.bool_))


# ---- cross entropy ----


def both(logits: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Loss and gradient, torch's and ours, times 3."""
    found = []
    for function in (F.cross_entropy, cross_entropy):
        own = logits.clone().requires_grad_()
        loss = 3 * function(own, targets)
        (grad,) = torch.autograd.grad(loss, own)
        found.append((loss.detach(), grad))
    return found


@pytest.mark.parametrize("chunk", [1, 40, 1 << 20])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_loss_and_gradient_are_torch_s(
    monkeypatch: pytest.MonkeyPatch, chunk: int, dtype: torch.dtype, atol: float
) -> None:
    monkeypatch.setattr(mlm, "_CHUNK", chunk)
    chance = torch.Generator().manual_seed(0)
    logits = 8 * torch.randn(23, 17, generator=chance, dtype=dtype)
    targets = torch.randint(17, (23,), generator=chance)
    (loss, grad), (own_loss, own_grad) = both(logits, targets)
    torch.testing.assert_close(own_loss, loss, atol=10 * atol, rtol=0)
    torch.testing.assert_close(own_grad, grad, atol=atol, rtol=0)


def test_finite_differences() -> None:
    logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([4, 0, 2])
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, targets), (logits.requires_grad_(),))


def test_half_precision_is_summed_in_single() -> None:
    chance = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 30_000, generator=chance).bfloat16()
    targets = torch.randint(30_000, (6,), generator=chance)
    (loss, grad), _ = both(logits.float(), targets)
    _, (own_loss, own_grad) = both(logits, targets)
    assert own_grad.dtype is torch.bfloat16
    torch.testing.assert_close(own_loss.float(), loss, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(own_grad.float(), grad, atol=1e-6, rtol=2**-8)


def test_logits_beyond_the_range_of_exp() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4], [-1e4, 1e4, 0.0]])
    (loss, grad), (own_loss, own_grad) = both(logits, torch.tensor([0, 2]))
    torch.testing.assert_close(own_loss, loss)
    torch.testing.assert_close(own_grad, grad)


def test_nothing_is_lost_where_nothing_is_asked() -> None:
    logits = torch.zeros(0, 7, requires_grad=True)
    loss = cross_entropy(logits, torch.zeros(0, dtype=torch.int64))
    torch.autograd.backward(loss)
    assert loss.item() == 0
    assert logits.grad is not None


@pytest.mark.parametrize(("logits", "targets"), [((3, 4), (2,)), ((3,), (3,)), ((3, 4), (3, 4))])
def test_shapes_that_do_not_fit(logits: tuple[int, ...], targets: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected logits \[M, V\] and targets \[M\]"):
        cross_entropy(torch.zeros(logits), torch.zeros(targets, dtype=torch.int64))
