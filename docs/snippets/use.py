# ruff: noqa: T201
"""Use a trained run from Python."""

import manyheads as mh

model = mh.load("runs/shop")
for prediction in model.predict("topic", ["Where is my order?", "The bell does not ring."]):
    print(prediction.label, f"{prediction.score:.2f}", prediction.truncated)

vectors = model.embed(["Where is my order?"])
print(vectors.shape, vectors.dtype)
