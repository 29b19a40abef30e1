"""API keys: what makes one, and what is shown of it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from api.schemas.times import rfc3339
from domain.names import Scope
from domain.spec import Body, Name

PROJECT = r"^[a-z0-9][a-z0-9-]{0,62}$"


class KeyBody(Body):
    """A key's name and scopes. With `node_id` it is that node's token: it registers the node, and opens its own."""

    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(Scope))]
    project: Annotated[str, StringConstraints(pattern=PROJECT)] | None = Field(
        default=None, description="Another project than the caller's: only for an admin of the project `default`."
    )
    node_id: Annotated[str, StringConstraints(pattern=PROJECT)] | None = Field(
        default=None, description="Only for an admin of the project `default`, with the scope `nodes:write` alone."
    )

    @model_validator(mode="after")
    def _of_a_node(self) -> Self:
        if self.node_id is not None and self.scopes != [Scope.NODES_WRITE]:
            raise ValueError(f"a node's token has the scope {Scope.NODES_WRITE} and no other")
        return self


class KeyOut(BaseModel):
    """A key, without its text."""

    model_config = ConfigDict(title="Key", extra="forbid")

    id: str
    project: str
    name: str
    scopes: list[Scope]
    node_id: str | None
    created_at: datetime
    revoked_at: datetime | None


class NewKeyOut(KeyOut):
    """A new key, with its text: this once."""

    model_config = ConfigDict(title="NewKey", extra="forbid")

    key: str | None = Field(description="Null in the answer to a repeat with the same Idempotency-Key.")


def represent(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the representation of a row, as JSON values."""
    return {**row, "created_at": rfc3339(row["created_at"]), "revoked_at": rfc3339(row["revoked_at"])}
