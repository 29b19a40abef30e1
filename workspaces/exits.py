"""How a turn ended, as its exit file tells: a command may have written that file, so nothing of it is trusted."""

import json

from pydantic import BaseModel

from domain.errors import GUIDANCE, TRANSIENT_CATEGORIES, Category, TaskError
from domain.messages import AgentExit, AgentOrder
from domain.spec import Json, Text
from workspaces import sessions
from workspaces.inside import trees
from workspaces.inside.session import MESSAGES
from workspaces.layout import Layout


class Told(BaseModel):
    """The error of an exit file."""

    code: Text
    category: Category
    message: Text


class Exit(BaseModel):
    """An exit file."""

    exit_code: int | None
    result: Json = None
    error: Told | None = None


def read(layout: Layout, agent: AgentOrder) -> AgentExit | None:
    """Return how the turn ended; None when it has not. Raises OSError or ValueError for a file that is not ours."""
    try:
        file = trees.opened(layout.control, f"{sessions.turn_name(agent)}.exit.json")
    except FileNotFoundError:
        return None
    with file:
        most = 2 * agent.order.result_limit + MESSAGES
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"the exit file has more than {most} bytes")
    told = Exit.model_validate(json.loads(content))
    error = None
    if told.error:
        category = told.error.category
        error = TaskError(
            **told.error.model_dump(), retryable=category in TRANSIENT_CATEGORIES, guidance=GUIDANCE[category]
        )
    return AgentExit(turn=agent.turn, exit_code=told.exit_code, result=told.result, error=error)
