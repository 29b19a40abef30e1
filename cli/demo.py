"""`taskrunner demo`: one real task on the whole stack, live, and everything stopped afterwards."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cli import demo_task
from cli.data_dir import DataDir
from cli.edge import read_settings
from cli.follow import Follower
from cli.remote import Remote, RemoteError
from cli.screen import complain, console, escape
from cli.start import CANCEL_PATIENCE, INTERRUPTED, follow
from cli.view import View

PATCH = "changes.patch"
LABEL = "made-by:demo"
CHECK = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/domain")


def demo(
    check: Annotated[list[str] | None, typer.Argument(help="The check to run, after `--`.", metavar="-- CMD…")] = None,
    repo: Annotated[str | None, typer.Option(help="Clone this instead of the checkout that the demo is in.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Keep the stack's files here, to look at them later; temporary if left out.")
    ] = None,
) -> None:
    """Clone this repository into a fresh workspace, check it there, change a file; show all of it, live."""
    source = {"url": repo} if repo else _checkout()
    if source is None:
        complain(
            "the demo clones Taskrunner's own repository, and this installation is not in a checkout of it: "
            "run it there, or name one with --repo"
        )
        raise typer.Exit(2)
    with ExitStack() as cleanup:
        if data_dir is None:
            folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="taskrunner-demo-")))
        else:
            folder = data_dir
        data = DataDir(folder)
        cleanup.enter_context(data.locked())
        try:
            code = asyncio.run(_run(data, source, check or [sys.executable, *CHECK], kept=data_dir is not None))
        except (KeyboardInterrupt, asyncio.CancelledError):
            code = INTERRUPTED
    raise typer.Exit(code)


async def _run(data: DataDir, source: dict[str, str], check: list[str], *, kept: bool) -> int:
    from cli.embedded.stack import Stack

    screen = console()
    main = asyncio.current_task()
    if main:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)
    environ = {**os.environ, "TASKRUNNER_NODE_ALLOW_FILE_URLS": "true"}
    settings = read_settings().model_copy(update={"url": ""})  # TASKRUNNER_URL may name another stack's API
    stack = Stack(data, settings, environ=environ, say=lambda line: screen.print(escape(line)))
    screen.print("starting PostgreSQL, Temporal, workers and API")
    addresses = await stack.start()
    remote = Remote(addresses.api, data.secret("admin"))
    try:
        # In a thread of its own: the supervisor goes on meanwhile.
        return await asyncio.to_thread(_task, remote, screen, source, check)
    except asyncio.CancelledError:
        await asyncio.to_thread(_cancel, remote)  # its process would outlive the stack, to be adopted by the next
        raise
    finally:
        screen.print("stopping")
        remote.stopping.set()
        await stack.stop()
        if kept:
            screen.print(f"to look at the history: taskrunner up --data-dir {escape(str(data.path))}")
        else:
            screen.print("to keep the history and look at it: taskrunner demo --data-dir DIR, then up --data-dir DIR")


def _task(remote: Remote, screen: Console, source: dict[str, str], check: list[str]) -> int:
    token = secrets.token_hex(8)
    screen.print(f"repository  {escape(source['url'])}  {source.get('ref', 'HEAD')}")
    screen.print(f"input       {{'token': '{token}'}}")
    body: dict[str, Any] = {
        "name": "demo: check and change a fresh clone",
        "repo": source,
        "command": [sys.executable, "-c", Path(demo_task.__file__).read_text(), *check],
        "input": {"token": token},
        "retry": {"max_attempts": 1},
        "labels": dict([LABEL.split(":")]),
    }
    task = remote.post("/v1/tasks", body)
    code = follow(remote, task)
    task = remote.get(f"/v1/tasks/{task['id']}")
    screen.print(f"result      {escape(str(task['result']))}")
    for artifact in remote.get(f"/v1/tasks/{task['id']}/artifacts")["items"]:
        screen.print(f"artifact    {escape(artifact['name'])}  {artifact['size']} bytes")
    if code == 0:
        patch = remote.text(f"/v1/tasks/{task['id']}/artifacts/{PATCH}").text
        for line in patch.splitlines():
            screen.print(f"  [dim]│[/] {escape(line)}")
        if token not in patch:
            complain(f"{PATCH} does not hold the token {token}")
            code = 1
    screen.print(f"history     {escape(str(task['temporal_url']))}")
    return code


def _cancel(remote: Remote) -> None:
    """Cancel what the demo made and wait for its end; one that has ended already needs nothing."""
    for task in remote.pages("/v1/tasks", limit=10, label=LABEL):
        with suppress(RemoteError):
            remote.post(f"/v1/tasks/{task['id']}/cancel", {})
            Follower(remote, task["id"], View()).run(patience=CANCEL_PATIENCE)


def _checkout() -> dict[str, str] | None:
    """Return the checkout that this very module lies in, at its HEAD; None for an installed wheel."""
    here = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != here:
            return None
        return {"url": here.as_uri(), "ref": git("rev-parse", "HEAD")}
    except (OSError, subprocess.CalledProcessError):
        return None
