"""The processes' own log."""

import json
import logging
from collections.abc import Callable, Iterator

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider

from cli import journal

KEY = "tr_" + "k" * 43


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """Give what is written after `journal.configure()`, and put all back afterwards."""
    loggers = logging.getLogger(), logging.getLogger("uvicorn")
    before = [(list(logger.handlers), logger.level) for logger in loggers]
    yield lambda: capsys.readouterr().err
    structlog.reset_defaults()
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)


def test_a_line_holds_nothing_secret(said: Callable[[], str]) -> None:
    """Telling names lose their values; keys, credentials and passwords in texts are masked, in tracebacks too."""
    journal.configure()
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
    journal.configure()
    structlog.get_logger().debug("api.request", path="/")
    assert not said()


def test_libraries_write_the_same_lines(said: Callable[[], str]) -> None:
    """JSON, redacted, from WARNING on; uvicorn also says where it listens."""
    journal.configure()
    logging.getLogger("somebody").info("not of interest")
    logging.getLogger("somebody").warning("Authorization: Bearer %s", "abc.def")
    logging.getLogger("uvicorn.error").info("Uvicorn running on %s", "http://127.0.0.1:1")
    lines = [json.loads(line) for line in said().splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [
        ("Authorization: Bearer ***", "warning"),
        ("Uvicorn running on http://127.0.0.1:1", "info"),
    ]


def test_the_last_word_counts(said: Callable[[], str], capsys: pytest.CaptureFixture[str]) -> None:
    """A second call takes the place of the first, whose stream may be closed by now: one line each."""
    journal.configure()
    with capsys.disabled():
        journal.configure(level="ERROR")
    journal.configure()
    logging.getLogger("somebody").warning("once")
    assert [json.loads(line)["event"] for line in said().splitlines()] == ["once"]


def test_a_line_names_its_trace(said: Callable[[], str]) -> None:
    """The ids by which it is found in a trace; none where there is no trace."""
    journal.configure()
    log = structlog.get_logger()
    log.info("outside")
    with TracerProvider().get_tracer("test").start_as_current_span("span") as span:
        log.info("within")
    outside, within = [json.loads(line) for line in said().splitlines()]
    context = span.get_span_context()
    assert "trace_id" not in outside
    assert (within["trace_id"], within["span_id"]) == (f"{context.trace_id:032x}", f"{context.span_id:016x}")
