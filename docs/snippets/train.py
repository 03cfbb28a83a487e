# ruff: noqa: T201
"""Train from Python what `manyheads train shop.yaml` trains."""

import manyheads as mh

recipe = mh.Recipe.load("shop.yaml", ["schedule.epochs=4"])
run = mh.train(recipe, out="runs/shop-short", quiet=True)
print(run.scores["topic"]["accuracy"])
