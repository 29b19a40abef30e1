"""The board of running tasks, and what is shown of it."""

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cli.board import LINGER, Board
from cli.panel import Changes, Panel
from cli.remote import RemoteError
from domain.events import fold
from tests.domain.histories import History, histories

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e[red]\r\nfailed"


def task(number: int, **more: Any) -> dict[str, Any]:
    """Return a task that runs since so many seconds, as the API represents it."""
    return {
        "id": f"01a1fce2-0022-7324-956e-{number:012}", "name": f"task {number}", "status": "in_progress",
        "step": "running", "step_started_at": (NOW - timedelta(seconds=number)).isoformat(), "node_id": "local",
        "attempt": 1, "paused": False, "last_seq": 10, "workspace_id": f"w{number}", **more,
    }  # fmt: skip


def event(number: int, seq: int, kind: str, *, step: str | None = "running", **data: Any) -> dict[str, Any]:
    """Return an event of such a task."""
    return {
        "task_id": task(number)["id"], "run_id": None, "attempt": 1, "seq": seq, "ts": NOW.isoformat(), "type": kind,
        "v": 1, "source": "workflow", "step": step, "data": data,
    }  # fmt: skip


def board(*tasks: dict[str, Any]) -> Board:
    """Return a board with these."""
    made = Board()
    for each in tasks:
        made.put(each)
    made.known = True
    return made


def picture(found: Board, *, width: int, height: int = 24, away: RemoteError | None = None) -> list[str]:
    """Return the lines that a terminal of this size shows."""
    written = io.StringIO()
    screen = Console(file=written, force_terminal=True, width=width, height=height, color_system=None, emoji=False)
    panel = Panel(screen, "http://127.0.0.1:8080")
    panel.away(away)
    screen.print(panel.picture(found, now=NOW))
    return [line.rstrip() for line in written.getvalue().splitlines()]


@given(histories(), st.data())
def test_a_row_is_what_the_log_folds_to_wherever_watching_began(history: History, data: st.DataObject) -> None:
    """From the first event on, or from a row that was read at any moment before or after the stream's begin."""
    log = history.log()
    read = data.draw(st.integers(min_value=0, max_value=len(log)))
    made = Board()
    if read:
        seen = fold(log[:read]).model_dump(mode="json")
        made.put({"id": log[0].task_id, "name": "n", **seen})
    for each in log[data.draw(st.integers(min_value=0, max_value=read)) :]:
        made.apply(each.model_dump(mode="json"))
        made.apply(each.model_dump(mode="json"))
    (row,) = made.rows.values()
    whole = fold(log)
    for name in ("status", "step", "step_started_at", "node_id", "attempt", "paused", "last_seq"):
        assert getattr(row, name) == getattr(whole, name), name


def test_a_task_that_is_not_on_the_board_is_asked_for() -> None:
    """None, unless its first event has come; a type that nobody knows yet changes nothing but the place."""
    made = board()
    assert made.apply(event(1, 7, "task.queued")) is None
    created = made.apply(event(2, 1, "task.created", step=None, name="new"))
    assert created
    assert (created.name, created.running, made.shown(now=NOW)) == ("new", False, [])
    made.apply(event(2, 2, "task.queued", step=None))
    assert made.apply(event(2, 3, "task.invented")) is created
    assert (created.running, created.last_seq) == (True, 3)


def test_what_has_ended_is_shown_a_while_longer() -> None:
    """At the end of the list; ten seconds later it is gone."""
    made = board(task(1), task(2))
    made.apply(event(2, 11, "task.failed", error=None))
    now = datetime.now(UTC)
    assert [row.status for row in made.shown(now=now)] == ["in_progress", "failed"]
    assert [row.status for row in made.shown(now=now + LINGER + timedelta(seconds=1))] == ["in_progress"]
    assert list(made.rows) == [task(1)["id"]]


def test_a_wide_screen_says_all_of_a_task() -> None:
    """Status, step, for how long, attempt, node, progress, name and id; a pause in the place of the status."""
    made = board(task(65, attempt=2), task(5, paused=True, node_id=None))
    made.progress([{"id": "w65", "progress": {"percent": 40, "message": "compiling", "data": {}}}])
    lines = picture(made, width=160)
    assert lines[0] == "2 in_progress, 1 paused http://127.0.0.1:8080"
    assert lines[2].split() == ["status", "step", "for", "attempt", "node", "progress", "name", "id"]
    assert " ".join(lines[3].split()) == (
        f"in_progress running 1 min 5 s 2 local 40 % compiling task 65 {task(65)['id']}"
    )
    assert lines[4].split()[:5] == ["paused", "running", "5.0", "s", "1"]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 131, 250])
def test_five_hundred_tasks_fit_on_any_screen(width: int) -> None:
    """As many rows as there is room for, the longest in their step first, each one line; how many more there are."""
    lines = picture(board(*(task(number, name=f"{number} {HOSTILE}") for number in range(1, 501))), width=width)
    assert max(map(len, lines)) <= width
    assert len(lines) <= 24
    assert lines[0].startswith("500 in_progress"[: width - 1])
    assert "500" in lines[3]
    assert "499" in lines[4]
    assert lines[-1].startswith("and 480 more")
    assert not [line for line in lines for control in ("\x1b]", "\x07", "\u202e", "\x1b[2J") if control in line]


def test_an_absence_of_the_api_is_on_the_screen() -> None:
    """With what is the matter, above the rows as they were last; and it is told from an empty project."""
    away = RemoteError("no API answers", code="unreachable")
    assert picture(board(task(1)), width=80, away=away)[1] == "the API is away, trying again: no API answers"
    assert picture(board(), width=80)[0].startswith("nothing runs")
    assert picture(Board(), width=80)[0].startswith("looking")


def test_elsewhere_each_change_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """One for what runs at first, one for what can be told of an event, none for what changes nothing."""
    made = board(task(1, name=HOSTILE))
    view = Changes(Console(width=10_000), as_json=False)
    with view:
        view.changed(made.rows[task(1)["id"]])
        for each in (
            event(1, 11, "debug.trace"),
            event(1, 12, "agent.progress", message="half"),
            event(1, 13, "task.paused", reason="lunch"),
            event(1, 14, "task.completed", step="cleanup"),
            event(1, 15, "callback.stale"),
        ):
            row = made.apply(each)
            assert row
            view.changed(row, ts=each["ts"])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[2:8] for line in lines] == [
        ["status", "step", "attempt", "node", "paused", "progress"],
        ["in_progress", "running", "1", "local", "-", "-"],
        ["in_progress", "running", "1", "local", "-", "message=half"],
        ["in_progress", "running", "1", "local", "paused", "message=half"],
        ["completed", "-", "1", "local", "-", "-"],
    ]
    assert lines[1][8] == r"\x1b]0;owned\x07\x1b[2J\u202e[red] failed"


def test_changes_as_json_have_the_facts_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """The names of the API, the progress as it was sent."""
    made = board(task(1, name=HOSTILE))
    Changes(Console(), as_json=True).changed(made.rows[task(1)["id"]], ts=NOW.isoformat())
    told = json.loads(capsys.readouterr().out)
    assert told["ts"] == NOW.isoformat()
    same = {name: told[name] for name in ("id", "name", "status", "step", "node_id", "attempt", "paused")}
    assert same.items() <= task(1, name=HOSTILE).items()
    assert (told["step_started_at"], told["progress"]) == (task(1)["step_started_at"], None)
