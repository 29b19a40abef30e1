"""Deletion and retention: what belongs to tasks that have ended goes, and nothing else; what they hold is released."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from domain.events import EventType
from domain.ids import first_id, new_id, workspace_id
from domain.lifecycle import TERMINAL, TaskStatus
from domain.names import DEFAULT_PROJECT, AttachmentId, ProjectId, TaskId
from domain.spec import TaskSpec
from store import attachments, blobs, deletions, ledger, retention, tasks
from store.deletions import Deletion
from store.engine import Database
from store.models import Artifact, LogChunk
from tests.store.rows import LEASE, batch, column, create_node, create_task, event, flush, scalar
from tests.store.slots import BROKEN, conclude, reserve, used
from tests.store.test_kept import cleanups, kept
from tests.store.test_retries import ended, retry

DAY = timedelta(days=1)
OF_TASK = ("events", "callbacks", "workspaces", "waiters", "artifacts", "log_chunks")


async def blob(database: Database) -> str:
    """Write a blob of one chunk."""
    identity = new_id()
    async with database.begin("test") as connection:
        await blobs.begin(connection, identity)
        await blobs.append(connection, identity, 0, b"bytes")
        await blobs.complete(connection, identity, size=5, sha256="x")
    return identity


async def furnish(database: Database, task: TaskId) -> str:
    """Give a task output, an artifact and a callback; returns the artifact's blob."""
    bytes_of = await blob(database)
    async with database.begin("test") as connection:
        await connection.execute(insert(LogChunk).values(task_id=task, attempt=1, position=0, data=b"said"))
        artifact = {"task_id": task, "attempt": 1, "name": "a", "media_type": "text/plain", "blob_id": bytes_of}
        await connection.execute(insert(Artifact).values(artifact))
    await scalar(
        database,
        "INSERT INTO callbacks (workspace_id, attempt, kind, turn, task_id, body, digest)"
        " VALUES (:id, 1, 'ready', 1, :id, '{}', '') RETURNING 1",
        id=task,
    )
    return bytes_of


def id_of(days: int) -> str:
    """Return an id that was made so many days ago."""
    return first_id(datetime.now(UTC) - days * DAY)[:14] + new_id()[14:]


async def old(database: Database, *, days: int = 10, lives: bool = False, **body: Any) -> tuple[TaskId, str]:
    """Write a furnished task that was made, and unless it `lives` failed, so many days ago; returns its blob too."""
    task, moment = TaskId(id_of(days)), datetime.now(UTC) - days * DAY
    spec = TaskSpec.model_validate({"command": ["true"]} | body)
    async with database.begin("test") as connection:
        await tasks.create(
            connection,
            task=task,
            project=DEFAULT_PROJECT,
            spec=spec,
            start=True,
            now=moment,
            lease_to="tests",
            lease=LEASE,
        )
    if not lives:
        end = event(EventType.TASK_FAILED, error=None).model_copy(update={"ts": moment})
        await flush(database, batch(task, 1, end))
    return task, await furnish(database, task)


async def delete(database: Database, task: TaskId, project: ProjectId = DEFAULT_PROJECT) -> Deletion | None:
    """Delete as the API does."""
    async with database.begin("test") as connection:
        return await deletions.delete(connection, project, task)


async def left_of(database: Database, task: TaskId, bytes_of: str) -> dict[str, int]:
    """Return how many rows there are of a task, by table."""
    counted = {
        name: await scalar(database, f"SELECT count(*) FROM {name} WHERE task_id = :id", id=task)  # noqa: S608
        for name in OF_TASK
    }
    counted["tasks"] = await scalar(database, "SELECT count(*) FROM tasks WHERE id = :id", id=task)
    for name, key in (("blobs", "id"), ("blob_chunks", "blob_id")):
        counted[name] = await scalar(database, f"SELECT count(*) FROM {name} WHERE {key} = :id", id=bytes_of)  # noqa: S608
    return {name: count for name, count in counted.items() if count}


@pytest.mark.parametrize("status", sorted(TERMINAL))
async def test_a_deleted_task_leaves_nothing(database: Database, status: TaskStatus) -> None:
    """Row, events, output, artifact with its bytes, callback: gone; again, and of another project, there is none."""
    task = await ended(database, status)
    bytes_of = await furnish(database, task)
    assert (await left_of(database, task, bytes_of)).keys() >= {"events", "artifacts", "log_chunks", "blob_chunks"}
    assert await delete(database, task, ProjectId("other")) is None
    assert await delete(database, task) is Deletion.DELETED
    assert await left_of(database, task, bytes_of) == {}
    assert await delete(database, task) is None


@pytest.mark.parametrize("start", [True, False])
async def test_a_live_task_is_not_deleted(database: Database, start: bool) -> None:  # noqa: FBT001
    """not_ended, whether it was started or not."""
    task = await create_task(database, start=start)
    assert await delete(database, task) is Deletion.NOT_ENDED
    assert await scalar(database, "SELECT count(*) FROM tasks WHERE id = :id", id=task) == 1


async def test_a_retry_and_a_deletion_at_once(database: Database) -> None:
    """Either the task lives, or it is gone: never a start intent without a task, but one that finds nothing."""
    for _ in range(10):
        task = await ended(database)
        deleted, _ = await asyncio.gather(delete(database, task), retry(database, task), return_exceptions=True)
        lives = await scalar(database, "SELECT count(*) FROM tasks WHERE id = :id AND status = 'queued'", id=task)
        assert lives == (0 if deleted is Deletion.DELETED else 1)


