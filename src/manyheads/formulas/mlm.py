"""The masked language model's two formulas: which tokens are hidden, and the loss over a large vocabulary.

Knows token ids, what a tokenizer says of them, and logits. Must not know texts, batches, tasks or the training loop.

Devlin et al. (2019), "BERT: Pre-training of deep bidirectional transformers for language understanding", section
3.1 and appendix A.1, arXiv 1810.04805.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["IGNORED", "Pieces", "Vocabulary", "check_mix", "cross_entropy", "mask", "masked"]

IGNORED = -100
"""The label of a token that is not asked, as torch's cross entropy leaves it out."""

_CONTINUATION = "##"
# Logits that are looked at together: on the processor few enough for the caches; elsewhere each call has its price.
_CHUNK = 1 << 20
_CHUNK_ELSEWHERE = 1 << 26


class Vocabulary(Protocol):
    """What of a tokenizer is looked at here."""

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids that stand for no text; [MASK] is among them."""

    mask_id: int
    """The id of [MASK]."""

    def id_to_token(self, token_id: int) -> str | None:
        """The token of an id."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """What is known of each of the V ids of a vocabulary: made once, for many batches."""

    mask_id: int
    ordinary: NDArray[np.bool_]
    """[V] which ids are no special tokens: they may be hidden, and stand in for others."""
    continues: NDArray[np.bool_]
    """[V] which ids go on with the word before (`##ing`)."""

    @classmethod
    def of(cls, tokenizer: Vocabulary) -> Self:
        """The pieces of a tokenizer; ValueError where all its tokens are special."""
        ordinary = np.ones(tokenizer.vocab_size, np.bool_)
        ordinary[sorted(tokenizer.special_ids)] = False
        if not ordinary.any():
            raise ValueError("expected a vocabulary with tokens that are not special, found none")
        begins = (
            (tokenizer.id_to_token(one) or "").startswith(_CONTINUATION) for one in range(len(ordinary))
        )
        return cls(tokenizer.mask_id, ordinary, np.fromiter(begins, np.bool_, len(ordinary)) & ordinary)


def check_mix(mix: Sequence[float]) -> tuple[float, float, float]:
    """Three shares (masked, random, kept) that add up to 1; ValueError for anything else."""
    shares = tuple(float(one) for one in mix)
    if (
        len(shares) != 3
        or not all(0 <= one <= 1 for one in shares)
        or not math.isclose(sum(shares), 1, abs_tol=1e-6)
    ):
        raise ValueError(
            f"'mix' expects three shares that add up to 1 ([MASK], random, kept), found {list(shares)}"
        )
    return shares[0], shares[1], shares[2]


def masked(
    ids: NDArray[Any],
    pieces: Pieces,
    *,
    rate: float = 0.15,
    mix: Sequence[float] = (0.8, 0.1, 0.1),
    generator: np.random.Generator,
    whole_word: bool = False,
    lengths: NDArray[Any] | None = None,
    begins: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Token ids [T], sequences end to end, as the model shall read them, and which of them it is asked for [T].

    Each token that is not special is asked with probability `rate`, independently of the others, so that the number
    of asked tokens is binomial (BERT's own preparation takes 15% of each sequence, rounded, at least one). Each asked
    token is replaced, independently again, by [MASK], by a token drawn evenly from those that are not special, or
    by itself, with the three probabilities of `mix`. Special tokens are never asked: neither [CLS], [SEP] and
    padding nor [UNK], of which nothing could be learnt.

    With `whole_word` all pieces of a word are asked together, or none: each word with probability `rate`, which makes
    the expected share of tokens the same. A piece that begins with `##` belongs to the token before it, in the same
    sequence where `lengths` [S] says how many tokens each has; a CJK character is a word. `begins` [T], where
    given, says instead which tokens begin a word. What stands in for them is drawn for each piece alone (as in BERT's
    whole-word models).

    ValueError for a rate outside 0 to 1, a mix that is none, or an id beyond the vocabulary.
    """
    shares = check_mix(mix)
    if not 0 <= rate <= 1:
        raise ValueError(f"'rate' expects a share from 0 to 1, found {rate!r}")
    known = len(pieces.ordinary)
    least, most = (int(ids.min()), int(ids.max())) if ids.size else (0, 0)
    if least < 0 or most >= known:
        wrong = least if least < 0 else most
        raise ValueError(f"found the token id {wrong}, expected 0 to {known - 1}")
    ordinary = pieces.ordinary[ids]
    if whole_word:
        word = _words(ids, ordinary, pieces, lengths, begins)
        asked = (generator.random(int(word[-1]) + 1 if len(word) else 0) < rate)[word]
    else:
        asked = generator.random(len(ids)) < rate
    asked &= ordinary
    places = np.flatnonzero(asked)
    inputs = ids.copy()
    kind = generator.random(len(places))
    inputs[places[kind < shares[0]]] = pieces.mask_id
    swapped = places[(kind >= shares[0]) & (kind < shares[0] + shares[1])]
    choice = np.flatnonzero(pieces.ordinary)
    inputs[swapped] = choice[generator.integers(len(choice), size=len(swapped))]
    return inputs, asked


