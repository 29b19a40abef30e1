"""When nodes are made for those who wait, by whom, how many, and when they are given back."""

from datetime import timedelta
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from domain.durations import Span


class NodeProvider(StrEnum):
    """Who makes nodes."""

    NONE = "none"
    PROCESS = "process"


class Provisioning(BaseModel):
    """Nodes that are made when slots are missing, and given back when they are idle."""

    model_config = ConfigDict(frozen=True)

    provider: NodeProvider = Field(
        default=NodeProvider.NONE,
        description="`process`: nodes are processes beside the control worker; `none`: no nodes.",
    )
    labels: dict[str, str] = Field(
        default={}, description="JSON; nodes are made with these labels, for tasks that ask for exactly these."
    )
    slots: int = Field(default=2, ge=1, description="Slots of a node that is made.")
    most: int = Field(default=4, ge=0, description="Made nodes at once.")
    waiting: int = Field(
        default=0,
        ge=0,
        description="So many tasks may wait before a node is made for the next one: short waits are cheaper.",
    )
    keep_warm: Span = Field(
        default=timedelta(minutes=30),
        description="How long a made node stays when it is idle: the next load finds it warm.",
    )
