"""The receiver of the page about webhooks takes our messages and no others."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from domain.signatures import shown, signed

PAGE = Path(__file__).parents[2] / "docs" / "webhooks.md"
SECRET, BEFORE, MOMENT = b"s" * 32, b"o" * 32, datetime(2026, 1, 31, 12, tzinfo=UTC)
BODY = b'{"type":"task.completed","data":{"task_id":"t"}}'


@pytest.fixture
def verified() -> Any:
    """Give the function of the page."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(code, names)  # noqa: S102 - it is ours
    return names["verified"]


def test_the_example_takes_what_we_sign(verified: Any) -> None:
    """With the secret as it is shown, and with either of two while one is rotated."""
    headers = signed([SECRET, BEFORE], message="m", at=MOMENT, body=BODY)
    for secrets in ([shown(SECRET)], [shown(BEFORE)], ["whsec_AAAA", shown(SECRET)]):
        assert verified(headers, BODY, secrets, now=MOMENT.timestamp)["type"] == "task.completed"


@pytest.mark.parametrize("change", ["body", "secret", "id", "timestamp", "age", "none"])
def test_the_example_refuses_what_was_changed(verified: Any, change: str) -> None:
    """None for another body, secret, id or time, for one that is old, and for no signature of version 1."""
    headers = signed([SECRET], message="m", at=MOMENT, body=BODY)
    body, secret, now = BODY, SECRET, MOMENT.timestamp()
    if change == "body":
        body += b" "
    elif change == "secret":
        secret = BEFORE
    elif change == "id":
        headers["webhook-id"] = "n"
    elif change == "timestamp":
        headers["webhook-timestamp"] = str(int(now) + 1)
    elif change == "age":
        now += 301
    else:
        headers["webhook-signature"] = headers["webhook-signature"].replace("v1,", "v2,")
    assert verified(headers, body, [shown(secret)], now=lambda: now) is None
