"""Every string that the Temporal server, the database or a caller remembers: changing one is a breaking change."""

from enum import StrEnum
from typing import Final, NewType

TaskId = NewType("TaskId", str)
RunId = NewType("RunId", str)
NodeId = NewType("NodeId", str)
WorkspaceId = NewType("WorkspaceId", str)
ProjectId = NewType("ProjectId", str)
AttachmentId = NewType("AttachmentId", str)

DEFAULT_PROJECT: Final = ProjectId("default")

TASK_RUNNER: Final = "TaskRunner"
RUN_ORCHESTRATOR: Final = "RunOrchestrator"
CLEANUP: Final = "Cleanup"
RECONCILE: Final = "Reconcile"
RECONCILE_SCHEDULE: Final = "taskrunner-reconcile"
CONTROL_QUEUE: Final = "taskrunner"


def node_queue(node_id: NodeId) -> str:
    """Return the queue of a node's short work: create, start, destroy."""
    return f"node-{node_id}"


def supervise_queue(node_id: NodeId) -> str:
    """Return the queue of a node's long work, which must never starve the short."""
    return f"node-{node_id}-supervise"


def workflow_id(task_id: TaskId, attempt: int) -> str:
    """Return the id of the workflow that is this attempt."""
    return f"task-{task_id}-a{attempt}"


def run_workflow_id(run_id: RunId) -> str:
    """Return the id of the workflow that is this run, whichever attempt of it."""
    return f"run-{run_id}"


def cleanup_id(task_id: TaskId, attempt: int) -> str:
    """Return the id of the workflow that releases what this attempt still holds."""
    return f"cleanup-{task_id}-a{attempt}"


class SignalName(StrEnum):
    """Facts that reach a TaskRunner from outside."""

    WORKSPACE_CLAIMED = "workspace_claimed"
    WORKSPACE_READY = "workspace_ready"
    WORKSPACE_FAILED = "workspace_failed"
    WORKSPACE_FINISHED = "workspace_finished"
    SLOT_GRANTED = "slot_granted"
    NODE_READY = "node_ready"
    NODE_LOST = "node_lost"
    TASK_STEERED = "task_steered"
    # To a RunOrchestrator.
    TASK_ENDED = "task_ended"
    RUN_STEERED = "run_steered"


class UpdateName(StrEnum):
    """Commands from people, answered synchronously."""

    PAUSE = "pause"
    FOLLOWUP = "followup"
    CLOSE = "close"


class SearchAttribute(StrEnum):
    """What operators filter by in the Temporal UI (`RunId` is reserved by the server)."""

    TASK_STATUS = "TaskStatus"
    TASK_STEP = "TaskStep"
    PROJECT_ID = "ProjectId"
    TASK_RUN_ID = "TaskRunId"


class Scope(StrEnum):
    """What an API key may do, within its project."""

    TASKS_READ = "tasks:read"
    TASKS_WRITE = "tasks:write"
    WORKSPACES_WRITE = "workspaces:write"
    NODES_WRITE = "nodes:write"
    ADMIN = "admin"


class CallbackKind(StrEnum):
    """What a workspace tells; one row of the inbox each, by workspace, attempt, kind and turn."""

    CLAIMED = "claimed"
    READY = "ready"
    FAILED = "failed"
    FINISHED = "finished"


SIGNAL_OF_CALLBACK: Final = {
    CallbackKind.CLAIMED: SignalName.WORKSPACE_CLAIMED,
    CallbackKind.READY: SignalName.WORKSPACE_READY,
    CallbackKind.FAILED: SignalName.WORKSPACE_FAILED,
    CallbackKind.FINISHED: SignalName.WORKSPACE_FINISHED,
}
