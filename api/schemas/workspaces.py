"""Workspaces, as controllers see them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from api.schemas.times import rfc3339
from domain.lifecycle import WorkspaceStatus


class WorkspaceOut(BaseModel):
    """The place where one attempt works."""

    model_config = ConfigDict(title="Workspace", extra="forbid")

    id: str
    task_id: str
    task_name: str
    attempt: int
    provider: str
    node_id: str | None
    status: WorkspaceStatus
    progress: JsonValue
    claimed_at: datetime | None
    last_activity_at: datetime | None
    retained_until: datetime | None = Field(description="When a workspace that was kept is destroyed.")
    created_at: datetime
    updated_at: datetime


def represent(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the representation of a row, as JSON values."""
    return {
        **row,
        "claimed_at": rfc3339(row["claimed_at"]),
        "last_activity_at": rfc3339(row["last_activity_at"]),
        "retained_until": rfc3339(row["retained_until"]),
        "created_at": rfc3339(row["created_at"]),
        "updated_at": rfc3339(row["updated_at"]),
    }
