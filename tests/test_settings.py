"""Settings: from the environment, from files, and never inconsistent."""

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from settings import Settings


def test_a_setting_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds or ISO-8601, groups by two underscores."""
    monkeypatch.setenv("TASKRUNNER_BUDGETS__CLEANUP", "90")
    monkeypatch.setenv("TASKRUNNER_STUCK_AFTER", "PT2H")
    settings = Settings()
    assert (settings.policy.budgets.cleanup, settings.stuck_after) == (timedelta(seconds=90), timedelta(hours=2))


def test_a_secret_may_be_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file's name is the setting's, in small letters; the environment wins over it."""
    (tmp_path / "taskrunner_callback_keys").write_text("k:00")
    (tmp_path / "taskrunner_host").write_text("10.0.0.1")
    monkeypatch.setenv("TASKRUNNER_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("TASKRUNNER_HOST", "10.0.0.2")
    settings = Settings()
    assert (settings.callback_keys.get_secret_value(), settings.host) == ("k:00", "10.0.0.2")


def test_an_inconsistent_set_refuses_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names both settings as the environment does, with their values."""
    monkeypatch.setenv("TASKRUNNER_SUPERVISION__LEASE", "600")
    with pytest.raises(ValidationError) as refused:
        Settings()
    [error] = refused.value.errors()
    first, second = "TASKRUNNER_SUPERVISION__LEASE (0:10:00)", "TASKRUNNER_SUPERVISION__LOST_AFTER (0:03:00)"
    assert error["msg"] == f"Value error, {first} must be shorter than {second}"


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither keys nor tokens stand in a settings object's text."""
    monkeypatch.setenv("TASKRUNNER_CALLBACK_KEYS", "k:c0ffee")
    monkeypatch.setenv("TASKRUNNER_NODE_TOKEN", "tr_c0ffee")
    assert "c0ffee" not in repr(Settings())
