"""What the reconciler's sweeps did."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sweeps",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("counts", JSONB(), nullable=False),
    )
    op.create_index("sweeps_at_ix", "sweeps", ["at"])


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: restore a backup instead")
