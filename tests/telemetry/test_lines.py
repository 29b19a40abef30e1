"""A line of the log has the ids by which it is found."""

from typing import Any

import structlog
from structlog.testing import capture_logs
from temporalio import activity
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from domain.messages import WorkspaceRef
from domain.names import TaskId, WorkspaceId, workflow_id
from telemetry.lines import LinesInterceptor


class Says(ActivityInboundInterceptor):
    """An activity that writes a line."""

    def __init__(self) -> None:
        """Be the last one."""

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002, ARG002
        structlog.get_logger().info("said")


async def test_a_line_of_an_activity_names_task_attempt_and_workspace() -> None:
    """As far as its workflow's id and its argument tell them; the next line knows nothing of it."""
    ref = WorkspaceRef(workspace_id=WorkspaceId("w1"))
    environment = ActivityEnvironment()
    environment.info = environment.info.__class__(
        **{**environment.info.__dict__, "workflow_id": workflow_id(TaskId("t1"), 2), "activity_type": "destroy"}
    )
    wrapped = LinesInterceptor().intercept_activity(Says())
    order = ExecuteActivityInput(fn=Says, args=[ref], executor=None, headers={})
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        await environment.run(wrapped.execute_activity, order)
        structlog.get_logger().info("after")
    said, after = lines
    assert {name: said[name] for name in ("activity", "task", "attempt", "workspace")} == {
        "activity": "destroy",
        "task": "t1",
        "attempt": 2,
        "workspace": "w1",
    }
    assert "task" not in after
    assert activity.in_activity() is False
