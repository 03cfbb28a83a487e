"""The heads that a recipe can name, one file each."""

from manyheads.tasks.head import Head
from manyheads.tasks.heads.answer_network import AnswerNetworkHead
from manyheads.tasks.heads.bilstm import BiLSTMHead
from manyheads.tasks.heads.candidates import CandidatesHead
from manyheads.tasks.heads.cosine import CosineHead
from manyheads.tasks.heads.linear import LinearHead
from manyheads.tasks.heads.masked_lm import MaskedLMHead
from manyheads.tasks.heads.next_sentence import NextSentenceHead
from manyheads.tasks.heads.relation import RelationHead
from manyheads.tasks.heads.span import SpanHead
from manyheads.tasks.heads.tokens import TokenHead

__all__ = ["HEADS"]

HEADS: dict[str, type[Head]] = {
    "answer_network": AnswerNetworkHead,
    "bilstm": BiLSTMHead,
    "candidates": CandidatesHead,
    "cosine": CosineHead,
    "linear": LinearHead,
    "masked_lm": MaskedLMHead,
    "next_sentence": NextSentenceHead,
    "relation": RelationHead,
    "span": SpanHead,
    "tokens": TokenHead,
}
