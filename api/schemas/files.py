"""Files: attachments that go in, artifacts that come out."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from api.schemas.times import rfc3339


class AttachmentOut(BaseModel):
    """An uploaded file; its `id` goes into a task's `attachments`."""

    model_config = ConfigDict(title="Attachment", extra="forbid")

    id: str
    name: str
    media_type: str
    size: int
    sha256: str


class ArtifactOut(BaseModel):
    """A file that an attempt left; `href` is where it is downloaded."""

    model_config = ConfigDict(title="Artifact", extra="forbid")

    name: str
    attempt: int
    media_type: str
    size: int
    sha256: str
    created_at: datetime
    href: str


class StoredOut(BaseModel):
    """What was stored."""

    model_config = ConfigDict(title="StoredArtifact", extra="forbid")

    name: str
    size: int
    sha256: str


def represent(task: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the representation of an artifact's row, as JSON values."""
    return {
        "name": row["name"],
        "attempt": row["attempt"],
        "media_type": row["media_type"],
        "size": row["size"],
        "sha256": row["sha256"],
        "created_at": rfc3339(row["created_at"]),
        "href": f"/v1/tasks/{task}/artifacts/{quote(row['name'])}?attempt={row['attempt']}",
    }
