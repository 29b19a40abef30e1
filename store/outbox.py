"""Intents for the engine: committed with their cause, leased by whoever sends them, gone when they were sent."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, exists, func, insert, literal, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.lifecycle import TERMINAL
from domain.names import CallbackKind, TaskId
from store.models import Callback, Ledger, LedgerState, Outbox, OutboxKind, Task

NOW = func.clock_timestamp()


@dataclass(frozen=True, kw_only=True)
class Intent:
    """One row of the outbox."""

    id: int
    kind: OutboxKind
    task_id: TaskId
    attempt: int
    name: str | None = None
    body: dict[str, Any] | None = None
    tries: int = 0
    late: timedelta = field(default=timedelta(0), compare=False)  # since it was due, when it was taken


async def put(
    connection: AsyncConnection,
    *,
    kind: OutboxKind,
    task_id: TaskId,
    attempt: int,
    lease_to: str,
    lease: timedelta,
    due_at: datetime | None = None,
    name: str | None = None,
    body: dict[str, Any] | None = None,
) -> Intent:
    """Store an intent that is leased to its own writer, who sends it as soon as the transaction has committed.

    One with `due_at` is leased to nobody: the dispatcher sends it when it is due.
    """
    statement = (
        insert(Outbox)
        .values(
            kind=kind,
            task_id=task_id,
            attempt=attempt,
            name=name,
            body=body,
            due_at=due_at or NOW,
            leased_by=None if due_at else lease_to,
            leased_until=None if due_at else NOW + lease,
        )
        .returning(Outbox.id)
    )
    number = (await connection.execute(statement)).scalar_one()
    return Intent(id=number, kind=kind, task_id=task_id, attempt=attempt, name=name, body=body)


async def lease(connection: AsyncConnection, *, lease_to: str, until: timedelta, limit: int) -> list[Intent]:
    """Take up to `limit` due intents that nobody holds, oldest first."""
    due = (
        select(Outbox.id)
        .where(Outbox.due_at <= NOW, or_(Outbox.leased_until.is_(None), Outbox.leased_until < NOW))
        .order_by(Outbox.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")  # a CTE that locks runs once; a subquery may be run again, and would lock more than `limit`
    )
    statement = (
        update(Outbox)
        .where(Outbox.id == due.c.id)
        .values(leased_by=lease_to, leased_until=NOW + until, tries=Outbox.tries + 1)
        .returning(
            Outbox.id,
            Outbox.kind,
            Outbox.task_id,
            Outbox.attempt,
            Outbox.name,
            Outbox.body,
            Outbox.tries,
            (NOW - Outbox.due_at).label("late"),
        )
    )
    rows = (await connection.execute(statement)).mappings()
    intents = [Intent(**{**row, "kind": OutboxKind(row["kind"])}) for row in rows]
    return sorted(intents, key=lambda intent: intent.id)


def unsent_start(task: TaskId, attempt: int) -> tuple[ColumnElement[bool], ...]:
    """Return what says of an intent that it is the start of this attempt, and that nobody can have sent it.

    One that was leased or tried may have reached the engine.
    """
    return (
        Outbox.task_id == task,
        Outbox.attempt == attempt,
        Outbox.kind == OutboxKind.START,
        Outbox.leased_by.is_(None),
        Outbox.tries == 0,
        Outbox.last_error.is_(None),
    )


async def sent(connection: AsyncConnection, ids: Sequence[int]) -> None:
    """Remove intents that the engine has acknowledged."""
    await connection.execute(delete(Outbox).where(Outbox.id.in_(ids)))


async def put_back(connection: AsyncConnection, intent: Intent, *, due_in: timedelta, error: str) -> None:
    """Let an intent be tried again later."""
    statement = update(Outbox).where(Outbox.id == intent.id).values(last_error=error[:2000], **_free(due_in))
    await connection.execute(statement)


async def turn_into(connection: AsyncConnection, intent: Intent, kind: OutboxKind, *, due_in: timedelta) -> None:
    """Let an intent be the next thing that is to be done about its cause."""
    statement = update(Outbox).where(Outbox.id == intent.id)
    await connection.execute(statement.values(kind=kind, tries=0, last_error=None, **_free(due_in)))


def _free(due_in: timedelta) -> dict[str, Any]:
    return {"leased_by": None, "leased_until": None, "due_at": NOW + due_in}


@dataclass(frozen=True, kw_only=True)
class Undelivered:
    """A callback whose signal is still to be sent; `over` when its attempt has ended meanwhile."""

    workspace_id: str
    attempt: int
    kind: str
    turn: int
    task_id: TaskId
    body: dict[str, Any]
    tries: int
    over: bool


async def lease_callbacks(connection: AsyncConnection, *, until: timedelta, limit: int) -> list[Undelivered]:
    """Take up to `limit` callbacks that were committed but whose signal has not been acknowledged."""
    due = (
        select(Callback.workspace_id, Callback.attempt, Callback.kind, Callback.turn)
        .where(Callback.delivered_at.is_(None), Callback.due_at <= NOW)
        .order_by(Callback.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    over = or_(Task.attempt != Callback.attempt, Task.status.in_([status.value for status in TERMINAL]))
    statement = (
        update(Callback)
        .where(
            Callback.workspace_id == due.c.workspace_id,
            Callback.attempt == due.c.attempt,
            Callback.kind == due.c.kind,
            Callback.turn == due.c.turn,
            Task.id == Callback.task_id,
        )
        .values(due_at=NOW + until, tries=Callback.tries + 1)
        .returning(
            Callback.workspace_id,
            Callback.attempt,
            Callback.kind,
            Callback.turn,
            Callback.task_id,
            Callback.body,
            Callback.tries,
            over.label("over"),
        )
    )
    rows = (await connection.execute(statement)).mappings()
    return [Undelivered(**row) for row in rows]


async def defer_callback(connection: AsyncConnection, callback: Undelivered, *, due_in: timedelta) -> None:
    """Let a callback's signal be tried again later, unless it was delivered by somebody else."""
    statement = (
        update(Callback)
        .where(
            Callback.workspace_id == callback.workspace_id,
            Callback.attempt == callback.attempt,
            Callback.kind == callback.kind,
            Callback.turn == callback.turn,
            Callback.delivered_at.is_(None),
        )
        .values(due_at=NOW + due_in)
    )
    await connection.execute(statement)


