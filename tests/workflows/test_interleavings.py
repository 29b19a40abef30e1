"""Outbox and inbox in every order, with the engine or the database away: each fact is taken once, by its own attempt.

Control worker and dispatcher reach both servers through proxies; the test itself looks and speaks past them.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import make_url
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment

from activities.dispatch import Dispatcher
from activities.run_dispatch import RunDispatcher
from domain import failpoints
from domain.ids import new_id
from domain.names import DEFAULT_PROJECT, CallbackKind, SignalName
from domain.policy import Policy
from domain.runner import RunnerInput
from domain.spec import TaskSpec
from domain.tokens import Claims
from store import callbacks, commands, outbox
from store.callbacks import Reception
from store.commands import Outcome
from store.engine import Database
from store.models import OutboxKind
from store.outbox import Undelivered
from tests.faults.proxy import LOOPBACK, Proxy
from tests.workflows.stage import Running, Stage
from worker import control_worker
from workflows.gateway import Gateway, Sent

POLICY: Final = Policy.model_validate({"limits": {"history_events": 60}})
SOON, NEVER = timedelta(0), timedelta(days=1)
READY: Final = {"status": "running", "details": {"n": 1}}
ENGINE, DATABASE, THERE = "engine", "database", "both there"
SCHEMA: Final[dict[str, Any]] = {"command": ["true"], "provider": "external"}


@dataclass
class Wires:
    """A stage whose worker and dispatcher can be cut off."""

    stage: Stage
    to_engine: Proxy
    to_database: Proxy

    def cut(self, away: str) -> None:
        """Let a server be away."""
        for name, proxy in ((ENGINE, self.to_engine), (DATABASE, self.to_database)):
            if name == away:
                proxy.refuse()

    def heal(self) -> None:
        """Let both be back."""
        self.to_engine.heal()
        self.to_database.heal()

    async def task(self, **body: Any) -> Running:
        """Give a task whose start is in the outbox, leased to nobody."""
        task = Running(self.stage, await self.stage.create(**(SCHEMA | body)))
        await self.intent(task)
        return task

    async def intent(self, task: Running) -> None:
        """Commit a start, whose writer dies before it has sent it."""
        async with self.stage.database.begin("test") as connection:
            await outbox.put(
                connection, kind=OutboxKind.START, task_id=task.task, attempt=1, lease_to="dead", lease=SOON
            )

    async def commit(self, task: Running, *, lease: timedelta, kind: CallbackKind = CallbackKind.READY) -> Reception:
        """Commit a callback as the API does; its signal is the caller's to send."""
        body = READY if kind is CallbackKind.READY else {}
        claims = Claims(
            task_id=task.task, workspace_id=task.workspace, attempt=task.attempt, turn=1, expires_at=datetime.now(UTC)
        )
        async with self.stage.database.commit("test") as connection:
            return await callbacks.receive(connection, claims, kind, body, lease=lease)

    async def deliver(self, task: Running) -> Sent:
        """Send the signal of that callback, as the API does."""
        callback = Undelivered(
            workspace_id=task.workspace,
            attempt=task.attempt,
            kind=CallbackKind.READY,
            turn=1,
            task_id=task.task,
            body=READY,
            tries=0,
            over=False,
        )
        return await self.stage.dispatcher.deliver(callback)

    async def left(self, task: Running) -> None:
        """Wait until nothing of this task is left to be sent."""
        await self.stage.until(
            f"SELECT (SELECT count(*) FROM outbox WHERE task_id = '{task.task}')"  # noqa: S608 - ours
            f" + (SELECT count(*) FROM callbacks WHERE task_id = '{task.task}' AND delivered_at IS NULL) = 0"
        )


@asynccontextmanager
async def wired(environment: WorkflowEnvironment, address: str, url: str) -> AsyncIterator[Wires]:
    """Run a control plane behind proxies."""
    host, _, port = address.rpartition(":")
    place = make_url(url)
    socket = Path(str(place.query["host"])) / ".s.PGSQL.5432"
    to_engine, to_database = Proxy("temporal", lambda: [(host, int(port))]), Proxy("postgresql", lambda: [socket])
    await to_engine.start()
    await to_database.start()
    far_url = place.set(host=LOOPBACK, port=to_database.port, query={}).render_as_string(hide_password=False)
    near, far, queue = Database(url), Database(far_url), f"wires-{new_id()}"
    client = await Client.connect(to_engine.address, data_converter=pydantic_data_converter)
    gateway = Gateway(client, queue=queue)
    dispatcher = Dispatcher(name="wires", database=far, gateway=gateway, policy=POLICY)
    loop = asyncio.create_task(dispatcher.run())
    try:
        async with control_worker(client, far, dispatcher, task_queue=queue, max_cached_workflows=0):
            runs = RunDispatcher(database=near, gateway=gateway, policy=POLICY)
            stage = Stage(environment, near, gateway, dispatcher, runs, POLICY, url, queue)
            yield Wires(stage, to_engine, to_database)
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        await dispatcher.close()
        for database in (near, far):
            await database.close()
        for proxy in (to_engine, to_database):
            await proxy.stop()


