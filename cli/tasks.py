"""`taskrunner tasks …`: look at tasks, cancel, retry and delete them; `steering` has more of its commands."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from cli import completion
from cli.data_dir import DEFAULT, DataDirOption
from cli.follow import Follower
from cli.lines import Events, Json, Lines
from cli.remote import connect
from cli.screen import JsonOption, clock, coloured, console, duration, escape, moment, print_json, table, write_bytes

app = typer.Typer(help="Look at tasks, steer, cancel, retry and delete them.", no_args_is_help=True)

CANCELS: Final = {
    "requested": "requested; the task ends as soon as its attempt has cleaned up",
    "applied": "applied; the task is cancelled",
    "forced": "forced; the task is cancelled, and what its attempt held is cleaned up beside it",
}

TaskId = Annotated[str, typer.Argument(help="The task's id.", metavar="TASK", autocompletion=completion.task_ids)]
Limit = Annotated[int, typer.Option(min=1, help="How many at most.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on until the task ends.")]
Attempt = Annotated[int | None, typer.Option(min=1, help="Of this attempt; the latest if left out.")]


@app.command("list")
def list_tasks(
    status: Annotated[
        str | None, typer.Option(help="Only with this status.", autocompletion=completion.statuses)
    ] = None,
    step: Annotated[str | None, typer.Option(help="Only in this step.", autocompletion=completion.steps)] = None,
    label: Annotated[str | None, typer.Option(help="Only with this label, as key:value.")] = None,
    q: Annotated[str | None, typer.Option(help="Only with these words in the name.")] = None,
    limit: Limit = 20,
    *,
    run: Annotated[str | None, typer.Option(help="Only of this run.", autocompletion=completion.run_ids)] = None,
    exhausted: Annotated[bool | None, typer.Option(help="Only those that failed because no try was left.")] = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """List tasks, the newest first."""
    with connect(data_dir) as remote:
        narrowed = {"status": status, "step": step, "label": label, "q": q, "run_id": run, "exhausted": exhausted}
        tasks = list(remote.pages("/v1/tasks", limit=limit, **narrowed))
    if as_json:
        print_json(tasks)
        return
    table(
        ("id", "status", "step", "attempt", "created", "name"),
        [
            (
                task["id"],
                coloured(task["status"]),
                task["step"] or "-",
                f"{task['attempt']}/{task['max_attempts']}",
                clock(task["created_at"]),
                escape(task["name"]),
            )
            for task in tasks
        ],
    )


@app.command()
def show(task_id: TaskId, *, as_json: JsonOption = False, data_dir: DataDirOption = DEFAULT) -> None:
    """Show one task."""
    with connect(data_dir) as remote:
        task = remote.get(f"/v1/tasks/{task_id}")
    if as_json:
        print_json(task)
        return
    screen = console()
    for key in ("id", "name", "status", "step", "attempt", "max_attempts", "paused", "priority", "workspace_id"):
        value = task.get(key)
        screen.print(f"{key:<14}{coloured(value) if key == 'status' else escape(str(value))}")
    for key in (
        "run_id",
        "member",
        "item",
        "node_id",
        "created_at",
        "started_at",
        "finished_at",
        "workflow_id",
        "temporal_url",
        "result",
    ):
        if task.get(key) is not None:
            screen.print(f"{key:<14}{escape(str(task[key]))}")
    error: dict[str, Any] | None = task.get("error")
    if error:
        screen.print(f"{'error':<14}[red]{escape(error['category'])}/{escape(error['code'])}[/]")
        screen.print(f"{'':<14}{escape(error['message'])}")
        screen.print(f"{'':<14}{escape(error.get('guidance') or '')}")


@app.command()
def explain(task_id: TaskId, *, as_json: JsonOption = False, data_dir: DataDirOption = DEFAULT) -> None:
    """Say what a task waits for, until when, and what happens then."""
    with connect(data_dir) as remote:
        told = remote.get(f"/v1/tasks/{task_id}/explain")
    if as_json:
        print_json(told)
        return
    screen = console()
    now = datetime.now(UTC)
    where = f"in {told['step']} of attempt {told['attempt']}" if told["step"] else f"attempt {told['attempt']}"
    lasted = duration(max(now - moment(told["since"]), timedelta(0)))
    screen.print(f"{coloured(told['status'])}, {escape(where)}, for {lasted} (since {clock(told['since'])} UTC)")
    screen.print(escape(told["waits_for"]["text"]))
    if told["next"]:
        screen.print(f"[dim]When it comes:[/] {escape(told['next']['text'])}")
    if told["on_failure"]:
        left = duration(moment(told["until"]) - now) if told["until"] and moment(told["until"]) > now else "due now"
        until = f"Otherwise, in {left} ({clock(told['until'])} UTC)" if told["until"] else "If it does not"
        screen.print(f"[dim]{until}:[/] {escape(told['on_failure']['text'])}")


@app.command()
def events(
    task_id: TaskId,
    from_seq: Annotated[int, typer.Option(min=1, help="Start at this number.")] = 1,
    kind: Annotated[
        str | None, typer.Option("--type", help="Only of this type.", autocompletion=completion.event_types)
    ] = None,
    *,
    follow: Follow = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Print a task's log of events; with --follow and --json, one line for each."""
    found: list[dict[str, Any]] = []
    with connect(data_dir) as remote:
        if follow:
            view = Json(kind=kind) if as_json else Events(console(), kind=kind)
            Follower(remote, task_id, view, after=from_seq - 1).run()
            return
        while page := remote.get(f"/v1/tasks/{task_id}/events", fromSeq=from_seq, type=kind, limit=200)["items"]:
            found += page
            from_seq = page[-1]["seq"] + 1
    if as_json:
        print_json(found)
        return
    with Events(console()) as view:
        for event in found:
            view.event(event)


