"""Tasks that are written together: each is what it would be alone, at the price of one."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, event, select

from domain.ids import new_id
from domain.names import DEFAULT_PROJECT, TaskId
from domain.run import Start
from domain.spec import TaskSpec
from store import run_tasks, tasks
from store.engine import Database
from store.models import Outbox
from tests.store.rows import LEASE, log_of
from tests.store.runs import Orchestrator, create_run

BODIES: tuple[dict[str, Any], ...] = (
    {"command": ["true"]},
    {"command": ["echo", 'a "b" \\ ü'], "name": "named", "labels": {"k": "v"}, "priority": 1},
    {"command": ["true"], "breakpoints": {"before": ["running"]}, "input": {"n": 1.5}, "retry": {"max_attempts": 2}},
)


@pytest.mark.parametrize("start", [True, False])
async def test_tasks_that_are_written_together_are_each_as_a_later_read_gives_it(
    database: Database, *, start: bool
) -> None:
    """The same rows, in the order of the request; a log and a start intent of its own each."""
    new = [tasks.New(task=TaskId(new_id()), spec=TaskSpec.model_validate(body)) for body in BODIES]
    async with database.begin("test") as connection:
        created = await tasks.create_all(
            connection,
            new,
            project=DEFAULT_PROJECT,
            start=start,
            now=datetime.now(UTC),
            lease_to="tests",
            lease=LEASE,
        )
    async with database.read() as connection:
        assert [each.row for each in created] == [await tasks.get(connection, DEFAULT_PROJECT, n.task) for n in new]
        query = select(Outbox.id, Outbox.task_id, Outbox.kind, Outbox.leased_by).order_by(Outbox.id)
        found = (await connection.execute(query.where(Outbox.task_id.in_([n.task for n in new])))).all()
    assert {(row.id, row.task_id) for row in found} == {(e.intent.id, e.intent.task_id) for e in created if e.intent}
    assert [(row.kind, row.leased_by) for row in found] == [("start", "tests")] * (len(new) if start else 0)
    for each in new:
        kinds = [str(event.type) for event in await log_of(database, each.task)]
        assert kinds == ["task.created", *(["task.queued"] if start else [])]


@contextmanager
def statements() -> Iterator[list[str]]:
    """Note what is sent to any database meanwhile."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        sent.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def test_fifty_members_are_started_by_as_many_statements_as_one(database: Database) -> None:
    """The same number: each statement is a turn in a worker that has others to serve."""
    task = {"command": ["true"], "provider": "external"}
    body = {"members": [{"name": "many", "task": task, "fan_out": {"count": 51}}]}
    orchestrator, sent = Orchestrator(database, await create_run(database, body)), dict[int, int]()
    await orchestrator.begin()
    sender = run_tasks.Sender(name="tests", lease=LEASE, agent_lease=LEASE, now=datetime.now(UTC))
    for first, last in ((1, 1), (2, 51)):
        starts = [Start(member="many", item=item) for item in range(first, last + 1)]
        async with database.begin("test") as connection:
            with statements() as noted:
                started = await run_tasks.start(connection, orchestrator.batch(), starts, sender)
        assert len(started.intents) == len(starts)
        sent[len(starts)] = len(noted)
    assert sent[50] == sent[1] > 0