@pytest.fixture(scope="module")
async def wires(temporal: WorkflowEnvironment, temporal_address: str, database_url: str) -> AsyncIterator[Wires]:
    """Give a control plane behind proxies."""
    async with wired(temporal, temporal_address, database_url) as wires:
        yield wires


# --- one fact, one attempt: the callback is committed, the wait is entered, the run continues as new -----------------

ORDERS: Final = tuple(permutations(("commit", "enter", "renew")))
# What becomes of the signal after the commit: the API sends it, or sends it twice where it arrives, or dies and the
# dispatcher sends it, or nobody ever does, and only a flush that enters a wait after the commit can find the row.
SIGNALS: Final = ("sent", "twice", "lost", "never")
CASES: Final = [
    (order, signal, away)
    for order in ORDERS
    for signal in SIGNALS
    for away in (THERE, ENGINE, DATABASE)
    if (signal != "never" or order[-1] != "commit") and (signal != "twice" or away == THERE)
]


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("order", "signal", "away"), CASES, ids=lambda part: part if isinstance(part, str) else "-".join(part)
)
async def test_one_fact_is_taken_once(wires: Wires, order: tuple[str, ...], signal: str, away: str) -> None:
    """One `workspace.ready` with what was told, in whichever order, and whoever was away from the commit on."""
    task = await wires.task()
    await task.until("workspace_dispatch")
    try:
        for move in order:
            if move == "commit":
                lease = {"lost": SOON, "never": NEVER}.get(signal, timedelta(seconds=1))
                assert await wires.commit(task, lease=lease) is Reception.APPLIED
                wires.cut(away)
                for _ in range({"sent": 1, "twice": 2}.get(signal, 0)):
                    assert await wires.deliver(task) is (Sent.UNREACHABLE if away == ENGINE else Sent.DELIVERED)
            elif move == "enter":
                await task.signal(SignalName.WORKSPACE_CLAIMED)
            else:
                await asyncio.gather(*(task.handle.signal(str(SignalName.NODE_READY)) for _ in range(60)))
    finally:
        wires.heal()
    await task.until("running")
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
    assert (await task.end())["status"] == "completed"
    told = [event.data["details"] for event in await task.events() if event.type == "workspace.ready"]
    assert told == [{"n": 1}]
    assert len(await task.runs()) > 1
    if signal != "never" and away != DATABASE:  # a delivery that could not be noted is made again, a lease later
        await wires.left(task)


# --- two attempts ---------------------------------------------------------------------------------------------------


@pytest.mark.campaign
@pytest.mark.parametrize("away", [THERE, ENGINE, DATABASE])
@pytest.mark.parametrize("order", list(permutations(("commit", "fail", "deliver"))), ids="-".join)
async def test_a_fact_is_never_taken_by_the_next_attempt(wires: Wires, order: tuple[str, ...], away: str) -> None:
    """Attempt 2 waits for its own workspace, whenever attempt 1's word was committed or sent; then it completes."""
    task = await wires.task(retry={"max_attempts": 2, "backoff": 0.1})
    await task.until("workspace_dispatch")
    following = Running(wires.stage, task.task, attempt=2)
    try:
        for move in order:
            if move == "commit":
                taken = await wires.commit(
                    task, lease=NEVER if order.index("deliver") > order.index("commit") else SOON
                )
                assert taken in ({Reception.STALE} if "fail" in order[: order.index("commit")] else {Reception.APPLIED})
            elif move == "deliver":
                wires.cut(away)
                await wires.deliver(task)
                wires.heal()
            else:
                await task.signal(SignalName.WORKSPACE_FAILED)
                await task.until(status="queued")
    finally:
        wires.heal()
    await wires.stage.until(
        f"SELECT attempt = 2 AND step = 'workspace_dispatch' FROM tasks WHERE id = '{task.task}'"  # noqa: S608 - ours
    )
    assert [event for event in await task.events() if event.type == "workspace.ready" and event.attempt == 2] == []
    assert await wires.commit(following, lease=SOON) is Reception.APPLIED
    await following.until("running")
    await following.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
    assert (await following.end())["status"] == "completed"
    ready = [event.attempt for event in await task.events() if event.type == "workspace.ready"]
    assert ready.count(2) == 1
    assert ready.count(1) <= 1


