"""What the shell offers for an argument: ids of tasks and runs, and the words of the state machine."""

from pathlib import Path
from typing import Final

import httpx2
import typer

from cli.data_dir import DEFAULT
from cli.remote import Remote, RemoteError, connect
from cli.screen import one_line, printable

OFFERED: Final = 50
# A person waits with a finger on the key.
TIMEOUT: Final = httpx2.Timeout(2)


def task_ids(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offer the newest tasks, each with its status and name; nothing where no API answers."""
    return _ids(ctx, "/v1/tasks", incomplete)


def run_ids(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offer the newest runs, each with its status and name; nothing where no API answers."""
    return _ids(ctx, "/v1/runs", incomplete)


def members(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offer the members of the run that was typed before, each with its status; nothing where no API answers."""
    # Behind an option without its value, what was typed before stands unparsed.
    run_id = ctx.params.get("run_id") or next(iter(ctx.args), None)
    try:
        with _remote(ctx) as remote:
            found = remote.get(f"/v1/runs/{run_id}/graph")["members"]
    except RemoteError:
        return []
    return [(member["name"], member["status"]) for member in found if member["name"].startswith(incomplete)]


def _ids(ctx: typer.Context, path: str, incomplete: str) -> list[tuple[str, str]]:
    try:
        with _remote(ctx) as remote:
            found = list(remote.pages(path, limit=OFFERED))
    except RemoteError:
        return []
    return [
        (each["id"], one_line(printable(f"{each['status']}: {each['name']}")))
        for each in found
        if each["id"].startswith(incomplete)
    ]


def _remote(ctx: typer.Context) -> Remote:
    return connect(Path(ctx.params.get("data_dir") or DEFAULT), timeout=TIMEOUT)


def statuses(incomplete: str) -> list[str]:
    """Offer what a task's status can be."""
    from domain.lifecycle import TaskStatus

    return [status for status in TaskStatus if status.startswith(incomplete)]


def run_statuses(incomplete: str) -> list[str]:
    """Offer what a run's status can be."""
    from domain.lifecycle import RunStatus

    return [status for status in RunStatus if status.startswith(incomplete)]


def steps(incomplete: str) -> list[str]:
    """Offer the steps."""
    from domain.lifecycle import Step

    return [step for step in Step if step.startswith(incomplete)]


def event_types(incomplete: str) -> list[str]:
    """Offer the types of events."""
    from domain.events import EventType

    return [kind for kind in EventType if kind.startswith(incomplete)]