async def test_what_a_deleted_task_holds_is_cleaned_up(database: Database) -> None:
    """Kept and left over: a Cleanup of each attempt finds both workspaces, and after it not even the ledger knows."""
    node = await create_node(database, slots=2)
    (first, workspace), task = await kept(database, node), await create_task(database, node_labels={"node": node})
    await reserve(database, task, node, 1)
    await conclude(database, task, 2, destroyed=False)
    for one, expected in ((first, workspace), (task, workspace_id(task, 1, 1))):
        assert await delete(database, one) is Deletion.DELETED
        assert await cleanups(database, one) >= 1
        async with database.begin("test") as connection:
            held = await ledger.held(connection, one, 1)
        assert held is not None
        assert [each.workspace_id for each in held] == [expected]
        async with database.begin("test") as connection:
            await ledger.release(connection, one, 1)
        assert await scalar(database, "SELECT count(*) FROM ledger WHERE task_id = :id", id=one) == 0
    assert (await used(database, node), await scalar(database, BROKEN)) == (0, 0)


async def test_old_tasks_are_deleted_in_batches(database: Database) -> None:
    """The oldest first, at most so many at once; neither the younger nor the live, however old."""
    made = [await old(database, days=days, labels={"of": "batches"}) for days in (50, 40, 30)]
    young, _ = await old(database, days=2, labels={"of": "batches"})
    live, _ = await old(database, days=90, lives=True, labels={"of": "batches"})
    found = []
    for _ in range(3):
        async with database.begin("test") as connection:
            found.append(list(await retention.delete_tasks(connection, before=datetime.now(UTC) - 20 * DAY, limit=2)))
    assert found == [[made[0][0], made[1][0]], [made[2][0]], []]
    assert [await left_of(database, *one) for one in made] == [{}, {}, {}]
    rest = await column(database, "SELECT id FROM tasks WHERE labels ->> 'of' = 'batches' ORDER BY id")
    assert list(rest) == [live, young]


Prune = Callable[..., Awaitable[int]]


@pytest.mark.parametrize(
    ("prune", "gone"),
    [
        (retention.delete_logs, {"log_chunks"}),
        (retention.delete_artifacts, {"artifacts", "blobs", "blob_chunks"}),
    ],
    ids=["logs", "artifacts"],
)
async def test_output_and_files_go_alone(database: Database, prune: Prune, gone: set[str]) -> None:
    """Of tasks that ended long ago, a few at once; the rest of the task stays, and so does what is younger or lives."""
    before = datetime.now(UTC) - 5 * DAY

    async def once(limit: int) -> int:
        async with database.commit("test") as connection:
            return await prune(connection, before=before, limit=limit)

    await once(1000)  # what other tests have left
    gone_from = [await old(database, days=days) for days in (12, 10)]
    late, live = await old(database, days=1), await old(database, lives=True)
    everything = {one: await left_of(database, *one) for one in (*gone_from, late, live)}
    assert [await once(1) for _ in range(3)] == [1, 1, 0]
    for one in gone_from:
        assert (await left_of(database, *one)).keys() == everything[one].keys() - gone
    for one in (late, live):
        assert await left_of(database, *one) == everything[one]
        assert everything[one].keys() >= gone


async def attachment(database: Database, *, days: int) -> AttachmentId:
    """Upload an attachment, as if so many days ago."""
    identity, bytes_of = AttachmentId(id_of(days)), await blob(database)
    async with database.begin("test") as connection:
        await attachments.add(
            connection, attachment=identity, project=DEFAULT_PROJECT, name="a", media_type="text/plain", blob=bytes_of
        )
    moment = datetime.now(UTC) - days * DAY
    await scalar(database, "UPDATE attachments SET created_at = :at WHERE id = :id RETURNING 1", at=moment, id=identity)
    return identity


async def test_attachments_go_that_no_task_names(database: Database) -> None:
    """With their bytes, long after their upload; one that a task names stays as long as the task."""
    unused, named, young = [await attachment(database, days=days) for days in (10, 10, 0)]
    task = await ended(database, attachments=[named])
    before = datetime.now(UTC) - 5 * DAY

    async def prune() -> int:
        async with database.begin("test") as connection:
            return await retention.delete_attachments(connection, before=before, limit=100)

    assert (await prune(), await prune()) == (1, 0)
    assert list(await column(database, "SELECT id FROM attachments ORDER BY id")) == sorted([named, young])
    await delete(database, task)
    assert await prune() == 1
    async with database.begin("test") as connection:
        assert await attachments.missing(connection, DEFAULT_PROJECT, [unused, named, young]) == [unused, named]


async def test_an_attachment_that_is_being_named_stays(database: Database) -> None:
    """Whoever creates a task holds its attachments until the task is there."""
    identity = await attachment(database, days=10)
    before = datetime.now(UTC) - 5 * DAY
    async with database.begin("test") as creating:
        assert await attachments.missing(creating, DEFAULT_PROJECT, [identity]) == []
        async with database.begin("test") as connection:
            assert await retention.delete_attachments(connection, before=before, limit=100) == 0


async def test_the_old_workflow_of_a_deleted_task_leaves_no_trace(database: Database) -> None:
    """Its end releases what it held, and the ledger forgets it."""
    node = await create_node(database, slots=1)
    task = await create_task(database, node_labels={"node": node})
    await reserve(database, task, node, 1)
    await flush(database, batch(task, 2, event(EventType.TASK_CANCELLED, error=None)))
    await delete(database, task)
    with pytest.raises(LookupError):
        await conclude(database, task, 3)
    assert await used(database, node) == 0
    assert await scalar(database, "SELECT count(*) FROM ledger WHERE task_id = :id", id=task) == 0
