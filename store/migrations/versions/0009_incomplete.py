"""Uploads that were never completed, for the reaper."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("blobs_incomplete_ix", "blobs", ["created_at"], postgresql_where=sa.text("sha256 = ''"))


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: restore a backup instead")
