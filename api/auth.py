"""API keys and sessions at the door: 256 random bits, looked up by their SHA-256, remembered for a few seconds."""

import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from domain.names import NodeId, ProjectId, Scope
from domain.tokens import SESSION_PREFIX
from store import keys, sessions
from store.engine import Database

PREFIX: Final = "tr_"
_RANDOM: Final = re.compile(r"[A-Za-z0-9_-]{43}")
# A key that another process revoked is admitted here for at most this long.
REMEMBERED: Final = timedelta(seconds=3)
_MOST_REMEMBERED: Final = 10_000


def new_key() -> str:
    """Return the text of a new key."""
    return PREFIX + secrets.token_urlsafe(32)


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who calls: a key's project and scopes. With `node_id` it is that node's token, and opens its own."""

    key_id: str
    project: ProjectId
    scopes: frozenset[str]
    node_id: NodeId | None = None

    def may(self, *scopes: Scope) -> bool:
        """Return whether the key has one of these scopes; `admin` has them all, a node's token one at most."""
        if self.node_id is not None:
            return Scope.NODES_WRITE in self.scopes and Scope.NODES_WRITE in scopes
        return Scope.ADMIN in self.scopes or not self.scopes.isdisjoint(scopes)


Find = Callable[[AsyncConnection, bytes], Awaitable[dict[str, Any] | None]]


class KeyRing:
    """Finds callers by their keys, and remembers those it found, so that a request costs no query for its key."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._known: dict[bytes, tuple[float, Caller]] = {}

    async def caller(self, key: str) -> Caller | None:
        """Return who has this key; None for an unknown, malformed or revoked one."""
        return await self._behind(key, PREFIX, keys.find)

    async def visitor(self, session: str) -> Caller | None:
        """Return whose session this is; None for an unknown, malformed or expired one, or one of a revoked key."""
        return await self._behind(session, SESSION_PREFIX, sessions.find)

    async def _behind(self, text: str, prefix: str, find: Find) -> Caller | None:
        if not text.startswith(prefix) or not _RANDOM.fullmatch(text, len(prefix)):
            return None
        sha256 = keys.sha256_of(text)
        until, known = self._known.get(sha256, (0.0, None))
        if known and until > self._clock():
            return known
        async with self._database.read() as connection:
            row = await find(connection, sha256)
        if row is None:
            self.forget(sha256)
            return None
        found = Caller(
            key_id=row["id"], project=row["project"], scopes=frozenset(row["scopes"]), node_id=row["node_id"]
        )
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[sha256] = (self._clock() + REMEMBERED.total_seconds(), found)
        return found

    def forget(self, sha256: bytes) -> None:
        """Admit this key no more without asking the database."""
        self._known.pop(sha256, None)
