"""Feeds: a project's events under one numbering of its own."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    written_by = sa.text("(pg_current_xact_id()::text::bigint)")
    op.add_column("events", sa.Column("xid", sa.BigInteger(), server_default=written_by, nullable=False))
    op.create_index("events_xid_ix", "events", ["xid"])
    op.create_table(
        "feeds",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="feeds_pkey"),
    )
    op.create_table(
        "feed_entries",
        sa.Column("feed", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("task_seq", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="feed_entries_task_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("feed", "seq", name="feed_entries_pkey"),
    )
    op.create_index("feed_entries_task_id_ix", "feed_entries", ["task_id"])
    op.create_table(
        "fed",
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fed_task_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("task_id", name="fed_pkey"),
    )
    op.create_table(
        "feed_horizon",
        sa.Column("xid", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("xid", name="feed_horizon_pkey"),
    )
    op.execute("INSERT INTO feed_horizon (xid) VALUES (0)")


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: restore a backup instead")
