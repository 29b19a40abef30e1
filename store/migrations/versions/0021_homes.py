"""Which machine a node is."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("nodes", sa.Column("home", sa.Text(), nullable=True))


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: restore a backup instead")
