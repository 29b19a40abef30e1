"""What a followed run looks like line by line, whatever its events say."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from cli.remote import Remote
from cli.run_lines import Members, RunEvents
from cli.run_watch import Picture

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e[red]\r\nfailed"
BEGAN = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Told:
    """A run's events, one after the other, a second apart."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def say(self, kind: str, *, task: str | None = None, step: str | None = None, **data: Any) -> "Told":
        """Add an event."""
        number = len(self.events) + 1
        ts = (BEGAN + timedelta(seconds=number)).isoformat()
        self.events.append(
            {"cursor": number, "task_id": task, "run_id": "r", "attempt": 1, "seq": number, "ts": ts, "type": kind}
            | {"v": 1, "source": "workflow", "step": step, "data": data}
        )
        return self


def printed(view: type[Members | RunEvents], told: Told, *, terminal: bool = False, width: int = 100) -> list[str]:
    """Return the lines that a view prints."""
    out = io.StringIO()
    screen = Console(file=out, force_terminal=terminal, color_system=None, width=width, highlight=False, soft_wrap=True)
    with view(screen, {"t0": "known"}) if view is RunEvents else Members(screen) as made:
        for event in told.events:
            made.event(event)
    return out.getvalue().splitlines()


FANNED = (
    Told()
    .say("run.started")
    .say("run.fanned_out", member="test", size=2)
    .say("run.member_ready", member="test", item=1, task_id="t1")
    .say("run.member_ready", member="test", item=2, task_id="t2")
    .say("task.created", task="t2", name="another name")
    .say("step.started", task="t2", step="running")
    .say("step.finished", task="t2", step="running", outcome="done")
    .say("run.member_finished", member="test", item=2, outcome="failed")
    .say("run.member_finished", member="test", item=1, outcome="completed")
    .say("run.member_finished", member="test", outcome="failed")
    .say("run.member_finished", member="later", outcome="skipped", reason="upstream")
    .say("run.paused", token="x", reason="a look")
    .say("run.superstep", superstep=3, ran=["a"], next_frontier=["b", "c"], state_versions={})
    .say("run.failed", outcome="failed")
)


def test_members_are_told_when_they_have_ended() -> None:
    """Children by number, with their time since they were ready; what was skipped, with its reason; holds; steps."""
    lines = [" ".join(line.split()) for line in printed(Members, FANNED)]
    assert lines == [
        "✗ test#2 4.0 s",
        "✓ test#1 6.0 s",
        "✗ test 8.0 s",
        "- later skipped upstream",
        "! run.paused token=x, reason=a look",
        "= superstep 3: next b, c",
    ]


def test_events_are_told_with_the_task_and_what_it_took() -> None:
    """By the member where it is known, else by the task's own name, else by its id; a step and a run take time."""
    told = Told().say("task.queued", task="t0").say("task.created", task="t3", name="own").say("task.queued", task="t9")
    rows = [line.split("\t") for line in printed(RunEvents, told)]
    assert [row[2] for row in rows] == ["task", "known", "own", "t9"]
    rows = [line.split("\t") for line in printed(RunEvents, FANNED)][1:]
    assert [row[2] for row in rows][:7] == ["-", "test", "test#1", "test#2", "test#2", "test#2", "test#2"]
    took = {(row[2], row[4]): row[6] for row in rows if row[6] != "-"}
    assert took == {
        ("test#2", "step.finished"): "1.0 s",
        ("test#2", "run.member_finished"): "4.0 s",
        ("test#1", "run.member_finished"): "6.0 s",
        ("test", "run.member_finished"): "8.0 s",
        ("-", "run.failed"): "13.0 s",
    }


@pytest.mark.parametrize("view", [Members, RunEvents])
@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_run_says_is_never_obeyed(view: type[Members | RunEvents], *, terminal: bool) -> None:
    """Names, reasons and data of hostile tasks and members are text on their line."""
    told = (
        Told()
        .say("run.member_ready", member=HOSTILE, task_id="t1")
        .say("task.created", task="t2", name=HOSTILE)
        .say("task.queued", task="t2", why=HOSTILE)
        .say("run.member_finished", member=HOSTILE, outcome="skipped", reason=HOSTILE)
        .say("run.paused", token="x", reason=HOSTILE)
        .say("run.superstep", superstep=1, next_frontier=[HOSTILE])
    )
    lines = printed(view, told, terminal=terminal)
    assert len(lines) == (3 if view is Members else 6 if terminal else 7)
    assert not {character for line in lines for character in line if not character.isprintable() and character != "\t"}


@pytest.mark.parametrize("width", [40, 80, 200])
def test_an_event_is_one_line_on_any_terminal(width: int) -> None:
    """Cut, not wrapped."""
    lines = printed(RunEvents, FANNED, terminal=True, width=width)
    assert len(lines) == len(FANNED.events)
    assert max(map(len, lines)) <= width


def test_a_picture_is_made_once_for_each_change() -> None:
    """A large one takes a second, and the line above it is drawn four times in that; a new width is a change."""
    screen = Console(file=io.StringIO(), width=80)
    with Remote("http://127.0.0.1:1", None) as remote:
        picture = Picture(remote, "r", screen)
        drawn = [picture.drawn(screen, screen.options.update(width=width)) for width in (80, 80, 70)]
        picture.graph = dict(picture.graph)
        drawn.append(picture.drawn(screen, screen.options.update(width=70)))
    assert [next(n for n, other in enumerate(drawn) if other is each) for each in drawn] == [0, 0, 2, 3]


def test_the_line_above_the_picture_says_how_far_the_run_is() -> None:
    """Status, time, members; why it is held; hostile reasons are text."""
    out = io.StringIO()
    screen = Console(file=out, force_terminal=True, color_system=None, width=120, highlight=False)
    with Remote("http://127.0.0.1:1", None) as remote:
        picture = Picture(remote, "r", screen)
        screen.print(picture)
        picture.run = {
            "status": "in_progress", "counts": {"completed": 2, "waiting": 1, "failed": 0}, "paused": True,
            "pause_reason": HOSTILE, "created_at": BEGAN.isoformat(), "started_at": BEGAN.isoformat(),
            "finished_at": (BEGAN + timedelta(seconds=3)).isoformat(),
        }  # fmt: skip
        screen.print(picture)
    looking, head = out.getvalue().splitlines()
    assert looking == "looking"
    assert head.startswith("in_progress  3.0 s  2 completed, 1 waiting  paused: \\x1b]0;owned")
    assert head.isprintable()
