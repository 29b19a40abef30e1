"""What nobody owns is found and released; what somebody owns is left alone."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.ids import new_id
from domain.names import NodeId, TaskId, WorkspaceId
from store import reaper
from store.engine import Database
from tests.store.rows import column, create_node, create_task, scalar
from tests.store.slots import BROKEN, conclude, reserve, used, wait

Found = TypeVar("Found")
NONE = timedelta(0)
HOUR = timedelta(hours=1)
WAITERS = "SELECT count(*) FROM waiters WHERE task_id = :task"


async def run(database: Database, work: Callable[[AsyncConnection], Awaitable[Found]]) -> Found:
    """Do one thing in a transaction."""
    async with database.begin("tests.reaper") as connection:
        return await work(connection)


async def execute(database: Database, statement: str, **parameters: Any) -> None:
    """Change the database behind everybody's back."""
    async with database.begin("tests.execute") as connection:
        await connection.execute(text(statement), parameters)


async def leftovers(database: Database, *, settled: timedelta = NONE, call: timedelta = NONE, dry: bool = False) -> Any:
    """What the reaper cleans up."""
    return await run(database, lambda c: reaper.clean_up(c, settled=settled, call=call, limit=1000, dry_run=dry))


async def holder(database: Database) -> tuple[TaskId, NodeId]:
    """A live task that holds a slot and a workspace."""
    node, task = await create_node(database, slots=1), await create_task(database)
    await reserve(database, task, node, 1)
    return task, node


async def test_a_live_attempt_keeps_what_it_holds(database: Database) -> None:
    """However old its entries are."""
    task, _ = await holder(database)
    assert f"{task}-a1" not in await leftovers(database)


async def test_what_an_ended_attempt_holds_is_cleaned_up_once(database: Database) -> None:
    """One intent, also when the reaper comes again before it was sent; a dry run stores none."""
    task, _ = await holder(database)
    await execute(database, "UPDATE tasks SET status = 'failed' WHERE id = :id", id=task)
    assert f"{task}-a1" in await leftovers(database, dry=True)
    assert f"{task}-a1" in await leftovers(database)
    assert f"{task}-a1" not in await leftovers(database)
    query = "SELECT count(*) FROM outbox WHERE task_id = :task AND kind = 'cleanup'"
    assert await scalar(database, query, task=task) == 1


async def test_a_superseded_attempt_and_a_deleted_task_own_nothing(database: Database) -> None:
    """Both are found by the ledger alone."""
    (later, _), (deleted, _) = await holder(database), await holder(database)
    await execute(database, "UPDATE tasks SET status = 'queued', attempt = 2, version = 0 WHERE id = :id", id=later)
    await execute(database, "DELETE FROM tasks WHERE id = :id", id=deleted)
    assert {f"{later}-a1", f"{deleted}-a1"} <= {*await leftovers(database)}


async def test_a_call_that_may_be_under_way_is_left_to_it(database: Database) -> None:
    """An `intent` counts after its call's deadline, a `created` at once, either when it has settled."""
    task = await create_task(database)
    await reserve(database, task, None, 1)
    await execute(database, "UPDATE tasks SET status = 'failed' WHERE id = :id", id=task)
    assert f"{task}-a1" not in await leftovers(database, call=HOUR)
    await execute(database, "UPDATE ledger SET state = 'created' WHERE task_id = :id", id=task)
    assert f"{task}-a1" not in await leftovers(database, call=HOUR, settled=HOUR)
    assert f"{task}-a1" in await leftovers(database, call=HOUR)


async def test_a_waiter_of_an_ended_attempt_is_removed(database: Database) -> None:
    """And one of a live attempt is not; a dry run removes none."""
    node = await create_node(database, slots=0)
    ended, live = await create_task(database), await create_task(database)
    for task in (ended, live):
        await wait(database, task, 1, node)
    await execute(database, "UPDATE tasks SET status = 'failed' WHERE id = :id", id=ended)
    found = await run(database, lambda c: reaper.remove_waiters(c, limit=1000, dry_run=True))
    assert (list(found), await scalar(database, WAITERS, task=ended)) == ([f"{ended}-a1"], 1)
    await run(database, lambda c: reaper.remove_waiters(c, limit=1000, dry_run=False))
    assert [await scalar(database, WAITERS, task=task) for task in (ended, live)] == [0, 1]


