"""`taskrunner health`: its exit code is the level."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from domain.health import TaskNumbers, judge
from domain.thresholds import Thresholds


def report(**tasks: Any) -> str:
    """Give a report as the API makes it."""
    numbers = TaskNumbers.model_validate(tasks)
    found = judge(
        at=datetime.now(UTC), project=None, thresholds=Thresholds(), temporal=True, tasks=numbers, system=None
    )
    return found.model_dump_json()


ANSWERS = {
    "healthy": (200, report()),
    "warning": (200, report(stuck=2, stuck_tasks=["t1", "t2"])),
    "critical": (200, report(stuck=21, stuck_tasks=["t1"])),
    "unavailable": (503, json.dumps({"title": "the database is away", "code": "database_unavailable"})),
    "refused": (401, json.dumps({"title": "no key", "code": "unauthorized"})),
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Give the address of a server that answers by the first part of the path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer from the table."""
            status, body = ANSWERS[self.path.split("/")[1]]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            """Stay quiet."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    thread.join()
    listening.server_close()


def asked(monkeypatch: pytest.MonkeyPatch, url: str, *options: str) -> Result:
    """Run the command against this address."""
    monkeypatch.setenv("TASKRUNNER_URL", url)
    return CliRunner().invoke(app, ["health", *options])


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        ("healthy", 0, "HEALTHY"),
        ("warning", 1, "Tasks past their budget that have not moved for a while: 2; more than 0 is a warning."),
        ("critical", 2, "stuck: t1"),
        ("unavailable", 2, "the database is away"),
        ("refused", 3, "no key"),
    ],
)
def test_the_exit_code_is_the_level(
    monkeypatch: pytest.MonkeyPatch, server: str, answer: str, code: int, says: str
) -> None:
    """0, 1, 2 as monitoring programs expect them; 3 for an API that refuses to say."""
    result = asked(monkeypatch, f"{server}/{answer}")
    assert result.exit_code == code
    assert says in result.output


def test_an_api_that_does_not_answer_is_critical(monkeypatch: pytest.MonkeyPatch) -> None:
    """2, with the sentence how to start one."""
    result = asked(monkeypatch, "http://127.0.0.1:1")
    assert result.exit_code == 2
    assert "no API answers" in result.output


def test_a_key_that_can_be_none_says_nothing_of_the_level(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    """3: neither HEALTHY, nor a WARNING."""
    monkeypatch.setenv("TASKRUNNER_API_KEY", "no key")
    result = asked(monkeypatch, f"{server}/healthy")
    assert (result.exit_code, "TASKRUNNER_API_KEY" in result.output) == (3, True)


def test_json_is_the_apis(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    """Unchanged, and with the same exit code."""
    result = asked(monkeypatch, f"{server}/warning", "--json")
    assert (result.exit_code, json.loads(result.output)) == (1, json.loads(ANSWERS["warning"][1]))
