"""Runs as a caller sees them, over the API of a whole stack; and this checkout as a repository to clone."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cli.documents import compose
from cli.remote import Remote
from tests.cli.stacks import CHECKOUT, StackProcess

EXAMPLES: Final = CHECKOUT / "examples"
PLACEHOLDER: Final = "/path/to/taskrunner"  # where an example's run.yaml wants the checkout's path
PATIENCE: Final = 240  # seconds; a limit for what hangs, also on a busy machine
ENDED: Final = ("completed", "failed", "cancelled")


class Runs:
    """A caller of the API."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote

    def create(self, body: dict[str, Any]) -> str:
        """Create a run and return its id."""
        return str(self.remote.post("/v1/runs", body)["id"])

    def get(self, run_id: str) -> dict[str, Any]:
        """Return a run."""
        run: dict[str, Any] = self.remote.get(f"/v1/runs/{run_id}")
        return run

    def ended(self, run_id: str) -> dict[str, Any]:
        """Wait until a run has ended and return it."""
        return until(lambda: self.get(run_id), lambda run: run["status"] in ENDED)

    def completed(self, run_id: str) -> dict[str, dict[str, Any]]:
        """Wait until a run has completed and return its tasks; fails with the output of those that have not."""
        run, tasks = self.ended(run_id), self.tasks(run_id)
        bad = {name: self.log(task)[-2000:] for name, task in tasks.items() if task["status"] != "completed"}
        assert run["status"] == "completed", "\n".join(f"--- {name}\n{said}" for name, said in bad.items())
        return tasks

    def members(self, run_id: str) -> dict[str, dict[str, Any]]:
        """Return the members of a run's graph by name."""
        return {member["name"]: member for member in self.remote.get(f"/v1/runs/{run_id}/graph")["members"]}

    def tasks(self, run_id: str) -> dict[str, dict[str, Any]]:
        """Return the tasks of a run by the name that they have in it: `member`, or `member#item`."""
        found = self.remote.pages("/v1/tasks", limit=1000, run_id=run_id)
        return {task["member"] + (f"#{task['item']}" if task["item"] else ""): task for task in found}

    def events(self, run_id: str) -> list[dict[str, Any]]:
        """Return all events of a run and its tasks, by the numbers that they have in its feed."""
        found: list[dict[str, Any]] = []
        while page := self.remote.get(f"/v1/runs/{run_id}/events", fromSeq=len(found) + 1, limit=200)["items"]:
            found += page
        return found

    def log(self, task: dict[str, Any]) -> str:
        """Return what a task's latest attempt wrote."""
        return self.remote.text(f"/v1/tasks/{task['id']}/logs").text

    def artifact(self, task: dict[str, Any], name: str) -> bytes:
        """Return a file that a task left."""
        return self.remote.text(f"/v1/tasks/{task['id']}/artifacts/{name}").content


def remote(stack: StackProcess) -> Remote:
    """Return a client with the stack's own admin key."""
    address = json.loads((stack.data_dir / "address.json").read_text())
    return Remote(address["api"], (stack.data_dir / "admin.key").read_text().strip())


def until(look: Callable[[], dict[str, Any]], fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Look again and again until what is seen fits, and return it."""
    deadline = time.monotonic() + PATIENCE
    while not fits(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.1)
    return seen


def example(name: str, repository: str) -> dict[str, Any]:
    """Return an example's run.yaml with the path of a repository in it, as its README has it made."""
    text = (EXAMPLES / name / "run.yaml").read_text(encoding="utf-8")
    document = compose(text.replace(f"file://{PLACEHOLDER}", repository))
    body: dict[str, Any] = document.value if document else {}
    return body


def repository(folder: Path) -> str:
    """Make a repository of this checkout as it is, committed or not, and return its file URL."""
    listed = ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listed, text=True).split("\0"):
        if name and (CHECKOUT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, folder / name)
    author = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
    for arguments in (("init", "-q"), ("add", "-A"), (*author, "commit", "-q", "--no-verify", "-m", "as it is")):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)
    return folder.as_uri()
