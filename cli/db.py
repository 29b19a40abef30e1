"""`taskrunner db …`: the schema of the database."""

import typer

from cli.edge import read_settings
from cli.embedded.processes import first_line
from cli.screen import complain, console

app = typer.Typer(help="The schema of your own PostgreSQL.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `upgrade` a command of its own while it is the only one."""


@app.command()
def upgrade() -> None:
    """Bring the database of TASKRUNNER_DATABASE_URL up to this version; safe to repeat."""
    from sqlalchemy.exc import SQLAlchemyError

    from store import migrate

    url = read_settings().database_url
    if not url:
        complain("set TASKRUNNER_DATABASE_URL; the embedded database is upgraded by `taskrunner up`")
        raise typer.Exit(2)
    try:
        migrate.upgrade(url)
    except SQLAlchemyError as error:
        complain(f"the database could not be brought up to date: {first_line(error)}")
        raise typer.Exit(1) from None
    console().print("the database is up to date")
