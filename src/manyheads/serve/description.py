"""The page that describes the API, rendered from its OpenAPI document: no script, nothing from another host.

Knows OpenAPI's words and HTML. Must not know models or queues.
"""

import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from manyheads.serve.problems import PROBLEMS

__all__ = ["POLICY", "described"]

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; border-top: 1px solid; padding-top: 1rem; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid; border-radius: 4px; }
code, pre { font: 14px/1.45 ui-monospace, monospace; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid; }
"""
_HASH = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""The page's content security policy: its own style and nothing else."""


def described(document: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document."""
    info = document["info"]
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])}</p>",
        "<p>For machines: <a href='/openapi.json'>openapi.json</a></p>",
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts += _operation(path, method.upper(), operation, document)
    parts.append(
        "<h2 id='problems'>Problems</h2><p>Every answer that is no success is a problem document.</p>"
    )
    parts.append(
        "<table><thead><tr><th>type</th><th>status</th><th>title</th><th>what to do</th></tr></thead><tbody>"
    )
    for name, sort in PROBLEMS.items():
        parts.append(
            f"<tr id='{name}'><td><code>{name}</code></td><td>{sort.status}</td>"
            f"<td>{escape(sort.title)}</td><td>{escape(sort.advice)}</td></tr>"
        )
    parts.append("</tbody></table></main></body></html>")
    return "".join(parts)


def _operation(
    path: str, method: str, operation: Mapping[str, Any], document: Mapping[str, Any]
) -> list[str]:
    parts = [
        f"<h2><code>{method} {escape(path)}</code></h2><p>{escape(operation.get('description', ''))}</p>"
    ]
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        told = content["application/json"]
        parts.append(_fields(told["schema"], document))
        for example in told["examples"].values():
            sent = json.dumps(example["value"], ensure_ascii=False)
            # Within single quotes of a shell nothing else has a meaning.
            quoted = sent.replace("'", "'\\''")
            command = f"curl -H 'Content-Type: application/json' -d '{quoted}' http://HOST:PORT{path}"
            parts.append(f"<pre>{escape(command)}</pre>")
    elif "text/csv" in content:
        parts.append(_parameters(operation["parameters"]))
        asked = "&".join(f"{one['name']}=NAME" for one in operation["parameters"] if one["required"])
        command = f"curl -H 'Content-Type: text/csv' --data-binary @FILE.csv 'http://HOST:PORT{path}?{asked}'"
        parts.append(f"<pre>{escape(command)}</pre>")
    for status, answer in operation["responses"].items():
        for kind, told in answer.get("content", {}).items():
            if "example" in told:
                shown = json.dumps(told["example"], ensure_ascii=False, indent=1)
                parts.append(
                    f"<p>{escape(status)}, <code>{escape(kind)}</code></p><pre>{escape(shown)}</pre>"
                )
    return parts


def _fields(schema: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """A table of the keys of a schema that is a reference."""
    whole = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]]
    needed = whole.get("required", ())
    fields = whole["properties"].items()
    return _table([(name, name in needed, field.get("description", "")) for name, field in fields])


def _parameters(parameters: Sequence[Mapping[str, Any]]) -> str:
    """A table of the parameters of a query."""
    return _table([(one["name"], one["required"], one["description"]) for one in parameters])


def _table(fields: Sequence[tuple[str, bool, str]]) -> str:
    """(name, whether it is needed, meaning) as rows."""
    rows = [
        f"<tr><td><code>{escape(name)}</code></td><td>{'needed' if needed else 'optional'}</td>"
        f"<td>{escape(meaning)}</td></tr>"
        for name, needed, meaning in fields
    ]
    return f"<table><thead><tr><th>key</th><th></th><th>meaning</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
