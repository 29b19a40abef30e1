"""Runs: their rows, members, logs, commands and intents; the tasks that belong to them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
NOW = sa.text("clock_timestamp()")
# The checks of words are aligned with the domain by every upgrade.
WORDS = {
    "runs": ("status", "outcome", "mode", "on_failure"),
    "members": ("status",),
    "run_events": ("type", "source"),
    "run_intents": ("kind",),
}


def _json(name: str, default: str | None = None) -> sa.Column[object]:
    kind = JSONB(none_as_null=True)
    return sa.Column(name, kind, server_default=default, nullable=default is None)


def _of_run(name: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=f"{name}_run_id_fkey", ondelete="CASCADE")


def _words(table: str) -> list[sa.CheckConstraint]:
    return [sa.CheckConstraint(f"{word} IN ('')", name=op.f(f"{table}_{word}_check")) for word in WORDS[table]]


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text()),
        sa.Column("attempt", sa.Integer(), server_default="1", nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("on_failure", sa.Text(), nullable=False),
        sa.Column("max_parallel", sa.Integer()),
        _json("edges", "[]"),
        sa.Column("priority", sa.Integer(), server_default="3", nullable=False),
        _json("labels", "{}"),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("pause_token", sa.Text()),
        sa.Column("pause_reason", sa.Text()),
        sa.Column("paused_at", TIME),
        _json("breakpoints"),
        sa.Column("superstep", sa.Integer(), server_default="0", nullable=False),
        _json("state", "{}"),
        _json("state_versions", "{}"),
        sa.Column("merged", sa.Integer(), server_default="0", nullable=False),
        _json("reducers", "{}"),
        _json("error"),
        sa.Column("version", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("last_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cancel_requested_at", TIME),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("started_at", TIME),
        sa.Column("finished_at", TIME),
        sa.Column("checked_at", TIME),
        sa.Column("traceparent", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="runs_pkey"),
        *_words("runs"),
        sa.CheckConstraint("priority BETWEEN 1 AND 5", name=op.f("runs_priority_check")),
    )
    op.create_index("runs_project_id_ix", "runs", ["project", "id"])
    op.create_index(
        "runs_labels_ix", "runs", ["labels"], postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"}
    )
    is_open = sa.text("status IN ('queued', 'in_progress')")
    op.create_index("runs_open_ix", "runs", ["checked_at"], postgresql_where=is_open)
    op.create_index("runs_finished_at_ix", "runs", ["finished_at"])
    op.create_table(
        "members",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("task", JSONB(none_as_null=True), nullable=False),
        _json("fan_out"),
        sa.Column("affinity", sa.Text()),
        sa.Column("expected_seconds", sa.Double()),
        sa.Column("size", sa.Integer()),
        _json("error"),
        sa.Column("started_at", TIME),
        sa.Column("finished_at", TIME),
        sa.PrimaryKeyConstraint("run_id", "name", name="members_pkey"),
        *_words("members"),
        _of_run("members"),
    )
    op.create_index("members_run_id_position_ix", "members", ["run_id", "position"], unique=True)
    written_by = sa.text("(pg_current_xact_id()::text::bigint)")
    op.create_table(
        "run_events",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("ts", TIME, nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("data", JSONB(none_as_null=True), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("xid", sa.BigInteger(), server_default=written_by, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "seq", name="run_events_pkey"),
        *_words("run_events"),
        _of_run("run_events"),
    )
    op.create_index("run_events_run_id_key_ix", "run_events", ["run_id", "key"], unique=True)
    op.create_index("run_events_xid_ix", "run_events", ["xid"])
    op.create_table(
        "run_commands",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("n", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("body", JSONB(none_as_null=True), nullable=False),
        sa.Column("plan", JSONB(none_as_null=True), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "n", name="run_commands_pkey"),
        _of_run("run_commands"),
    )
    op.create_table(
        "run_intents",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        _json("body"),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("due_at", TIME, server_default=NOW, nullable=False),
        sa.Column("leased_until", TIME),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_error", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="run_intents_pkey"),
        *_words("run_intents"),
    )
    op.create_index("run_intents_due_at_ix", "run_intents", ["due_at"])
    op.create_index("run_intents_run_id_ix", "run_intents", ["run_id"])
    op.create_table(
        "fed_runs",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name="fed_runs_pkey"),
        _of_run("fed_runs"),
    )
    op.add_column("tasks", sa.Column("member", sa.Text()))
    op.add_column("tasks", sa.Column("item", sa.Integer()))
    op.drop_index("tasks_run_id_ix", "tasks")
    op.create_index(
        "tasks_run_id_member_item_ix",
        "tasks",
        ["run_id", "member", "item"],
        unique=True,
        postgresql_where=sa.text("run_id IS NOT NULL"),
        postgresql_nulls_not_distinct=True,
    )
    op.alter_column("feed_entries", "task_id", nullable=True)
    op.alter_column("feed_entries", "task_seq", nullable=True)
    op.add_column("feed_entries", sa.Column("run_id", sa.Text()))
    op.add_column("feed_entries", sa.Column("run_seq", sa.BigInteger()))
    op.create_foreign_key(
        "feed_entries_run_id_fkey", "feed_entries", "runs", ["run_id"], ["id"], ondelete="CASCADE"
    )
    op.create_check_constraint(op.f("feed_entries_source_check"), "feed_entries", "num_nonnulls(task_id, run_id) = 1")
    op.create_index("feed_entries_run_id_ix", "feed_entries", ["run_id"])
    for table in ("runs", "members"):
        op.execute(
            f"CREATE TRIGGER {table}_transition BEFORE UPDATE OF status ON {table} FOR EACH ROW"
            " WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION guard_transition()"
        )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: restore a backup instead")
