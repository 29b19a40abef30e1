"""Bring a database up to date: the migrations make the tables; functions, words and transitions come from the code.

The functions in `functions/`, the words that an enum's check allows and the lifecycle's transitions are installed by
every upgrade as they are in this version, so they need no revision of their own: a new step is a row in the domain.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, Connection, create_engine, delete, insert, select, text, tuple_
from sqlalchemy.schema import AddConstraint

from domain.lifecycle import (
    MEMBER_TRANSITIONS,
    NODE_TRANSITIONS,
    RUN_TRANSITIONS,
    TASK_TRANSITIONS,
    WORKSPACE_TRANSITIONS,
)
from store.models import Base, Transition

HERE = Path(__file__).parent
FUNCTIONS = (
    "new_uuid7",
    "append_events",
    "append_to_log",
    "flush_task",
    "serves",
    "grant_slots",
    "free_slot",
    "forsake_node",
    "desert_node",
    "lose_nodes",
    "provide_node",
    "release_attempt",
    "conclude_task",
    "end_attempt",
    "reserve_workspace",
    "wait_for_slot",
    "receive_callback",
    "append_log",
    "note_progress",
    "event_envelope",
    "append_run_events",
    "append_to_run_log",
    "unseen_commands",
    "flush_run",
    "run_event_envelope",
    "sequence_feeds",
)

GUARDED: Mapping[str, Mapping[Any, frozenset[Any]]] = {
    "tasks": TASK_TRANSITIONS,
    "workspaces": WORKSPACE_TRANSITIONS,
    "nodes": NODE_TRANSITIONS,
    "runs": RUN_TRANSITIONS,
    "members": MEMBER_TRANSITIONS,
}


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
            _align_words(connection)
            _align_transitions(connection)
            connection.commit()
            connection.execute(text("SELECT pg_advisory_unlock_all()"))
            connection.commit()
    finally:
        engine.dispose()


def _align_words(connection: Connection) -> None:
    """Make each enum's check allow the domain's words, where it allows others."""
    query = text("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = :name")
    for table in Base.metadata.tables.values():
        for check in table.constraints:
            words: frozenset[str] | None = check.info.get("words")
            if words is None or not isinstance(check, CheckConstraint):
                continue
            found = connection.execute(query, {"name": check.name}).scalar_one()
            if frozenset(re.findall(r"'([^']*)'", found)) != words:
                connection.execute(text(f"ALTER TABLE {table.name} DROP CONSTRAINT {check.name}"))
                connection.execute(AddConstraint(check, isolate_from_table=False))


def _align_transitions(connection: Connection) -> None:
    """Make the guard's table say what the lifecycle tables say."""
    wanted = {
        (machine, str(old), str(new))
        for machine, transitions in GUARDED.items()
        for old, following in transitions.items()
        for new in following
    }
    rows = connection.execute(select(Transition.machine, Transition.old_status, Transition.new_status))
    found = {(row.machine, row.old_status, row.new_status) for row in rows}
    key = tuple_(Transition.machine, Transition.old_status, Transition.new_status)
    if found - wanted:
        connection.execute(delete(Transition).where(key.in_(found - wanted)))
    if wanted - found:
        names = ("machine", "old_status", "new_status")
        connection.execute(insert(Transition), [dict(zip(names, row, strict=True)) for row in wanted - found])


def drift(url: str) -> list[str]:
    """Return what `alembic check` would complain of: differences between the database and the models."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_server_default": False})
            return [str(difference) for difference in compare_metadata(context, Base.metadata)]
    finally:
        engine.dispose()
