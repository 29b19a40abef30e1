"""Callback tokens: a claim about one workspace's attempt, signed with HMAC-SHA256 (RFC 2104) by the API process.

    <key id>.<base64url of task, workspace, attempt, turn, expiry>.<base64url of the MAC>

We issue and check them ourselves, so the payload is a fixed record and there is no algorithm to choose.
"""

import base64
import binascii
import hmac
import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self

from domain.names import TaskId, WorkspaceId
from domain.rotation import rotating_keys

_RECORD: Final = struct.Struct(">16s16sIIQ")  # task, workspace, attempt, turn, expiry in seconds since the epoch
_KEY_LENGTHS: Final = range(16, 129)  # bytes
_LONGEST_TOKEN: Final = 256
SESSION_PREFIX: Final = "trs_"


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What a token opens: the callback routes of one workspace, for one turn of one attempt, until it expires."""

    task_id: TaskId
    workspace_id: WorkspaceId
    attempt: int
    turn: int
    expires_at: datetime


class TokenKeys:
    """The keys: the first one signs, all of them verify, so that a key can be rotated without breaking a workspace."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        if not keys:
            raise ValueError("at least one callback key is needed")
        self._keys = dict(keys)
        self._signer = next(iter(self._keys))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `id:hex,…`; raises ValueError, which names the key's id and never its bytes."""
        return cls(rotating_keys(text, what="callback key", lengths=_KEY_LENGTHS))

    def sign(self, claims: Claims) -> str:
        """Return the token; its expiry is cut to whole seconds."""
        record = _RECORD.pack(
            uuid.UUID(claims.task_id).bytes,
            uuid.UUID(claims.workspace_id).bytes,
            claims.attempt,
            claims.turn,
            int(claims.expires_at.timestamp()),
        )
        body = _encode(record)
        return f"{self._signer}.{body}.{_mac(self._keys[self._signer], self._signer, body)}"

    def session(self, key_id: str, nonce: str) -> str:
        """Return the text of a browser's session: the same for the same API key and nonce, and nobody else's."""
        # No key's id has a space in it: this is the MAC of no token.
        return SESSION_PREFIX + _mac(self._keys[self._signer], "browser session", f"{key_id}.{nonce}")

    def verify(self, token: str, *, workspace: str, now: datetime) -> Claims | None:
        """Return the claims of a genuine, unexpired token for this workspace; None for any other text.

        Every text costs one MAC and one constant-time comparison, whatever is wrong with it.
        """
        name, _, rest = token[:_LONGEST_TOKEN].partition(".")
        body, _, mac = rest.partition(".")
        known = name in self._keys
        expected = _mac(self._keys[name if known else self._signer], name, body)
        genuine = hmac.compare_digest(expected.encode(), mac.encode())
        claims = _claims(body)
        if not (known and genuine and claims and len(token) <= _LONGEST_TOKEN):
            return None
        return claims if claims.workspace_id == workspace and claims.expires_at > now else None


def _mac(key: bytes, name: str, body: str) -> str:
    return _encode(hmac.digest(key, f"{name}.{body}".encode(), "sha256"))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _claims(body: str) -> Claims | None:
    try:
        record = base64.b64decode(body, altchars=b"-_", validate=True)
        task, workspace, attempt, turn, expiry = _RECORD.unpack(record)
        expires_at = datetime.fromtimestamp(expiry, UTC)
    except (binascii.Error, struct.error, ValueError, OverflowError, OSError):
        return None
    return Claims(
        task_id=TaskId(str(uuid.UUID(bytes=task))),
        workspace_id=WorkspaceId(str(uuid.UUID(bytes=workspace))),
        attempt=attempt,
        turn=turn,
        expires_at=expires_at,
    )
