"""What a task of a run is given of its upstreams: in its body as long as that stays small, else as a file."""

import json
from typing import Any

import pytest
from sqlalchemy import text

from store import blobs
from store.engine import Database
from tests.store.runs import Orchestrator, create_run

TASK: dict[str, Any] = {"command": ["true"], "provider": "external"}
BODY: dict[str, Any] = {
    "members": [{"name": "above", "task": TASK}, {"name": "below", "task": TASK | {"input": {"own": 1}}}],
    "edges": [{"from": "above", "to": "below"}],
}


@pytest.mark.parametrize(
    ("result", "inline"),
    [("x" * 60_000, True), ("x" * 70_000, False), ("é" * 40_000, False)],
    ids=["short", "long", "long as bytes alone"],
)
async def test_results_of_more_than_64_kb_come_as_a_file(database: Database, result: str, *, inline: bool) -> None:
    """Up to 64 kB of JSON stands in `input.upstream`; what is longer is the attachment `upstream.json`."""
    orchestrator = Orchestrator(database, await create_run(database, BODY))
    await orchestrator.begin()
    await orchestrator.run_through("above", result=result)
    task = await orchestrator.start("below")
    upstream = [{"member": "above", "outcome": "completed", "result": result}]
    async with database.read() as connection:
        spec = (await connection.execute(text("SELECT spec FROM tasks WHERE id = :id"), {"id": task})).scalar_one()
        files = [await stored(connection, attachment) for attachment in spec.get("attachments", [])]
    if inline:
        assert spec["input"] == {"own": 1, "upstream": upstream}
        assert files == []
    else:
        assert spec["input"] == {"own": 1, "upstream": {"attachment": "upstream.json"}}
        assert files == [("upstream.json", upstream)]


async def stored(connection: Any, attachment: str) -> tuple[str, Any]:
    """Return an attachment's name and the JSON in it."""
    found = await connection.execute(text("SELECT name, blob_id FROM attachments WHERE id = :id"), {"id": attachment})
    row = found.one()
    content, n = b"", 0
    while chunk := await blobs.chunk(connection, row.blob_id, n):
        content, n = content + chunk, n + 1
    return row.name, json.loads(content)
