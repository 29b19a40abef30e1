"""What every message to the engine has in common: its limits, what orders it, and what became of it."""

from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

from temporalio.common import Priority, SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from domain.lifecycle import RunStatus, TaskStatus
from domain.names import ProjectId, RunId, SearchAttribute

STATUS: Final = SearchAttributeKey.for_keyword(SearchAttribute.TASK_STATUS)
PROJECT: Final = SearchAttributeKey.for_keyword(SearchAttribute.PROJECT_ID)
RUN: Final = SearchAttributeKey.for_keyword(SearchAttribute.TASK_RUN_ID)

# A worker killed within a local activity costs 4 s instead of the default's 10.
TASK_TIMEOUT: Final = timedelta(seconds=5)
# A callback's answer waits for the signal at most this long; then the dispatcher carries it.
SIGNAL_LIMIT: Final = timedelta(seconds=2)
START_LIMIT: Final = timedelta(seconds=10)
# The engine takes no longer one.
FAIRNESS_KEY: Final = 64


class Sent(StrEnum):
    """What became of a message to the engine."""

    DELIVERED = "delivered"
    NOT_FOUND = "not_found"
    UNREACHABLE = "unreachable"


def unreachable(error: RPCError | RuntimeError) -> Sent:
    """Sort a failed call. The SDK raises RuntimeError when a lazy client cannot connect."""
    if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND:
        return Sent.NOT_FOUND
    return Sent.UNREACHABLE


def claim(priority: int, project: ProjectId | None) -> Priority:
    """Return what orders the engine's queues; activities and later runs inherit it from their workflow."""
    return Priority(priority_key=priority, fairness_key=project[:FAIRNESS_KEY] if project else None)


def attributes(status: TaskStatus | RunStatus, project: ProjectId, run: RunId | None) -> TypedSearchAttributes:
    """Return what a workflow is found by from its start."""
    pairs: list[SearchAttributePair[Any]] = [
        SearchAttributePair(STATUS, status.value),
        SearchAttributePair(PROJECT, project),
    ]
    if run:
        pairs.append(SearchAttributePair(RUN, run))
    return TypedSearchAttributes(pairs)
