"""Conversations: the next message, and the end."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from domain.spec import STORABLE, Body

Message = Annotated[str, StringConstraints(min_length=1, pattern=r"\S"), STORABLE]


class FollowupBody(Body):
    """What `followups` takes."""

    message: Message = Field(description="What the agent shall do next; at most 256,000 bytes of UTF-8.")


class CloseBody(Body):
    """What `close` takes: nothing yet."""


class FollowupOut(BaseModel):
    """The message was taken."""

    model_config = ConfigDict(extra="forbid")

    turn: int = Field(description="The turn in which the agent gets the message; the first command was turn 1.")


class CloseOut(BaseModel):
    """The conversation ends: the task completes."""

    model_config = ConfigDict(extra="forbid")

    result: str