async def test_a_count_that_has_drifted_is_mended(database: Database) -> None:
    """By the open entries; the slot that was lost is granted to who waits."""
    node, waiting = await create_node(database, slots=1), await create_task(database)
    await execute(database, "UPDATE nodes SET used = 1 WHERE id = :id", id=node)
    await wait(database, waiting, 1, node)
    assert node in await run(database, lambda c: reaper.drifted(c, limit=1000))
    assert await run(database, lambda c: reaper.count_slots(c, node))
    assert not await run(database, lambda c: reaper.count_slots(c, node))
    assert await used(database, node) == 1
    granted = await column(database, "SELECT granted FROM waiters WHERE task_id = :task", task=waiting)
    assert (list(granted), await scalar(database, BROKEN)) == ([node], 0)


async def test_counting_races_with_taking_and_releasing(database: Database) -> None:
    """Whatever the order, the count is that of the entries, and a right count is never called wrong."""
    node = await create_node(database, slots=4)

    async def live() -> None:
        for _ in range(5):
            task = await create_task(database)
            if (await reserve(database, task, node, 1))["workspace_id"]:
                await conclude(database, task, 2)

    async def count() -> int:
        wrong = 0
        for _ in range(20):
            wrong += node in await run(database, lambda c: reaper.drifted(c, limit=1000))
            wrong += await run(database, lambda c: reaper.count_slots(c, node))
        return wrong

    *_, first, second = await asyncio.gather(*(live() for _ in range(6)), count(), count())
    assert (first, second, await used(database, node), await scalar(database, BROKEN)) == (0, 0, 0, 0)


async def test_answers_are_forgotten_when_their_time_is_over(database: Database) -> None:
    """Counted by a dry run, removed by the other; a fresh one stays."""
    for age in ("2 h", "0 h"):
        await execute(
            database,
            "INSERT INTO idempotency (project, key, digest, status, response, created_at)"
            " VALUES ('default', :key, '', 200, '{}', now() - CAST(:age AS interval))",
            key=new_id(),
            age=timedelta(hours=int(age[0])),
        )
    for dry, left in ((True, 2), (False, 1)):
        forget = partial(reaper.forget_answers, kept=HOUR, limit=1000, dry_run=dry)
        count = await run(database, forget)
        assert (count, await scalar(database, "SELECT count(*) FROM idempotency")) == (1, left)


async def test_uploads_that_were_interrupted_are_removed(database: Database) -> None:
    """Older than the limit and never completed; chunks go with them."""
    interrupted, fresh, complete = new_id(), new_id(), new_id()
    for blob, sha256, age in ((interrupted, "", 2), (fresh, "", 0), (complete, "ab", 2)):
        await execute(
            database,
            "INSERT INTO blobs (id, size, sha256, created_at) VALUES (:id, 1, :sha256, now() - CAST(:age AS interval))",
            id=blob,
            sha256=sha256,
            age=timedelta(hours=age),
        )
        await execute(database, "INSERT INTO blob_chunks (blob_id, n, data) VALUES (:id, 0, 'x')", id=blob)
    for dry in (True, False):
        found = await run(database, partial(reaper.remove_uploads, older=HOUR, limit=1000, dry_run=dry))
        assert list(found) == [interrupted]
    left = await column(
        database,
        "SELECT DISTINCT blob_id FROM blob_chunks WHERE blob_id = ANY(:ids)",
        ids=[interrupted, fresh, complete],
    )
    assert {*left} == {fresh, complete}


async def test_a_workspace_is_known_while_its_entry_is_open_or_retained(database: Database) -> None:
    """Unknown are those that were released, and those that never were."""
    tags: dict[str, WorkspaceId] = {}
    for state in ("intent", "created", "retained", "released"):
        tags[state] = WorkspaceId(new_id())
        await execute(
            database,
            "INSERT INTO ledger (tag, kind, task_id, attempt, project, provider, node_id, state)"
            " VALUES (:tag, 'workspace', 't', 1, 'default', 'local', 'n', :state)",
            tag=tags[state],
            state=state,
        )
    never = WorkspaceId(new_id())
    unknown = await run(database, lambda c: reaper.unknown(c, [*tags.values(), never]))
    assert unknown == [tags["released"], never]


async def test_every_node_is_asked_in_its_turn(database: Database) -> None:
    """A few in each period, others in the next; those that are gone never."""
    here = [await create_node(database, slots=1) for _ in range(3)]
    await execute(database, "UPDATE nodes SET status = 'gone' WHERE id <> ALL(:here)", here=here)
    asked: set[NodeId] = set()
    async with asyncio.timeout(20):
        while asked != {*here}:
            found = await run(database, lambda c: reaper.nodes_to_ask(c, period=timedelta(milliseconds=1), limit=1))
            assert len(found) == 1
            asked |= {*found}