def _words(
    ids: NDArray[Any],
    ordinary: NDArray[np.bool_],
    pieces: Pieces,
    lengths: NDArray[Any] | None,
    begins: NDArray[np.bool_] | None,
) -> NDArray[np.int64]:
    """[T] the number of the word that each token belongs to; a special token is one of its own."""
    first = ~pieces.continues[ids] if begins is None else np.array(begins, dtype=np.bool_)
    if first.shape != ids.shape:
        raise ValueError(f"'begins' expects a value for each of {len(ids)} tokens, found {list(first.shape)}")
    first |= ~ordinary
    if len(first):
        first[0] = True
        first[1:] |= ~ordinary[:-1]
    if lengths is not None:
        if int(lengths.sum()) != len(ids):
            raise ValueError(
                f"'lengths' expects numbers that add up to {len(ids)}, found {int(lengths.sum())}"
            )
        starts = np.cumsum(lengths, dtype=np.int64) - lengths
        first[starts[np.asarray(lengths) > 0]] = True
    return np.cumsum(first) - 1


def mask(
    input_ids: Tensor | NDArray[Any] | Sequence[Any],
    tokenizer: Vocabulary,
    *,
    rate: float = 0.15,
    mix: Sequence[float] = (0.8, 0.1, 0.1),
    generator: torch.Generator | None = None,
    whole_word: bool = False,
) -> tuple[Any, Any]:
    """(inputs, labels) for the ids [T] or [B, L] of texts: a tensor, an array, or lists, which may be of any lengths.

    Both have the form of `input_ids`. Labels are the original ids of the asked tokens and −100 everywhere else. What is
    asked and what is read instead is as in `masked`; padding is a special token. The numbers come from
    `generator`, or from torch's own where it is None, and are the same for all three forms.
    """
    device = "cpu" if generator is None else generator.device
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=device))
    rows = _rows(input_ids)
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    ids = np.concatenate([*rows, np.empty(0, np.int64)]).astype(np.int64)
    inputs, asked = masked(
        ids,
        Pieces.of(tokenizer),
        rate=rate,
        mix=mix,
        generator=np.random.default_rng(seed),
        whole_word=whole_word,
        lengths=lengths,
    )
    labels = np.where(asked, ids, IGNORED)
    return _like(input_ids, inputs, lengths), _like(input_ids, labels, lengths)


def _rows(given: Tensor | NDArray[Any] | Sequence[Any]) -> list[NDArray[Any]]:
    """The sequences of ids, one or several; ValueError for what are none."""
    if isinstance(given, Tensor):
        given = given.detach().cpu().numpy()
    if isinstance(given, np.ndarray):
        if given.ndim not in (1, 2) or not np.issubdtype(given.dtype, np.integer):
            raise ValueError(f"expected whole numbers [T] or [B, L], found {given.dtype} {list(given.shape)}")
        return [given] if given.ndim == 1 else list(given)
    rows = [np.asarray(row) for row in given] if _nested(given) else [np.asarray(list(given))]
    for row in rows:
        if row.ndim != 1 or (row.size and not np.issubdtype(row.dtype, np.integer)):
            raise ValueError(f"expected lists of token ids, found {row.dtype} {list(row.shape)}")
    return [row.astype(np.int64) for row in rows]


def _nested(given: Sequence[Any]) -> bool:
    return len(given) > 0 and np.ndim(given[0]) > 0


def _like(given: Any, flat: NDArray[Any], lengths: NDArray[np.int64]) -> Any:
    """Flat ids in the form of `given`."""
    if isinstance(given, Tensor):
        return torch.from_numpy(flat).to(given.device, given.dtype).view(given.shape)
    if isinstance(given, np.ndarray):
        return flat.astype(given.dtype).reshape(given.shape)
    if not _nested(given):
        return flat.tolist()
    return [part.tolist() for part in np.split(flat, np.cumsum(lengths)[:-1])]


class _CrossEntropy(torch.autograd.Function):
    """Mean of logsumexp(z) − z_target, and its gradient (softmax(z) − onehot) / M, a chunk of rows at a time."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        totals = torch.cat([_precise(logits[part]).logsumexp(1) for part in _chunks(logits)])
        ctx.save_for_backward(logits, targets, totals)
        return (totals - logits.gather(1, targets[:, None])[:, 0]).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None]:
        logits, targets, totals = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, None
        share = grad / len(logits)
        found = torch.empty_like(logits)
        for part in _chunks(logits):
            probabilities = _precise(logits[part]).sub(totals[part, None]).exp_()
            rows = torch.arange(len(probabilities), device=logits.device)
            probabilities[rows, targets[part]] -= 1
            found[part] = probabilities.mul_(share)
        return found, None


def _chunks(logits: Tensor) -> Iterator[slice]:
    most = _CHUNK if logits.device.type == "cpu" else _CHUNK_ELSEWHERE
    rows = max(1, most // logits.shape[1])
    return (slice(begin, begin + rows) for begin in range(0, len(logits), rows))


def _precise(logits: Tensor) -> Tensor:
    """In float32 at least: a sum of 30,000 exponentials is none in half precision."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of −log softmax(z)_t in nats over logits z [M, V] and targets t [M] int64, a scalar; 0 where M is 0.

    torch's own keeps the logits, their log-probabilities and two gradients of that size at once; this one keeps the
    logits and one gradient, and works in float32 on logits of half precision without a copy of all. ValueError where
    the shapes do not fit.
    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(
            f"expected logits [M, V] and targets [M], found {list(logits.shape)} and {list(targets.shape)}"
        )
    if not len(logits):
        return logits.sum()
    loss: Tensor = _CrossEntropy.apply(logits, targets)  # type: ignore[no-untyped-call]
    return loss
