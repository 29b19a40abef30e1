"""What the views of a followed task print, from events as the API sends them."""

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from cli.lines import Events, Json, Lines
from cli.remote import RemoteError
from cli.steps import Steps
from cli.view import Live, Now, View

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e[red]\r\n"


def event(kind: str, *, step: str | None = None, at: float = 0, attempt: int = 1, **data: Any) -> dict[str, Any]:
    """Return an envelope, so many seconds after the begin."""
    ts = (BEGAN + timedelta(seconds=at)).isoformat()
    return {
        "task_id": "t", "run_id": None, "attempt": attempt, "seq": 1, "ts": ts, "type": kind, "v": 1,
        "source": "workflow", "step": step, "data": data,
    }  # fmt: skip


ERROR = {"category": "agent", "code": "nonzero_exit", "message": f"exited {HOSTILE}", "guidance": "read the output"}
LOG = [
    event("task.created", name=HOSTILE),
    event("step.started", step="running", at=1),
    event("agent.progress", step="running", at=1, message=HOSTILE),
    event("task.paused", step="running", at=2, reason=HOSTILE),
    event("task.resumed", step="running", at=3),
    event("step.failed", step="running", at=4.5, error=ERROR),
    event("step.skipped", step="cleanup", at=4.5, reason="nothing is held"),
    event("attempt.started", at=5, attempt=2),
    event("agent.finished", step="running", at=65, exit_code=3),
    event("task.failed", at=66, error=ERROR),
]


def screen(*, terminal: bool, width: int = 200) -> tuple[Console, io.StringIO]:
    """Return a console and what is written to it."""
    written = io.StringIO()
    return Console(
        file=written, force_terminal=terminal, width=width, highlight=False, soft_wrap=True, color_system=None
    ), written


def test_steps_are_shown_with_their_timings() -> None:
    """A step with what it took, why it failed; pauses, attempts, and the end with its exit code and guidance."""
    console, written = screen(terminal=False)
    with Steps(console) as view:
        for each in LOG:
            view.event(each)
            view.output(["out"] if each["type"] == "step.started" else [], attempt=1)
    lines = written.getvalue().splitlines()
    assert lines[0] == "  │ out"
    assert [line.split()[:2] for line in lines[1:6]] == [
        ["!", "task.paused"],
        ["!", "task.resumed"],
        ["✗", "running"],
        ["-", "cleanup"],
        ["!", "attempt"],
    ]
    assert "3.5 s" in lines[3]
    assert lines[4].endswith("skipped  nothing is held")
    assert lines[6] == "failed in 1 min 6 s, exit code 3"
    assert lines[-1] == "  read the output"


@pytest.mark.parametrize("kind", [Steps, Events, Lines])
@pytest.mark.parametrize("terminal", [True, False])
def test_what_somebody_else_wrote_moves_no_cursor(kind: type[View], *, terminal: bool) -> None:
    """Names, reasons, messages, progress and output reach the screen as text: no control character, no markup."""
    console, written = screen(terminal=terminal)
    with kind(console) as view:  # type: ignore[call-arg]
        for each in LOG:
            view.event(each)
        view.output([HOSTILE], attempt=1)
    # What a live line itself needs, and nothing else, may be said to a terminal.
    said = written.getvalue()
    for control in ("\x1b]", "\x1b[2J\\", "\x07", "\u202e", "\x1b[31m"):
        assert control not in said
    assert r"\x1b]0;owned\x07\x1b[2J\u202e[red]" in said
    if not terminal:
        assert "\x1b" not in said


@pytest.mark.parametrize("width", [20, 40, 80])
def test_an_event_is_one_line_of_a_terminal_however_narrow(width: int) -> None:
    """As many lines as events, each within the width."""
    console, written = screen(terminal=True, width=width)
    view = Events(console)
    for each in LOG:
        view.event(each)
    lines = written.getvalue().splitlines()
    assert len(lines) == len(LOG)
    assert max(map(len, lines)) <= width


def test_one_type_of_event_is_shown_on_request() -> None:
    """Steps that began are left out, and still counted in what their end took."""
    console, written = screen(terminal=False)
    view = Events(console, kind="step.failed")
    for each in LOG:
        view.event(each)
    (line,) = written.getvalue().splitlines()
    assert line.split("\t")[3:6] == ["step.failed", "running", "3.5 s"]


def test_json_is_one_line_for_each_event_or_each_line_of_output(capsys: pytest.CaptureFixture[str]) -> None:
    """The envelopes unchanged; or output with its attempt."""
    for each in LOG:
        Json().event(each)
        Json(output=True).event(each)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == LOG
    Json(output=True).output(["a", HOSTILE], attempt=2)
    written = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert written == [{"attempt": 2, "output": "a"}, {"attempt": 2, "output": HOSTILE}]


def test_the_live_line_says_what_goes_on_now() -> None:
    """Step, time and the latest progress; a pause with its reason; that the API is away; then the next attempt."""
    now = Now()
    assert str(now.__rich__()) == "waiting"
    now.event({**LOG[1], "ts": (datetime.now(UTC) - timedelta(seconds=90)).isoformat()})
    now.event(event("agent.progress", message="half", percent=50))
    assert str(now.__rich__()) == "running 1 min 30 s message=half, percent=50"
    now.event(event("task.paused", reason="lunch"))
    assert str(now.__rich__()).endswith("paused lunch")
    now.away = "the API is away"
    assert str(now.__rich__()).endswith("the API is away")
    now.away = ""
    now.event(event("task.queued"))
    assert str(now.__rich__()) == "waiting"


@pytest.mark.parametrize("kind", [Live, Lines, Json])
def test_an_absence_of_the_api_is_said_on_standard_error(kind: type[View], capsys: pytest.CaptureFixture[str]) -> None:
    """Lines for a program stay what they are."""
    view = Json() if kind is Json else kind(screen(terminal=False)[0])  # type: ignore[call-arg]
    for error in (RemoteError("no API answers", code="unreachable"), None):
        view.away(error)
    captured = capsys.readouterr()
    assert captured.err == "error: no API answers; trying again\n"
    assert captured.out == ""
