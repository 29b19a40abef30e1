"""Deliberately broken systems: one sentence of the design is left out of each, by text in SQL or by a subclass."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import text

from activities.dispatch import Dispatcher
from api import inbox
from api.deps import Context
from domain.ids import new_id
from domain.lifecycle import StepOutcome
from domain.messages import AgentOrder
from domain.names import CallbackKind
from domain.runner import RunnerInput
from domain.tokens import Claims
from store import callbacks, migrate
from store.engine import Database
from store.outbox import Intent, Undelivered
from tests.faults.checker import check, name_of
from tests.faults.snapshot import Snapshot
from workflows.attempt import Attempt
from workspaces.layout import Layout
from workspaces.local import LocalProvider
from workspaces.presets import Invocation
from workspaces.provider import Grant

FUNCTIONS: Final = Path(migrate.__file__).parent / "functions"


def found(snapshot: Snapshot, number: int) -> list[str]:
    """Return the violations of one invariant."""
    return check(snapshot)[name_of(number)]


@dataclass(frozen=True)
class Broken:
    """A change of the shipped SQL: in `function`, `shipped` becomes `instead`; `beside` is run as well."""

    function: str
    shipped: str
    instead: str
    beside: tuple[str, ...] = ()


def substituted(source: str, broken: Broken) -> str:
    """Return the broken source. Raises ValueError unless the shipped text is there exactly once."""
    found = source.count(broken.shipped)
    if found != 1:
        raise ValueError(f"{broken.function} has {broken.shipped!r} {found} times, and must have it once")
    return source.replace(broken.shipped, broken.instead)


async def install(database: Database, broken: Broken) -> None:
    """Put the broken function in the place of the shipped one."""
    source = (FUNCTIONS / f"{broken.function}.sql").read_text(encoding="utf-8")
    async with database.begin("tests.install") as connection:
        await connection.exec_driver_sql(substituted(source, broken).replace("%", "%%"))
        for statement in broken.beside:
            await connection.execute(text(statement))


SQL: Final[Mapping[str, Broken]] = {
    "drop the fence": Broken("flush_task", "ELSIF p_version <= r.version THEN", "ELSIF false THEN"),
    "drop the fence between attempts": Broken("flush_task", "IF r.attempt <> p_attempt THEN", "IF false THEN"),
    "drop the terminal guard": Broken(
        "flush_task", "ELSIF r.status IN ('completed', 'failed', 'cancelled') AND", "ELSIF false AND"
    ),
    "write no intent": Broken(
        "reserve_workspace",
        "VALUES (p_workspace, 'workspace', p_task, p_attempt, r.project, p_provider, p_node, 'intent');",
        "SELECT p_workspace, 'workspace', p_task, p_attempt, r.project, p_provider, p_node, 'intent' WHERE false;",
    ),
    "skip the owner check on release": Broken(
        "release_attempt",
        "WHERE task_id = p_task AND attempt = p_attempt AND state IN",
        "WHERE task_id = p_task AND state IN",
    ),
    "forget the inbox's uniqueness": Broken(
        "receive_callback",
        "ON CONFLICT DO NOTHING",
        "ON CONFLICT (workspace_id, attempt, kind, turn) DO UPDATE SET body = excluded.body, digest = excluded.digest",
    ),
    "number events outside the lock": Broken(
        "append_to_log",
        "WHERE id = p_task FOR NO KEY UPDATE",
        "WHERE id = p_task",
        ("ALTER TABLE events DROP CONSTRAINT events_pkey",),
    ),
    "lose a grant": Broken("free_slot", "RETURN grant_slots(p_node);", "RETURN 0;"),
    "end without cleanup": Broken(
        "conclude_task",
        "'granted', release_attempt(p_task, p_attempt, settled),",
        "'granted', 0,",
    ),
}


async def signal_before_commit(
    ctx: Context, claims: Claims, kind: CallbackKind, body: dict[str, Any]
) -> tuple[int, str]:
    """Stand in for `api.inbox.receive`: tell the workflow first, and write the inbox row when it has heard."""
    callback = Undelivered(
        workspace_id=claims.workspace_id,
        attempt=claims.attempt,
        kind=kind,
        turn=claims.turn,
        task_id=claims.task_id,
        body=body,
        tries=0,
        over=False,
    )
    await ctx.deliveries.deliver(callback)
    async with ctx.database.commit("callbacks.receive") as connection:
        inbox.admit(await callbacks.receive(connection, claims, kind, body, lease=inbox.LEASE))
    return 200, "applied"


class ForgetfulDispatcher(Dispatcher):
    """Notes an intent as sent before it has sent it, and then does not."""

    async def _send(self, intent: Intent, argument: RunnerInput | None) -> None:  # noqa: ARG002 - the parent's
        self._sent.append(intent.id)
        self._settle_soon()


class IdleDispatcher(Dispatcher):
    """Never looks for what a dead process left behind."""

    async def run(self) -> None:
        await asyncio.Event().wait()


class UnlockedProvider(LocalProvider):
    """Starts the program each time that it is asked to, whoever holds the turn's lock."""

    async def _start_agent(
        self, layout: Layout, agent: AgentOrder, grant: Grant, called: Invocation
    ) -> tuple[int | None, bool]:
        layout.write(layout.token, grant.token)
        name = f"agent-{new_id()}"
        return await self._launch(layout, "agent", name, agent.order, grant, called=called, turn=agent.turn)


async def untyped(attempt: Attempt) -> StepOutcome:  # noqa: ARG001 - a handler's signature
    """Stand in for a step: let an error leave the workflow that is none of ours."""
    raise ValueError("nobody has classified this")


Handler = Callable[[Attempt], Awaitable[StepOutcome]]
SOON: Final = timedelta(seconds=2)
