"""Pages of a list: items and an opaque cursor to the next ones."""

import base64
import binascii
import re
from typing import Annotated, Any, Final, Generic, TypeVar

from fastapi import Depends, Query, Request
from pydantic import BaseModel

from api.problems import Problem, invalid
from settings import Settings

Item = TypeVar("Item")
DEFAULT_LIMIT: Final = 50
LARGEST: Final = 2**63 - 1
LARGEST_INT: Final = 2**31 - 1
_POSITION: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class Page(BaseModel, Generic[Item]):
    """One page; `next_cursor` is null on the last one."""

    items: list[Item]
    next_cursor: str | None


async def page_limit(
    request: Request,
    limit: Annotated[int, Query(ge=1, description="How many items; the default largest is 500.")] = DEFAULT_LIMIT,
) -> int:
    """Return how many items are asked for, within the settings' bound."""
    settings: Settings = request.app.state.context.settings
    if limit > settings.limits.page:
        raise invalid("limit", f"must be at most {settings.limits.page}")
    return limit


async def position(
    cursor: Annotated[str | None, Query(max_length=256, description="`next_cursor` of the page before.")] = None,
) -> str | None:
    """Return the position that a cursor stands for."""
    if cursor is None:
        return None
    try:
        found = base64.b64decode(cursor.encode() + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError):
        raise Problem("bad_cursor") from None
    if not _POSITION.fullmatch(found):
        raise Problem("bad_cursor")
    return found


async def labels(
    label: Annotated[list[str], Query(description="`key:value`; all must match.", max_length=32)] = [],  # noqa: B006 - FastAPI copies defaults
) -> dict[str, str] | None:
    """Return the labels that a list is narrowed to."""
    pairs = [each.partition(":") for each in label]
    if not all(name and colon for name, colon, _ in pairs):
        raise invalid("label", "must be key:value")
    return {name: value for name, _, value in pairs} or None


Labels = Annotated[dict[str, str] | None, Depends(labels)]
Limit = Annotated[int, Depends(page_limit)]
Position = Annotated[str | None, Depends(position)]


def page_of(items: list[dict[str, Any]], limit: int, *, key: str = "id") -> dict[str, Any]:
    """Return a page of at most `limit` items; the caller read one more than that, to see whether there is a next."""
    shown = items[:limit]
    more = len(items) > limit
    cursor = base64.urlsafe_b64encode(str(shown[-1][key]).encode()).rstrip(b"=").decode() if more else None
    return {"items": shown, "next_cursor": cursor}
