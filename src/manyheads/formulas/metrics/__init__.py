"""What predictions are worth: sequences in, a number out.

Knows labels and numbers. Must not know tasks, models or files.
"""

from manyheads.formulas.metrics.correlation import pearson, spearman
from manyheads.formulas.metrics.labels import accuracy, f1, macro_f1, matthews

__all__ = ["accuracy", "f1", "macro_f1", "matthews", "pearson", "spearman"]
