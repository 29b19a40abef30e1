"""The order of grants: who awaits a node's report waits in the queue of slots, and nodes take turns."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("nodes", sa.Column("taken_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("waiters", sa.Column("awaits", sa.Text(), nullable=True))
    # Who awaited a report was noted as granted, without a slot.
    op.execute("""
        UPDATE waiters w
        SET awaits = granted, granted = NULL, labels = coalesce(t.spec -> 'node_labels', '{}')
        FROM tasks t
        WHERE t.id = w.task_id AND granted IS NOT NULL AND NOT EXISTS (
          SELECT FROM ledger l
          WHERE l.task_id = w.task_id AND l.attempt = w.attempt AND l.kind = 'slot' AND l.state <> 'released')
    """)
    # The one that is installed next has what is awaited as a last argument with a default: a caller of before finds it.
    op.execute("DROP FUNCTION IF EXISTS wait_for_slot(text, int, bigint, jsonb, int, jsonb, text)")


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: restore a backup instead")
