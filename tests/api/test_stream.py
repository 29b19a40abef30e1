"""The stream of a task: backlog, then live, each event once and in order, until the terminal one."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from functools import partial

import httpx2
import pytest
from sqlalchemy import text

from api.routes import stream
from domain.events import EventType
from domain.lifecycle import TaskStatus
from domain.names import TaskId
from tests.api.harness import Api, Attempt
from tests.api.sse import Reading, eventually, listening, read

CREATED = 3  # a live attempt's log: created, queued, delegated


@pytest.fixture(scope="module")
async def served(api: Api) -> AsyncIterator[str]:
    """Give the address of the API on a real socket."""
    async with listening(api.app) as address:
        yield address


class Watcher:
    """Reads streams with the API's key."""

    def __init__(self, api: Api, address: str) -> None:
        self.address = address
        self.headers = {"Authorization": api.client.headers["Authorization"]}

    def url(self, task: str, **query: int | str) -> str:
        pairs = "&".join(f"{name}={value}" for name, value in query.items())
        return f"{self.address}/v1/tasks/{task}/stream?{pairs}"

    async def read(
        self, task: str, *, after: int | str | None = None, until: int | None = None, **query: int | str
    ) -> Reading:
        headers = self.headers | ({} if after is None else {"Last-Event-ID": str(after)})
        return await read(self.url(task, **query), headers, until=until)


@pytest.fixture
def watch(api: Api, served: str) -> Watcher:
    """Give a reader of streams."""
    return Watcher(api, served)


async def trace(attempt: Attempt, count: int = 1) -> None:
    """Write so many events."""
    for _ in range(count):
        await attempt.flush(attempt.event(EventType.DEBUG_TRACE))


async def test_a_finished_log_is_read_whole_and_ends_with_its_terminal_event(api: Api, watch: Watcher) -> None:
    """Every event by its `seq`, with the envelope of the pages; the last one is `task.completed`, then the end."""
    attempt = await api.live()
    await attempt.end()
    reading = await watch.read(attempt.task)
    pages = await api.events(attempt.task)
    assert [frame.envelope for frame in reading.frames] == pages
    assert [frame.type for frame in reading.frames] == [event["type"] for event in pages]
    assert reading.frames[-1].type == "task.completed"


