"""Sessions: what a browser has in the place of a key."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "sessions",
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("created_at", moment, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("expires_at", moment, nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name="sessions_key_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sha256", name="sessions_pkey"),
    )
    op.create_index("sessions_key_id_ix", "sessions", ["key_id"])
    op.create_index("sessions_expires_at_ix", "sessions", ["expires_at"])


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: restore a backup instead")
