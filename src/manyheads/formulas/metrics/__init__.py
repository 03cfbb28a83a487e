"""What predictions are worth: sequences in, a number out.

Knows labels and numbers. Must not know tasks, models or files.
"""

from manyheads.formulas.metrics.correlation import pearson, spearman
from manyheads.formulas.metrics.entities import entity_f1
from manyheads.formulas.metrics.labels import accuracy, f1, macro_f1, matthews
from manyheads.formulas.metrics.ranking import accuracy_at_1, mean_average_precision, mrr
from manyheads.formulas.metrics.squad import cmrc, squad_v1, squad_v2

__all__ = [
    "accuracy",
    "accuracy_at_1",
    "cmrc",
    "entity_f1",
    "f1",
    "macro_f1",
    "matthews",
    "mean_average_precision",
    "mrr",
    "pearson",
    "spearman",
    "squad_v1",
    "squad_v2",
]
