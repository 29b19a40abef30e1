"""The OpenAPI document: complete, and good for finding faults."""

import json
from pathlib import Path

from api.app import assemble

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"


def test_every_operation_says_who_may_call_it_and_how_it_fails() -> None:
    """Security and problems are declared; only the probes are open; no name is used twice."""
    document = assemble().openapi()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    for operation in operations:
        assert {"4XX", "5XX"} <= operation["responses"].keys()
        assert bool(operation["security"]) is (operation["tags"] != ["probes"])
        assert operation["summary"]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names))


def test_every_reference_leads_somewhere() -> None:
    """No `$ref` without its schema, and no definitions within schemas."""
    text = DOCUMENT.read_text()
    document = json.loads(text)
    schemas = document["components"]["schemas"]
    assert {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]} <= schemas.keys()
    assert "$defs" not in text
