"""What a node measures of itself, and since when the API has been there to hear nodes."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("cpu", "memory", "load"):
        op.add_column("nodes", sa.Column(name, sa.Double(), nullable=True))
    op.create_table(
        "hearing",
        sa.Column("of", sa.Text(), server_default="nodes", nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("of", name="hearing_pkey"),
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: restore a backup instead")
