"""Projects take turns: when one took its last slot is looked up at each grant."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ledger_turns_ix", "ledger", ["project", "created_at"], postgresql_where=sa.text("kind = 'slot'")
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: restore a backup instead")
