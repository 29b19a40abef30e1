"""Identifiers: new ones sort by age, derived ones are stable."""

import re
import uuid
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from domain.ids import first_id, new_id, workspace_id
from domain.names import NodeId, TaskId, node_queue, supervise_queue, workflow_id

TASK = TaskId("0197f3a1-5c00-7abc-8def-0123456789ab")
TEXT = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def time_of(identity: str) -> datetime:
    """Return the time in the first 48 bits (RFC 9562, section 5.7)."""
    return datetime.fromtimestamp(int.from_bytes(uuid.UUID(identity).bytes[:6]) / 1000, UTC)


def test_a_new_id_is_a_uuid_of_version_7_of_now() -> None:
    """RFC 9562: version 7, variant 10, its time is now."""
    identity = new_id()
    assert TEXT.fullmatch(identity)
    assert abs(datetime.now(UTC) - time_of(identity)) < timedelta(seconds=5)


def test_the_first_id_of_a_time_divides_all_others() -> None:
    """A UUIDv7 of that millisecond, not above any made then, above any made before."""
    made = new_id()
    first, later = first_id(time_of(made)), first_id(time_of(made) + timedelta(milliseconds=1))
    assert TEXT.fullmatch(first)
    assert first <= made < later


def test_new_ids_are_ever_new_and_sort_by_age() -> None:
    """10,000 in a row: all different, in order."""
    identities = [new_id() for _ in range(10_000)]
    assert len(set(identities)) == 10_000
    assert identities == sorted(identities)


def test_a_derived_id_is_always_the_same() -> None:
    """This one, in every process of every version: a redo of a reservation names it again."""
    assert workspace_id(TASK, 1, 1) == "0197f3a1-5c00-7333-b94c-945f0b58af48"


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_a_derived_id_is_a_uuid_of_version_7(attempt: int, visit: int) -> None:
    """Valid, and of its task's age, so that workspaces sort as their tasks do."""
    identity = workspace_id(TASK, attempt, visit)
    assert TEXT.fullmatch(identity)
    assert time_of(identity) == time_of(TASK)


def test_derived_ids_differ() -> None:
    """By task, by attempt and by visit."""
    other = TaskId(new_id())
    made = [workspace_id(task, a, v) for task in (TASK, other) for a in range(1, 30) for v in range(1, 30)]
    assert len(set(made)) == len(made)


def test_the_names_that_the_server_remembers() -> None:
    """Workflow id and queues are the contract's."""
    node = NodeId("local")
    assert workflow_id(TASK, 2) == f"task-{TASK}-a2"
    assert (node_queue(node), supervise_queue(node)) == ("node-local", "node-local-supervise")
