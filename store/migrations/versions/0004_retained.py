"""Workspaces that are kept for a time, and attempts that wait for the node where theirs is."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("ledger", sa.Column("retained_until", sa.DateTime(timezone=True), nullable=True))
    retained = sa.text("state = 'retained'")
    op.create_index("ledger_retained_ix", "ledger", ["retained_until"], postgresql_where=retained)
    op.add_column("waiters", sa.Column("pinned", sa.Text(), nullable=True))


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: restore a backup instead")
