"""The OpenAPI document as a page that a browser shows without a network: no script, nothing loaded from elsewhere."""

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
"""Under which a browser loads and runs nothing."""

STYLE = "body{font-family:sans-serif;max-width:60em;margin:2em auto}pre{background:#eee;padding:1em;overflow:auto}"


def page(document: Mapping[str, Any]) -> str:
    """HTML of the paths with their statuses, then of the records that are sent."""
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    head = f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head>'
    note = "<p>For machines: <code>/openapi.json</code>. In plain words: <code>docs/reward_protocol.md</code>.</p>"
    operations = [
        line
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        for line in _operation(f"{method.upper()} {path}", operation)
    ]
    records = [line for name, schema in document["components"]["schemas"].items() for line in _record(name, schema)]
    return "\n".join([head, f"<body><h1>{title}</h1>", note, *operations, "<h2>Records</h2>", *records, "</body></html>\n"])


def _operation(name: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h2>{escape(name)}</h2>"
    yield f"<p>{escape(operation.get('description', operation['summary']))}</p>"
    for given in ("parameters", "requestBody"):
        if given in operation:
            yield _json(operation[given])
    yield "<ul>"
    for status, response in operation["responses"].items():
        yield f"<li><b>{escape(status)}</b> {escape(response['description'])}</li>"
    yield "</ul>"


def _record(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f'<h3 id="{escape(name)}">{escape(name)}</h3>'
    yield _json(schema)


def _json(value: object) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2))}</pre>"
