"""Times as the API writes them: RFC 3339 in UTC with microseconds."""

from datetime import UTC, datetime


def rfc3339(moment: datetime | None) -> str | None:
    """Return `2026-01-31T12:00:00.000000Z`."""
    if moment is None:
        return None
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
