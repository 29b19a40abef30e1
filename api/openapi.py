"""The OpenAPI document: what FastAPI knows, with our bodies, problems and security schemes.

`make docs` writes the checked-in copy; a test says when it has drifted.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from fastapi import FastAPI

from api.problems import MEDIA_TYPE, ProblemOut

SCHEMES: Final = {
    "ApiKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key; scopes: `tasks:read`, `tasks:write`, `workspaces:write`, `nodes:write`, `admin`.",
    },
    "CallbackToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "The callback token of the workspace in the path; it opens nothing else.",
    },
}
SCHEME_OF_TAG: Final[Mapping[str, str | None]] = {"callbacks": "CallbackToken", "probes": None}
REF: Final = "#/components/schemas/"


def install(app: FastAPI) -> None:
    """Let the application serve our document instead of FastAPI's own."""
    generate = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = complete(generate())
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's documented way


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Return FastAPI's document with what it does not know."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    _hoist(ProblemOut.model_json_schema(ref_template=REF + "{model}"), schemas)
    components["securitySchemes"] = SCHEMES
    for operation in _operations(document):
        scheme = SCHEME_OF_TAG.get(operation["tags"][0], "ApiKey")
        operation["security"] = [{scheme: []}] if scheme else []
        _body(operation, schemas)
        _answers(operation)
    components["schemas"] = dict(sorted(schemas.items()))
    settle(document)
    return document


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()


def _body(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        if "title" in content["schema"] and content["schema"].get("type") == "object":
            content["schema"] = {"$ref": REF + _hoist(content["schema"], schemas)}


def _hoist(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    """Move a schema and its definitions to where the document keeps them; return its name."""
    schemas.update(schema.pop("$defs", {}))
    schemas[schema["title"]] = schema
    return str(schema["title"])


def _answers(operation: dict[str, Any]) -> None:
    problem = {"content": {MEDIA_TYPE: {"schema": {"$ref": REF + "Problem"}}}}
    operation["responses"].pop("422", None)
    operation["responses"]["4XX"] = {"description": "The request is at fault", **problem}
    operation["responses"]["5XX"] = {"description": "The server is; `retryable` says whether to try again", **problem}


def settle(node: Any, *, default: bool = False) -> None:
    """Put the defaults of sets in order: theirs changes from one process to the next."""
    if isinstance(node, dict):
        for name, part in node.items():
            settle(part, default=default or name == "default")
    elif isinstance(node, list):
        if default and all(isinstance(part, str) for part in node):
            node.sort()
        for part in node:
            settle(part, default=default)
