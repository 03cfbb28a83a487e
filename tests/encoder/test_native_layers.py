"""What kernels do between the products against torch in double precision, and that nobody sees rows left behind."""

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyheads.encoder import layers
from manyheads.encoder.bert import Encoder, Shape
from manyheads.encoder.layers import AddNorm, Linear, Masks, draw_seed, keep_mask
from manyheads.encoder.ragged import Ragged
from manyheads.formulas import optim
from manyheads.native import elementwise
from manyheads.native.library import Library, library

_found = library()
if _found is None:
    pytest.skip("there are no native kernels here", allow_module_level=True)
KERNELS: Library = _found
BF16 = torch.bfloat16
WIDTHS = [1, 7, 16, 71, 384]
ROWS = 70  # more than two pieces


@pytest.fixture
def torch_alone(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and from then on layers find no kernels."""
    return lambda: monkeypatch.setattr(layers, "library", lambda: None)


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def exact(x: Tensor) -> Tensor:
    return x.detach().double().requires_grad_()


def near(found: Tensor, expected: Tensor, atol: float = 2e-5) -> None:
    """Rounded to bfloat16 where it is that, within float32's rounding else."""
    low = found.dtype is BF16
    torch.testing.assert_close(found.double(), expected.detach(), atol=atol, rtol=2**-8 if low else 1e-5)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_gelu_backward_and_the_sum_of_its_columns(width: int, dtype: torch.dtype) -> None:
    x, above = drawn(ROWS, width, dtype=dtype) * 3, drawn(ROWS, width, seed=1, dtype=dtype)
    reference = exact(x)
    torch.autograd.backward(F.gelu(reference), above.double())
    below, sums = elementwise.gelu_backward(KERNELS, x, above)
    assert reference.grad is not None
    near(below, reference.grad, 2e-6)
    near(sums, reference.grad.sum(0))
    near(elementwise.columns(KERNELS, above), above.double().sum(0))


def test_gelu_backward_far_from_zero() -> None:
    x = torch.tensor([[-40.0, -9.0, -5.0, 0.0, 5.0, 9.0, 40.0, math.inf, math.nan]])
    below, _ = elementwise.gelu_backward(KERNELS, x, torch.ones_like(x))
    torch.testing.assert_close(
        below[:, :7], torch.tensor([[0, 0, -7.1e-6, 0.5, 1 + 7.1e-6, 1, 1]]), atol=1e-6, rtol=1e-6
    )
    assert below[:, 8].isnan().all()


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_add_and_norm(width: int, dtype: torch.dtype, share: float, threads: int) -> None:
    x, residual = drawn(ROWS, width, dtype=dtype), drawn(ROWS, width, seed=1)
    weight, bias = drawn(width, seed=2), drawn(width, seed=3)
    above, above_low = drawn(ROWS, width, seed=4), drawn(ROWS, width, seed=5, dtype=BF16)
    eps = 0.1  # a row of one column has no deviation
    y, low, stats = elementwise.add_norm(KERNELS, x, residual, weight, bias, eps, share, 99, True)
    of_x, of_residual, sums = elementwise.add_norm_backward(
        KERNELS, x, residual, weight, stats, above, above_low, share, 99
    )
    kept = torch.ones(ROWS, width, dtype=torch.float64)
    if share:  # what the branch's gradient has lost tells the mask; the forward must have used the same
        known = of_residual != 0
        kept = torch.where(known, (of_x != 0).double() / (1 - share), kept)
        if width == 1:
            return  # no gradient gets through
        assert known.all()
    a, b, c, d = exact(x), exact(residual), exact(weight), exact(bias)
    expected = F.layer_norm(b + kept * a, (width,), c, d, eps)
    torch.autograd.backward(expected, above.double() + above_low.double())
    assert low is not None
    near(y, expected)
    near(low, expected)
    for found, leaf in ((of_x, a), (of_residual, b), (sums[0], c), (sums[1], d)):
        assert leaf.grad is not None
        near(found, leaf.grad, 1e-4)
    near(sums[2], of_x.double().sum(0), 0.1 if dtype is BF16 else 1e-4)
    if threads > 1:
        torch.set_num_threads(1)
        again = elementwise.add_norm_backward(
            KERNELS, x, residual, weight, stats, above, above_low, share, 99
        )
        assert all(
            torch.equal(one, other) for one, other in zip((of_x, of_residual, sums), again, strict=True)
        )


def mask(rows: int, width: int, share: float, seed: int) -> Tensor:
    """The kernel's dropout, from an embedding whose LayerNorm gives ones."""
    none, zero = torch.zeros(1, width), torch.zeros(rows, dtype=torch.int64)
    y, _, _ = elementwise.embed(
        KERNELS, none, none, none, zero, zero, zero, none[0], none[0] + 1, 1.0, share, seed, False
    )
    return y


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_share_of_kept_elements(share: float) -> None:
    kept = mask(3000, 333, share, 12345)
    assert set(torch.unique(kept).tolist()) == {0.0, torch.tensor(1 / (1 - share)).item()}
    limit = 5 * math.sqrt(share * (1 - share) / kept.numel())
    assert float((kept > 0).double().mean()) == pytest.approx(1 - share, abs=limit)
    rows = (kept > 0).double().mean(1)
    columns = (kept > 0).double().mean(0)
    for means, count in (
        (rows, 333),
        (columns, 3000),
    ):  # neither some rows nor some columns are dropped more often
        deviation = math.sqrt(share * (1 - share) / count)
        assert float(means.std()) == pytest.approx(deviation, rel=0.15)
        assert float((means - (1 - share)).abs().max()) < 5.5 * deviation


def test_neighbours_rows_and_seeds_are_drawn_apart() -> None:
    kept = [(mask(2000, 256, 0.5, seed) > 0).double() * 2 - 1 for seed in (7, 8, 7 + 2**40)]
    limit = 5 / math.sqrt(kept[0].numel())
    for distance in (1, 2, 8, 16, 64):
        assert abs(float((kept[0][:, distance:] * kept[0][:, :-distance]).mean())) < 1.2 * limit
        assert abs(float((kept[0][distance:] * kept[0][:-distance]).mean())) < limit
    for other in kept[1:]:
        assert abs(float((kept[0] * other).mean())) < limit
    assert torch.equal(mask(2000, 256, 0.5, 7), mask(2000, 256, 0.5, 7))


@pytest.mark.parametrize("given", [False, True], ids=["ids", "words"])
@pytest.mark.parametrize("share", [0.0, 0.4])
@pytest.mark.parametrize("width", [7, 48])
def test_embeddings(width: int, share: float, given: bool, threads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 30, (ROWS,), generator=generator)
    places = torch.arange(ROWS) % 11
    kinds = torch.arange(ROWS) % 2
    words = drawn(ROWS if given else 30, width)
    positions, segments = drawn(11, width, seed=1), drawn(2, width, seed=2)
    weight, bias = drawn(width, seed=3), drawn(width, seed=4)
    above, above_low = drawn(ROWS, width, seed=5), drawn(ROWS, width, seed=6, dtype=BF16)
    tables = words, positions, segments, None if given else ids, places, kinds
    y, low, stats = elementwise.embed(KERNELS, *tables, weight, bias, 1e-5, share, 3, True)
    rows, sums = elementwise.embed_backward(KERNELS, *tables, weight, stats, above, above_low, share, 3)
    kept = mask(ROWS, width, share, 3).double()
    leaves = [exact(one) for one in (words, positions, segments, weight, bias)]
    summed = (leaves[0] if given else leaves[0][ids]) + leaves[1][places] + leaves[2][kinds]
    expected = F.layer_norm(summed, (width,), leaves[3], leaves[4], 1e-5) * kept
    torch.autograd.backward(expected, above.double() + above_low.double())
    assert low is not None
    near(y, expected)
    near(low, expected)
    found = [
        rows if given else elementwise.scatter(KERNELS, rows, ids, 30),
        elementwise.scatter(KERNELS, rows, places, 11),
        elementwise.scatter(KERNELS, rows, kinds, 2),
        *sums,
    ]
    for one, leaf in zip(found, leaves, strict=True):
        assert leaf.grad is not None
        near(one, leaf.grad, 2e-4)


@pytest.mark.parametrize(("ids", "places", "kinds"), [([30], [0], [0]), ([0], [-1], [0]), ([0], [0], [2])])
def test_places_outside_a_table_are_refused(ids: list[int], places: list[int], kinds: list[int]) -> None:
    tables = drawn(30, 8), drawn(11, 8), drawn(2, 8)
    where = torch.tensor(ids), torch.tensor(places), torch.tensor(kinds)
    with pytest.raises(IndexError, match="in a table of"):
        elementwise.embed(KERNELS, *tables, *where, drawn(8), drawn(8), 1e-5, 0.0, 0, False)


def test_wrong_shapes_never_reach_a_kernel() -> None:
    x, weight = drawn(4, 8), drawn(8)
    with pytest.raises(ValueError, match="expected contiguous rows"):
        elementwise.add_norm(KERNELS, drawn(5, 8), x, weight, weight, 1e-5, 0.0, 0, False)
    with pytest.raises(ValueError, match="expected 8 float32"):
        elementwise.add_norm(KERNELS, x, x, weight[:7], weight, 1e-5, 0.0, 0, False)
    with pytest.raises(ValueError, match="expected contiguous rows"):
        elementwise.columns(KERNELS, x.t())
    with pytest.raises(ValueError, match="a gradient of"):
        elementwise.add_norm_backward(KERNELS, x, x, weight, drawn(4, 2), drawn(4, 7), None, 0.0, 0)
    with pytest.raises(ValueError, match="places"):
        elementwise.scatter(KERNELS, x, torch.tensor([0]), 3)


# ---- the layers ----


def test_add_norm_streams_what_it_says_in_torch(torch_alone: Callable[[], None]) -> None:
    norm = AddNorm(48, 1e-5, 0.5).eval()
    nn.init.normal_(norm.weight)
    x, residual = drawn(9, 48, dtype=BF16), drawn(9, 48, seed=1)
    stream = norm.stream(x, residual)
    assert (stream.exact.dtype, stream.low.dtype) == (torch.float32, BF16)
    torch.testing.assert_close(stream.exact, norm(x, residual))
    assert torch.equal(stream.low, stream.exact.to(BF16))
    torch_alone()
    plain = norm.stream(x, residual)
    assert plain.low is plain.exact
    assert torch.equal(plain.exact, norm(x, residual))


def gradients(module: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    torch.autograd.backward(loss)
    found = {name: one.grad for name, one in module.named_parameters() if one.grad is not None}
    return {name: one.to_dense() if one.is_sparse else one.clone() for name, one in found.items()}


def tiny(dropout: float = 0.0) -> Encoder:
    torch.manual_seed(0)
    shape = Shape(layers=2, hidden=32, heads=2, intermediate=48, vocabulary=50, positions=40)
    encoder = Encoder(shape, dropout=dropout)
    for one in encoder.parameters():
        nn.init.normal_(one, std=0.2)
    return encoder.train()


BATCH = Ragged.of([[1, 5, 7, 2], list(range(3, 33)), [1, 9, 9, 9, 9, 2], [4]])


def loss_of(encoder: Encoder) -> Tensor:
    states = encoder.encode(BATCH, all_layers=True)
    wave = torch.cos(torch.arange(BATCH.tokens * 32).view(-1, 32).double()).to(states.tokens.dtype)
    return (states.tokens * wave).sum() + states.layers[0].mean() + states.pooled().sum()


@pytest.mark.parametrize("compute", [None, BF16])
def test_an_encoder_with_kernels_and_without(
    compute: torch.dtype | None, torch_alone: Callable[[], None]
) -> None:
    encoder = tiny().use(compute=compute)
    reference = copy.deepcopy(encoder).double().use()
    expected = gradients(reference, loss_of(reference))
    native = gradients(encoder, loss_of(encoder))
    torch_alone()
    plain = gradients(encoder, loss_of(encoder))
    assert native.keys() == plain.keys() == expected.keys()
    for name, one in expected.items():
        # bfloat16 has 8 bits, and two layers of products lie between.
        limit = 1e-5 if compute is None else 0.04
        errors = [float((found[name] - one).norm() / one.norm()) for found in (native, plain)]
        if float(one.norm()) > 1e-9:  # a key's bias has no gradient
            assert max(errors) < limit, (name, errors)


def test_rows_that_nobody_reads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tiny().use(compute=BF16)
    seen: list[int] = []
    filled = Encoder._filled

    def noted(self: Encoder, ragged: Ragged) -> Ragged:
        seen.append(filled(self, ragged).tokens)
        return filled(self, ragged)

    monkeypatch.setattr(Encoder, "_filled", noted)
    with_them = gradients(encoder, loss_of(encoder))
    states = encoder.encode(BATCH, all_layers=True, words=drawn(BATCH.tokens, 32))
    assert BATCH.tokens == 41
    assert seen == [42, 42]
    assert {len(one) for one in (states.tokens, *states.layers)} == {41}
    assert states.ragged is BATCH
    monkeypatch.setattr(Encoder, "_filled", lambda self, ragged: ragged)
    without = gradients(encoder, loss_of(encoder))
    for name, one in without.items():
        torch.testing.assert_close(with_them[name], one, atol=1e-2 * float(one.abs().max()) + 1e-9, rtol=0)


@pytest.mark.parametrize("tokens", [1, 15, 33, 500, 513, 800, 1023, 1025, 5000])
def test_sixteen_numbers_of_rows_an_octave(tokens: int) -> None:
    encoder = tiny().use(compute=BF16)
    whole = encoder._filled(Ragged.of([[1] * min(30, tokens - i) for i in range(0, tokens, 30)]))
    assert tokens <= whole.tokens < tokens * 17 / 16 + 1
    assert whole.tokens == int(whole.lengths.sum())
    assert whole.lengths.min() >= 1
    assert whole.max_seqlen == min(30, tokens)
    power = 2.0 ** math.floor(math.log2(whole.tokens))
    assert whole.tokens < 32 or (whole.tokens / power * 16) % 1 == 0
    assert encoder.eval()._filled(BATCH) is BATCH


# ---- dropout that is recorded ----


@pytest.mark.parametrize("compute", [None, BF16])
def test_an_encoder_s_passes_are_one_function_of_the_words(compute: torch.dtype | None) -> None:
    encoder = tiny(dropout=0.3).use(compute=compute)
    words = encoder.embeddings.word(BATCH.token_ids).detach()
    masks = Masks()
    with masks.recorded():
        kept = encoder.encode(BATCH, words=words).tokens
    assert not torch.equal(encoder.encode(BATCH, words=words).tokens, kept)
    state = torch.get_rng_state()
    with masks.replayed():
        assert torch.equal(encoder.encode(BATCH, words=words.clone().requires_grad_()).tokens, kept)
    with torch.no_grad(), masks.replayed():
        again = encoder.encode(BATCH, words=words).tokens
        if compute is None:  # attention in bfloat16 is another where there are no gradients
            assert torch.equal(again, kept)
        torch.testing.assert_close(again, kept, atol=0.1, rtol=0.1)
    assert torch.equal(torch.get_rng_state(), state)


def test_seeds_are_recorded_in_their_order() -> None:
    masks = Masks()
    with masks.recorded():
        kept = [draw_seed(), draw_seed()]
        keep_mask(torch.Size((3,)), 0.5, torch.empty(0))
    assert kept[0] != kept[1]
    assert all(0 <= seed < 2**63 for seed in kept)
    with masks.replayed():
        assert [draw_seed(), draw_seed()] == kept
        with pytest.raises(ValueError, match=r"a mask of \[3\] was kept, a seed is asked for"):
            draw_seed()
    with masks.replayed(), pytest.raises(ValueError, match="a seed was kept, a mask"):
        keep_mask(torch.Size((3,)), 0.5, torch.empty(0))
    torch.manual_seed(3)
    first = draw_seed()
    torch.manual_seed(3)
    assert draw_seed() == first


# ---- rows of the table that are left behind ----


class Training:
    """Some steps of a tiny encoder, whose table is kept by its optimiser or is not."""

    def __init__(self, lazily: bool) -> None:
        self.encoder = tiny(dropout=0.2).use(compute=BF16)
        self.optimizer = optim.build([{"params": list(self.encoder.parameters())}], lr=0.01, weight_decay=0.1)
        assert isinstance(self.optimizer, optim.NativeAdamW)
        if lazily:
            self.encoder.embeddings.keep(self.optimizer)

    def steps(self, first: int, last: int) -> None:
        for step in range(first, last):
            torch.manual_seed(step)
            for part in range(1 + step % 2):  # gradients add up
                ids = torch.randint(0, 25, (3, 5 + part)).tolist()
                states = self.encoder.encode(Ragged.of(ids))
                torch.autograd.backward((states.tokens.sum(1) ** 3).mean() + states.pooled().sum())
            self.optimizer.step()
            self.optimizer.zero_grad()


def by_attribute(encoder: Encoder) -> Tensor:
    return encoder.embeddings.word.weight


def by_parameters(encoder: Encoder) -> Tensor:
    return next(encoder.parameters())


def by_state(encoder: Encoder) -> Tensor:
    found: Tensor = encoder.state_dict()["embeddings.word.weight"]
    return found


def by_copy(encoder: Encoder) -> Tensor:
    other = copy.deepcopy(encoder)
    assert type(other.embeddings.word._parameters) is dict
    return other.embeddings.word.weight


def by_pickle(encoder: Encoder) -> Tensor:
    other: Encoder = pickle.loads(pickle.dumps(encoder))
    return other.embeddings.word.weight


def by_reading_words(encoder: Encoder) -> Tensor:
    found: Tensor = encoder.embeddings.word(torch.arange(50))
    return found


def by_conversion(encoder: Encoder) -> Tensor:
    return encoder.double().embeddings.word.weight.float()


def by_release(encoder: Encoder) -> Tensor:
    encoder.embeddings.keep(None)
    return encoder.embeddings.word.weight


@pytest.mark.parametrize(
    "read",
    [by_attribute, by_parameters, by_state, by_copy, by_pickle, by_reading_words, by_conversion, by_release],
)
def test_nobody_sees_rows_that_are_behind(read: Callable[[Encoder], Tensor]) -> None:
    kept, plain = Training(True), Training(False)
    for one in (kept, plain):
        one.steps(0, 9)
    stale = kept.encoder.embeddings._words().detach().clone()
    expected = plain.encoder.embeddings.word.weight
    assert not torch.equal(stale, expected)  # or this would be no test
    assert torch.equal(read(kept.encoder), expected)


def test_a_pass_over_other_words_reads_them_up_to_date() -> None:
    kept, plain = Training(True), Training(False)
    every = Ragged.of([list(range(50))[begin : begin + 25] for begin in (0, 25)])
    found: list[Any] = []
    for one in (kept, plain):
        one.steps(0, 9)
        with torch.no_grad():
            found.append(one.encoder.eval().encode(every).tokens)
        one.encoder.train()
        one.steps(9, 15)
        found.append(one.encoder.state_dict())
    assert torch.equal(found[0], found[2])
    assert all(torch.equal(found[1][name], found[3][name]) for name in found[1])


def test_a_saved_training_goes_on_as_if_never_interrupted() -> None:
    whole, first, second = Training(True), Training(True), Training(True)
    whole.steps(0, 12)
    first.steps(0, 7)
    weights = copy.deepcopy(first.encoder.state_dict())
    state = copy.deepcopy(first.optimizer.state_dict())
    second.steps(0, 3)  # what it has done before is forgotten
    second.encoder.load_state_dict(weights)
    second.optimizer.load_state_dict(state)
    second.steps(7, 12)
    for one, other in zip(whole.encoder.parameters(), second.encoder.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_gradient_by_rows_is_that_of_the_table() -> None:
    kept, plain = Training(True), Training(False)
    found = []
    for one in (kept, plain):
        torch.manual_seed(0)
        torch.autograd.backward(loss_of(one.encoder))
        (gradient,) = (p.grad for n, p in one.encoder.named_parameters() if n == "embeddings.word.weight")
        assert gradient is not None
        found.append(gradient)
    assert found[0].is_sparse
    assert set(found[0].coalesce().indices()[0].tolist()) == set(BATCH.token_ids.tolist()) | {0}
    assert not found[1].is_sparse
    assert torch.equal(found[0].to_dense(), found[1])


def test_biases_learn_from_the_product_alone() -> None:
    ours = Linear(8, 4)
    ours.compute = BF16
    torch.autograd.backward(ours.then_gelu(drawn(3, 8)).float().sum())
    theirs = nn.Linear(8, 4, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    torch.autograd.backward(F.gelu(theirs(drawn(3, 8).double())).sum())
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert float((one.grad - other.grad).norm() / other.grad.norm()) < 2**-6
