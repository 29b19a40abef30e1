"""Signatures of webhooks, by the Standard Webhooks specification (standardwebhooks.com), version 1.

An endpoint's secret is derived from a key that only our processes hold, its id and a generation, with HMAC-SHA256
(RFC 2104). So no secret is stored, and a stolen database signs nothing.
"""

import base64
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Self

from domain.rotation import rotating_keys

_KEY_LENGTHS: Final = range(32, 129)  # bytes
_PREFIX: Final = "whsec_"


class SigningKeys:
    """The keys by id: the first one is for new secrets, all of them for those that were derived from them."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        if not keys:
            raise ValueError("at least one webhook key is needed")
        self._keys = dict(keys)
        self.first = next(iter(self._keys))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read `id:hex,…`, nothing for an empty text; raises ValueError, which names the key's id only."""
        found = rotating_keys(text, what="webhook key", lengths=_KEY_LENGTHS)
        return cls(found) if found else None

    def secret(self, key_id: str, webhook: str, generation: int) -> bytes | None:
        """Return a secret's 32 bytes; None when its key is not among these any more."""
        key = self._keys.get(key_id)
        return hmac.digest(key, f"webhook secret.{webhook}.{generation}".encode(), "sha256") if key else None


def shown(secret: bytes) -> str:
    """Return a secret as people copy it: `whsec_…`."""
    return _PREFIX + base64.b64encode(secret).decode()


def signed(secrets: Sequence[bytes], *, message: str, at: datetime, body: bytes) -> dict[str, str]:
    """Return the headers of one try; with two secrets (a rotation) either of them verifies it."""
    seconds = str(int(at.timestamp()))
    content = f"{message}.{seconds}.".encode() + body
    signatures = [base64.b64encode(hmac.digest(secret, content, "sha256")).decode() for secret in secrets]
    return {
        "webhook-id": message,
        "webhook-timestamp": seconds,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
