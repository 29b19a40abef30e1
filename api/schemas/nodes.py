"""Nodes: what registers one, and its representation."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from api.schemas.times import rfc3339
from domain.lifecycle import NodeStatus
from domain.spec import Body, Label, LabelValue

Home = Annotated[
    str | None,
    StringConstraints(min_length=1, max_length=64),
    Field(description="The machine, by an id that it keeps: a node is one machine at a time."),
]


class NodeBody(Body):
    """A machine that hosts workspaces. Without an `id` it is the node whose token this is."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] | None = None
    slots: Annotated[int, Field(ge=0, le=10_000)]
    labels: dict[Label, LabelValue] = Field(default_factory=dict, max_length=32)
    facts: dict[str, JsonValue] = Field(default_factory=dict, max_length=64)
    home: Home = None


class ReportBody(Body):
    """What a node tells when it reports in: the ids of the workspaces that it has."""

    workspaces: list[Annotated[str, StringConstraints(max_length=128)]] = Field(default_factory=list, max_length=10_000)
    home: Home = None


Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class BeatBody(Body):
    """What a node tells with each heartbeat: the shares of processor and memory that are in use."""

    cpu: Share | None = None
    memory: Share | None = None
    home: Home = None


class DrainBody(Body):
    """How a node goes: when its last task has ended, or at once, since it is `gone` already and does not come back."""

    gone: bool = False


class NodeOut(BaseModel):
    """A node; `used` of its `slots` are taken."""

    model_config = ConfigDict(title="Node", extra="forbid")

    id: str
    status: NodeStatus
    slots: int
    used: int
    labels: dict[str, str]
    facts: dict[str, Any]
    cpu: float | None = Field(description="The share of its processors in use, by its last heartbeat.")
    memory: float | None = Field(description="The share of its memory in use, by its last heartbeat.")
    created_at: datetime
    last_heartbeat_at: datetime | None


class EngineOut(BaseModel):
    """Where Temporal is. What opens it is told nobody: a node has that in its own environment."""

    model_config = ConfigDict(title="Engine", extra="forbid")

    address: str
    namespace: str
    payload_key: str | None = Field(description="The id of the key that encrypts histories; null: they are not.")


class RegisteredOut(NodeOut):
    """A node that was registered, and what it needs to know for its work."""

    model_config = ConfigDict(title="RegisteredNode", extra="forbid")

    heartbeat_seconds: float = Field(description="How often it is to be heard.")
    temporal: EngineOut


class ReportedOut(NodeOut):
    """A node that has reported in, and which of its workspaces are not its own any more: it destroys them."""

    model_config = ConfigDict(title="ReportedNode", extra="forbid")

    not_own: list[str]


def represent(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the representation of a row, as JSON values."""
    return {
        **row,
        "created_at": rfc3339(row["created_at"]),
        "last_heartbeat_at": rfc3339(row["last_heartbeat_at"]),
    }
