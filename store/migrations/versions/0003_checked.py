"""When a task's step began, and when the reconciler last looked at the task."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

OPEN = "status IN ('queued', 'delegated', 'in_progress')"
# The open tasks are few, and their logs say it.
KNOWN = f"""
UPDATE tasks SET step_started_at = (
  SELECT ts FROM events WHERE task_id = tasks.id AND type = 'step.started' ORDER BY seq DESC LIMIT 1
)
WHERE {OPEN} AND step IS NOT NULL
"""


def upgrade() -> None:
    op.add_column("tasks", sa.Column("step_started_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("tasks", sa.Column("checked_at", sa.DateTime(timezone=True), nullable=True))
    op.execute(KNOWN)
    op.create_index("tasks_open_ix", "tasks", ["checked_at"], postgresql_where=sa.text(OPEN))
    op.create_index("tasks_finished_at_ix", "tasks", ["finished_at"])


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: restore a backup instead")
