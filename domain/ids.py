"""Identifiers: UUIDv7 text, new or derived. A derived one is the same each time it is asked for."""

import hashlib
import sys
import uuid
from datetime import datetime

from domain.names import RunId, TaskId, WorkspaceId

if sys.version_info >= (3, 14):
    from uuid import uuid7 as _uuid7
else:
    from uuid_utils.compat import uuid7 as _uuid7


def new_id() -> str:
    """Return a new UUIDv7 as text: ids sort by the time of their making (RFC 9562, section 5.7)."""
    return str(_uuid7())


def first_id(moment: datetime) -> str:
    """Return the least id that can be made at this time: all that are less were made before."""
    text = f"{int(moment.timestamp() * 1000):012x}"
    return f"{text[:8]}-{text[8:]}-7000-8000-000000000000"


def workspace_id(task_id: TaskId, attempt: int, visit: int) -> WorkspaceId:
    """Return the id of the workspace of this visit: a redo of a reservation names the same one.

    The time bits are the task's, the random bits a digest: still a valid UUIDv7.
    """
    return WorkspaceId(_derived(task_id, f"{task_id}:{attempt}:{visit}"))


def member_task_id(run_id: RunId, member: str, item: int | None = None) -> TaskId:
    """Return the id of the task that is this member of a run, or this child of its fan-out: always the same one."""
    return TaskId(_derived(run_id, f"{run_id}:{member}" if item is None else f"{run_id}:{member}#{item}"))


def run_hold_token(run_id: RunId, attempt: int, at: str, what: str) -> str:
    """Return the token of the hold of a run at a breakpoint: a redo names the same one."""
    return _derived(run_id, f"{run_id}:{attempt}:{at}:{what}")


def hold_token(task_id: TaskId, attempt: int, at: str, step: str, visit: int) -> str:
    """Return the token of the hold at a breakpoint: a redo names the same one, and the next visit another."""
    return _derived(task_id, f"{task_id}:{attempt}:{at}:{step}:{visit}")


def _derived(of_its_time: str, of: str) -> str:
    raw = bytearray(uuid.UUID(of_its_time).bytes[:6] + hashlib.sha256(of.encode()).digest()[:10])
    raw[6] = 0x70 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    return str(uuid.UUID(bytes=bytes(raw)))
