"""The kinds of task that a recipe can name, one file each."""

from manyheads.tasks.choice import Choice
from manyheads.tasks.classification import Classification
from manyheads.tasks.kind import Kind, Prediction
from manyheads.tasks.masked import MaskedLM
from manyheads.tasks.next_sentence import NextSentence
from manyheads.tasks.ranking import Ranking
from manyheads.tasks.regression import Regression
from manyheads.tasks.span import Answering
from manyheads.tasks.tagging import Tagging

__all__ = ["KINDS", "Kind", "Prediction"]

KINDS: dict[str, type[Kind]] = {
    "classification": Classification,
    "regression": Regression,
    "tagging": Tagging,
    "span": Answering,
    "choice": Choice,
    "ranking": Ranking,
    "mlm": MaskedLM,
    "nsp": NextSentence,
}
