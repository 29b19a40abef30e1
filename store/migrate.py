"""Bring a database up to date: the migrations make the tables, the files in `functions/` the functions.

Functions are code: every upgrade installs them as they are in this version, so they need no revision of their own.
"""

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from store.models import Base

HERE = Path(__file__).parent
FUNCTIONS = (
    "append_events",
    "append_to_log",
    "flush_task",
    "grant_slots",
    "release_attempt",
    "conclude_task",
    "reserve_workspace",
    "wait_for_slot",
    "receive_callback",
    "append_log",
    "note_progress",
)


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(HERE / "migrations"))
    config.attributes["url"] = url
    return config


def upgrade(url: str) -> None:
    """Upgrade the database at `url` to this version; safe to call from several processes at once."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            # One upgrader at a time: the others find nothing left to do.
            connection.execute(text("SELECT pg_advisory_lock(hashtext('taskrunner.migrate'))"))
            connection.commit()
            command.upgrade(_config(url), "head")
            for name in FUNCTIONS:
                # The driver reads % as the start of a parameter, and would number the %s of format().
                connection.exec_driver_sql((HERE / "functions" / f"{name}.sql").read_text().replace("%", "%%"))
            connection.commit()
            connection.execute(text("SELECT pg_advisory_unlock_all()"))
            connection.commit()
    finally:
        engine.dispose()


def drift(url: str) -> list[str]:
    """Return what `alembic check` would complain of: differences between the database and the models."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_server_default": False})
            return [str(difference) for difference in compare_metadata(context, Base.metadata)]
    finally:
        engine.dispose()