async def test_readers_from_every_offset_get_each_event_once_while_it_is_written(api: Api, watch: Watcher) -> None:
    """From N on, N, N + 1, … to the end: no gap and no repeat between backlog and live, wherever they meet."""
    attempt = await api.live()
    readers = []
    for _ in range(40):
        await trace(attempt)
        row = (await api.client.get(f"/v1/tasks/{attempt.task}")).json()
        readers += [
            (first, asyncio.create_task(watch.read(attempt.task, fromSeq=first)))
            for first in (1, row["last_seq"] // 2, row["last_seq"] + 1)
        ]
    await attempt.end()
    last = (await api.client.get(f"/v1/tasks/{attempt.task}")).json()["last_seq"]
    for first, reader in readers:
        reading = await reader
        assert reading.ids == list(range(first, last + 1))


async def test_a_reader_goes_on_after_the_event_that_it_had_last(api: Api, watch: Watcher) -> None:
    """`Last-Event-ID: N` gives N + 1 first, whatever `fromSeq` says."""
    attempt = await api.live()
    await attempt.end()
    reading = await watch.read(attempt.task, after=2, fromSeq=1)
    assert reading.ids[0] == 3


async def test_a_reader_who_has_all_of_an_ended_task_is_told_to_stop(api: Api, watch: Watcher) -> None:
    """204, by which an EventSource does not come again; one event before the end is a stream of one."""
    attempt = await api.live()
    await attempt.end()
    last = (await api.client.get(f"/v1/tasks/{attempt.task}")).json()["last_seq"]
    assert (await watch.read(attempt.task, after=last)).status == 204
    assert (await watch.read(attempt.task, after=last - 1)).ids == [last]


async def test_an_attempt_that_follows_does_not_end_the_stream(api: Api, watch: Watcher) -> None:
    """The log goes on through `attempt.failed` to the next attempt's end."""
    attempt = await api.live()
    reader = asyncio.create_task(watch.read(attempt.task))
    following = await attempt.next()
    await following.end(TaskStatus.FAILED)
    reading = await reader
    types = [frame.type for frame in reading.frames]
    assert types[-1] == "task.failed"
    assert "attempt.failed" in types


async def test_what_is_next_begins_with_its_place_and_goes_on_from_there(api: Api, watch: Watcher) -> None:
    """`fromSeq=next`: nothing of the backlog; first the id to come back with, then what is written; 204 at an end."""
    attempt = await api.live()
    feed = f"{watch.address}/v1/stream?fromSeq=next"
    for url, place in ((watch.url(attempt.task, fromSeq="next"), CREATED), (feed, None)):
        async with httpx2.AsyncClient() as client, client.sse(url, headers=watch.headers) as source:
            frames = aiter(source)
            first = await anext(frames)
            assert (first.data, first.event) == ("", "message")
            assert place in (None, int(first.id))
            await trace(attempt)
            second = await anext(frames)
            assert (int(second.id), second.event) == (int(first.id) + 1, "debug.trace")
    await attempt.end()
    assert (await watch.read(attempt.task, fromSeq="next")).status == 204


@pytest.mark.parametrize("cursor", ["-1", "x", "1.5", "", "+1", "9" * 19, "9" * 400, "1000000", "²"])
async def test_a_cursor_that_is_none_is_400(api: Api, cursor: str) -> None:
    """400 `bad_cursor` for no number, a negative one, one over 2^63, and one beyond the end; in both places."""
    attempt = await api.live()
    cases: tuple[tuple[dict[bytes, bytes], dict[str, str]], ...] = (
        ({}, {"fromSeq": cursor}),
        ({b"Last-Event-ID": cursor.encode()}, {}),
    )
    for headers, query in cases:
        response = await api.client.get(f"/v1/tasks/{attempt.task}/stream", params=query, headers=headers)
        assert response.status_code == 400, (query, response.text)
        assert response.json()["code"] == "bad_cursor"


async def test_the_stream_of_another_project_is_404(api: Api) -> None:
    """The same as for a task that does not exist."""
    attempt = await api.live()
    foreign = await api.key(project="another")
    for task in (attempt.task, TaskId("nothing")):
        response = await api.client.get(f"/v1/tasks/{task}/stream", headers=foreign)
        assert response.status_code == 404


async def test_what_was_hinted_comes_at_once(api: Api, watch: Watcher) -> None:
    """Before the second after which everything is looked at anyway; 20 times in a row."""
    attempt = await api.live()
    reading = Reading()
    reader = asyncio.create_task(read(watch.url(attempt.task), watch.headers, until=CREATED + 20, reading=reading))
    waits = []
    for number in range(CREATED, CREATED + 20):
        await eventually(partial(reading.has, number))
        began = time.monotonic()
        await trace(attempt)
        api.dispatcher.grown(attempt.task)
        await eventually(partial(reading.has, number + 1))
        waits.append(time.monotonic() - began)
    await reader
    assert sorted(waits)[10] < 0.3


async def test_a_lost_listener_loses_nothing(api: Api, watch: Watcher) -> None:
    """The connection that listens is killed: the stream goes on, gap-free."""
    attempt = await api.live()
    reader = asyncio.create_task(watch.read(attempt.task))
    for _ in range(3):
        await trace(attempt, 3)
        async with api.database.begin("test") as connection:
            await connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE query LIKE 'LISTEN%' AND datname = current_database()"
                )
            )
    await attempt.end()
    reading = await reader
    assert reading.ids == list(range(1, len(reading.ids) + 1))
    assert reading.frames[-1].type == "task.completed"


