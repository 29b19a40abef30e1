"""The schema is what the migrations make, and what the domain says."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from enum import StrEnum
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect, text

from cli.embedded.postgres import Postgres
from domain.events import EventSource, EventType
from domain.lifecycle import (
    MEMBER_TRANSITIONS,
    NODE_TRANSITIONS,
    RUN_TRANSITIONS,
    TASK_TRANSITIONS,
    WORKSPACE_TRANSITIONS,
    MemberStatus,
    NodeStatus,
    RunStatus,
    Step,
    TaskStatus,
    WorkspaceStatus,
)
from domain.names import CallbackKind
from domain.run_spec import OnFailure, RunMode
from domain.spec import Provider
from store import migrate
from store.models import Base, DeliveryState, LedgerKind, LedgerState, OutboxKind, RunIntentKind

ENUMS: dict[str, type[StrEnum]] = {
    "tasks_status_check": TaskStatus,
    "tasks_outcome_check": TaskStatus,
    "tasks_step_check": Step,
    "events_type_check": EventType,
    "events_source_check": EventSource,
    "events_step_check": Step,
    "outbox_kind_check": OutboxKind,
    "callbacks_kind_check": CallbackKind,
    "ledger_state_check": LedgerState,
    "ledger_kind_check": LedgerKind,
    "workspaces_status_check": WorkspaceStatus,
    "workspaces_provider_check": Provider,
    "nodes_status_check": NodeStatus,
    "deliveries_state_check": DeliveryState,
    "runs_status_check": RunStatus,
    "runs_outcome_check": RunStatus,
    "runs_mode_check": RunMode,
    "runs_on_failure_check": OnFailure,
    "members_status_check": MemberStatus,
    "run_events_type_check": EventType,
    "run_events_source_check": EventSource,
    "run_intents_kind_check": RunIntentKind,
}
NUMBERS = {
    "tasks_priority_check": "((priority >= 1) AND (priority <= 5))",
    "runs_priority_check": "((priority >= 1) AND (priority <= 5))",
    "nodes_used_check": "(used >= 0)",
    "feed_entries_source_check": "(num_nonnulls(task_id, run_id) = 1)",
}


@pytest.fixture
async def empty_url(postgres: Postgres) -> AsyncIterator[str]:
    """Give the URL of a database without a schema."""
    await postgres.create_database("empty")
    yield postgres.url("empty")
    await postgres.drop_database("empty")


def read(url: str, query: str) -> list[Any]:
    """Return all rows of a query."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]
    finally:
        engine.dispose()


CHECKS = "SELECT conname, pg_get_expr(conbin, conrelid) FROM pg_constraint WHERE contype = 'c' AND conrelid <> 0"
CHECKS_IN_ORDER = f"{CHECKS} ORDER BY 1"
TRANSITIONS_IN_ORDER = "SELECT machine, old_status, new_status FROM transitions ORDER BY 1, 2, 3"
FUNCTIONS = (
    "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prokind = 'f' ORDER BY 1"
)


async def test_no_drift(database_url: str) -> None:
    """`alembic check` finds no difference between the migrated database and the models."""
    assert await asyncio.to_thread(migrate.drift, database_url) == []


async def test_drift_is_seen(empty_url: str) -> None:
    """The check is worth something: a column too many is named."""
    await asyncio.to_thread(migrate.upgrade, empty_url)
    engine = create_engine(empty_url)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE nodes ADD COLUMN surplus text"))
    engine.dispose()
    [difference] = await asyncio.to_thread(migrate.drift, empty_url)
    assert "surplus" in difference


async def test_an_upgrade_may_be_repeated(empty_url: str) -> None:
    """Twice one after the other: the same schema, the same functions, one row in `alembic_version`."""
    await asyncio.to_thread(migrate.upgrade, empty_url)
    before = read(empty_url, FUNCTIONS)
    await asyncio.to_thread(migrate.upgrade, empty_url)
    assert read(empty_url, FUNCTIONS) == before
    assert len(read(empty_url, "SELECT version_num FROM alembic_version")) == 1
    assert await asyncio.to_thread(migrate.drift, empty_url) == []


async def test_an_upgrade_brings_words_and_transitions_up_to_date(empty_url: str) -> None:
    """A database of another version, with fewer words in a check and other transitions, says what the domain says."""
    await asyncio.to_thread(migrate.upgrade, empty_url)
    expected = [read(empty_url, query) for query in (CHECKS_IN_ORDER, TRANSITIONS_IN_ORDER)]
    engine = create_engine(empty_url)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE tasks DROP CONSTRAINT tasks_step_check"))
        connection.execute(text("ALTER TABLE tasks ADD CONSTRAINT tasks_step_check CHECK (step IN ('running', 'old'))"))
        connection.execute(text("DELETE FROM transitions WHERE old_status = 'queued'"))
        connection.execute(text("INSERT INTO transitions VALUES ('tasks', 'completed', 'queued')"))
    engine.dispose()
    await asyncio.to_thread(migrate.upgrade, empty_url)
    assert [read(empty_url, query) for query in (CHECKS_IN_ORDER, TRANSITIONS_IN_ORDER)] == expected


async def test_four_processes_may_upgrade_at_once(empty_url: str) -> None:
    """Each returns with the schema in place; one of them made it."""
    await asyncio.gather(*(asyncio.to_thread(migrate.upgrade, empty_url) for _ in range(4)))
    assert len(read(empty_url, "SELECT version_num FROM alembic_version")) == 1
    assert await asyncio.to_thread(migrate.drift, empty_url) == []


def test_every_check_is_the_domains(database_url: str) -> None:
    """Each CHECK constraint holds exactly the values of its enum; there is no other."""
    found: dict[str, str] = dict(read(database_url, CHECKS))
    assert set(found) == set(ENUMS) | set(NUMBERS)
    for name, enum in ENUMS.items():
        assert set(re.findall(r"'([^']+)'::text", found[name])) == {str(value) for value in enum}, name
    for name, expression in NUMBERS.items():
        assert found[name] == expression


def test_every_transition_is_the_domains(database_url: str) -> None:
    """The table that the guard reads holds the domain's pairs and no other."""
    machines: dict[str, Mapping[Any, frozenset[Any]]] = {
        "tasks": TASK_TRANSITIONS,
        "workspaces": WORKSPACE_TRANSITIONS,
        "nodes": NODE_TRANSITIONS,
        "runs": RUN_TRANSITIONS,
        "members": MEMBER_TRANSITIONS,
    }
    expected = {
        (machine, str(old), str(new))
        for machine, pairs in machines.items()
        for old, news in pairs.items()
        for new in news
    }
    assert set(read(database_url, "SELECT machine, old_status, new_status FROM transitions")) == expected


def test_every_machine_is_guarded(database_url: str) -> None:
    """The trigger stands on the table of each machine."""
    rows = read(database_url, "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal")
    assert {name for (name,) in rows} == {f"{machine}_transition" for machine in migrate.GUARDED}


def test_every_foreign_key_has_an_index(database_url: str) -> None:
    """Deleting a row does not scan its children: each foreign key's columns begin a primary key or an index."""
    engine = create_engine(database_url)
    seen: Any = inspect(engine)
    missing = [
        (table, key["constrained_columns"])
        for table in Base.metadata.tables
        for key in seen.get_foreign_keys(table)
        if not any(
            list(begin[: len(key["constrained_columns"])]) == key["constrained_columns"]
            for begin in (
                seen.get_pk_constraint(table)["constrained_columns"],
                *(index["column_names"] for index in seen.get_indexes(table)),
            )
        )
    ]
    engine.dispose()
    assert missing == []
