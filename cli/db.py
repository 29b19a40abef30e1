"""`taskrunner db …`: the schema of the database."""

import typer

from cli.edge import read_settings
from cli.screen import complain, console

app = typer.Typer(help="The schema of your own PostgreSQL.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `upgrade` a command of its own while it is the only one."""


@app.command()
def upgrade() -> None:
    """Bring the database of TASKRUNNER_DATABASE_URL up to this version; safe to repeat."""
    from store import migrate

    url = read_settings().database_url
    if not url:
        complain("set TASKRUNNER_DATABASE_URL; the embedded database is upgraded by `taskrunner up`")
        raise typer.Exit(2)
    migrate.upgrade(url)
    console().print("the database is up to date")
