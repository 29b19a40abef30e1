"""`/v1/tasks/{id}/followups` and `/close`: go on with a task that waits for a message, or end it.

The attempt alone knows whether it listens, so nothing is stored: Temporal takes the message, or nobody does.
"""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse

from api import bodies
from api.deps import Context, Ctx, Writer
from api.idempotency import Done, IdempotencyKey, keep, recall
from api.problems import Problem, invalid
from api.schemas.conversations import CloseBody, CloseOut, FollowupBody, FollowupOut
from domain.ids import new_id
from domain.lifecycle import TaskStatus
from domain.names import ProjectId, TaskId
from domain.spec import FOLLOWUP_BYTES
from store import tasks
from workflows.gateway import Sent, Told

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])

OPEN: Final = (TaskStatus.QUEUED, TaskStatus.DELEGATED, TaskStatus.IN_PROGRESS)
# Says a command to an attempt, under an id by which a repeat is known.
Say = Callable[[int, str], Awaitable[Told]]


@router.post(
    "/{task_id}/followups",
    response_model=FollowupOut,
    openapi_extra=bodies.describe(FollowupBody),
    summary="Say the next message to a task that waits for one",
)
async def follow_up(
    ctx: Ctx,
    caller: Writer,
    task_id: str,
    body: Annotated[bodies.Body[FollowupBody], Depends(bodies.json_of(FollowupBody))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Answer 200 with its turn; a repeat with the same key is the same turn. 409 `not_awaiting_followup`.

    503 when nobody answers in time: send it again, with the same key, and it is said once whatever became of it.
    """
    message = body.value.message
    if len(message.encode()) > FOLLOWUP_BYTES:
        raise Problem("too_large", f"the message is larger than {FOLLOWUP_BYTES} bytes")

    async def say(attempt: int, update: str) -> Told:
        return await ctx.gateway.follow_up(TaskId(task_id), attempt, message, update=update)

    return await _command(ctx, caller.project, task_id, "followup", say, key=key, digest=body.digest)


@router.post(
    "/{task_id}/close",
    response_model=CloseOut,
    openapi_extra=bodies.describe(CloseBody, required=False),
    summary="End the conversation of a task that waits for a message",
)
async def close(
    ctx: Ctx,
    caller: Writer,
    task_id: str,
    body: Annotated[bodies.Body[CloseBody], Depends(bodies.json_of(CloseBody, required=False))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Answer 200: the task completes, with the result of its last turn. 409 `not_awaiting_followup`; 503 as above."""

    async def say(attempt: int, update: str) -> Told:
        return await ctx.gateway.close(TaskId(task_id), attempt, update=update)

    return await _command(ctx, caller.project, task_id, "close", say, key=key, digest=body.digest)


async def _command(
    ctx: Context, project: ProjectId, task: str, command: str, say: Say, *, key: str | None, digest: bytes
) -> JSONResponse:
    async with ctx.database.begin("conversations.look") as connection:
        if key is not None:
            known = await recall(ctx, connection, project=project, key=key, digest=digest)
            if known is not None:
                return known
        row = await tasks.get(connection, project, task)
    if row is None:
        raise Problem("not_found")
    # A repeat may come when all is over: the engine knows whether its first was taken.
    if not row["spec"].get("followup") or (key is None and row["status"] not in OPEN):
        raise _deaf(row)
    told = await say(row["attempt"], _update(project, task, command, key))
    if told.sent is Sent.UNREACHABLE:
        raise Problem("engine_unavailable")
    if told.refusal == "input":
        raise invalid("message", "too much is waiting to be said already")
    if told.sent is Sent.NOT_FOUND:
        raise _deaf(row)
    done = Done(status=200, content={"result": "applied"} if told.turn is None else {"turn": told.turn})
    if key is not None:
        async with ctx.database.commit("conversations.keep") as connection:
            await keep(ctx, connection, project=project, key=key, digest=digest, done=done)
    return JSONResponse(done.content, done.status)


def _deaf(row: dict[str, Any]) -> Problem:
    status, step = row["status"], row["step"]
    detail = f"the task is {status}" + (f", at {step}" if step else "")
    return Problem("not_awaiting_followup", detail, task_status=status, step=step)


def _update(project: ProjectId, task: str, command: str, key: str | None) -> str:
    """Return the id under which the engine knows a command: a repeat's is the same, also before an answer was kept."""
    if key is None:
        return new_id()
    return hashlib.sha256(f"{project}/{task}/{command}/{key}".encode()).hexdigest()
