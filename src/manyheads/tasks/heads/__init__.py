"""The heads that a recipe can name, one file each."""

from manyheads.tasks.head import Head
from manyheads.tasks.heads.cosine import CosineHead
from manyheads.tasks.heads.linear import LinearHead
from manyheads.tasks.heads.relation import RelationHead

__all__ = ["HEADS"]

HEADS: dict[str, type[Head]] = {"cosine": CosineHead, "linear": LinearHead, "relation": RelationHead}
