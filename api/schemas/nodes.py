"""Nodes: what registers one, and its representation."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from api.schemas.times import rfc3339
from domain.lifecycle import NodeStatus
from domain.spec import Body, Label, LabelValue


class NodeBody(Body):
    """A machine that hosts workspaces."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    slots: Annotated[int, Field(ge=0, le=10_000)]
    labels: dict[Label, LabelValue] = Field(default_factory=dict, max_length=32)
    facts: dict[str, JsonValue] = Field(default_factory=dict, max_length=64)


class ReportBody(Body):
    """What a node tells when it reports in: nothing yet."""


class NodeOut(BaseModel):
    """A node; `used` of its `slots` are taken."""

    model_config = ConfigDict(title="Node", extra="forbid")

    id: str
    status: NodeStatus
    slots: int
    used: int
    labels: dict[str, str]
    facts: dict[str, Any]
    created_at: datetime
    last_heartbeat_at: datetime | None


def represent(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the representation of a row, as JSON values."""
    return {
        **row,
        "created_at": rfc3339(row["created_at"]),
        "last_heartbeat_at": rfc3339(row["last_heartbeat_at"]),
    }
