"""Keys that rotate, as settings hold them: `id:hex,…`. The first one is used for what is new, all of them for the rest.

To rotate, put a new one in front; take the old one out once nothing that it made is in use any more.
"""

import re
from collections.abc import Container
from typing import Final

_PAYLOAD_KEY: Final = (32,)  # bytes: AES-256
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")


def rotating_keys(text: str, *, what: str, lengths: Container[int]) -> dict[str, bytes]:
    """Return the keys by id, in their order; `lengths` are the numbers of bytes that such a key may have.

    Raises ValueError, which names `what` it is and the key's id, and never its bytes.
    """
    keys: dict[str, bytes] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, _, digits = entry.partition(":")
        if not _ID.fullmatch(name) or name in keys:
            raise ValueError(f"a {what} is `id:hex` with an id of its own")
        try:
            keys[name] = bytes.fromhex(digits)
        except ValueError:
            raise ValueError(f"{what} {name!r} is not hexadecimal") from None
        if len(keys[name]) not in lengths:
            raise ValueError(f"{what} {name!r} has {len(keys[name])} bytes, which is not a length for it")
    return keys


def payload_keys(text: str) -> dict[str, bytes]:
    """Return the keys that encrypt histories, by id; none for an empty text. Raises ValueError as `rotating_keys`."""
    return rotating_keys(text, what="payload key", lengths=_PAYLOAD_KEY)
