"""The events of a run and of its tasks: in pages, and live until the run has ended."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from api.routes import stream
from domain.lifecycle import RunStatus
from domain.names import RunId
from store import runs
from tests.api.harness import Api
from tests.api.sse import Reading, eventually, listening, read
from tests.store.runs import Orchestrator


@pytest.fixture(scope="module")
async def served(api: Api) -> AsyncIterator[str]:
    """Give the address of the API on a real socket."""
    async with listening(api.app) as address:
        yield address


class Watcher:
    """Reads runs' streams with the API's key."""

    def __init__(self, api: Api, address: str) -> None:
        self.api = api
        self.address = address
        self.headers = {"Authorization": api.client.headers["Authorization"]}

    async def read(
        self, run: str, *, after: int | None = None, until: int | None = None, **query: str | int
    ) -> Reading:
        """Read to the end, or until this number."""
        pairs = "&".join(f"{name}={value}" for name, value in query.items())
        headers = self.headers | ({} if after is None else {"Last-Event-ID": str(after)})
        return await read(f"{self.address}/v1/runs/{run}/stream?{pairs}", headers, until=until)


@pytest.fixture
def watch(api: Api, served: str) -> Watcher:
    """Give a reader of streams."""
    return Watcher(api, served)


async def test_the_events_of_run_and_tasks_are_one_feed(api: Api) -> None:
    """Numbered 1, 2, 3 …; the run's and each task's in the order of their own `seq`; page by page, and by type."""
    run = RunId((await api.create_run())["id"])
    orchestrator = Orchestrator(api.database, run)
    task = await orchestrator.fail()
    path = f"/v1/runs/{run}/events"
    whole = (await api.client.get(path, params={"limit": 500})).json()
    items = whole["items"]
    assert [item["cursor"] for item in items] == list(range(1, len(items) + 1))
    assert whole["next_cursor"] is None
    assert {item["run_id"] for item in items} == {run}
    for whose in (None, task):
        own = [item["seq"] for item in items if item["task_id"] == whose]
        assert own == list(range(1, len(own) + 1))
    assert [item["type"] for item in items][:: len(items) - 1] == ["run.created", "run.failed"]
    paged: list[dict[str, object]] = []
    cursor: str | None = "1"
    while cursor:
        page = (await api.client.get(path, params={"limit": 4, "cursor": cursor})).json()
        paged += page["items"]
        cursor = page["next_cursor"]
    assert paged == items
    some = await api.client.get(path, params={"type": ["run.created", "task.failed"]})
    assert [item["type"] for item in some.json()["items"]] == ["run.created", "task.failed"]
    late = await api.client.get(path, params={"fromSeq": len(items)})
    assert late.json()["items"] == items[-1:]


async def test_what_a_run_says_of_a_task_comes_before_the_task(api: Api) -> None:
    """`run.member_ready`, then the `task.created` that is written with it, for each member; ids do not matter."""
    names = [f"m{n}" for n in range(12)]
    task = {"command": ["true"], "provider": "external"}
    run = RunId((await api.create_run(members=[{"name": name, "task": task} for name in names], edges=[]))["id"])
    orchestrator = Orchestrator(api.database, run)
    await orchestrator.begin()
    tasks = [await orchestrator.start(name) for name in names]
    kinds = ["run.member_ready", "task.created"]
    items = (await api.client.get(f"/v1/runs/{run}/events", params={"type": kinds, "limit": 500})).json()["items"]
    assert [(item["type"], item["task_id"] or item["data"]["task_id"]) for item in items] == [
        (kind, task) for task in tasks for kind in kinds
    ]


async def test_a_stream_is_the_feed_and_ends_with_the_run(api: Api, watch: Watcher) -> None:
    """Backlog, then live, each once; the last frame is the run's terminal event, not a task's; then 204."""
    run = RunId((await api.create_run())["id"])
    orchestrator = Orchestrator(api.database, run)
    await orchestrator.begin()
    await orchestrator.run_through("a")
    readers = [asyncio.create_task(watch.read(run, fromSeq=first)) for first in (1, 3)]
    for member in "bcd":
        await orchestrator.run_through(member)
        await asyncio.sleep(0)
    readers.append(asyncio.create_task(watch.read(run)))
    await orchestrator.finish(RunStatus.COMPLETED)
    pages = (await api.client.get(f"/v1/runs/{run}/events", params={"limit": 500})).json()["items"]
    for first, reader in zip((1, 3, 1), readers, strict=True):
        reading = await reader
        assert reading.ids == list(range(first, len(pages) + 1))
        assert [{"cursor": frame.id, **frame.envelope} for frame in reading.frames] == pages[first - 1 :]
        assert reading.frames[-1].type == "run.completed"
    assert (await watch.read(run, after=len(pages))).status == 204
    assert (await watch.read(run, after=len(pages) - 1)).ids == [len(pages)]
    assert (await watch.read(run, after=len(pages) + 1)).status == 400


async def test_what_comes_after_the_end_is_not_streamed(api: Api, watch: Watcher) -> None:
    """A task that outlives its run, which was ended from outside, does not keep a stream open, nor opens it again."""
    run = RunId((await api.create_run())["id"])
    orchestrator = Orchestrator(api.database, run)
    await orchestrator.begin()
    task = await orchestrator.start("a")
    await orchestrator.finish(RunStatus.FAILED)
    ended = len((await watch.read(run)).frames)
    await orchestrator.end_task(task)
    reading = await watch.read(run)
    assert (len(reading.frames), reading.frames[-1].type) == (ended, "run.failed")
    assert (await watch.read(run, after=ended)).status == 204
    assert len((await api.client.get(f"/v1/runs/{run}/events")).json()["items"]) > ended


async def test_a_retry_opens_the_stream_again(api: Api, watch: Watcher) -> None:
    """Who comes after it is not told to stop, and gets the second end, past the first one."""
    run = RunId((await api.create_run())["id"])
    orchestrator = Orchestrator(api.database, run)
    await orchestrator.fail()
    last = len((await watch.read(run)).frames)
    following = await orchestrator.again()
    reader = asyncio.create_task(watch.read(run, after=last))
    await following.begin()
    await following.finish(RunStatus.FAILED)
    assert [frame.type for frame in (await reader).frames] == ["run.commanded", "run.started", "run.failed"]
    whole = await watch.read(run)
    assert whole.ids == list(range(1, last + 4))


async def test_the_stream_of_a_run_that_is_deleted_ends(
    api: Api, watch: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the next silence."""
    monkeypatch.setattr(stream, "PING", 0.2)
    run = RunId((await api.create_run())["id"])
    reading = Reading()
    address = f"{watch.address}/v1/runs/{run}/stream"
    reader = asyncio.create_task(read(address, watch.headers, reading=reading))
    await eventually(lambda: reading.has(1))
    async with api.database.begin("test") as connection:
        await runs.remove(connection, run)
    await reader
    assert [frame.type for frame in reading.frames] == ["run.created"]


async def test_the_projects_feed_has_the_runs(api: Api) -> None:
    """`/v1/stream` tells of runs too, without a `task_id`."""
    key = await api.key(project="of-runs")
    made = await api.client.post(
        "/v1/runs", json={"members": [{"name": "a", "task": {"command": ["true"]}}]}, headers=key
    )
    async with listening(api.app) as address:
        reading = await read(f"{address}/v1/stream", key, until=1)
    assert reading.frames[0].type == "run.created"
    assert reading.frames[0].envelope["run_id"] == made.json()["id"]
    assert reading.frames[0].envelope["task_id"] is None
