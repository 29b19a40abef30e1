"""Which nodes were told to take no more tasks."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("nodes", sa.Column("drains", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.execute("UPDATE nodes SET drains = true WHERE status = 'draining'")


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: restore a backup instead")
