"""The OpenAPI document: checked in, true, and good for finding faults."""

import json
from pathlib import Path

from api.app import assemble
from api.openapi import main

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"


def test_the_checked_in_document_is_the_one_that_is_served(tmp_path: Path) -> None:
    """`make openapi` writes it anew after a change."""
    main(tmp_path / "openapi.json")
    assert (tmp_path / "openapi.json").read_text() == DOCUMENT.read_text()


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
