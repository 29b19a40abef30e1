"""`taskrunner runs …`: make runs, look at them, delete them; `run_steering` has more of its commands."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from cli import completion
from cli.data_dir import DEFAULT, DataDirOption
from cli.lines import Json
from cli.remote import Remote, RemoteError, connect
from cli.screen import JsonOption, clock, coloured, complain, console, escape, one_line, print_json, table
from cli.start import CANCEL_PATIENCE, INTERRUPTED
from cli.tasks import Limit

app = typer.Typer(help="Run graphs of tasks: make, watch, steer, extend, retry and delete them.", no_args_is_help=True)

FACTS: Final = (
    *("id", "name", "status", "attempt", "mode", "on_failure", "priority", "max_parallel", "labels", "state"),
    *("created_at", "started_at", "finished_at", "workflow_id", "temporal_url"),
)
MOST: Final = 100_000  # tasks of a run
MISUSED: Final = 2  # the exit code for what was wrongly used: here a file that makes no run

RunId = Annotated[str, typer.Argument(help="The run's id.", metavar="RUN", autocompletion=completion.run_ids)]
File = Annotated[Path, typer.Argument(help="YAML or JSON; `-` is standard input.", metavar="FILE")]


class Format(StrEnum):
    """How a graph is printed."""

    PICTURE = "picture"
    MERMAID = "mermaid"
    JSON = "json"


def sent(remote: Remote, path: str, file: Path) -> Any:
    """Return what the API answers to the body in a file; ends the command for one that makes none."""
    from cli.run_file import FileError, read

    try:
        return read(file).post(remote, path)
    except FileError as error:
        complain(str(error))
        raise typer.Exit(MISUSED) from None


@app.command()
def create(
    file: File,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends: the exit code is its.")] = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Make a run of a file: members, each a task or many of one kind, and edges between them."""
    code = 0
    with connect(data_dir) as remote:
        run = sent(remote, "/v1/runs", file)
        if follow:
            code = _follow(remote, run, quiet=as_json)
            run = remote.get(f"/v1/runs/{run['id']}")
    if as_json:
        print_json(run)
    elif not follow:
        console().print(run["id"])
    raise typer.Exit(code)


def _follow(remote: Remote, run: dict[str, Any], *, quiet: bool) -> int:
    """Follow a run and return the exit code; Ctrl-C asks it to cancel and waits a while for its end."""
    from cli.run_watch import watch

    if not quiet:
        console().print(f"run {run['id']}  {escape(one_line(run['name']))}")
    try:
        return int(watch(remote, run["id"], quiet=quiet) != "completed")
    except KeyboardInterrupt:
        try:
            remote.post(f"/v1/runs/{run['id']}/cancel", {})
        except RemoteError as error:
            sys.stderr.write(f"the cancel was not accepted: {error}\n")
        else:
            sys.stderr.write("asked to cancel; Ctrl-C again leaves at once\n")
        watch(remote, run["id"], quiet=quiet, patience=CANCEL_PATIENCE)
        return INTERRUPTED


@app.command("list")
def list_runs(
    status: Annotated[
        str | None, typer.Option(help="Only with this status.", autocompletion=completion.run_statuses)
    ] = None,
    label: Annotated[str | None, typer.Option(help="Only with this label, as key:value.")] = None,
    q: Annotated[str | None, typer.Option(help="Only with these words in the name.")] = None,
    limit: Limit = 20,
    *,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """List runs, the newest first."""
    with connect(data_dir) as remote:
        runs = list(remote.pages("/v1/runs", limit=limit, status=status, label=label, q=q))
    if as_json:
        print_json(runs)
        return
    table(
        ("id", "status", "members", "attempt", "created", "name"),
        [
            (
                run["id"],
                "[yellow]paused[/]" if run["paused"] else coloured(run["status"]),
                f"{_ended(run)}/{sum(run['counts'].values())}",
                str(run["attempt"]),
                clock(run["created_at"]),
                escape(run["name"]),
            )
            for run in runs
        ],
    )


def _ended(run: dict[str, Any]) -> int:
    return sum(count for status, count in run["counts"].items() if status not in ("waiting", "in_progress"))


@app.command()
def show(
    run_id: RunId,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until it ends.")] = False,
    form: Annotated[Format, typer.Option("--format", help="Of its graph, which is then all that is printed.")] = (
        Format.PICTURE
    ),
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Show a run with its graph: how far each member is, and what it waits for."""
    from cli.drawing import Drawing
    from cli.mermaid import mermaid
    from cli.run_watch import counted
    from cli.run_watch import watch as until_ended

    if watch and (as_json or form is not Format.PICTURE):
        raise typer.BadParameter("--watch draws; `runs events --follow --json` tells a program what happens")
    with connect(data_dir) as remote:
        if watch:
            until_ended(remote, run_id)
            return
        run = remote.get(f"/v1/runs/{run_id}")
        if as_json:
            print_json(run)
            return
        graph = remote.get(f"/v1/runs/{run_id}/graph")
    if form is Format.JSON:
        print_json(graph)
        return
    if form is Format.MERMAID:
        sys.stdout.write(mermaid(graph))
        return
    screen = console()
    facts = {name: run[name] for name in FACTS if run[name] not in (None, {})}
    facts["members"] = counted(run)
    if run["paused"]:
        facts["paused"] = run["pause_reason"] or "by hand"
    for name, value in facts.items():
        screen.print(f"{name:<14}{coloured(value) if name == 'status' else escape(one_line(str(value)))}")
    if run["error"]:
        screen.print(f"{'error':<14}[red]{escape(one_line(run['error']['message']))}[/]")
    screen.print()
    screen.print(Drawing(graph))


@app.command()
def events(
    run_id: RunId,
    from_seq: Annotated[int, typer.Option(min=1, help="Start at this number, of all events of run and tasks.")] = 1,
    kind: Annotated[
        str | None, typer.Option("--type", help="Only of this type.", autocompletion=completion.event_types)
    ] = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Print the events of a run and its tasks; with --follow and --json, one line for each."""
    import asyncio

    from cli.run_lines import RunEvents, part
    from cli.run_watch import follow as until_ended

    found: list[dict[str, Any]] = []
    with connect(data_dir) as remote:
        tasks = (
            {} if as_json else {task["id"]: part(task) for task in remote.pages("/v1/tasks", limit=MOST, run_id=run_id)}
        )
        view = Json(kind=kind) if as_json else RunEvents(console(), tasks, kind=kind)
        if follow:
            asyncio.run(until_ended(remote, run_id, view, after=from_seq - 1))
            return
        while page := remote.get(f"/v1/runs/{run_id}/events", fromSeq=from_seq, type=kind, limit=200)["items"]:
            found += page
            from_seq = page[-1]["cursor"] + 1
    if as_json:
        print_json(found)
        return
    with view:
        for event in found:
            view.event(event)


@app.command()
def delete(
    run_ids: Annotated[
        list[str], typer.Argument(help="The runs' ids.", metavar="RUN...", autocompletion=completion.run_ids)
    ],
    *,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Delete runs that have ended, with their tasks and all that these left."""
    with connect(data_dir) as remote:
        for run_id in run_ids:
            remote.delete(f"/v1/runs/{run_id}")
            console().print(f"deleted {run_id}")
