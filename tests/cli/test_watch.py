"""`taskrunner watch` over the whole stack: on a terminal and for a program, through a restart of the API."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.cli.stacks import PATIENCE, StackProcess

WATCH = [sys.executable, "-P", "-m", "cli.main", "watch"]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackProcess]:
    """Give one running stack."""
    running = StackProcess(tmp_path_factory.mktemp("stack") / "data").up()
    yield running
    assert running.stop() == 0


def kill_api(stack: StackProcess) -> None:
    """Kill the API and wait until it runs again."""
    stack.child("cli.main api").send_signal(signal.SIGKILL)
    stack.wait_for("API runs again")


def test_a_program_reads_each_change_through_a_restart(stack: StackProcess) -> None:
    """A task that ran before, and one that began while the API was away: each to its end; SIGINT ends it with 0."""
    script = "until [ -e {} ]; do sleep 0.1; done"
    go = stack.data_dir / "go"
    first = stack.run("start", "--detach", "--name", "first", "--", "sh", "-c", script.format(go)).strip()
    watching = subprocess.Popen(
        [*WATCH, "--json"], env=stack.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert watching.stdout
    told: list[dict[str, str]] = [json.loads(watching.stdout.readline())]
    assert told[0]["id"] == first
    kill_api(stack)
    second = stack.run("start", "--detach", "--name", "second", "--", "true").strip()
    go.touch()
    while {(each["id"], each["status"]) for each in told}.isdisjoint({(second, "completed")}) or not any(
        each["id"] == first and each["status"] == "completed" for each in told
    ):
        told.append(json.loads(watching.stdout.readline()))
    statuses = list(dict.fromkeys(each["status"] for each in told if each["id"] == second))
    assert statuses == ["queued", "delegated", "in_progress", "completed"]
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate(timeout=PATIENCE)
    assert watching.returncode == 0
    assert "no API answers at " in said
    assert "Traceback" not in said


def test_on_a_terminal_it_is_a_live_table_that_gives_the_terminal_back(stack: StackProcess) -> None:
    """The running task with its step and node; the alternate screen is left and the cursor shown again at Ctrl-C."""
    task = stack.run("start", "--detach", "--name", "looked at", "--", "sleep", "600").strip()
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 160))
    environment = {name: value for name, value in stack.env.items() if name != "COLUMNS"} | {"TERM": "xterm"}
    watching = subprocess.Popen(WATCH, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    row, seen = re.compile(rf"running .* local .*looked at .*{task}"), b""
    while not row.search(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode(errors="replace"))):
        assert select.select([ours], [], [], PATIENCE)[0]
        seen += os.read(ours, 65536)
        assert len(seen) < 10**6, seen[-3000:]
    watching.send_signal(signal.SIGINT)
    with suppress(OSError):  # the other side is closed
        while rest := os.read(ours, 65536):
            seen += rest
    os.close(ours)
    assert watching.wait(PATIENCE) == 0
    assert seen.index(b"\x1b[?1049h") < seen.rindex(b"\x1b[?1049l")
    assert seen.rindex(b"\x1b[?25l") < seen.rindex(b"\x1b[?25h")
    stack.run("tasks", "cancel", task)


def test_a_key_that_is_refused_ends_it(stack: StackProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1 and a sentence that says what to set, before anything is drawn."""
    monkeypatch.setitem(stack.env, "TASKRUNNER_API_KEY", "tr_wrong")
    assert "Set TASKRUNNER_API_KEY" in stack.run("watch", code=1)
