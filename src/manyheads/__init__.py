"""manyheads: one BERT encoder, many language-understanding heads.

The public face: everything a caller needs is a name of this module, loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manyheads.data import mixing
    from manyheads.encoder import clean
    from manyheads.encoder.bert import Encoder
    from manyheads.encoder.tokenizer import Tokenizer
    from manyheads.errors import InputError, ManyheadsError, WorkError
    from manyheads.evidence.compare import compare
    from manyheads.evidence.study import study
    from manyheads.evidence.trained import train
    from manyheads.formulas import distill, gradients, metrics, mlm, optim, smart, spans, statistics
    from manyheads.model import Model
    from manyheads.recipe import Recipe
    from manyheads.run import Run, load
    from manyheads.tasks import tags
    from manyheads.tasks.kind import Prediction, Span
    from manyheads.training.loop import Stopped

__all__ = [
    "Encoder",
    "InputError",
    "ManyheadsError",
    "Model",
    "Prediction",
    "Recipe",
    "Run",
    "Span",
    "Stopped",
    "Tokenizer",
    "WorkError",
    "clean",
    "compare",
    "distill",
    "gradients",
    "load",
    "metrics",
    "mixing",
    "mlm",
    "optim",
    "smart",
    "spans",
    "statistics",
    "study",
    "tags",
    "train",
]
__version__ = "0.1.0"

_HOMES = {
    "Encoder": "encoder.bert",
    "InputError": "errors",
    "ManyheadsError": "errors",
    "Model": "model",
    "Prediction": "tasks.kind",
    "Recipe": "recipe",
    "Run": "run",
    "Span": "tasks.kind",
    "Stopped": "training.loop",
    "Tokenizer": "encoder.tokenizer",
    "WorkError": "errors",
    "clean": "encoder",
    "compare": "evidence.compare",
    "distill": "formulas",
    "gradients": "formulas",
    "load": "run",
    "metrics": "formulas",
    "mixing": "data",
    "mlm": "formulas",
    "optim": "formulas",
    "smart": "formulas",
    "spans": "formulas",
    "statistics": "formulas",
    "study": "evidence.study",
    "tags": "tasks",
    "train": "evidence.trained",
}
_MODULES = (
    *("clean", "distill", "gradients", "metrics", "mixing", "mlm", "optim", "smart", "spans", "statistics"),
    "tags",
)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'manyheads' has no attribute {name!r}")
    if name in _MODULES:
        value: Any = import_module(f"manyheads.{_HOMES[name]}.{name}")
    else:
        value = getattr(import_module(f"manyheads.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
