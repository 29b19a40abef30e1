"""`taskrunner tasks pause`, `resume`, `breakpoints`, `followup`, `close`: hold a task, and talk to it."""

from typing import Annotated, Final

import typer

from cli import completion
from cli.data_dir import DEFAULT, DataDirOption
from cli.holding import Reason, hold, hold_at, let_go, tell
from cli.remote import connect
from cli.screen import JsonOption
from cli.tasks import TaskId

PAUSES: Final = {
    "requested": "requested; it holds as soon as what is under way has ended",
    "applied": "applied; it holds until `taskrunner tasks resume`",
}
Steps = Annotated[
    list[str] | None, typer.Option(help="A step; may be repeated.", metavar="STEP", autocompletion=completion.steps)
]


def pause(
    task_id: TaskId,
    reason: Reason = None,
    *,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Hold a task: at once where it waits, else as soon as its step has ended."""
    answer = hold(data_dir, f"/v1/tasks/{task_id}", reason)
    tell(answer, f"pause of {task_id}: {PAUSES[answer['result']]}", as_json=as_json)


def resume(
    task_id: TaskId,
    token: Annotated[str | None, typer.Option(help="Only if it is held by this token; the task's if left out.")] = None,
    *,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Let a task go on that is held, or is to be."""
    answer = let_go(data_dir, f"/v1/tasks/{task_id}", token)
    tell(answer, f"resume of {task_id}: applied; it goes on", as_json=as_json)


def breakpoints(
    task_id: TaskId,
    before: Steps = None,
    after: Steps = None,
    *,
    each_step: Annotated[bool, typer.Option("--each-step", help="After every step that had something to do.")] = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Replace a task's breakpoints; none at all takes them away."""
    answer, places = hold_at(data_dir, f"/v1/tasks/{task_id}", before, after, each_step=each_step)
    tell(answer, f"breakpoints of {task_id}: {places}", as_json=as_json)


def followup(
    task_id: TaskId,
    message: Annotated[str, typer.Argument(help="What the agent shall do next.")],
    *,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Say the next message to a task that waits for one."""
    with connect(data_dir) as remote:
        answer = remote.post(f"/v1/tasks/{task_id}/followups", {"message": message})
    tell(answer, f"message to {task_id}: turn {answer['turn']}", as_json=as_json)


def close(task_id: TaskId, *, as_json: JsonOption = False, data_dir: DataDirOption = DEFAULT) -> None:
    """End the conversation of a task that waits for a message: it completes."""
    with connect(data_dir) as remote:
        answer = remote.post(f"/v1/tasks/{task_id}/close", {})
    tell(answer, f"close of {task_id}: applied; it completes", as_json=as_json)
