"""`manyheads ask RUN TEXT [TEXT_B]`"""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from manyheads.cli.options import Attention, Device, Json, PrecisionOption, Raw, RunFolder

if TYPE_CHECKING:
    from manyheads.evidence.explain import Explanation


def ask(
    run: RunFolder,
    text: Annotated[str, typer.Argument(help="A text.", show_default=False)],
    text_b: Annotated[
        str | None, typer.Argument(help="The second text of a pair.", show_default=False)
    ] = None,
    task: Annotated[list[str] | None, typer.Option("--task", help="Only these tasks.")] = None,
    raw: Raw = False,
    why: Annotated[
        bool, typer.Option("--explain", help="Say which tokens moved each answer (needs captum).")
    ] = False,
    device: Device = "cpu",
    precision: PrecisionOption = None,
    attention: Attention = None,
    as_json: Json = False,
) -> None:
    """Put one text, or a pair, through every head that can take it."""
    from manyheads.cli.show import explanation_table, predictions_table
    from manyheads.run import load

    model = load(run, precision).to(device).use(attention=attention)
    if text_b is None:
        (found,) = model.analyze([text], task, raw=raw)
    else:
        (found,) = model.analyze_pairs([(text, text_b)], task, raw=raw)
    reasons: dict[str, Explanation] = {}
    if why:
        from manyheads.evidence.explain import explain, explainable

        one = text if text_b is None else (text, text_b)
        for name, prediction in found.items():
            if explainable(prediction):
                (reasons[name],) = explain(model, name, [one])
    if as_json:
        told = {name: asdict(one) for name, one in found.items()}
        for name, reason in reasons.items():
            plain = asdict(reason)
            del plain["prediction"]
            told[name]["explanation"] = plain
        typer.echo(json.dumps(told, ensure_ascii=False))
        return
    predictions_table(found)
    for reason in reasons.values():
        explanation_table(reason)
