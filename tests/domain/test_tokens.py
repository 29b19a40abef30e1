"""Callback tokens: what verifies, and what does not."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from domain.names import TaskId, WorkspaceId
from domain.tokens import Claims, TokenKeys

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEYS = TokenKeys.parse(f"new:{'11' * 32},old:{'22' * 32}")
CLAIMS = Claims(
    task_id=TaskId(str(uuid.UUID(int=1))),
    workspace_id=WorkspaceId(str(uuid.UUID(int=2))),
    attempt=3,
    turn=4,
    expires_at=NOW + timedelta(hours=1),
)


def test_a_token_gives_back_its_claims() -> None:
    """What was signed is what is verified."""
    assert KEYS.verify(KEYS.sign(CLAIMS), workspace=CLAIMS.workspace_id, now=NOW) == CLAIMS


def test_a_token_of_the_previous_key_is_still_good() -> None:
    """The first key signs and all of them verify."""
    old = TokenKeys.parse(f"old:{'22' * 32}").sign(CLAIMS)
    assert KEYS.verify(old, workspace=CLAIMS.workspace_id, now=NOW) == CLAIMS
    assert KEYS.sign(CLAIMS).startswith("new.")


@pytest.mark.parametrize("mutation", range(200))
def test_no_changed_character_is_accepted(mutation: int) -> None:
    """Each character of a token counts, the last one's spare bits too."""
    token = KEYS.sign(CLAIMS)
    place = mutation % len(token)
    other = "B" if token[place] != "B" else "C"
    changed = token[:place] + other + token[place + 1 :]
    assert KEYS.verify(changed, workspace=CLAIMS.workspace_id, now=NOW) is None


@pytest.mark.parametrize("text", ["", ".", "..", "new", "new..", "new.a.b", "é.ü.ö", "x" * 10_000, "new." + "A" * 64])
def test_no_other_text_is_accepted(text: str) -> None:
    """Malformed texts are refused like forged ones, without an exception."""
    assert KEYS.verify(text, workspace=CLAIMS.workspace_id, now=NOW) is None


def test_a_token_is_refused_elsewhere_and_afterwards() -> None:
    """It opens its own workspace, and only until it expires."""
    token = KEYS.sign(CLAIMS)
    assert KEYS.verify(token, workspace=str(uuid.UUID(int=5)), now=NOW) is None
    assert KEYS.verify(token, workspace=CLAIMS.workspace_id, now=CLAIMS.expires_at) is None


@pytest.mark.parametrize("text", ["", "nohex:zz", "short:00", "a:" + "00" * 32 + ",a:" + "11" * 32, ":" + "00" * 32])
def test_keys_that_make_no_sense_are_refused(text: str) -> None:
    """The message names the key and not its bytes."""
    with pytest.raises(ValueError, match="callback key") as raised:
        TokenKeys.parse(text)
    assert "0000" not in str(raised.value)
