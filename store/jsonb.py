"""JSON as PostgreSQL's `jsonb` can hold it."""

import json
import re
from datetime import datetime
from math import isfinite
from typing import Any, Final

# An escaped backslash is passed over as a whole: what follows it is text and no escape.
_ESCAPES: Final = re.compile(r"\\\\|\\u0000")
_REPLACEMENT: Final = "\\ufffd"


def dumps(value: Any) -> str:
    """Return `value` as JSON text.

    A workspace's output may hold what `jsonb` cannot: NUL becomes U+FFFD, half a surrogate pair a question mark, NaN
    and the infinities null.
    """
    try:
        text = _written(value)
    except ValueError:
        text = _written(_finite(value))
    if "\\u0000" in text:
        text = _ESCAPES.sub(lambda escape: _REPLACEMENT if escape[0] == "\\u0000" else escape[0], text)
    return text.encode("utf-8", "replace").decode()


def _written(value: Any) -> str:
    return json.dumps(value, default=_plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
