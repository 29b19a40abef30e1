"""Since when a task is held, until when at the latest, and for how long its current visit was held before."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tasks", sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("tasks", sa.Column("paused_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("tasks", sa.Column("paused_seconds", sa.Double(), server_default="0", nullable=False))


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: restore a backup instead")
