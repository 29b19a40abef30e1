"""The command line: `taskrunner …`. Commands import what they need when they run, so that each starts quickly."""

import sys

import typer

from cli import db, keys, tasks
from cli.data_dir import RunsAlreadyError
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
from cli.up import up
from cli.watch import watch

app = typer.Typer(
    name="taskrunner",
    help="Durable tasks in fresh workspaces.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (up, demo, start, watch, health, doctor, worker, api, replay, reconcile):
    app.command()(command)
app.add_typer(tasks.app, name="tasks")
app.add_typer(keys.app, name="keys")
app.add_typer(db.app, name="db")

# What a person can act on is a sentence; everything else is a fault of ours and keeps its traceback.
EXPECTED = (RemoteError, ChildFailedError, NoIdentityError, RunsAlreadyError)


def main() -> None:
    """Run the command that the arguments name."""
    try:
        app()
    except EXPECTED as error:
        complain(str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
