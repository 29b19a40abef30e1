"""Files in and out: streamed in chunks of one MiB, never whole in memory, no transaction open meanwhile."""

import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from api.bodies import declares_more
from api.deps import Context
from api.problems import Problem, invalid
from domain.ids import new_id
from store import blobs

OCTETS: Final = "application/octet-stream"
BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
DOWNLOAD: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}, "description": "The file"}
}
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}", re.IGNORECASE)
_LONGEST_NAME: Final = 255
_LONGEST_PATH: Final = 1024
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A complete blob."""

    blob: str
    size: int
    sha256: str


async def receive(ctx: Context, request: Request, *, limit: int) -> Upload:
    """Store the body as a blob; raises Problem as soon as it is larger than `limit` bytes, and leaves nothing."""
    if declares_more(request, limit):
        raise Problem("too_large", f"the file is larger than {limit} bytes")
    blob = new_id()
    async with ctx.database.commit("blobs.begin") as connection:
        await blobs.begin(connection, blob)
    try:
        size, sha256 = await _store(ctx, request, blob, limit)
    except BaseException:
        async with ctx.database.commit("blobs.drop") as connection:
            await blobs.drop(connection, blob)
        raise
    return Upload(blob=blob, size=size, sha256=sha256)


async def _store(ctx: Context, request: Request, blob: str, limit: int) -> tuple[int, str]:
    digest, size, n = hashlib.sha256(), 0, 0
    pending = bytearray()
    try:
        async for piece in request.stream():
            size += len(piece)
            if size > limit:
                raise Problem("too_large", f"the file is larger than {limit} bytes")
            digest.update(piece)
            pending += piece
            while len(pending) >= blobs.CHUNK:
                n = await _append(ctx, blob, n, pending)
    except ClientDisconnect:
        raise Problem("malformed_body", "the connection was closed before the file's end") from None
    if pending:
        await _append(ctx, blob, n, pending)
    async with ctx.database.commit("blobs.complete") as connection:
        await blobs.complete(connection, blob, size=size, sha256=digest.hexdigest())
    return size, digest.hexdigest()


async def _append(ctx: Context, blob: str, n: int, pending: bytearray) -> int:
    async with ctx.database.commit("blobs.append") as connection:
        await blobs.append(connection, blob, n, bytes(pending[: blobs.CHUNK]))
    del pending[: blobs.CHUNK]
    return n + 1


async def discard(ctx: Context, upload: Upload) -> None:
    """Remove a blob that found no place."""
    async with ctx.database.commit("blobs.discard") as connection:
        await blobs.drop(connection, upload.blob)


def send(ctx: Context, row: Mapping[str, Any]) -> StreamingResponse:
    """Return a file for saving: it is never shown by a browser as part of this site."""
    name = row["name"].rpartition("/")[2]
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
        "Content-Length": str(row["size"]),
        "ETag": f'"{row["sha256"]}"',
        "Content-Security-Policy": "sandbox",
    }
    return StreamingResponse(_chunks(ctx, row["blob_id"]), media_type=row["media_type"], headers=headers)


async def _chunks(ctx: Context, blob: str) -> AsyncIterator[bytes]:
    n = 0
    while True:
        async with ctx.database.read() as connection:
            data = await blobs.chunk(connection, blob, n)
        if data is None:
            return
        yield data
        n += 1


def media_type_of(request: Request) -> str:
    """Return the body's media type without parameters, or octets if it names none."""
    given = request.headers.get("content-type", "").partition(";")[0].strip()
    return given.lower() if _MEDIA_TYPE.fullmatch(given) else OCTETS


def file_name(name: str) -> str:
    """Return a name without folders; raises Problem for one that is none."""
    if not name or "/" in name or "\\" in name or name in (".", "..") or len(name.encode()) > _LONGEST_NAME:
        raise invalid("name", "must be a file name without folders, of at most 255 bytes")
    if _CONTROL.search(name):
        raise invalid("name", "must not contain control characters")
    return name


def relative_path(name: str) -> str:
    """Return a path below a root, normalised; raises Problem for one that could lead out of it."""
    if name.startswith("/") or "\\" in name or _CONTROL.search(name) or len(name.encode()) > _LONGEST_PATH:
        raise invalid("name", "must be a relative path of at most 1024 bytes, without backslashes")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or any(len(part.encode()) > _LONGEST_NAME for part in parts):
        raise invalid("name", "must name a file below the attempt's own folder")
    return "/".join(parts)
