"""Which nodes were made by a provider, and since when one of them has been idle."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("nodes", sa.Column("provider", sa.Text(), nullable=True))
    op.add_column("nodes", sa.Column("idle_since", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: restore a backup instead")
