"""Events: the envelope, as JSON values."""

from collections.abc import Mapping
from typing import Any

from api.schemas.times import rfc3339


def represent(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the envelope of a row; its model is `domain.events.Event`."""
    return {
        "task_id": row["task_id"],
        "run_id": row["run_id"],
        "attempt": row["attempt"],
        "seq": row["seq"],
        "ts": rfc3339(row["ts"]),
        "type": row["type"],
        "v": 1,
        "source": row["source"],
        "step": row["step"],
        "data": row["data"],
    }
