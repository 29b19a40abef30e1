"""`taskrunner runs …` over the whole stack."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.cli.stacks import PATIENCE, StackProcess

RUNS = [sys.executable, "-P", "-m", "cli.main", "runs"]
TOOK = r"[0-9.]+ (m?s|min [0-9]+ s)"
UNKNOWN = "01a1fcfe-40ee-7495-9b9c-0c571f8c948f"

# Two members, of which the second fans out; it fails for its second item, and then `after` is skipped.
GREET = """\
name: greets
labels: {kind: greeting}
members:
  - name: guests
    task: {command: [sh, -c, 'echo "[\\"Ada\\", \\"Bob\\"]" > $TASKRUNNER_RESULT_FILE']}
  - name: card
    fan_out: {items_from: "guests#"}
    task: {command: [sh, -c, 'cat $TASKRUNNER_INPUT_FILE; grep -q "item[^,]*Ada" $TASKRUNNER_INPUT_FILE']}
  - name: post
    task: {command: ["true"]}
edges:
  - {from: card, to: post}
"""
WORKS = GREET.replace('grep -q "item[^,]*Ada" $TASKRUNNER_INPUT_FILE', "true")
# Ends when a file appears, and holds before `last`.
WAITS = """\
name: waits
members:
  - name: first
    task: {{command: [sh, -c, 'until [ -e {go} ]; do sleep 0.1; done']}}
  - name: last
    task: {{command: ["true"]}}
edges: [{{from: first, to: last}}]
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackProcess]:
    """Give one running stack."""
    running = StackProcess(tmp_path_factory.mktemp("stack") / "data").up()
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def ended(stack: StackProcess) -> dict[str, Any]:
    """Give a run that has failed: one child of a fan-out has, and what comes after it was skipped."""
    return dict(json.loads(stack.run("runs", "create", file(stack, GREET), "--follow", "--json", code=1)))


def file(stack: StackProcess, text: str) -> str:
    """Write a file of a run and return its path."""
    path = stack.data_dir.parent / "run.yaml"
    path.write_text(text)
    return str(path)


def waits(stack: StackProcess, go: Path) -> str:
    """Create a run whose first member waits for a file; returns its id."""
    return stack.run("runs", "create", file(stack, WAITS.format(go=go))).strip()


def show(stack: StackProcess, run: str) -> dict[str, Any]:
    """Return a run as it is."""
    return dict(json.loads(stack.run("runs", "show", run, "--json")))


