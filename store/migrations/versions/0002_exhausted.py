"""Tasks whose tries are exhausted, as a column that lists can be narrowed to."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# The last attempt's own event says it; an earlier one was followed by a retry.
KNOWN = """
UPDATE tasks SET exhausted = true
WHERE status = 'failed' AND EXISTS (
  SELECT FROM events WHERE task_id = tasks.id AND type = 'task.retries_exhausted' AND attempt = tasks.attempt
)
"""


def upgrade() -> None:
    op.add_column("tasks", sa.Column("exhausted", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.execute(KNOWN)
    op.create_index("tasks_exhausted_ix", "tasks", ["project", "id"], postgresql_where=sa.text("exhausted"))


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: restore a backup instead")
