"""JSON as PostgreSQL's `jsonb` can hold it."""

import json
import re
from datetime import datetime
from typing import Any, Final

# An escaped backslash is passed over as a whole: what follows it is text and no escape.
_ESCAPES: Final = re.compile(r"\\\\|\\u0000")
_REPLACEMENT: Final = "\\ufffd"


def dumps(value: Any) -> str:
    """Return `value` as JSON text.

    `jsonb` holds neither NUL nor half a surrogate pair, and a workspace's output may hold both: they become U+FFFD and
    a question mark. Raises ValueError for NaN and infinities, which are no JSON.
    """
    text = json.dumps(value, default=_plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if "\\u0000" in text:
        text = _ESCAPES.sub(lambda escape: _REPLACEMENT if escape[0] == "\\u0000" else escape[0], text)
    return text.encode("utf-8", "replace").decode()


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
