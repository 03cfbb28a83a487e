"""What the benchmarks share: rows read without manyheads, rounds in turn, the machine, the record."""