def until(fact: Callable[[], bool]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_run_is_followed_to_its_end(stack: StackProcess) -> None:
    """Each member and each child of the fan-out when it has ended, in order, then the whole; exit code 0."""
    printed = stack.run("runs", "create", file(stack, WORKS), "--follow").splitlines()
    assert re.fullmatch(r"run [0-9a-f-]{36}  greets", printed[0])
    names = [line.split()[1] for line in printed if line.startswith("✓ ")]
    assert (names[0], set(names[1:3]), names[3:]) == ("guests", {"card#1", "card#2"}, ["card", "post"])
    assert re.fullmatch(rf"✓ guests +{TOOK}", printed[1])
    assert re.fullmatch(rf"completed in {TOOK}: 3 completed", printed[-1])


def test_a_failed_run_ends_with_1_and_says_what_failed(stack: StackProcess) -> None:
    """The child with its error and the command for its output; what was skipped, with its reason."""
    printed = stack.run("runs", "create", file(stack, GREET), "-f", code=1).splitlines()
    assert [line.split()[1] for line in printed if line.startswith("✗ ")] == ["card#2", "card"]
    assert [line.split() for line in printed if line.startswith("- ")] == [["-", "post", "skipped", "upstream"]]
    assert [line for line in printed if re.fullmatch(rf"failed in {TOOK}: 1 completed, 1 failed, 1 skipped", line)]
    task = json.loads(stack.run("tasks", "list", "--status", "failed", "--limit", "1", "--json"))[0]
    assert f"card#2: agent/nonzero_exit: {task['error']['message']}  taskrunner tasks logs {task['id']}" in printed[-1]
    assert "Bob" in stack.run("tasks", "logs", task["id"])


def test_a_run_is_created_and_left(stack: StackProcess) -> None:
    """Its id alone is printed; with --json the API's representation; a file may be typed, and be JSON."""
    run = stack.run("runs", "create", file(stack, WORKS)).strip()
    assert show(stack, run)["id"] == run
    body = {"members": [{"name": "only", "task": {"command": ["true"]}}]}
    done = subprocess.run(
        [*RUNS, "create", "-", "--json"],
        env=stack.env,
        input=json.dumps(body),
        capture_output=True,
        text=True,
        check=True,
    )
    assert (json.loads(done.stdout)["name"], done.stderr) == ("run", "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GREET.replace("task: {command: [", "task: {comand: [", 1), ["invalid", ":5: members.0.task.comand: "]),
        (GREET + "  - {from: post, to: guests}\n", ["(cycle)", ":11: edges: ", "guests → card → post → guests"]),
        (GREET + "  - {from: nobody, to: post}\n", ["(unknown_member)", ":11: edges: ", "nobody"]),
        (GREET + "  - {from: card, to: post, when: late}\n", [":13: edges.1.when", "'completed', 'failed'"]),
        (GREET + "on_failure: hope\n", [":13: on_failure: "]),
        ("name: empty\n", [": members: Field required"]),
        ("members: [", ["run.yaml:2:1: "]),
        ("just words", ["run.yaml: is no object"]),
    ],
)
def test_a_file_that_makes_no_run_is_refused_with_its_line(stack: StackProcess, text: str, says: list[str]) -> None:
    """What is wrong, in which line and field, on standard error; exit code 2, and nothing is started."""
    before = {run["id"] for run in json.loads(stack.run("runs", "list", "--json"))}
    path = file(stack, text)
    done = subprocess.run([*RUNS, "create", path], env=stack.env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert [said for said in says if said not in done.stderr] == [], done.stderr
    assert "run.yaml" in done.stderr
    assert {run["id"] for run in json.loads(stack.run("runs", "list", "--json"))} == before


def test_a_file_that_is_not_there_is_named(stack: StackProcess) -> None:
    """Exit code 2 and a sentence."""
    assert "none.yaml: No such file" in stack.run("runs", "create", "none.yaml", code=2)


def test_a_run_is_listed(stack: StackProcess, ended: dict[str, Any]) -> None:
    """With tabs on a pipe, without colours; narrowed by status, label and name; as the API's JSON."""
    row = next(line.split("\t") for line in stack.run("runs", "list").splitlines() if line.startswith(ended["id"]))
    assert row[:4] == [ended["id"], "failed", "3/3", "1"]
    assert row[-1] == "greets"
    narrowed = ("--status", "failed", "--label", "kind:greeting", "--q", "greet")
    listed = json.loads(stack.run("runs", "list", *narrowed, "--json"))
    assert ended["id"] in [run["id"] for run in listed]
    assert {run["status"] for run in listed} == {"failed"}
    assert "\x1b" not in stack.run("runs", "list")


def test_a_run_is_shown_with_its_graph(stack: StackProcess, ended: dict[str, Any]) -> None:
    """Facts and picture, plain on a pipe; the graph alone as a flowchart, and as JSON with layers and places."""
    printed = stack.run("runs", "show", ended["id"])
    assert re.search(r"^status +failed$", printed, re.MULTILINE)
    assert re.search(r"^members +1 completed, 1 failed, 1 skipped$", printed, re.MULTILINE)
    assert "✓ guests ─────▶ ✗ card 2/2 ─────▶ - post" in printed.replace("──▶", "─────▶").replace("─" * 6, "─" * 5)
    assert "\x1b" not in printed
    assert show(stack, ended["id"]) == ended
    assert stack.run("runs", "show", ended["id"], "--format", "mermaid").startswith("flowchart LR\n")
    graph = json.loads(stack.run("runs", "show", ended["id"], "--format", "json"))
    assert graph["layers"] == [["guests"], ["card"], ["post"]]
    assert {"x", "y", "layer"} <= graph["members"][0].keys()


def test_the_tasks_of_a_run_are_listed_and_shown(stack: StackProcess, ended: dict[str, Any]) -> None:
    """By their members' names, the run and the member with each."""
    tasks = json.loads(stack.run("tasks", "list", "--run", ended["id"], "--json"))
    assert sorted(task["name"] for task in tasks) == ["card#1", "card#2", "guests"]
    printed = stack.run("tasks", "show", tasks[0]["id"])
    assert re.search(rf"^run_id +{ended['id']}$", printed, re.MULTILINE)
    assert re.search(rf"^member +{tasks[0]['member']}$", printed, re.MULTILINE)


def test_the_events_of_a_run_and_its_tasks_are_printed(stack: StackProcess, ended: dict[str, Any]) -> None:
    """Numbered without a gap, each with its task's name; followed they are the same; from a number, or of one type."""
    events = json.loads(stack.run("runs", "events", ended["id"], "--json"))
    assert [event["cursor"] for event in events] == list(range(1, len(events) + 1))
    assert (events[0]["type"], events[-1]["type"]) == ("run.created", "run.failed")
    followed = stack.run("runs", "events", ended["id"], "--follow", "--json").splitlines()
    assert [json.loads(line) for line in followed] == events
    rows = [line.split("\t") for line in stack.run("runs", "events", ended["id"]).splitlines()]
    assert rows[0][0] == "cursor"
    assert [row[0] for row in rows[1:]] == [str(event["cursor"]) for event in events]
    finished = next(row for row in rows if row[2] == "card#2" and row[4] == "run.member_finished")
    assert re.fullmatch(TOOK, finished[6])
    assert {row[2] for row in rows if row[4] == "step.finished"} == {"guests", "card#1", "card#2"}
    failed = stack.run("runs", "events", ended["id"], "--type", "task.failed", "--from-seq", "2", "--follow")
    assert [line.split("\t")[2] for line in failed.splitlines()[1:]] == ["card#2"]
    assert stack.run("runs", "events", ended["id"], "--type", "task.failed").splitlines()[1].split("\t")[2] == "card#2"


def test_a_run_is_held_changed_and_let_go(stack: StackProcess, tmp_path: Path) -> None:
    """Paused with a reason, given another member by a command, told its breakpoints, resumed twice, completed."""
    run = waits(stack, tmp_path / "go")
    assert "not_paused" in stack.run("runs", "resume", run, code=1)
    assert f"pause of {run}: " in stack.run("runs", "pause", run, "--reason", "a look")
    until(lambda: show(stack, run)["paused"])
    assert re.search(r"^paused +a look$", stack.run("runs", "show", run), re.MULTILINE)
    assert f"{run}\tpaused\t" in stack.run("runs", "list")
    more = file(stack, "append:\n  members: [{name: more, task: {command: ['true']}}]\nskip: [last]\n")
    assert f"command 1 to {run}" in stack.run("runs", "command", run, more)
    wrong = file(stack, "append:\n  edges:\n    - {from: nobody, to: last}\n")
    assert "run.yaml" in stack.run("runs", "command", run, wrong, code=2)
    assert json.loads(stack.run("runs", "breakpoints", run, "--before", "more", "--json"))["before"] == ["more"]
    assert f"breakpoints of {run}: before more" in stack.run("runs", "breakpoints", run, "--before", "more")
    assert "stale_token" in stack.run("runs", "resume", run, "--token", "x", code=1)
    assert stack.run("runs", "resume", run).startswith(f"resume of {run}: applied")
    until(lambda: show(stack, run)["pause_reason"] == "breakpoint before more")
    assert f"breakpoints of {run}: none" in stack.run("runs", "breakpoints", run)
    stack.run("runs", "resume", run)
    (tmp_path / "go").touch()
    watched = stack.run("runs", "show", run, "--watch").splitlines()
    assert watched[-1].startswith("completed in ")
    assert [line.split()[1] for line in watched if line[0] in "✓-"].count("last") == 1
    assert show(stack, run)["counts"]["skipped"] == 1


def test_a_run_is_cancelled_retried_and_deleted(stack: StackProcess, tmp_path: Path) -> None:
    """Each says what it did; a run that has not ended is not deleted, one that completed not retried."""
    run = waits(stack, tmp_path / "go")
    assert "not_ended" in stack.run("runs", "delete", run, code=1)
    assert f"cancel of {run}: requested" in stack.run("runs", "cancel", run)
    until(lambda: show(stack, run)["status"] == "cancelled")
    assert "attempt_mismatch" in stack.run("runs", "retry", run, "--from-attempt", "7", code=1)
    (tmp_path / "go").touch()
    assert f"attempt 2 of {run} is queued" in stack.run("runs", "retry", run, "--from-attempt", "1")
    stack.run("runs", "events", run, "--follow")
    assert show(stack, run)["outcome"] == "completed"
    assert "runs create FILE" in stack.run("runs", "retry", run, code=1)
    assert f"deleted {run}" in stack.run("runs", "delete", run)
    assert "`taskrunner runs list`" in stack.run("runs", "show", run, code=1)


def test_an_unknown_run_is_a_sentence(stack: StackProcess) -> None:
    """Of every command that takes one, with exit code 1 and no traceback."""
    for command in ("show", "show --watch", "events", "events -f", "cancel", "pause", "resume", "retry", "delete"):
        printed = stack.run("runs", *command.split(), UNKNOWN, code=1)
        assert "(not_found)" in printed, command
        assert "Traceback" not in printed


def test_watching_is_not_for_programs(stack: StackProcess) -> None:
    """`--watch` with `--json` is a wrong use, and says what to type instead."""
    assert "runs events" in stack.run("runs", "show", UNKNOWN, "--watch", "--json", code=2)


def test_ctrl_c_cancels_the_run_that_is_followed(stack: StackProcess, tmp_path: Path) -> None:
    """It asks to cancel, waits for the end and exits with 130."""
    path = file(stack, WAITS.format(go=tmp_path / "never"))
    following = subprocess.Popen(
        [*RUNS, "create", path, "--follow"],
        env=stack.env | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert following.stdout
    run = following.stdout.readline().split()[1]
    until(lambda: show(stack, run)["counts"]["in_progress"] == 1)
    following.send_signal(signal.SIGINT)
    rest, said = following.communicate(timeout=PATIENCE)
    assert following.returncode == 130, rest + said
    assert "asked to cancel" in said
    assert "cancelled in" in rest
    assert show(stack, run)["status"] == "cancelled"


def test_the_tasks_of_a_run_are_watched_with_all_others(stack: StackProcess) -> None:
    """`watch` shows each by its member's name, to its end; the run's own events are no tasks."""
    argv = [sys.executable, "-P", "-m", "cli.main", "watch", "--json"]
    watching = subprocess.Popen(argv, env=stack.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watching.stdout
    running = stack.run("start", "--detach", "--name", "watched", "--", "sleep", "600").strip()
    told = [json.loads(watching.stdout.readline())]  # from here on it misses nothing
    stack.run("runs", "create", file(stack, WORKS))
    while (told[-1]["name"], told[-1]["status"]) != ("post", "completed"):
        told.append(json.loads(watching.stdout.readline()))
    assert {each["name"] for each in told if each["status"] == "completed"} == {"guests", "card#1", "card#2", "post"}
    watching.send_signal(signal.SIGINT)
    assert (watching.communicate(timeout=PATIENCE)[1], watching.returncode) == ("", 0)
    stack.run("tasks", "cancel", running)


def test_on_a_terminal_the_graph_is_live(stack: StackProcess, tmp_path: Path) -> None:
    """Drawn anew as members begin and end, through a restart of the API; the last picture stays, the cursor is back."""
    path = file(stack, WAITS.format(go=tmp_path / "go"))
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    environment = {name: value for name, value in stack.env.items() if name != "COLUMNS"} | {"TERM": "xterm"}
    watching = subprocess.Popen(
        [*RUNS, "create", path, "--follow"], env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""

    def plain() -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode(errors="replace"))

    def read_until(words: str) -> None:
        nonlocal seen
        while words not in plain():
            assert select.select([ours], [], [], PATIENCE)[0], plain()[-3000:]
            seen += os.read(ours, 65536)
            assert len(seen) < 10**6, plain()[-3000:]

    read_until("● first")
    stack.child("cli.main api").send_signal(signal.SIGKILL)
    read_until("the API is away")
    stack.wait_for("API runs again")
    (tmp_path / "go").touch()
    read_until("completed in ")
    with suppress(OSError):  # the other side is closed
        while rest := os.read(ours, 65536):
            seen += rest
    os.close(ours)
    assert watching.wait(PATIENCE) == 0
    assert re.search(rf"✓ first ─+▶ ✓ last\s+completed in {TOOK}", plain())
    assert seen.rindex(b"\x1b[?25l") < seen.rindex(b"\x1b[?25h")


def test_the_shell_is_offered_runs_and_their_members(stack: StackProcess, ended: dict[str, Any]) -> None:
    """Ids with status and name; the members of the run that was typed."""
    code = "import sys; sys.argv[0] = 'taskrunner'; from cli.main import main; main()"
    for words, offered in (
        (f"taskrunner runs show {ended['id'][:-2]}", [ended["id"], "greets"]),
        (f"taskrunner tasks list --run {ended['id'][:-2]}", [ended["id"]]),
        (f"taskrunner runs breakpoints {ended['id']} --before ca", ["card"]),
    ):
        asked = {"_TASKRUNNER_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": words}
        argv = [sys.executable, "-P", "-c", code]
        done = subprocess.run(argv, env=stack.env | asked, capture_output=True, text=True, check=True)
        assert [each for each in offered if each not in done.stdout] == []
        assert done.stderr == ""
