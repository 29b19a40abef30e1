"""What the probes answer."""

from typing import Literal

from pydantic import BaseModel


class LiveOut(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class ReadyOut(BaseModel):
    """Requests can be served."""

    status: Literal["ok"]
    database: Literal["ok"]
    engine: Literal["ok", "unreachable"]