@app.command()
def logs(
    task_id: TaskId,
    attempt: Attempt = None,
    turn: Annotated[int | None, typer.Option(min=1, help="Of a conversation; all turns if left out.")] = None,
    *,
    follow: Follow = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Print what a task wrote: byte for byte, and on a terminal without what that would obey."""
    if follow and turn:
        raise typer.BadParameter("--turn is of what is there; --follow goes on with every turn")
    with connect(data_dir) as remote:
        if follow:
            Follower(remote, task_id, Json(output=True) if as_json else Lines(console())).run()
            return
        content = remote.text(f"/v1/tasks/{task_id}/logs", attempt=attempt, turn=turn).content
    if as_json:
        print_json({"task_id": task_id, "attempt": attempt, "turn": turn, "output": content.decode(errors="replace")})
        return
    write_bytes(content)


@app.command()
def artifacts(
    task_id: TaskId,
    name: Annotated[str | None, typer.Argument(help="Print this one; a list of all if left out.")] = None,
    attempt: Attempt = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it to this file.")] = None,
    *,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """List the files that a task left, or get one of them."""
    with connect(data_dir) as remote:
        if name:
            content = remote.text(f"/v1/tasks/{task_id}/artifacts/{name}", attempt=attempt).content
            if output:
                output.write_bytes(content)
            else:
                write_bytes(content)
            return
        found = remote.get(f"/v1/tasks/{task_id}/artifacts", attempt=attempt)["items"]
    if as_json:
        print_json(found)
        return
    table(("name", "bytes"), [(escape(item["name"]), str(item["size"])) for item in found])


@app.command()
def cancel(task_id: TaskId, *, as_json: JsonOption = False, data_dir: DataDirOption = DEFAULT) -> None:
    """Ask a task to end as cancelled; asked again, say whether it has."""
    with connect(data_dir) as remote:
        answer = remote.post(f"/v1/tasks/{task_id}/cancel", {})
    if as_json:
        print_json(answer)
        return
    console().print(f"cancel of {task_id}: {CANCELS[answer['result']]}")


@app.command()
def retry(
    task_id: TaskId,
    from_attempt: Annotated[int | None, typer.Option(min=1, help="Only if this is still the latest attempt.")] = None,
    from_step: Annotated[
        str | None, typer.Option(help="`agent_session`: go on in the workspace that was kept.")
    ] = None,
    *,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Make the next attempt of a task that failed or was cancelled."""
    given = {"from_attempt": from_attempt, "from_step": from_step}
    body = {name: value for name, value in given.items() if value is not None}
    with connect(data_dir) as remote:
        task = remote.post(f"/v1/tasks/{task_id}/retry", body)
    if as_json:
        print_json(task)
        return
    console().print(f"attempt {task['attempt']} of {task_id} is {coloured(task['status'])}")


@app.command()
def delete(
    task_ids: Annotated[
        list[str], typer.Argument(help="The tasks' ids.", metavar="TASK...", autocompletion=completion.task_ids)
    ],
    *,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Delete tasks that have ended, with their logs and artifacts."""
    with connect(data_dir) as remote:
        for task_id in task_ids:
            remote.delete(f"/v1/tasks/{task_id}")
            console().print(f"deleted {task_id}")
