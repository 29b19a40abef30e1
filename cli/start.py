"""`taskrunner start`: create a task and follow it to its end."""

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.data_dir import DEFAULT, DataDirOption
from cli.follow import Follower
from cli.remote import Remote, RemoteError, connect
from cli.screen import JsonOption, console, escape, one_line, print_json
from cli.steps import Steps
from cli.view import View

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
CANCEL_PATIENCE = timedelta(seconds=30)


def start(
    command: Annotated[list[str], typer.Argument(help="What to run, after `--`.", metavar="-- CMD…")],
    *,
    repo: Annotated[str | None, typer.Option(help="A git repository to clone into the workspace.")] = None,
    ref: Annotated[str | None, typer.Option(help="A branch, tag or commit of it.")] = None,
    provider: Annotated[
        str | None, typer.Option(help="Where the workspace comes from: local, docker, external.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The task's name.")] = None,
    task_input: Annotated[str | None, typer.Option("--input", help="JSON, or @FILE with JSON.")] = None,
    artifacts: Annotated[list[str] | None, typer.Option(help="A glob of files to keep; may be repeated.")] = None,
    setup: Annotated[list[str] | None, typer.Option(help="A shell line to run before; may be repeated.")] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; may be repeated.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; may be repeated.")] = None,
    priority: Annotated[int | None, typer.Option(min=1, max=5, help="1 is the most urgent.")] = None,
    max_attempts: Annotated[int | None, typer.Option(min=1, help="How often the task is tried.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Print the id and return at once.")] = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Create a task and follow it: its exit code is the task's."""
    body: dict[str, Any] = {
        "command": command,
        "name": name,
        "repo": {"url": repo, "ref": ref} if repo else None,
        "provider": provider,
        "input": _json(task_input),
        "artifacts": artifacts,
        "setup": [["sh", "-c", line] for line in setup or []] or None,
        "env": _pairs(env, "--env"),
        "labels": _pairs(label, "--label"),
        "priority": priority,
        "retry": {"max_attempts": max_attempts} if max_attempts else None,
    }
    if ref and not repo:
        raise typer.BadParameter("--ref needs --repo")
    with connect(data_dir) as remote:
        task = remote.post("/v1/tasks", {key: value for key, value in body.items() if value not in (None, {})})
        if detach:
            if as_json:
                print_json(task)
            else:
                console().print(task["id"])
            return
        code = follow(remote, task, quiet=as_json)
        if as_json:
            print_json(remote.get(f"/v1/tasks/{task['id']}"))
    raise typer.Exit(code)


def follow(remote: Remote, task: dict[str, Any], *, quiet: bool = False) -> int:
    """Follow a task and return the exit code; Ctrl-C asks it to cancel and waits a while for its end."""
    screen = console()
    if not quiet:
        screen.print(f"task {task['id']}  {escape(one_line(task['name']))}")
    follower = Follower(remote, task["id"], View() if quiet else Steps(screen))
    try:
        ending = follower.run()
    except KeyboardInterrupt:
        _cancel(remote, task["id"])
        follower.run(patience=CANCEL_PATIENCE)
        return INTERRUPTED
    return ending.code if ending else 1


def _cancel(remote: Remote, task_id: str) -> None:
    try:
        remote.post(f"/v1/tasks/{task_id}/cancel", {})
    except RemoteError as error:
        sys.stderr.write(f"the cancel was not accepted: {error}\n")
    else:
        sys.stderr.write("asked to cancel; Ctrl-C again leaves at once\n")


def _json(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"--input: {error}") from error


def _pairs(values: list[str] | None, option: str) -> dict[str, str]:
    pairs = [value.partition("=") for value in values or []]
    if any(not sign for _, sign, _ in pairs):
        raise typer.BadParameter(f"{option} takes NAME=VALUE")
    return {name: value for name, _, value in pairs}
