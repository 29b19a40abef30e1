"""The processes' own log."""

import json
from collections.abc import Callable, Iterator

import pytest
import structlog

from cli import journal

KEY = "tr_" + "k" * 43


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """Give what is written, and put structlog back afterwards."""
    journal.configure()
    yield lambda: capsys.readouterr().err
    structlog.reset_defaults()


def test_a_line_holds_nothing_secret(said: Callable[[], str]) -> None:
    """Telling names lose their values; keys, credentials and passwords in texts are masked, in tracebacks too."""
    log = structlog.get_logger()
    url = f"https://me:hunter2@host/{KEY}"
    nothing: dict[str, str] = {}
    try:
        nothing[f"Authorization: Bearer abc.def at {url}"]
    except KeyError:
        log.exception("fault", authorization="Bearer x", callback_token="t0ken", path=url, attempt=3)
    text = said()
    line = json.loads(text)
    assert (line["authorization"], line["callback_token"], line["attempt"]) == ("***", "***", 3)
    assert not any(secret in text for secret in ("abc.def", "hunter2", KEY, "t0ken"))
    assert "KeyError" in line["exception"]


def test_debug_lines_are_not_written(said: Callable[[], str]) -> None:
    """A request's own line is there when somebody asks for it."""
    structlog.get_logger().debug("api.request", path="/")
    assert not said()
