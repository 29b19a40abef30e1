"""`/docs`: the OpenAPI document as a page for people. It loads nothing, runs nothing, and needs no key."""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse

STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
code, pre { font: 14px/1.4 ui-monospace, monospace } pre { background: #f4f4f4; padding: .8rem; overflow-x: auto }
summary { cursor: pointer; padding: .2rem 0 } td, th { text-align: left; padding: .1rem .8rem .1rem 0 }
b.get { color: #0b5fa5 } b.post { color: #1b7a3d } b.put { color: #8a5a00 } b.delete { color: #a11 }
"""
_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY: Final = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; frame-ancestors 'none'"


def install(app: FastAPI) -> None:
    """Serve the page at `/docs`."""

    async def docs(_: Request) -> HTMLResponse:
        return HTMLResponse(page(app.openapi()), headers={"Content-Security-Policy": POLICY})

    app.add_route("/docs", docs, include_in_schema=False)


def page(document: Mapping[str, Any]) -> str:
    """Return the page of an OpenAPI document."""
    return "\n".join(_page(document))


def _page(document: Mapping[str, Any]) -> Iterator[str]:
    title = escape(document["info"]["title"])
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    yield f"</head><body><h1>{title}, HTTP API</h1><p>{escape(document['info']['description'])}</p>"
    yield '<p>For programs: <a href="/openapi.json">/openapi.json</a>.</p>'
    tag = None
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if operation["tags"][0] != tag:
                tag = operation["tags"][0]
                yield f"<h2>{escape(tag)}</h2>"
            yield from _operation(method, path, operation)
    yield "<h2>Schemas</h2>"
    for name, schema in document["components"]["schemas"].items():
        yield f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>{_json(schema)}</details>'
    yield "</body></html>"


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f'<details><summary><b class="{method}">{method.upper()}</b> <code>{escape(path)}</code> '
    yield f"{escape(operation['summary'])}</summary><p>{escape(operation.get('description', ''))}</p>"
    if parameters := operation.get("parameters"):
        yield "<table><tr><th>parameter</th><th>in</th><th>schema</th><th></th></tr>"
        for each in parameters:
            schema = escape(json.dumps(each["schema"]))
            yield f"<tr><td><code>{escape(each['name'])}</code></td><td>{each['in']}</td><td><code>{schema}</code></td>"
            yield f"<td>{escape(each.get('description', ''))}</td></tr>"
        yield "</table>"
    if body := operation.get("requestBody"):
        yield f"<h4>Body</h4>{_json(body['content'])}"
    yield f"<h4>Answers</h4>{_json(operation['responses'])}</details>"


def _json(value: Any) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"
