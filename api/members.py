"""The tasks of a run's members: what is checked of a task at the door is checked of each of them."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from api.deps import Context
from api.problems import Problem, invalid
from api.schemas.tasks import unkept
from domain.names import ProjectId
from domain.policy import outlived
from domain.run_spec import Member
from settings import PREFIX
from store import attachments


def check(ctx: Context, members: Sequence[Member], *, field: str = "members") -> None:
    """Raise the problem of the first member whose task could not be created by itself."""
    token = ctx.settings.callback_token
    for place, member in enumerate(members):
        task = member.task
        if reason := outlived(ctx.policy.budgets, task.timeouts, callback_token=token, prefix=PREFIX):
            raise invalid(f"{field}.{place}.task.timeouts", f"{member.name}: {reason}")
        if reason := unkept(task):
            raise invalid(f"{field}.{place}.task", f"{member.name}: {reason}")


async def check_attachments(
    connection: AsyncConnection, project: ProjectId, members: Sequence[Member], *, field: str = "members"
) -> None:
    """Raise the problem of the first attachment that does not exist; the others are kept from retention meanwhile."""
    named = {id_: place for place, member in enumerate(members) for id_ in member.task.attachments}
    if named and (missing := await attachments.missing(connection, project, list(named))):
        place = f"{field}.{named[missing[0]]}.task.attachments"
        raise Problem("unknown_attachment", errors=[(place, f"no such attachment: {missing[0]}")])
