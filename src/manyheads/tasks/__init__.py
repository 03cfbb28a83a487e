"""The kinds of task that a recipe can name, one file each."""

from manyheads.tasks.classification import Classification
from manyheads.tasks.kind import Kind, Prediction
from manyheads.tasks.regression import Regression

__all__ = ["KINDS", "Kind", "Prediction"]

KINDS: dict[str, type[Kind]] = {"classification": Classification, "regression": Regression}
