"""Blobs: bytes in chunks, each written and read by itself, so that no transaction lasts as long as a transfer.

A blob whose `sha256` is empty was never completed: its upload is under way, or its process died.
"""

from typing import Final

from sqlalchemy import bindparam, delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from store.models import Blob, BlobChunk

CHUNK: Final = 1024 * 1024
_CHUNK: Final = select(BlobChunk.data).where(BlobChunk.blob_id == bindparam("blob"), BlobChunk.n == bindparam("n"))
_APPEND: Final = text("INSERT INTO blob_chunks (blob_id, n, data) VALUES (:blob, :n, :data)")


async def begin(connection: AsyncConnection, blob: str) -> None:
    """Make an empty blob."""
    await connection.execute(insert(Blob).values(id=blob, size=0, sha256=""))


async def append(connection: AsyncConnection, blob: str, n: int, data: bytes) -> None:
    """Write the chunk with the number `n`, counted from 0."""
    await connection.execute(_APPEND, {"blob": blob, "n": n, "data": data})


async def complete(connection: AsyncConnection, blob: str, *, size: int, sha256: str) -> None:
    """Say that all chunks are there."""
    await connection.execute(update(Blob).where(Blob.id == blob).values(size=size, sha256=sha256))


async def drop(connection: AsyncConnection, blob: str) -> None:
    """Remove a blob with its chunks, and whatever refers to it."""
    await connection.execute(delete(Blob).where(Blob.id == blob))


async def chunk(connection: AsyncConnection, blob: str, n: int) -> bytes | None:
    """Return the chunk with the number `n`; None after the last one."""
    data: bytes | None = (await connection.execute(_CHUNK, {"blob": blob, "n": n})).scalar_one_or_none()
    return data