# --- starts ---------------------------------------------------------------------------------------------------------


async def started(task: Running) -> bool:
    """Whether there is a workflow of this attempt."""
    try:
        await task.handle.describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True


@pytest.mark.parametrize("away", [ENGINE, DATABASE])
async def test_a_start_whose_writer_died_is_sent_when_all_is_back(wires: Wires, away: str) -> None:
    """Started once, by the dispatcher, after the server that was away from before the commit has come back."""
    wires.cut(away)
    try:
        task = await wires.task()
        await asyncio.sleep(1)
        assert not await started(task)
    finally:
        wires.heal()
    await task.until("workspace_dispatch")
    await wires.left(task)
    await task.handle.cancel()
    assert (await task.end())["status"] == "cancelled"
    assert (await task.story()).count("attempt.started") == 1


@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
async def test_a_start_whose_reply_was_lost_is_sent_again(wires: Wires, *, ended: bool) -> None:
    """Delivered, and one attempt only, whether it still runs or has ended by the time of the second try."""
    task = Running(wires.stage, await wires.stage.create(**SCHEMA))
    argument = RunnerInput(
        task_id=task.task, attempt=1, project=DEFAULT_PROJECT, spec=TaskSpec.model_validate(SCHEMA), policy=POLICY
    )
    lost: list[str] = []

    def lose(name: str) -> None:
        if name == "engine.start:after":
            lost.append(name)
            raise RuntimeError("the reply was lost")

    failpoints.arm(lose)
    try:
        assert await wires.stage.gateway.start(argument) is Sent.UNREACHABLE
    finally:
        failpoints.arm(None)
    assert len(lost) == 1
    await task.until("workspace_dispatch")
    if ended:
        await task.handle.cancel()
        await task.end()
    await wires.intent(task)
    await wires.left(task)
    if not ended:
        await task.handle.cancel()
        await task.end()
    assert (await task.story()).count("attempt.started") == 1
    assert len(await task.runs()) == 1


@pytest.mark.parametrize("away", [THERE, ENGINE])
@pytest.mark.parametrize("leased", [False, True], ids=["nobody's", "leased"])
async def test_a_cancel_before_the_start(wires: Wires, away: str, *, leased: bool) -> None:
    """Void at once if nobody can have sent it; else requested, and the attempt that was started ends cancelled."""
    task = Running(wires.stage, await wires.stage.create(**SCHEMA))
    wires.cut(away)
    try:
        async with wires.stage.database.begin("test") as connection:
            if leased:
                await outbox.put(
                    connection, kind=OutboxKind.START, task_id=task.task, attempt=1, lease_to="x", lease=SOON
                )
            else:
                row = f"INSERT INTO outbox (kind, task_id, attempt) VALUES ('start', '{task.task}', 1)"  # noqa: S608
                await connection.exec_driver_sql(row)
            done = await commands.cancel(
                connection, DEFAULT_PROJECT, task.task, now=datetime.now(UTC), lease_to="dead", lease=SOON
            )
            assert done is not None
            assert done.outcome is (Outcome.REQUESTED if leased else Outcome.APPLIED)
    finally:
        wires.heal()
    assert (await task.until(status="cancelled"))["outcome"] == "cancelled"
    await wires.left(task)
    if leased:
        assert (await task.end())["status"] == "cancelled"
    else:
        assert not await started(task)


@pytest.mark.parametrize("away", [THERE, ENGINE, DATABASE])
async def test_what_is_left_of_a_deleted_task_is_dropped(wires: Wires, away: str) -> None:
    """Neither its start nor its callback is sent, and neither is tried for ever."""
    task = Running(wires.stage, await wires.stage.create(**SCHEMA))
    wires.cut(away)
    try:
        async with wires.stage.database.begin("test") as connection:
            for kind in ("start", "cancel"):
                row = f"INSERT INTO outbox (kind, task_id, attempt) VALUES ('{kind}', '{task.task}', 1)"  # noqa: S608
                await connection.exec_driver_sql(row)
            await connection.exec_driver_sql(f"DELETE FROM tasks WHERE id = '{task.task}'")  # noqa: S608 - ours
    finally:
        wires.heal()
    await wires.left(task)
    assert not await started(task)
