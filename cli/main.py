"""The command line: `taskrunner …`. Commands import what they need when they run, so that each starts quickly."""

import contextlib
import os
import sys
from typing import Final

import typer

from cli import db, examples, keys, nodes, run_steering, runs, tasks, webhooks
from cli.data_dir import DataDirError, RunsAlreadyError
from cli.demo import demo
from cli.doctor import doctor
from cli.embedded.identity import NoIdentityError
from cli.embedded.processes import ChildFailedError
from cli.health import health
from cli.reconcile import reconcile
from cli.remote import RemoteError
from cli.replay import replay
from cli.screen import complain
from cli.serve import api, worker
from cli.start import start
from cli.steering import breakpoints, close, followup, pause, resume
from cli.up import up
from cli.watch import watch

app = typer.Typer(
    name="taskrunner",
    help="Durable tasks in fresh workspaces. Begin with `taskrunner up`, then `taskrunner start -- make test`",
    epilog="Exit codes: 0 done, 1 failed, 2 wrongly used, 130 Ctrl-C; `start` has its task's, `health` its level's.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
# By what a person comes for; within each, the first thing first.
PANELS: Final = {
    "Begin": (up, demo, doctor),
    "Tasks": (start, watch),
    "Look after it": (health, reconcile, replay),
    "Run it by parts": (api, worker),
}
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
for steering in (pause, resume, breakpoints, followup, close):
    tasks.app.command()(steering)
for steers in (
    run_steering.cancel,
    run_steering.pause,
    run_steering.resume,
    run_steering.breakpoints,
    run_steering.command,
    run_steering.retry,
):
    runs.app.command()(steers)
app.add_typer(tasks.app, name="tasks", rich_help_panel="Tasks")
app.add_typer(runs.app, name="runs", rich_help_panel="Tasks")
app.add_typer(nodes.app, name="nodes", rich_help_panel="Look after it")
app.add_typer(keys.app, name="keys", rich_help_panel="Look after it")
app.add_typer(webhooks.app, name="webhooks", rich_help_panel="Look after it")
app.add_typer(db.app, name="db", rich_help_panel="Run it by parts")
GROUPS: Final = {
    "": app,
    "tasks ": tasks.app,
    "runs ": runs.app,
    "nodes ": nodes.app,
    "nodes tokens ": nodes.tokens,
    "keys ": keys.app,
    "webhooks ": webhooks.app,
}
for prefix, group in GROUPS.items():
    for known in group.registered_commands:
        name = known.name or (known.callback.__name__ if known.callback else "")
        known.epilog = examples.epilog(prefix + name)

CORE: Final = "temporalio.bridge.temporal_sdk_bridge"
# What a person can act on is a sentence; everything else is a fault of ours and keeps its traceback.
EXPECTED = (RemoteError, ChildFailedError, NoIdentityError, RunsAlreadyError, DataDirError)


def main() -> None:
    """Run the command that the arguments name."""
    code: str | int | None = 1
    try:
        app()
    except EXPECTED as error:
        complain(str(error))
    except SystemExit as end:
        code = end.code
    _leave(code)


def _leave(code: str | int | None) -> None:
    """End the process. Threads of Temporal's core may outlive the interpreter, which then aborts (seen on 3.11).

    So one that has loaded it ends without tearing the interpreter down: what it had to close, it has closed.
    """
    if CORE not in sys.modules or isinstance(code, str):
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    main()
