"""Which turn of a conversation wrote a piece of output."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("log_chunks", sa.Column("turn", sa.Integer(), server_default=sa.text("1"), nullable=False))
    # The one that is installed next has the turn as a last argument with a default: a caller of before finds it.
    op.execute("DROP FUNCTION IF EXISTS append_log(text, text, int, bigint, bytea, bigint)")


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: restore a backup instead")
