"""A server as one writes it in an afternoon: FastAPI, transformers, a fine-tuned model for each task.

Knows transformers, torch and FastAPI. Must not know manyheads.

`python plain_server.py TASK=FOLDER … [--precision bf16] [--threads 1] [--way pool]` prints its port and serves
`POST /TASK` {"inputs": [text or [text, text], …]} → {"predictions": [{"label", "score"} or {"value"}, …]} on loopback.
"""

import argparse
import socket
import threading
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer


class Asked(BaseModel):
    """The body of a request."""

    inputs: list[str | tuple[str, str]]


class Task:
    """One fine-tuned model with its tokenizer."""

    def __init__(self, folder: Path, precision: torch.dtype) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=precision).eval()
        # The tokenizer keeps how it pads and cuts, and threads would change that under each other.
        self.alone = threading.Lock()

    @torch.inference_mode()
    def predict(self, inputs: list[str | tuple[str, str]]) -> list[dict[str, Any]]:
        """Label and probability of each input, or its value."""
        with self.alone:
            batch = self.tokenizer(inputs, truncation=True, padding=True, return_tensors="pt")
        logits = self.model(**batch).logits.float()
        if self.model.config.problem_type == "regression":
            return [{"value": value} for value in logits[:, 0].tolist()]
        scores, best = logits.softmax(-1).max(-1)
        names = self.model.config.id2label
        return [
            {"label": names[label], "score": score}
            for label, score in zip(best.tolist(), scores.tolist(), strict=True)
        ]


def application(tasks: dict[str, Task], way: str) -> FastAPI:
    """The service; `async` answers one request after the other, `pool` in the framework's threads."""
    app = FastAPI()

    def pooled(task: str, asked: Asked) -> dict[str, Any]:
        return {"predictions": tasks[task].predict(asked.inputs)}

    async def serial(task: str, asked: Asked) -> dict[str, Any]:
        return {"predictions": tasks[task].predict(asked.inputs)}

    app.post("/{task}")(pooled if way == "pool" else serial)
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="+", metavar="TASK=FOLDER")
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    parser.add_argument("--way", choices=["async", "pool"], default="pool")
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    number = torch.bfloat16 if chosen.precision == "bf16" else torch.float32
    folders = dict(one.split("=", 1) for one in chosen.tasks)
    app = application({name: Task(Path(folder), number) for name, folder in folders.items()}, chosen.way)
    # As `uvicorn.run` makes it: with its protocol, by which asyncio tells connections that are to send at once.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1024)
        print(f"serving at http://127.0.0.1:{taken.getsockname()[1]}", flush=True)
        # Where requests block the loop for longer than the usual 5 s, it would close connections that wait their turn.
        settings = uvicorn.Config(app, log_level="warning", timeout_keep_alive=120)
        uvicorn.Server(settings).run(sockets=[taken])
