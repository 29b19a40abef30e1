"""A conversation with a real agent in a local workspace, over the whole stack and by the command line."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cli.remote import Remote
from tests.cli.stacks import PATIENCE, StackProcess

# Answers its prompt, and remembers in its workspace how often it was asked.
AGENT = """
echo asked >> memory
read line
echo "$(wc -l < memory): $line"
cp "$TASKRUNNER_TOKEN_FILE" "token$(wc -l < memory)"
"""
LISTENING = "awaiting_followup"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackProcess]:
    """Give one running stack whose node knows an agent."""
    presets = json.dumps({"echo": ["sh", "-c", AGENT]})
    running = StackProcess(tmp_path_factory.mktemp("stack") / "data", TASKRUNNER_NODE_PRESETS=presets).up()
    yield running
    assert running.stop() == 0


def begin(stack: StackProcess, **body: Any) -> str:
    """Create a task for the agent that may be talked to; returns its id."""
    address = json.loads((stack.data_dir / "address.json").read_text())
    with Remote(address["api"], (stack.data_dir / "admin.key").read_text().strip()) as api:
        asked = {"agent": {"preset": "echo", "prompt": "hello\n"}, "followup": True} | body
        return str(api.post("/v1/tasks", asked)["id"])


def show(stack: StackProcess, task: str) -> dict[str, Any]:
    """Return a task as it is."""
    return dict(json.loads(stack.run("tasks", "show", task, "--json")))


def until(fact: Callable[[], bool]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def turns(stack: StackProcess, task: str) -> list[tuple[int, int]]:
    """Return the turns that ended, with their exit codes."""
    events = json.loads(stack.run("tasks", "events", task, "--type", "agent.finished", "--json"))
    return [(event["data"]["turn"], event["data"]["exit_code"]) for event in events]


def test_an_agent_answers_each_message_in_one_workspace(stack: StackProcess) -> None:
    """Three turns, each with its output and exit code, in the same files; held and resumed between; then closed."""
    task = begin(stack)
    until(lambda: show(stack, task)["step"] == LISTENING)
    assert stack.run("tasks", "pause", task, "--reason", "thinking").startswith(f"pause of {task}: applied")
    assert "turn 2" in stack.run("tasks", "followup", task, "second\n")
    assert "thinking" in stack.run("tasks", "explain", task)
    assert turns(stack, task) == [(1, 0)]
    assert "stale_token" in stack.run("tasks", "resume", task, "--token", "x", code=1)
    assert stack.run("tasks", "resume", task).startswith(f"resume of {task}: applied")
    assert "not_paused" in stack.run("tasks", "resume", task, code=1)
    until(lambda: len(turns(stack, task)) == 2 and show(stack, task)["step"] == LISTENING)
    assert json.loads(stack.run("tasks", "followup", task, "third\n", "--json")) == {"turn": 3}
    until(lambda: len(turns(stack, task)) == 3 and show(stack, task)["step"] == LISTENING)
    workspace = stack.data_dir / "workspaces" / show(stack, task)["workspace_id"]
    tokens = {file.read_text() for file in workspace.rglob("token[123]")}
    assert len(tokens) == 3
    stack.run("tasks", "close", task)
    until(lambda: show(stack, task)["status"] == "completed")
    assert turns(stack, task) == [(1, 0), (2, 0), (3, 0)]
    assert stack.run("tasks", "logs", task) == "1: hello\n2: second\n3: third\n"
    assert stack.run("tasks", "logs", task, "--turn", "2") == "2: second\n"
    assert "--turn" in stack.run("tasks", "logs", task, "--turn", "2", "--follow", code=2)
    assert "not_awaiting_followup" in stack.run("tasks", "followup", task, "fourth", code=1)
    assert "not_awaiting_followup" in stack.run("tasks", "close", task, code=1)


def test_silence_and_a_cancel_end_a_conversation(stack: StackProcess) -> None:
    """Completed when nobody speaks in time; cancelled while it waits."""
    silent = begin(stack, timeouts={"awaiting_followup": 1})
    until(lambda: show(stack, silent)["status"] == "completed")
    task = begin(stack)
    until(lambda: show(stack, task)["step"] == LISTENING)
    stack.run("tasks", "cancel", task)
    until(lambda: show(stack, task)["status"] == "cancelled")


def test_breakpoints_by_the_command_line(stack: StackProcess) -> None:
    """Set, shown, reached, taken away; an unknown step is a sentence."""
    task = begin(stack, start=False)
    assert "before" in stack.run("tasks", "breakpoints", task, "--before", "lunch", code=1)
    said = stack.run("tasks", "breakpoints", task, "--before", "running", "--after", "agent_session", "--each-step")
    assert said.split(": ")[1].strip() == "before running, after agent_session, after each step"
    assert stack.run("tasks", "breakpoints", task).strip().endswith(": none")
