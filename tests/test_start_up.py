"""What is imported before something happens: counted in modules, as seconds depend on the machine."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("matplotlib", "scipy", "sklearn", "sympy", "tensorboard", "torch._dynamo", "transformers")


def imported(program: str, *arguments: str) -> set[str]:
    """The modules that a Python with this program has in the end."""
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}\nprint('\\n'.join(sys.modules))", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=110,
    )
    return set(ended.stdout.split("\n"))


def test_help_needs_the_command_line_alone() -> None:
    found = imported(
        "from manyheads.cli import main\nsys.argv = ['manyheads', '--help']\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code"
    )
    assert not {"torch", "numpy", "pyarrow", "pydantic", "fastapi", "tokenizers"} & found
    assert not set(HEAVY) & found


@pytest.mark.timeout(120)
def test_a_question_needs_torch_but_not_its_compiler(tiny_run: Path) -> None:
    found = imported(
        "import manyheads as mh\nmodel = mh.load(sys.argv[1])\nmodel.analyze(['a good film'])", str(tiny_run)
    )
    assert "torch" in found
    assert not set(HEAVY) & found
    alone = imported("import torch")
    own = {name for name in found - alone if not name.startswith(("torch.", "numpy."))}
    assert len(own) < 400