async def delivered(connection: AsyncConnection, keys: Sequence[tuple[str, int, str, int]]) -> None:
    """Note that the engine has acknowledged the signals of these (workspace, attempt, kind, turn).

    Whatever a workspace tells implies that its token was claimed, so a pending `claimed` needs no signal any more.
    """
    key = tuple_(Callback.workspace_id, Callback.attempt, Callback.kind, Callback.turn)
    claim = tuple_(Callback.workspace_id, Callback.attempt).in_([(key[0], key[1]) for key in keys])
    implied = and_(Callback.kind == CallbackKind.CLAIMED, claim)
    statement = update(Callback).where(Callback.delivered_at.is_(None), or_(key.in_(keys), implied))
    await connection.execute(statement.values(delivered_at=NOW))


async def clean_up(connection: AsyncConnection, task: TaskId, attempt: int) -> None:
    """Store the intent of a Cleanup of this attempt, for the dispatcher, if the attempt holds anything."""
    held = exists().where(
        Ledger.task_id == task,
        Ledger.attempt == attempt,
        Ledger.state.in_([LedgerState.INTENT.value, LedgerState.CREATED.value]),
    )
    source = select(literal(OutboxKind.CLEANUP.value), literal(task), literal(attempt)).where(held)
    await connection.execute(insert(Outbox).from_select([Outbox.kind, Outbox.task_id, Outbox.attempt], source))
