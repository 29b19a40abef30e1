"""What the shell offers for an argument: ids of tasks, and the words of the state machine."""

from pathlib import Path
from typing import Final

import httpx2
import typer

from cli.data_dir import DEFAULT
from cli.remote import RemoteError, connect
from cli.screen import one_line, printable

OFFERED: Final = 50
# A person waits with a finger on the key.
TIMEOUT: Final = httpx2.Timeout(2)


def task_ids(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offer the newest tasks, each with its status and name; nothing where no API answers."""
    try:
        with connect(Path(ctx.params.get("data_dir") or DEFAULT), timeout=TIMEOUT) as remote:
            tasks = list(remote.pages("/v1/tasks", limit=OFFERED))
    except RemoteError:
        return []
    return [
        (task["id"], one_line(printable(f"{task['status']}: {task['name']}")))
        for task in tasks
        if task["id"].startswith(incomplete)
    ]


def statuses(incomplete: str) -> list[str]:
    """Offer what a task's status can be."""
    from domain.lifecycle import TaskStatus

    return [status for status in TaskStatus if status.startswith(incomplete)]


def steps(incomplete: str) -> list[str]:
    """Offer the steps."""
    from domain.lifecycle import Step

    return [step for step in Step if step.startswith(incomplete)]


def event_types(incomplete: str) -> list[str]:
    """Offer the types of events."""
    from domain.events import EventType

    return [kind for kind in EventType if kind.startswith(incomplete)]
