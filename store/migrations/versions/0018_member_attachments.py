"""Which members of runs name an attachment: found without reading them."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "members_attachments_ix",
        "members",
        [sa.text("(task -> 'attachments')")],
        postgresql_using="gin",
        postgresql_where=sa.text("task ? 'attachments'"),
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: restore a backup instead")
