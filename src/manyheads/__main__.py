"""`python -m manyheads` is the command `manyheads`."""

from manyheads.cli import main

main()
