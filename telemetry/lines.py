"""What every line has that is written within an activity: the ids by which it is found."""

import re
from typing import Any, Final

from structlog.contextvars import bound_contextvars
from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

_ATTEMPT: Final = re.compile(r"(?:task|cleanup)-(?P<task>.+)-a(?P<attempt>\d+)")


class LinesInterceptor(Interceptor):
    """Wraps every activity of a worker."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        """Wrap one activity."""
        return _Bound(next)


class _Bound(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's own name
        info = activity.info()
        known: dict[str, Any] = {"activity": info.activity_type}
        if found := _ATTEMPT.fullmatch(info.workflow_id or ""):
            known |= {"task": found["task"], "attempt": int(found["attempt"])}
        argument = input.args[0] if input.args else None
        workspace = getattr(getattr(argument, "order", argument), "workspace_id", None)
        if workspace is not None:
            known["workspace"] = workspace
        with bound_contextvars(**known):
            return await super().execute_activity(input)
