"""Which tasks name an attachment: found without reading them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "tasks_attachments_ix",
        "tasks",
        [sa.text("(spec -> 'attachments')")],
        postgresql_using="gin",
        postgresql_where=sa.text("spec ? 'attachments'"),
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: restore a backup instead")