async def test_the_stream_of_a_deleted_task_ends(api: Api, watch: Watcher) -> None:
    """The server closes; the next connection is a 404."""
    attempt = await api.live()
    reader = asyncio.create_task(watch.read(attempt.task))
    await trace(attempt)
    async with api.database.begin("test") as connection:
        await connection.execute(text("DELETE FROM tasks WHERE id = :task"), {"task": attempt.task})
    reading = await reader
    assert reading.status in (200, 404)
    assert (await watch.read(attempt.task)).status == 404


async def test_a_silent_stream_says_that_it_lives(api: Api, watch: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment every so often, which an EventSource ignores."""
    monkeypatch.setattr(stream, "PING", 0.1)
    attempt = await api.live()
    reading = Reading()
    reader = asyncio.create_task(read(watch.url(attempt.task), watch.headers, reading=reading))
    await eventually(lambda: reading.comments >= 2)
    await attempt.end()
    await reader


async def test_a_reader_that_stops_reading_is_dropped(
    api: Api, watch: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is closed, and holds nothing: nobody watches the task any more."""
    monkeypatch.setattr(stream, "STALLED", 0.5)
    attempt = await api.live()
    host, port = watch.address.removeprefix("http://").split(":")
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stalled.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(stalled, (host, int(port)))
    lines = [
        f"GET /v1/tasks/{attempt.task}/stream HTTP/1.1",
        "Host: x",
        *(f"{k}: {v}" for k, v in watch.headers.items()),
    ]
    await loop.sock_sendall(stalled, "\r\n".join([*lines, "", ""]).encode())
    feeds = api.app.state.context.feeds
    await eventually(lambda: feeds.watched(attempt.task) == 1)
    for _ in range(40):
        await attempt.flush(attempt.event(EventType.DEBUG_TRACE, data={"padding": "x" * 200_000}))
    await eventually(lambda: not feeds.watched(attempt.task))
    stalled.close()


async def test_a_project_is_watched_as_a_whole(api: Api, watch: Watcher) -> None:
    """Each event of its tasks once, under ids 1, 2, … of its own; each task's in order; what comes later is live."""
    headers = await api.key(project="watched")
    bodies = [{"name": name, "command": ["true"], "provider": "external", "start": False} for name in ("a", "b", "c")]
    tasks = [(await api.client.post("/v1/tasks", json=body, headers=headers)).json()["id"] for body in bodies[:2]]
    reader = asyncio.create_task(read(f"{watch.address}/v1/stream", headers, until=5))
    tasks.append((await api.client.post("/v1/tasks", json=bodies[2], headers=headers)).json()["id"])
    for task in tasks[:2]:
        assert (await api.client.post(f"/v1/tasks/{task}/cancel", headers=headers)).status_code == 200
    reading = await reader
    assert reading.ids == [1, 2, 3, 4, 5]
    got = [(frame.envelope["task_id"], frame.envelope["seq"], frame.type) for frame in reading.frames]
    assert sorted(got) == sorted(
        [(task, 1, "task.created") for task in tasks] + [(task, 2, "task.cancelled") for task in tasks[:2]]
    )
    resumed = await read(f"{watch.address}/v1/stream", headers | {"Last-Event-ID": "3"}, until=5)
    assert [frame.envelope for frame in resumed.frames] == [frame.envelope for frame in reading.frames[3:]]


async def test_a_project_sees_nothing_of_another(api: Api, watch: Watcher) -> None:
    """A new project's stream begins at 1, whatever others have; a cursor beyond the end is 400."""
    await api.create(start=False)
    headers = await api.key(project="lonely")
    response = await api.client.get("/v1/stream", params={"fromSeq": 2}, headers=headers)
    assert response.json()["code"] == "bad_cursor"
    body = {"command": ["true"], "provider": "external", "start": False}
    mine = (await api.client.post("/v1/tasks", json=body, headers=headers)).json()["id"]
    reading = await read(f"{watch.address}/v1/stream", headers, until=1)
    assert [frame.envelope["task_id"] for frame in reading.frames] == [mine]
