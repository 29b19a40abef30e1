"""Kept workspaces over the whole stack: a command that fails, and the attempt that goes on in its files."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cli.remote import Remote
from tests.cli.stacks import PATIENCE, StackProcess

# Fails the first time, and finds the second time what it has done.
SCRIPT = 'if [ -e done ]; then echo "attempt $TASKRUNNER_ATTEMPT found: $(cat done)"; else echo half > done; exit 7; fi'


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackProcess]:
    """Give one running stack that sweeps each second."""
    running = StackProcess(tmp_path_factory.mktemp("stack") / "data", TASKRUNNER_RECONCILE_EVERY="1").up()
    yield running
    assert running.stop() == 0


def failed(stack: StackProcess, *, kept_for: str) -> str:
    """Create a task that fails and keeps its workspace; returns its id once it has ended."""
    body = {"command": ["sh", "-c", SCRIPT], "keep_workspace": {"on": "failure", "for": kept_for}}
    address = json.loads((stack.data_dir / "address.json").read_text())
    with Remote(address["api"], (stack.data_dir / "admin.key").read_text().strip()) as api:
        task = str(api.post("/v1/tasks", body)["id"])
    shown = ended(stack, task)
    assert (shown["status"], shown["error"]["code"], shown["attempt"]) == ("failed", "nonzero_exit", 1)
    return task


def ended(stack: StackProcess, task: str) -> dict[str, Any]:
    """Follow a task to its end; returns it."""
    stack.run("tasks", "logs", task, "--follow")
    return dict(json.loads(stack.run("tasks", "show", task, "--json")))


def folders(stack: StackProcess) -> list[str]:
    """Return the workspaces whose files are there."""
    return sorted(path.name for path in (stack.data_dir / "workspaces").iterdir() if not path.name.startswith("."))


def until(fact: Callable[[], bool]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_retry_goes_on_in_the_files_of_the_attempt_before(stack: StackProcess) -> None:
    """Completed by attempt 2, which finds what attempt 1 has done; after that the workspace is gone."""
    task = failed(stack, kept_for="3600")
    assert folders(stack) == [json.loads(stack.run("tasks", "show", task, "--json"))["workspace_id"]]
    said = stack.run("tasks", "retry", task, "--from-attempt", "1", "--from-step", "agent_session")
    assert said.startswith(f"attempt 2 of {task} is queued")
    shown = ended(stack, task)
    assert (shown["status"], shown["attempt"]) == ("completed", 2)
    assert stack.run("tasks", "logs", task) == "attempt 2 found: half\n"
    until(lambda: folders(stack) == [])
    assert "already_completed" in stack.run("tasks", "retry", task, code=1)


def test_a_kept_workspace_is_destroyed_after_its_time(stack: StackProcess) -> None:
    """Gone soon after its second, without anybody asking; then there is nothing to resume."""
    task = failed(stack, kept_for="1")
    until(lambda: folders(stack) == [])
    assert "nothing_to_resume" in stack.run("tasks", "retry", task, "--from-step", "agent_session", code=1)
    stack.run("tasks", "retry", task)
    shown = ended(stack, task)
    assert (shown["status"], shown["attempt"]) == ("failed", 2)
    until(lambda: folders(stack) == [])


def test_a_deleted_task_leaves_no_workspace(stack: StackProcess) -> None:
    """Neither the task nor the files that it had kept."""
    task = failed(stack, kept_for="3600")
    assert len(folders(stack)) == 1
    assert stack.run("tasks", "delete", task) == f"deleted {task}\n"
    assert "not_found" in stack.run("tasks", "show", task, code=1)
    until(lambda: folders(stack) == [])
